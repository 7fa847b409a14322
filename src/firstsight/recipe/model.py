"""What is trained: specs with their parameter counts and FLOPs by formula. Source: paper Table 2, open_lm configs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from firstsight.recipe.mix import Captions, Named


def swiglu_hidden(width: int) -> int:
    """open_lm's rule: 8/3 of the width, rounded up to a multiple of 256."""
    return 256 * ((int(8 * width / 3) + 255) // 256)


@dataclass(frozen=True, kw_only=True, slots=True)
class LMSpec:
    """A decoder-only language model of the OpenLM family: pre-norm, no biases, QK-norm, rotary, SwiGLU, untied head."""

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    rope_base: int
    token_shift: int
    """Taps of a learned causal mix of each token with its predecessors before attention; 1 is none (the paper)."""
    embedding_scale: int
    """Input embeddings are multiplied by this; 1 is the paper's."""

    def parameters(self) -> int:
        """Count of all weights, gains included; 12 d^2-like terms as in open_lm."""
        attention = 4 * self.width * self.width + 2 * self.width
        shift = self.token_shift * self.width if self.token_shift > 1 else 0
        block = attention + shift + 3 * self.width * self.hidden + 2 * self.width
        return self.layers * block + self.width + 2 * self.vocabulary * self.width

    def flops(self, row: int) -> int:
        """Forward FLOPs of one token in a row of `row`: 2 per weight used, causal attention at half the square."""
        weights = self.layers * (4 * self.width**2 + 3 * self.width * self.hidden) + self.vocabulary * self.width
        return 2 * weights + self.layers * 2 * row * self.width


def openlm(*, layers: int, width: int, heads: int, vocabulary: int) -> LMSpec:
    """The paper's family at any size: nothing declared beyond open_lm."""
    return LMSpec(
        layers=layers,
        width=width,
        heads=heads,
        hidden=swiglu_hidden(width),
        vocabulary=vocabulary,
        rope_base=10_000,
        token_shift=1,
        embedding_scale=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Vit:
    """A vision transformer's shape: square pictures of `image` pixels in patches of `patch`."""

    layers: int
    width: int
    heads: int
    hidden: int
    image: int
    patch: int

    @property
    def tokens(self) -> int:
        """Patch tokens per picture."""
        return (self.image // self.patch) ** 2

    def parameters(self) -> int:
        """Weights of the tower without its pooling head."""
        block = 4 * self.width * (self.width + 1) + 2 * self.width * self.hidden + self.hidden + 5 * self.width
        return self.layers * block + (3 * self.patch**2 + 1 + self.tokens) * self.width

    def flops(self) -> int:
        """Forward FLOPs of one picture."""
        block = 2 * (4 * self.width**2 + 2 * self.width * self.hidden) + 4 * self.tokens * self.width
        return self.tokens * (self.layers * block + 2 * 3 * self.patch**2 * self.width)


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
class Siglip:
    """A frozen SigLIP tower; features are the patch outputs of the second-to-last block. Source: paper section 2."""

    vit: Vit
    weights: Contrast | Named

    @property
    def tokens(self) -> int:
        return self.vit.tokens

    @property
    def width(self) -> int:
        return self.vit.width

    def flops(self) -> int:
        return self.vit.flops()


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches:
    """No encoder: one strided convolution from pixels to `width`, trained with the model. Source: paper Table 6."""

    image: int
    patch: int
    width: int

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2

    def flops(self) -> int:
        return self.tokens * 2 * 3 * self.patch**2 * self.width


VisionSpec = Siglip | Patches


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectorSpec:
    """From vision width to LM width: mlp2 is the paper's text, mlp3 its code (fused-gelu-mlp)."""

    kind: Literal["mlp2", "mlp3"]
    spread: int
    """Image tokens that each vision token becomes, side by side; 1 is the paper's."""
    positions: bool
    """Add a learned vector per image token; off in the paper."""

    def parameters(self, vision: VisionSpec, lm: LMSpec) -> int:
        layers = sum(a * b + b for a, b in pairwise(self.widths(vision, lm)))
        return layers + (vision.tokens * self.spread * lm.width if self.positions else 0)

    def widths(self, vision: VisionSpec, lm: LMSpec) -> tuple[int, ...]:
        """From a vision token through the hidden layers to the image tokens that it becomes."""
        wide = (4 * vision.width,) if self.kind == "mlp3" else ()
        return (vision.width, *wide, lm.width, self.spread * lm.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class VLMSpec:
    """A language model that sees: vision, projector, decoder."""

    lm: LMSpec
    vision: VisionSpec
    projector: ProjectorSpec

    @property
    def image_tokens(self) -> int:
        """Places that one picture takes in a row."""
        return self.vision.tokens * self.projector.spread
