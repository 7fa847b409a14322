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
from firstsight.recipe.model import ProjectorSpec, VLMSpec, decoder
from firstsight.recipe.vision import Patches, VisionSpec

Images = Float[Tensor, "N I W"] | UInt8[Tensor, "N S S 3"]
Vectors = Float[Tensor, "vectors D"]
Stream = Float[Tensor, "B T D"]


@runtime_checkable
class Rows(Protocol):
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
    def images(self) -> Images: ...


class Projector(nn.Module):
    """From vision width to LM width through GELUs, with a learned vector per image token where asked."""

    def __init__(self, spec: ProjectorSpec, vision: VisionSpec, lm: LMSpec) -> None:
        super().__init__()
        self.width = lm.width
        self.linears = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(spec.widths(vision, lm))])
        self.side, self.shuffle = vision.side, spec.shuffle
        self.positions = nn.Parameter(torch.zeros(spec.tokens(vision), lm.width)) if spec.positions else None

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal values at fan-in scale, cut at three deviations; positions at the scale of word embeddings."""
        weights = [parameter for parameter in self.parameters() if parameter.dim() == 2]
        for weight in weights:
            deviation = weight.shape[1] ** -0.5
            nn.init.trunc_normal_(weight, std=deviation, a=-3 * deviation, b=3 * deviation, generator=generator)
        for linear in self.linears:
            linear.bias.zero_()  # pyright: ignore[reportCallIssue]

    def forward(self, seen: Float[Tensor, "N V W"], dtype: torch.dtype) -> Float[Tensor, "N I D"]:
        """Vectors in the word embeddings' space, `spread` side by side for each vision token."""
        x = seen.to(dtype) if self.shuffle == 1 else shuffled(seen.to(dtype), self.side, self.shuffle)
        for index, linear in enumerate(self.linears):
            x = F.linear(F.gelu(x) if index else x, linear.weight.to(dtype), linear.bias.to(dtype))  # pyright: ignore
        x = x.unflatten(-1, (-1, self.width)).flatten(1, 2)
        return x if self.positions is None else x + self.positions


def shuffled(x: Float[Tensor, "N V W"], side: int, by: int) -> Float[Tensor, "N v wide"]:
    """Squares of `by` x `by` tokens of a picture as one token each, their channels side by side, row by row.

    A grid that `by` does not divide is filled with zeros at the right and below.
    """
    grid, lack = x.unflatten(1, (side, side)), -side % by
    grid = F.pad(grid, (0, 0, 0, lack, 0, lack)).unflatten(2, (-1, by)).unflatten(1, (-1, by))
    return grid.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def _eyes(spec: VLMSpec) -> Encoder | PatchProjection | None:
    """What turns pixels into features within the model; nothing where a frozen encoder beside it does."""
    if isinstance(spec.vision, Patches):
        return PatchProjection(spec.vision)
    return Encoder(spec.vision) if spec.encoder == "trained" else None


class VLM(nn.Module):
    """Decoder, projector and the eyes that train with it, encoder or convolution; from an LMSpec the decoder alone."""

    def __init__(self, spec: LMSpec | VLMSpec) -> None:
        super().__init__()
        self.spec = spec
        self.lm = LM(decoder(spec))
        self.projector = Projector(spec.projector, spec.vision, spec.lm) if isinstance(spec, VLMSpec) else None
        self.vision = _eyes(spec) if isinstance(spec, VLMSpec) else None

    def initialise(self, seed: int) -> None:
        """Initial values from `seed`; the decoder's are the same with and without eyes."""
        self.lm.initialise(torch.Generator().manual_seed(seed))
        self.initialise_sight(seed)

    def initialise_sight(self, seed: int) -> None:
        """Initial values of projector and patches, from `seed`; a trained encoder begins with published weights."""
        generator = torch.Generator().manual_seed(2**32 + seed)
        for part in (self.vision, self.projector):
            if part is not None and not isinstance(part, Encoder):
                part.initialise(generator)

    def see(self, images: Images) -> Vectors:
        """Pixels or features to vectors in the word embeddings' space, `spread` side by side for each vision token."""
        if self.projector is None:
            raise ModelError("a text model has no eyes. Got images. Mid-train it first, or leave the images out.")
        if images.shape[1:] != self.picture:
            wanted, got = self.picture, tuple(images.shape[1:])
            raise ModelError(f"the model sees pictures of shape {wanted}. Got {got}. Encode them as its spec says.")
        return self.projector(self._look(images), self.lm.compute).flatten(0, 1)

    def _look(self, images: Images) -> Images:
        """Features of pixels by the model's own eyes; its encoder under autocast where products are narrow."""
        if self.vision is None:
            return images
        narrow = isinstance(self.vision, Encoder) and self.lm.compute.itemsize == 2
        with torch.autocast(images.device.type, self.lm.compute) if narrow else nullcontext():
            return self.vision(images)

    @property
    def picture(self) -> tuple[int, ...]:
        """Shape of one picture as `see` takes it: pixels where the eyes are the model's own, else features."""
        assert isinstance(self.spec, VLMSpec)
        vision = self.spec.vision
        return (vision.tokens, vision.width) if self.vision is None else (vision.image, vision.image, 3)

    def blank(self) -> Images:
        """One black picture, or its features, in the form that `see` takes."""
        dtype = torch.float16 if self.vision is None else torch.uint8
        return torch.zeros(1, *self.picture, dtype=dtype, device=self.lm.norm.weight.device)

    def splice(self, tokens: Int[Tensor, "B T"], images: Images, slots: Int[Tensor, "B T"]) -> Stream:
        """Words, and image vectors where `slots` names one.

        A batch without images shows the projector one blank that nothing uses: its gradient is zero, not missing.
        """
        x = self.lm.embed(tokens)
        if self.projector is None and images.shape[0] == 0:
            return x
        vectors = self.see(images if images.shape[0] else self.blank())
        return self.lay(x, vectors, slots)

    @staticmethod
    def lay(x: Stream, vectors: Vectors, slots: Int[Tensor, "B T"]) -> Stream:
        """Image vectors into the places of the stream that `slots` names."""
        chosen = vectors.index_select(0, slots.clamp(min=0).flatten()).view(*slots.shape, -1)
        return torch.where((slots >= 0)[..., None], chosen.to(x.dtype), x)

    def forward(self, rows: Rows) -> Stream:
        """Hidden states before the last norm."""
        x = self.splice(rows.tokens, rows.images, rows.slots)
        return self.lm(x, self.lm.frame(rows.docs, rows.positions, self.pictures(rows.slots)))

    def pictures(self, slots: Int[Tensor, "B T"]) -> Int[Tensor, "B T"] | None:
        """Which picture each place belongs to, -1 for words, where attention asks; None where all of it is causal."""
        if not isinstance(self.spec, VLMSpec) or self.spec.attention == "causal":
            return None
        return torch.where(slots >= 0, slots // self.spec.image_tokens, -1)
