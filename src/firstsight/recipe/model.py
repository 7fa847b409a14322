"""A language model that sees: vision, projector, decoder. Source: paper sections 2 and 3."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from firstsight.errors import QuantityError
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.vision import Patches, VisionSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectorSpec:
    """From vision width to LM width: mlp2 is the paper's text, mlp3 its code (fused-gelu-mlp).

    The hidden layer of mlp3 is four times the vision width, whatever `shuffle` puts side by side before it.
    """

    kind: Literal["linear", "mlp2", "mlp3"]
    shuffle: int
    """Squares of this many tokens a side become one token, channels side by side; 1 is none (the paper).

    What is lacking at the right and lower edge is filled with zeros. By f, a picture takes 1/f^2 of the row.
    """
    spread: int
    """Image tokens that each vision token becomes, side by side; 1 is the paper's."""
    positions: bool
    """Add a learned vector per image token; off in the paper."""

    def __post_init__(self) -> None:
        if self.shuffle < 1 or self.spread < 1:
            raise QuantityError(f"shuffle and spread count from 1. Got {self.shuffle} and {self.spread}.")

    def tokens(self, vision: VisionSpec) -> int:
        """Places that one picture takes in a row."""
        return (-(-vision.side // self.shuffle)) ** 2 * self.spread

    def parameters(self, vision: VisionSpec, lm: LMSpec) -> int:
        layers = sum(a * b + b for a, b in pairwise(self.widths(vision, lm)))
        return layers + (self.tokens(vision) * lm.width if self.positions else 0)

    def flops(self, vision: VisionSpec, lm: LMSpec) -> int:
        """Forward FLOPs of one picture."""
        each = sum(2 * a * b for a, b in pairwise(self.widths(vision, lm)))
        return self.tokens(vision) // self.spread * each

    def widths(self, vision: VisionSpec, lm: LMSpec) -> tuple[int, ...]:
        """From a vision token, or a square of them, through the hidden layers to the image tokens that it becomes."""
        begin, end = vision.width * self.shuffle**2, self.spread * lm.width
        wide = {"linear": (), "mlp2": (lm.width,), "mlp3": (4 * vision.width, lm.width)}[self.kind]
        return (begin, *wide, end)


@dataclass(frozen=True, kw_only=True, slots=True)
class VLMSpec:
    """A language model that sees: vision, projector, decoder."""

    lm: LMSpec
    vision: VisionSpec
    encoder: Literal["frozen", "trained"]
    """frozen: published weights beside the model, the same in every arm; trained: a copy that belongs to the model."""
    projector: ProjectorSpec
    attention: Literal["causal", "prefix"]
    """prefix: the tokens of one picture also look ahead at each other; the paper's is causal throughout."""

    def __post_init__(self) -> None:
        if self.encoder == "trained" and isinstance(self.vision, Patches):
            raise QuantityError("patches have no encoder to train: their convolution always trains. Say frozen.")

    @property
    def image_tokens(self) -> int:
        """Places that one picture takes in a row."""
        return self.projector.tokens(self.vision)


def decoder(spec: LMSpec | VLMSpec) -> LMSpec:
    """The language model of a spec."""
    return spec.lm if isinstance(spec, VLMSpec) else spec
