"""How a model sees: encoders with their weights, tokens a picture, width, preprocessing and FLOPs by formula.

Features are the patch outputs of the second-to-last block: the last block is neither built nor run.
Source: paper section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from firstsight.errors import QuantityError
from firstsight.recipe.mix import Captions, Named

Fit = Literal["resize", "letterbox"]
"""How a picture becomes a square: squeezed, or kept in shape on a ground of the encoder's mean colour."""
Colour = tuple[float, float, float]
"""Red, green, blue from 0 to 1."""
Ground = tuple[int, int, int]
"""Red, green, blue from 0 to 255, behind a letterboxed picture."""

HALF: Colour = (0.5, 0.5, 0.5)
"""SigLIP's mean and deviation."""
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
"""DINOv2's mean."""
IMAGENET_DEVIATION: Colour = (0.229, 0.224, 0.225)
"""DINOv2's deviation."""


def ground_of(mean: Colour) -> Ground:
    """The mean colour in bytes, halves rounded up."""
    red, green, blue = (math.floor(255 * part + 0.5) for part in mean)
    return red, green, blue


@dataclass(frozen=True, kw_only=True, slots=True)
class Vit:
    """A vision transformer's shape: square pictures of `image` pixels in patches of `patch`."""

    layers: int
    width: int
    heads: int
    hidden: int
    image: int
    patch: int

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise QuantityError(f"features are those of the second-to-last block. Got {self.layers} layers. Give two.")
        if self.width % self.heads:
            raise QuantityError(f"heads must divide the width. Got {self.heads} heads for a width of {self.width}.")
        if self.image < self.patch:
            raise QuantityError(f"a picture holds at least one patch. Got {self.image} pixels, patch {self.patch}.")

    @property
    def side(self) -> int:
        """Patches a side; pixels that do not fill a patch are left out."""
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        """Patch tokens per picture."""
        return self.side**2

    def parameters(self) -> int:
        """Weights of the published tower without its pooling head."""
        return self.layers * self.block() + (3 * self.patch**2 + 1 + self.tokens) * self.width + 2 * self.width

    def block(self) -> int:
        """Weights of one block."""
        return 4 * self.width * (self.width + 1) + 2 * self.width * self.hidden + self.hidden + 5 * self.width

    def flops(self, extra: int = 0) -> int:
        """Forward FLOPs of one picture up to the second-to-last block, with `extra` tokens beside the patches."""
        tokens = self.tokens + extra
        block = 2 * (4 * self.width**2 + 2 * self.width * self.hidden) + 4 * tokens * self.width
        return tokens * (self.layers - 1) * block + self.tokens * 2 * 3 * self.patch**2 * self.width


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Train a SigLIP from scratch on captions: pairwise sigmoid loss over every picture and phrase of a batch."""

    captions: Captions
    text_layers: int
    text_width: int
    steps: int
    batch: int
    peak: float
    warmup: int
    decay: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tower:
    """What every single encoder says of itself."""

    vit: Vit
    fit: Fit

    @property
    def image(self) -> int:
        """Pixels a side."""
        return self.vit.image

    @property
    def side(self) -> int:
        """Tokens a side."""
        return self.vit.side

    @property
    def tokens(self) -> int:
        return self.vit.tokens

    @property
    def width(self) -> int:
        return self.vit.width

    @property
    def ground(self) -> Ground:
        """Behind a letterboxed picture: the mean colour, which the encoder sees as zeros, or nearly."""
        return ground_of(self.mean)

    @property
    def mean(self) -> Colour:
        """Taken from pixels that lie between 0 and 1."""
        return HALF

    @property
    def deviation(self) -> Colour:
        """What pixels are divided by after the mean was taken."""
        return HALF


@dataclass(frozen=True, kw_only=True, slots=True)
class Siglip(_Tower):
    """A SigLIP tower."""

    weights: Contrast | Named

    @property
    def towers(self) -> tuple[TowerSpec, ...]:
        """What is run on every picture, in the order of its channels."""
        return (self,)

    def flops(self) -> int:
        return self.vit.flops()

    def parameters(self) -> int:
        """Weights that are run: all blocks but the last, without the last norm and head."""
        return self.vit.parameters() - self.vit.block() - 2 * self.vit.width


@dataclass(frozen=True, kw_only=True, slots=True)
class Dinov2(_Tower):
    """A DINOv2 tower with or without registers; its table of positions is stretched to the picture's patches."""

    registers: int
    table: int
    """Patches a side that the published table of positions holds: 37 for 518 pixels in patches of 14."""
    weights: Named

    @property
    def towers(self) -> tuple[TowerSpec, ...]:
        return (self,)

    @property
    def mean(self) -> Colour:
        return IMAGENET_MEAN

    @property
    def deviation(self) -> Colour:
        return IMAGENET_DEVIATION

    def flops(self) -> int:
        return self.vit.flops(1 + self.registers)

    def parameters(self) -> int:
        """Weights that are run: all blocks but the last, without the last norm."""
        width, vit = self.vit.width, self.vit
        blocks = (vit.layers - 1) * (vit.block() + 2 * width)
        return blocks + (3 * vit.patch**2 + 1 + self.table**2 + 2 + self.registers) * width


@dataclass(frozen=True, kw_only=True, slots=True)
class Fused:
    """Two encoders of the same patches side by side on channels; the paper's order is SigLIP, DINOv2."""

    first: Siglip | Dinov2
    second: Siglip | Dinov2

    def __post_init__(self) -> None:
        ours, theirs = ((one.image, one.side, one.fit) for one in (self.first, self.second))
        if ours != theirs:
            raise QuantityError(
                f"fused encoders see the same pixels in the same grid. Got {ours} and {theirs} (pixels, tokens a side, "
                "fit). Give both one image size and fit, and patches that leave the same grid."
            )

    @property
    def towers(self) -> tuple[TowerSpec, ...]:
        return (self.first, self.second)

    @property
    def fit(self) -> Fit:
        return self.first.fit

    @property
    def image(self) -> int:
        return self.first.image

    @property
    def side(self) -> int:
        return self.first.side

    @property
    def tokens(self) -> int:
        return self.first.tokens

    @property
    def width(self) -> int:
        return self.first.width + self.second.width

    @property
    def ground(self) -> Ground:
        """Behind a letterboxed picture: the first tower's; both see the same pixels, each by its own mean."""
        return self.first.ground

    def flops(self) -> int:
        return self.first.flops() + self.second.flops()

    def parameters(self) -> int:
        return self.first.parameters() + self.second.parameters()


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches:
    """No encoder: one strided convolution from pixels to `width`, trained with the model. Source: paper Table 6."""

    image: int
    patch: int
    width: int
    fit: Fit

    def __post_init__(self) -> None:
        if self.image < self.patch:
            raise QuantityError(f"a picture holds at least one patch. Got {self.image} pixels, patch {self.patch}.")

    @property
    def towers(self) -> tuple[TowerSpec, ...]:
        return ()

    @property
    def side(self) -> int:
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        return self.side**2

    @property
    def mean(self) -> Colour:
        """Taken from pixels that lie between 0 and 1."""
        return HALF

    @property
    def deviation(self) -> Colour:
        """What pixels are divided by after the mean was taken."""
        return HALF

    @property
    def ground(self) -> Ground:
        """Behind a letterboxed picture: the mean colour, which the encoder sees as zeros, or nearly."""
        return ground_of(self.mean)

    def flops(self) -> int:
        return self.tokens * 2 * 3 * self.patch**2 * self.width

    def parameters(self) -> int:
        return 3 * self.patch**2 * self.width


TowerSpec = Siglip | Dinov2
EncoderSpec = Siglip | Dinov2 | Fused
VisionSpec = EncoderSpec | Patches
