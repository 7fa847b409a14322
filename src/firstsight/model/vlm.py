"""A language model that sees: projected image vectors take their slots in the token stream.

Shapes: B rows, T tokens, D LM width, N images of V vision and I image tokens, W vision width, S pixels a side
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
from firstsight.model.lm import LM
from firstsight.model.vision import Encoder, PatchProjection
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import ProjectorSpec, VLMSpec, decoder_spec
from firstsight.recipe.vision import PatchProjectionSpec, VisionSpec

ImageBatch = Float[Tensor, "N I W"] | UInt8[Tensor, "N S S 3"]
ImageEmbeddings = Float[Tensor, "vectors D"]
HiddenStates = Float[Tensor, "B T D"]


@runtime_checkable
class PackedBatch(Protocol):
    """What a forward pass needs of a batch."""

    @property
    def tokens(self) -> Int[Tensor, "B T"]: ...

    @property
    def docs(self) -> Int[Tensor, "B T"]:
        """-1 is padding."""
        ...

    @property
    def positions(self) -> Int[Tensor, "B T"]: ...

    @property
    def slots(self) -> Int[Tensor, "B T"]:
        """Row of the image vectors that stands here, -1 for a word."""
        ...

    @property
    def images(self) -> ImageBatch: ...


class Projector(nn.Module):
    """From vision width to LM width through GELUs, with a learned vector per image token where asked."""

    def __init__(self, spec: ProjectorSpec, vision: VisionSpec, lm: LMSpec) -> None:
        super().__init__()
        self.width = lm.width
        self.linears = nn.ModuleList(
            [nn.Linear(in_width, out_width) for in_width, out_width in pairwise(spec.widths(vision, lm))]
        )
        self.grid_size, self.shuffle_factor = vision.grid_size, spec.pixel_shuffle
        self.positions = (
            nn.Parameter(torch.zeros(spec.tokens(vision), lm.width)) if spec.has_position_embeddings else None
        )

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal values at fan-in scale, cut at three deviations; positions at the scale of word embeddings."""
        weights = [parameter for parameter in self.parameters() if parameter.dim() == 2]
        for weight in weights:
            std = weight.shape[1] ** -0.5
            nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)
        for linear in self.linears:
            linear.bias.zero_()  # pyright: ignore[reportCallIssue]

    def forward(self, features: Float[Tensor, "N V W"], dtype: torch.dtype) -> Float[Tensor, "N I D"]:
        """Vectors in the word embeddings' space, `spread` side by side for each vision token."""
        x = (
            features.to(dtype)
            if self.shuffle_factor == 1
            else pixel_shuffle(features.to(dtype), self.grid_size, self.shuffle_factor)
        )
        for index, linear in enumerate(self.linears):
            x = F.linear(F.gelu(x) if index else x, linear.weight.to(dtype), linear.bias.to(dtype))  # pyright: ignore
        x = x.unflatten(-1, (-1, self.width)).flatten(1, 2)
        return x if self.positions is None else x + self.positions


def pixel_shuffle(x: Float[Tensor, "N V W"], grid_size: int, factor: int) -> Float[Tensor, "N v wide"]:
    """Squares of `by` x `by` tokens of a picture as one token each, their channels side by side, row by row.

    A grid that `by` does not divide is filled with zeros at the right and below.
    """
    grid, padding = x.unflatten(1, (grid_size, grid_size)), -grid_size % factor
    grid = F.pad(grid, (0, 0, 0, padding, 0, padding)).unflatten(2, (-1, factor)).unflatten(1, (-1, factor))
    return grid.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def _vision_module(spec: VLMSpec) -> Encoder | PatchProjection | None:
    """What turns pixels into features within the model; nothing where a frozen encoder beside it does."""
    if isinstance(spec.vision, PatchProjectionSpec):
        return PatchProjection(spec.vision)
    return Encoder(spec.vision) if spec.encoder == "trained" else None


class VLM(nn.Module):
    """Decoder, projector and the eyes that train with it, encoder or convolution; from an LMSpec the decoder alone."""

    def __init__(self, spec: LMSpec | VLMSpec) -> None:
        super().__init__()
        self.spec = spec
        self.lm = LM(decoder_spec(spec))
        self.projector = Projector(spec.projector, spec.vision, spec.lm) if isinstance(spec, VLMSpec) else None
        self.vision = _vision_module(spec) if isinstance(spec, VLMSpec) else None

    def initialise(self, seed: int) -> None:
        """Initial values from `seed`; the decoder's are the same with and without eyes."""
        self.lm.initialise(torch.Generator().manual_seed(seed))
        self.initialise_vision(seed)

    def initialise_vision(self, seed: int) -> None:
        """Initial values of projector and patches, from `seed`; a trained encoder begins with published weights."""
        generator = torch.Generator().manual_seed(2**32 + seed)
        for module in (self.vision, self.projector):
            if module is not None and not isinstance(module, Encoder):
                module.initialise(generator)

    def encode_images(self, images: ImageBatch) -> ImageEmbeddings:
        """Pixels or features to vectors in the word embeddings' space, `spread` side by side for each vision token."""
        if self.projector is None:
            raise ModelError("a text model has no eyes. Got images. Mid-train it first, or leave the images out.")
        if images.shape[1:] != self.image_shape:
            expected_shape, actual_shape = self.image_shape, tuple(images.shape[1:])
            raise ModelError(
                f"the model sees pictures of shape {expected_shape}. Got {actual_shape}. Encode them as its spec says."
            )
        return self.projector(self._vision_features(images), self.lm.compute_dtype).flatten(0, 1)

    def _vision_features(self, images: ImageBatch) -> ImageBatch:
        """Features of pixels by the model's own eyes; its encoder under autocast where products are narrow."""
        if self.vision is None:
            return images
        use_autocast = isinstance(self.vision, Encoder) and self.lm.compute_dtype.itemsize == 2
        with torch.autocast(images.device.type, self.lm.compute_dtype) if use_autocast else nullcontext():
            return self.vision(images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one picture as `see` takes it: pixels where the eyes are the model's own, else features."""
        assert isinstance(self.spec, VLMSpec)
        vision = self.spec.vision
        return (vision.tokens, vision.width) if self.vision is None else (vision.image_size, vision.image_size, 3)

    def blank_image(self) -> ImageBatch:
        """One black picture, or its features, in the form that `see` takes."""
        dtype = torch.float16 if self.vision is None else torch.uint8
        return torch.zeros(1, *self.image_shape, dtype=dtype, device=self.lm.norm.weight.device)

    def embed_inputs(self, tokens: Int[Tensor, "B T"], images: ImageBatch, slots: Int[Tensor, "B T"]) -> HiddenStates:
        """Words, and image vectors where `slots` names one.

        A batch without images shows the projector one blank that nothing uses: its gradient is zero, not missing.
        """
        x = self.lm.embed(tokens)
        if self.projector is None and images.shape[0] == 0:
            return x
        image_embeddings = self.encode_images(images if images.shape[0] else self.blank_image())
        return self.insert_image_embeddings(x, image_embeddings, slots)

    @staticmethod
    def insert_image_embeddings(
        x: HiddenStates, image_embeddings: ImageEmbeddings, slots: Int[Tensor, "B T"]
    ) -> HiddenStates:
        """Image vectors into the places of the stream that `slots` names."""
        selected = image_embeddings.index_select(0, slots.clamp(min=0).flatten()).view(*slots.shape, -1)
        return torch.where((slots >= 0)[..., None], selected.to(x.dtype), x)

    def forward(self, batch: PackedBatch) -> HiddenStates:
        """Hidden states before the last norm."""
        x = self.embed_inputs(batch.tokens, batch.images, batch.slots)
        return self.lm(x, self.lm.attention_inputs(batch.docs, batch.positions, self.image_ids(batch.slots)))

    def image_ids(self, slots: Int[Tensor, "B T"]) -> Int[Tensor, "B T"] | None:
        """Which picture each place belongs to, -1 for words, where attention asks; None where all of it is causal."""
        if not isinstance(self.spec, VLMSpec) or self.spec.attention == "causal":
            return None
        return torch.where(slots >= 0, slots // self.spec.image_tokens, -1)
