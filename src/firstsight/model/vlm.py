"""The vision-language model: projected image embeddings replace word embeddings at the image slots of the rows.

Shapes: B rows, T tokens, D LM width, N images of V vision tokens and I LM tokens, W vision width, S pixels per side.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from firstsight.errors import ModelError
from firstsight.model.layers import HiddenStates
from firstsight.model.lm import LM
from firstsight.model.vision import Encoder, PatchProjection
from firstsight.recipe.model import LMSpec, ProjectorSpec, VLMSpec, decoder_spec
from firstsight.recipe.vision import PatchProjectionSpec, VisionSpec

ImageBatch = Float[Tensor, "N V W"] | UInt8[Tensor, "N S S 3"]
ImageEmbeddings = Float[Tensor, "vectors D"]


@runtime_checkable
class PackedBatch(Protocol):
    """The input of `VLM.forward`."""

    @property
    def tokens(self) -> Int[Tensor, "B T"]: ...

    @property
    def docs(self) -> Int[Tensor, "B T"]:
        """Document of each token, ascending within a row; -1 is padding."""
        ...

    @property
    def positions(self) -> Int[Tensor, "B T"]: ...

    @property
    def slots(self) -> Int[Tensor, "B T"]:
        """Index of the image embedding at this position, -1 for text."""
        ...

    @property
    def images(self) -> ImageBatch: ...


class Projector(nn.Module):
    """Linear layers with GELUs between them, from vision width to LM width; optionally position embeddings."""

    def __init__(self, spec: ProjectorSpec, vision: VisionSpec, lm: LMSpec) -> None:
        super().__init__()
        self.width = lm.width
        self.linears = nn.ModuleList([nn.Linear(*widths) for widths in pairwise(spec.widths(vision, lm))])
        self.grid_size, self.shuffle_factor = vision.grid_size, spec.pixel_shuffle
        shape = (spec.tokens(vision), lm.width)
        self.positions = nn.Parameter(torch.zeros(shape)) if spec.has_position_embeddings else None

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal values of std fan-in ** -0.5, truncated at three; positions at the scale of word embeddings."""
        for weight in [parameter for parameter in self.parameters() if parameter.dim() == 2]:
            std = weight.shape[1] ** -0.5
            nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)
        for linear in self.linears:
            linear.bias.zero_()  # pyright: ignore[reportCallIssue]

    def forward(self, features: Float[Tensor, "N V W"], dtype: torch.dtype) -> Float[Tensor, "N I D"]:
        """Image embeddings, matrix products in `dtype`; `tokens_per_patch` consecutive ones for each vision token."""
        x = features.to(dtype)
        if self.shuffle_factor > 1:
            x = pixel_shuffle(x, self.grid_size, self.shuffle_factor)
        for index, linear in enumerate(self.linears):
            x = F.linear(F.gelu(x) if index else x, linear.weight.to(dtype), linear.bias.to(dtype))  # pyright: ignore
        x = x.unflatten(-1, (-1, self.width)).flatten(1, 2)
        return x if self.positions is None else x + self.positions


def pixel_shuffle(x: Float[Tensor, "N V W"], grid_size: int, factor: int) -> Float[Tensor, "N v wide"]:
    """Join `factor` x `factor` squares of an image's tokens to one token each, row by row, channels concatenated.

    A grid that `factor` does not divide is padded with zeros at the right and the bottom.
    """
    grid, padding = x.unflatten(1, (grid_size, grid_size)), -grid_size % factor
    grid = F.pad(grid, (0, 0, 0, padding, 0, padding)).unflatten(2, (-1, factor)).unflatten(1, (-1, factor))
    return grid.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


class VLM(nn.Module):
    """Decoder, projector and the vision module of the checkpoint, if any; for an LMSpec, the decoder alone."""

    def __init__(self, spec: LMSpec | VLMSpec) -> None:
        super().__init__()
        self.spec = spec
        self.lm = LM(decoder_spec(spec))
        self.projector: Projector | None = None
        self.vision: Encoder | PatchProjection | None = None
        """Part of the checkpoint; None if an external encoder computes the features."""
        if isinstance(spec, VLMSpec):
            self.projector = Projector(spec.projector, spec.vision, spec.lm)
            if isinstance(spec.vision, PatchProjectionSpec):
                self.vision = PatchProjection(spec.vision)
            elif spec.encoder == "included":
                self.vision = Encoder(spec.vision)

    def initialise(self, seed: int) -> None:
        """Initial values from `seed`; the decoder's do not depend on whether there is a vision module."""
        self.lm.initialise(torch.Generator().manual_seed(seed))
        self.initialise_vision(seed)

    def initialise_vision(self, seed: int) -> None:
        """Initial values of projector and patch projection; an included encoder starts from published weights."""
        generator = torch.Generator().manual_seed(2**32 + seed)
        for module in (self.vision, self.projector):
            if module is not None and not isinstance(module, Encoder):
                module.initialise(generator)

    def encode_images(self, images: ImageBatch) -> ImageEmbeddings:
        """Embeddings of pixels or features (see `image_shape`), `image_tokens` consecutive ones for each image."""
        if self.projector is None:
            raise ModelError("this checkpoint is a text-only model. Got images. Mid-train it first, or pass no images.")
        if (shape := tuple(images.shape[1:])) != self.image_shape:
            raise ModelError(f"the model wants images of shape {self.image_shape}. Got {shape}. Encode them like that.")
        return self.projector(self._vision_features(images), self.lm.compute_dtype).flatten(0, 1)

    def _vision_features(self, images: ImageBatch) -> ImageBatch:
        """Features from the model's vision module, or the input if it has none; 16-bit encoders run under autocast."""
        if self.vision is None:
            return images
        use_autocast = isinstance(self.vision, Encoder) and self.lm.compute_dtype.itemsize == 2
        with torch.autocast(images.device.type, self.lm.compute_dtype) if use_autocast else nullcontext():
            return self.vision(images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image for `encode_images`: of pixels if the model has a vision module, else of features."""
        assert isinstance(self.spec, VLMSpec)
        vision = self.spec.vision
        return (vision.tokens, vision.width) if self.vision is None else (vision.image_size, vision.image_size, 3)

    def blank_image(self) -> ImageBatch:
        """One image of zeros in the form for `encode_images`."""
        dtype = torch.float16 if self.vision is None else torch.uint8
        return torch.zeros(1, *self.image_shape, dtype=dtype, device=self.lm.norm.weight.device)

    def embed_inputs(self, tokens: Int[Tensor, "B T"], images: ImageBatch, slots: Int[Tensor, "B T"]) -> HiddenStates:
        """Word embeddings, and image embeddings at the positions with a slot.

        A batch without images encodes one blank image that no slot refers to, so that all gradients exist and are zero.
        """
        x = self.lm.embed(tokens)
        if self.projector is None and images.shape[0] == 0:
            return x
        embeddings = self.encode_images(images if images.shape[0] else self.blank_image())
        return self.insert_image_embeddings(x, embeddings, slots)

    @staticmethod
    def insert_image_embeddings(x: HiddenStates, vectors: ImageEmbeddings, slots: Int[Tensor, "B T"]) -> HiddenStates:
        """Replace `x` by the image embedding that `slots` names, where it is not -1."""
        selected = vectors.index_select(0, slots.clamp(min=0).flatten()).view(*slots.shape, -1)
        return torch.where((slots >= 0)[..., None], selected.to(x.dtype), x)

    def forward(self, batch: PackedBatch) -> HiddenStates:
        """Hidden states before the last norm."""
        x = self.embed_inputs(batch.tokens, batch.images, batch.slots)
        return self.lm(x, self.lm.attention_inputs(batch.docs, batch.positions, self.image_ids(batch.slots)))

    def image_ids(self, slots: Int[Tensor, "B T"]) -> Int[Tensor, "B T"] | None:
        """The image of each position, -1 for text, for prefix attention; None if attention is causal."""
        if not isinstance(self.spec, VLMSpec) or self.spec.attention == "causal":
            return None
        return torch.where(slots >= 0, slots // self.spec.image_tokens, -1)
