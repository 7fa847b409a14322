"""Decoders: the OpenLM and Llama families as settings of one spec, with parameters and FLOPs by formula.

Source: paper Table 2 and section 1.2, open_lm's configurations; for the Llama settings transformers' LlamaConfig.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from firstsight.errors import QuantityError


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """Rotary position angles of `base`, the first half of each head against the second."""

    base: float

    def __post_init__(self) -> None:
        _positive("rotary base", self.base)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearRope:
    """Rotary angles of positions divided by `factor`: a longer context squeezed into the angles of a short one."""

    base: float
    factor: float

    def __post_init__(self) -> None:
        _positive("rotary base", self.base)
        _scaled(self.factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3Rope:
    """Llama 3.1's angles: slow ones divided by `factor`, fast ones kept, those between blended.

    A wave that turns fewer than `low` times in `context` tokens is slow, one that turns more than `high` times fast.
    """

    base: float
    factor: float
    low: float
    high: float
    context: int

    def __post_init__(self) -> None:
        _positive("rotary base", self.base)
        _positive("rotary context", self.context)
        _positive("low", self.low)
        _scaled(self.factor)
        if self.low >= self.high:
            raise QuantityError(
                f"slow waves turn less often than fast ones: low must be below high. Got {self.low} and {self.high}. "
                "Llama 3 says 1 and 4."
            )


Rotary = Rope | LinearRope | Llama3Rope


@dataclass(frozen=True, kw_only=True, slots=True)
class LMSpec:
    """A decoder-only language model: pre-norm, no biases, rotary, SwiGLU; OpenLM or Llama by its settings."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    """Heads of keys and values, each shared by heads / kv_heads queries; equal to `heads` in OpenLM."""
    head: int
    """Width of one head; width / heads in OpenLM."""
    hidden: int
    vocabulary: int
    norm: Literal["layer", "rms"]
    """layer: LayerNorm with a gain and no bias (OpenLM); rms: RMSNorm (Llama)."""
    eps: float
    qk_norm: bool
    """Norm of the full query and key vectors before heads and rotary (OpenLM)."""
    rope: Rotary
    tied: bool
    """The head's weights are the input embeddings."""
    token_shift: int
    """Taps of a learned causal mix of each token with its predecessors before attention; 1 is none (the paper)."""
    embedding_scale: int
    """Input embeddings are multiplied by this; 1 is the paper's."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "head", "hidden", "vocabulary", "eps"):
            _positive(name, getattr(self, name))
        for name in ("token_shift", "embedding_scale"):
            if getattr(self, name) < 1:
                raise QuantityError(f"{name} must be 1 or more. Got {getattr(self, name)}. Say 1 to go without.")
        if self.heads % self.kv_heads:
            raise QuantityError(
                f"every key serves the same number of queries: kv_heads must divide heads. Got {self.kv_heads} for "
                f"{self.heads} heads. Choose a divisor."
            )
        if self.head % 2:
            raise QuantityError(f"rotary turns pairs: a head's width must be even. Got {self.head}. Add one.")

    @property
    def attention(self) -> int:
        """Weights of one block's attention that multiply matrices."""
        return 2 * self.width * self.head * (self.heads + self.kv_heads)

    def parameters(self) -> int:
        """Count of all weights, gains included."""
        gains = 2 * self.width + (self.head * (self.heads + self.kv_heads) if self.qk_norm else 0)
        shift = self.token_shift * self.width if self.token_shift > 1 else 0
        block = self.attention + 3 * self.width * self.hidden + gains + shift
        return self.layers * block + self.width + (1 if self.tied else 2) * self.vocabulary * self.width

    def flops(self, row: int) -> int:
        """Forward FLOPs of one token in a row of `row`: 2 per weight used, causal attention at half the square."""
        weights = self.layers * (self.attention + 3 * self.width * self.hidden) + self.vocabulary * self.width
        return 2 * weights + self.layers * 2 * row * self.heads * self.head


def swiglu_hidden(width: int) -> int:
    """open_lm's rule: 8/3 of the width, rounded up to a multiple of 256."""
    return 256 * ((int(8 * width / 3) + 255) // 256)


def openlm(*, layers: int, width: int, heads: int, vocabulary: int) -> LMSpec:
    """The paper's family at any size: nothing declared beyond open_lm."""
    return LMSpec(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head=_share(width, heads),
        hidden=swiglu_hidden(width),
        vocabulary=vocabulary,
        norm="layer",
        eps=1e-5,
        qk_norm=True,
        rope=Rope(base=10_000.0),
        tied=False,
        token_shift=1,
        embedding_scale=1,
    )


def llama(*, layers: int, width: int, heads: int, kv_heads: int, hidden: int, vocabulary: int) -> LMSpec:
    """The Llama family as it began: rotary base 10,000, a head of its own, eps 1e-5; `replace` gives the later ones."""
    plain = openlm(layers=layers, width=width, heads=heads, vocabulary=vocabulary)
    return replace(plain, kv_heads=kv_heads, hidden=hidden, norm="rms", qk_norm=False)


def _share(width: int, heads: int) -> int:
    if heads < 1 or width % heads:
        raise QuantityError(
            f"heads share the width among them: heads must divide width. Got {heads} heads for width {width}. "
            "Choose a divisor, or build the LMSpec with a head width of its own."
        )
    return width // heads


def _positive(name: str, value: int | float) -> None:
    if not value > 0:
        raise QuantityError(f"{name} must be above zero. Got {value}. Take it from the model's configuration.")


def _scaled(factor: float) -> None:
    if not factor >= 1:
        raise QuantityError(
            f"scaling makes a longer context fit: its factor must be 1 or more. Got {factor}. Divide the longer "
            "context by the shorter."
        )
