"""Vision-language models: vision, projector, decoder. Source: paper sections 2 and 3."""

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

    The hidden layer of mlp3 is four times the vision width, whatever `pixel_shuffle` concatenates before it.
    """

    TAG: ClassVar = "projector"
    kind: Literal["linear", "mlp2", "mlp3"]
    pixel_shuffle: int
    """Squares of this many tokens a side become one token, channels concatenated; 1 is none (the paper).

    Missing tokens at the right and lower edge are zeros. With f, an image has 1/f^2 as many tokens.
    """
    tokens_per_patch: int
    """Consecutive image tokens that each vision token becomes; 1 in the paper."""
    has_position_embeddings: bool
    """Add a learned vector per image token; off in the paper."""

    def __post_init__(self) -> None:
        if self.pixel_shuffle < 1 or self.tokens_per_patch < 1:
            raise QuantityError(
                "pixel_shuffle and tokens_per_patch are 1 or more. "
                f"Got {self.pixel_shuffle} and {self.tokens_per_patch}."
            )

    def tokens(self, vision: VisionSpec) -> int:
        """Image tokens of one image."""
        return (-(-vision.grid_size // self.pixel_shuffle)) ** 2 * self.tokens_per_patch

    def parameters(self, vision: VisionSpec, lm: LMSpec) -> int:
        layer_parameters = sum(fan_in * fan_out + fan_out for fan_in, fan_out in pairwise(self.widths(vision, lm)))
        return layer_parameters + (self.tokens(vision) * lm.width if self.has_position_embeddings else 0)

    def flops(self, vision: VisionSpec, lm: LMSpec) -> int:
        """Forward FLOPs of one image."""
        token_flops = sum(2 * fan_in * fan_out for fan_in, fan_out in pairwise(self.widths(vision, lm)))
        return self.tokens(vision) // self.tokens_per_patch * token_flops

    def widths(self, vision: VisionSpec, lm: LMSpec) -> tuple[int, ...]:
        """Of a vision token or a square of them, of the hidden layers, and of the image tokens that it becomes."""
        in_width, out_width = vision.width * self.pixel_shuffle**2, self.tokens_per_patch * lm.width
        hidden_widths = {"linear": (), "mlp2": (lm.width,), "mlp3": (4 * vision.width, lm.width)}[self.kind]
        return (in_width, *hidden_widths, out_width)


@dataclass(frozen=True, kw_only=True, slots=True)
class VLMSpec:
    """A vision-language model: vision, projector, decoder."""

    TAG: ClassVar = "vlm"
    lm: LMSpec
    vision: VisionSpec
    encoder: Literal["frozen", "trained"]
    """frozen: published weights outside the checkpoint, the same in every arm; trained: a copy in the checkpoint."""
    projector: ProjectorSpec
    attention: Literal["causal", "prefix"]
    """prefix: the tokens of one image attend to each other in both directions; causal everywhere in the paper."""

    def __post_init__(self) -> None:
        if self.encoder == "trained" and isinstance(self.vision, PatchProjectionSpec):
            raise QuantityError(
                'patches have no encoder to train: their convolution always trains. Set encoder="frozen".'
            )

    @property
    def image_tokens(self) -> int:
        """Tokens of one image in a row."""
        return self.projector.tokens(self.vision)


def decoder_spec(spec: LMSpec | VLMSpec) -> LMSpec:
    """The decoder of a spec."""
    return spec.lm if isinstance(spec, VLMSpec) else spec
