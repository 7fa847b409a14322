"""A language model that sees: vision, projector, decoder. Source: paper sections 2 and 3."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from firstsight.errors import QuantityError
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.vision import PatchProjectionSpec, VisionSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectorSpec:
    """From vision width to LM width: mlp2 is the paper's text, mlp3 its code (fused-gelu-mlp).

    The hidden layer of mlp3 is four times the vision width, whatever `shuffle` puts side by side before it.
    """

    TAG: ClassVar = "projector"
    kind: Literal["linear", "mlp2", "mlp3"]
    pixel_shuffle: int
    """Squares of this many tokens a side become one token, channels side by side; 1 is none (the paper).

    What is lacking at the right and lower edge is filled with zeros. By f, a picture takes 1/f^2 of the row.
    """
    tokens_per_patch: int
    """Image tokens that each vision token becomes, side by side; 1 is the paper's."""
    has_position_embeddings: bool
    """Add a learned vector per image token; off in the paper."""

    def __post_init__(self) -> None:
        if self.pixel_shuffle < 1 or self.tokens_per_patch < 1:
            raise QuantityError(
                f"shuffle and spread count from 1. Got {self.pixel_shuffle} and {self.tokens_per_patch}."
            )

    def tokens(self, vision: VisionSpec) -> int:
        """Places that one picture takes in a row."""
        return (-(-vision.grid_size // self.pixel_shuffle)) ** 2 * self.tokens_per_patch

    def parameters(self, vision: VisionSpec, lm: LMSpec) -> int:
        layer_parameters = sum(fan_in * fan_out + fan_out for fan_in, fan_out in pairwise(self.widths(vision, lm)))
        return layer_parameters + (self.tokens(vision) * lm.width if self.has_position_embeddings else 0)

    def flops(self, vision: VisionSpec, lm: LMSpec) -> int:
        """Forward FLOPs of one picture."""
        token_flops = sum(2 * fan_in * fan_out for fan_in, fan_out in pairwise(self.widths(vision, lm)))
        return self.tokens(vision) // self.tokens_per_patch * token_flops

    def widths(self, vision: VisionSpec, lm: LMSpec) -> tuple[int, ...]:
        """From a vision token, or a square of them, through the hidden layers to the image tokens that it becomes."""
        in_width, out_width = vision.width * self.pixel_shuffle**2, self.tokens_per_patch * lm.width
        hidden_widths = {"linear": (), "mlp2": (lm.width,), "mlp3": (4 * vision.width, lm.width)}[self.kind]
        return (in_width, *hidden_widths, out_width)


@dataclass(frozen=True, kw_only=True, slots=True)
class VLMSpec:
    """A language model that sees: vision, projector, decoder."""

    TAG: ClassVar = "vlm"
    lm: LMSpec
    vision: VisionSpec
    encoder: Literal["frozen", "trained"]
    """frozen: published weights beside the model, the same in every arm; trained: a copy that belongs to the model."""
    projector: ProjectorSpec
    attention: Literal["causal", "prefix"]
    """prefix: the tokens of one picture also look ahead at each other; the paper's is causal throughout."""

    def __post_init__(self) -> None:
        if self.encoder == "trained" and isinstance(self.vision, PatchProjectionSpec):
            raise QuantityError("patches have no encoder to train: their convolution always trains. Say frozen.")

    @property
    def image_tokens(self) -> int:
        """Places that one picture takes in a row."""
        return self.projector.tokens(self.vision)


def decoder_spec(spec: LMSpec | VLMSpec) -> LMSpec:
    """The language model of a spec."""
    return spec.lm if isinstance(spec, VLMSpec) else spec
