"""Vision encoders: shape, weights, preprocessing, tokens per image, and parameters and FLOPs by formula.

Features are the patch outputs of the second-to-last block, so the last block is neither built nor run.
Source: paper section 3.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, cast

from firstsight.errors import QuantityError
from firstsight.recipe.mixture import External, SyntheticCaptions
from firstsight.recipe.spec import check_positive, spec
from firstsight.units import Share

ImageFit = Literal["resize", "letterbox", "resize_bilinear"]
"""How an image becomes a square: resized without keeping its aspect ratio, or padded with the encoder's mean colour.

Bicubic, as SigLIP, DINOv2 and CLIP were published; `resize_bilinear` is that of SigLIP 2 and DINOv3.
"""
RGBFloat = tuple[float, float, float]
"""Red, green, blue from 0 to 1."""
RGBBytes = tuple[int, int, int]
"""Red, green, blue from 0 to 255."""

SIGLIP_MEAN_STD: RGBFloat = (0.5, 0.5, 0.5)
IMAGENET_MEAN: RGBFloat = (0.485, 0.456, 0.406)
IMAGENET_STD: RGBFloat = (0.229, 0.224, 0.225)
CLIP_MEAN: RGBFloat = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: RGBFloat = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of SigLIP, of DINOv2 and DINOv3, and of CLIP, of pixels from 0 to 1."""


def mean_color_bytes(mean: RGBFloat) -> RGBBytes:
    """The mean colour in bytes, halves rounded up."""
    red, green, blue = (math.floor(255 * channel + 0.5) for channel in mean)
    return red, green, blue


@spec
class ViTSpec:
    """A vision transformer's shape: square images of `image_size` pixels in patches of `patch_size`."""

    TAG: ClassVar = "vit"
    layers: int
    width: int
    heads: int
    mlp_width: int
    image_size: int
    patch_size: int

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise QuantityError(f"features are those of the second-to-last block. Got {self.layers} layers. Set two.")
        if self.width % self.heads:
            raise QuantityError(f"heads must divide the width. Got {self.heads} heads for a width of {self.width}.")
        _check_patches(self.image_size, self.patch_size)

    @property
    def grid_size(self) -> int:
        """Patches per side; pixels that do not fill a patch are ignored."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Patch tokens per image."""
        return self.grid_size**2

    def parameters(self) -> int:
        """Weights of the published tower without its pooling head."""
        embeddings = (3 * self.patch_size**2 + 1 + self.tokens) * self.width
        return self.layers * self.block_parameters() + embeddings + 2 * self.width

    def block_parameters(self) -> int:
        """Weights of one block."""
        return 4 * self.width * (self.width + 1) + 2 * self.width * self.mlp_width + self.mlp_width + 5 * self.width

    def flops(self, extra_tokens: int = 0) -> int:
        """Forward FLOPs of one image up to the second-to-last block, with `extra_tokens` in addition to the patches."""
        tokens = self.tokens + extra_tokens
        block_flops = 2 * (4 * self.width**2 + 2 * self.width * self.mlp_width) + 4 * tokens * self.width
        return tokens * (self.layers - 1) * block_flops + self.tokens * 2 * 3 * self.patch_size**2 * self.width


@spec
class ContrastiveTraining:
    """Train a SigLIP from scratch on captions: pairwise sigmoid loss over every image and phrase of a batch."""

    TAG: ClassVar = "contrastive_training"
    captions: SyntheticCaptions
    text_layers: int
    text_width: int
    steps: int
    batch_size: int
    peak_lr: float
    warmup: Share
    """The share of the steps in which the learning rate rises to `peak_lr`; it ends at 0."""
    weight_decay: float
    seed: int

    def __post_init__(self) -> None:
        check_positive(self, ("text_layers", "text_width", "steps", "batch_size"))


@spec
class _Tower:
    """A single encoder, with the mean and deviation that normalise its pixels and the colour that pads an image.

    The padding is the mean colour, which normalises to zeros, or nearly.
    """

    mean: ClassVar[RGBFloat] = SIGLIP_MEAN_STD
    std: ClassVar[RGBFloat] = SIGLIP_MEAN_STD
    pad_color: ClassVar[RGBBytes] = mean_color_bytes(SIGLIP_MEAN_STD)
    vit: ViTSpec
    fit: ImageFit

    @property
    def towers(self) -> tuple[TowerSpec, ...]:
        """The single encoders, in the order of their channels in the output."""
        return (cast(TowerSpec, self),)

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return self.vit.image_size

    @property
    def grid_size(self) -> int:
        """Tokens per side."""
        return self.vit.grid_size

    @property
    def tokens(self) -> int:
        return self.vit.tokens

    @property
    def width(self) -> int:
        return self.vit.width


@spec
class Siglip(_Tower):
    """A SigLIP tower, or one of SigLIP 2 at a fixed image size, which differs in its weights and in `fit`."""

    TAG: ClassVar = "siglip"
    weights: ContrastiveTraining | External

    def flops(self) -> int:
        return self.vit.flops()

    def parameters(self) -> int:
        """Weights that are run: all blocks but the last, without the last norm and head."""
        return self.vit.parameters() - self.vit.block_parameters() - 2 * self.vit.width


@spec
class Dinov2(_Tower):
    """A DINOv2 tower with or without registers; its position embeddings are interpolated to the image's patches."""

    TAG: ClassVar = "dinov2"
    mean: ClassVar[RGBFloat] = IMAGENET_MEAN
    std: ClassVar[RGBFloat] = IMAGENET_STD
    pad_color: ClassVar[RGBBytes] = mean_color_bytes(IMAGENET_MEAN)
    registers: int
    position_grid_size: int
    """Patches per side of the published position embeddings: 37 for 518 pixels in patches of 14."""
    weights: External

    def flops(self) -> int:
        return self.vit.flops(1 + self.registers)

    def parameters(self) -> int:
        """Weights that are run: all blocks but the last, without the last norm."""
        vit = self.vit
        embeddings = 3 * vit.patch_size**2 + 1 + self.position_grid_size**2 + 2 + self.registers
        return (vit.layers - 1) * (vit.block_parameters() + 2 * vit.width) + embeddings * vit.width


@spec
class Dinov3(_Tower):
    """A DINOv3 tower with registers; rotary positions of patches, so that it has no position embeddings."""

    TAG: ClassVar = "dinov3"
    mean: ClassVar[RGBFloat] = IMAGENET_MEAN
    std: ClassVar[RGBFloat] = IMAGENET_STD
    pad_color: ClassVar[RGBBytes] = mean_color_bytes(IMAGENET_MEAN)
    registers: int
    weights: External

    def __post_init__(self) -> None:
        if self.vit.width // self.vit.heads % 4:
            raise QuantityError(
                "rotary positions of rows and columns need a width of each head that is a multiple of 4. Got "
                f"{self.vit.width // self.vit.heads}. Change heads or width."
            )

    def flops(self) -> int:
        return self.vit.flops(1 + self.registers)

    def parameters(self) -> int:
        """Weights that are run: all blocks but the last, without the last norm; keys have no bias."""
        vit = self.vit
        embeddings = 3 * vit.patch_size**2 + 2 + self.registers
        return (vit.layers - 1) * (vit.block_parameters() + vit.width) + embeddings * vit.width


@spec
class Clip(_Tower):
    """A CLIP tower with quick GELU: a class token and a norm before the blocks, patch embeddings without bias."""

    TAG: ClassVar = "clip"
    mean: ClassVar[RGBFloat] = CLIP_MEAN
    std: ClassVar[RGBFloat] = CLIP_STD
    pad_color: ClassVar[RGBBytes] = mean_color_bytes(CLIP_MEAN)
    weights: External

    def flops(self) -> int:
        return self.vit.flops(1)

    def parameters(self) -> int:
        """Weights that are run: all blocks but the last, without the last norm and the projections."""
        vit = self.vit
        embeddings = 3 * vit.patch_size**2 + vit.tokens + 4
        return (vit.layers - 1) * vit.block_parameters() + embeddings * vit.width


TowerSpec = Siglip | Dinov2 | Dinov3 | Clip


@spec
class FusedEncoders:
    """Two encoders with the same patch grid, concatenated on channels; the paper's order is SigLIP, DINOv2."""

    TAG: ClassVar = "fused_encoders"
    first: TowerSpec
    second: TowerSpec

    def __post_init__(self) -> None:
        first, second = ((tower.image_size, tower.grid_size, tower.fit) for tower in self.towers)
        if first != second:
            raise QuantityError(
                f"fused encoders have the same image size and grid. Got {first} and {second} (pixels, tokens per "
                "side, fit). Give both the same image size and fit, and patch sizes with the same grid."
            )

    @property
    def towers(self) -> tuple[TowerSpec, ...]:
        return (self.first, self.second)

    @property
    def fit(self) -> ImageFit:
        return self.first.fit

    @property
    def image_size(self) -> int:
        return self.first.image_size

    @property
    def grid_size(self) -> int:
        return self.first.grid_size

    @property
    def tokens(self) -> int:
        return self.first.tokens

    @property
    def width(self) -> int:
        return self.first.width + self.second.width

    @property
    def pad_color(self) -> RGBBytes:
        """The first tower's: both get the same pixels, each normalised by its own mean."""
        return self.first.pad_color

    def flops(self) -> int:
        return self.first.flops() + self.second.flops()

    def parameters(self) -> int:
        return self.first.parameters() + self.second.parameters()


@spec
class PatchProjectionSpec:
    """No encoder: one strided convolution from pixels to `width`, trained with the model. Source: paper Table 6."""

    TAG: ClassVar = "patch_projection"
    mean: ClassVar[RGBFloat] = SIGLIP_MEAN_STD
    std: ClassVar[RGBFloat] = SIGLIP_MEAN_STD
    pad_color: ClassVar[RGBBytes] = mean_color_bytes(SIGLIP_MEAN_STD)
    image_size: int
    patch_size: int
    width: int
    fit: ImageFit

    def __post_init__(self) -> None:
        _check_patches(self.image_size, self.patch_size)

    @property
    def towers(self) -> tuple[TowerSpec, ...]:
        return ()

    @property
    def grid_size(self) -> int:
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        return self.grid_size**2

    def flops(self) -> int:
        return self.tokens * 2 * 3 * self.patch_size**2 * self.width

    def parameters(self) -> int:
        return 3 * self.patch_size**2 * self.width


EncoderSpec = TowerSpec | FusedEncoders
VisionSpec = EncoderSpec | PatchProjectionSpec


def _check_patches(image_size: int, patch_size: int) -> None:
    if image_size < patch_size:
        raise QuantityError(f"an image has at least one patch. Got {image_size} pixels, patch {patch_size}.")
