"""Models: decoders of several families as settings of one spec, and vision-language models around them.

Parameters and FLOPs are formulas. Source: paper Table 2, sections 1.2, 2 and 3, and open_lm's configurations; for the
settings of other families (Llama, GPT-NeoX, OLMo 2 and 3, Qwen3, SmolLM3) transformers' configurations.
"""

from __future__ import annotations

from dataclasses import field, replace
from itertools import pairwise
from typing import ClassVar, Literal

from firstsight.errors import QuantityError
from firstsight.recipe.spec import OMITTED_AT_DEFAULT, spec
from firstsight.recipe.vision import PatchProjectionSpec, VisionSpec
from firstsight.units import Share


@spec
class Rope:
    """Rotary position embeddings of `base`, which rotate the first half of each head against the second."""

    TAG: ClassVar = "rope"
    base: float
    fraction: Share = field(default=Share(1), metadata=OMITTED_AT_DEFAULT)
    """The part of each head that is rotated: the first numbers of both halves (GPT-NeoX rotates a quarter)."""

    def __post_init__(self) -> None:
        _check_positive("rotary base", self.base)
        if not self.fraction:
            raise QuantityError("a rotary fraction is above 0. Got 0. Set 1 for whole heads.")


@spec
class LinearRope:
    """Rotary position embeddings whose positions are divided by `factor`, for a context longer by `factor`."""

    TAG: ClassVar = "linear_rope"
    base: float
    factor: float

    def __post_init__(self) -> None:
        _check_positive("rotary base", self.base)
        _check_scaling_factor(self.factor)


@spec
class Llama3Rope:
    """Llama 3.1's: low frequencies divided by `factor`, high ones unchanged, those between interpolated.

    A frequency is low with fewer than `low_freq_factor` periods in `original_context` tokens, and high with more than
    `high_freq_factor`.
    """

    TAG: ClassVar = "llama3_rope"
    base: float
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def __post_init__(self) -> None:
        _check_positive("rotary base", self.base)
        _check_positive("rotary context", self.original_context)
        _check_positive("low_freq_factor", self.low_freq_factor)
        _check_scaling_factor(self.factor)
        low, high = self.low_freq_factor, self.high_freq_factor
        if low >= high:
            got = f"Got {low} and {high}. Llama 3 has 1 and 4."
            raise QuantityError(f"low_freq_factor must be below high_freq_factor. {got}")


Rotary = Rope | LinearRope | Llama3Rope


@spec
class LMSpec:
    """A decoder-only language model; OpenLM by the defaults, Llama, Pythia, OLMo, Qwen3, SmolLM3 by its settings."""

    TAG: ClassVar = "lm"
    layers: int
    width: int
    heads: int
    kv_heads: int
    """Heads of keys and values, each shared by heads / kv_heads queries; equal to `heads` in OpenLM."""
    head_dim: int
    """Width of one head; width / heads in OpenLM."""
    mlp_width: int
    vocab_size: int
    norm: Literal["layer", "rms"]
    """layer: LayerNorm with a weight and no bias (OpenLM); rms: RMSNorm (Llama)."""
    eps: float
    qk_norm: bool
    """Norm of queries and keys before rotary (OpenLM, OLMo 2, Qwen3)."""
    rope: Rotary
    ties_embeddings: bool
    """The head's weights are the input embeddings."""
    token_shift: int
    """Taps of a learned causal mix of each token with its predecessors before attention; 1 is none (the paper)."""
    embedding_scale: int
    """Input embeddings are multiplied by this; 1 in the paper."""
    block: Literal["pre_norm", "parallel", "post_norm"] = field(default="pre_norm", metadata=OMITTED_AT_DEFAULT)
    """Norms before attention and MLP; parallel: both read the same residual stream (GPT-NeoX); post_norm: norms of the
    outputs of attention and MLP (OLMo 2)."""
    mlp: Literal["swiglu", "gelu"] = field(default="swiglu", metadata=OMITTED_AT_DEFAULT)
    """gelu: two linear maps, without a gate (GPT-NeoX)."""
    has_biases: bool = field(default=False, metadata=OMITTED_AT_DEFAULT)
    """Biases of all norms and of the linear maps in the blocks (GPT-NeoX)."""
    qk_norm_width: Literal["full", "head"] = field(default="full", metadata=OMITTED_AT_DEFAULT)
    """What `qk_norm` normalizes: all heads together, or each by itself with the same weights (Qwen3)."""
    rotary_period: int = field(default=0, metadata=OMITTED_AT_DEFAULT)
    """Every n-th layer has no rotary embedding (SmolLM3: 4); 0: all layers have it."""
    window: int = field(default=0, metadata=OMITTED_AT_DEFAULT)
    """The last tokens, with itself, that a token of a windowed layer attends to (OLMo 3); 0: no layer is windowed."""
    window_period: int = field(default=0, metadata=OMITTED_AT_DEFAULT)
    """Every n-th layer attends to the whole document in spite of the window (OLMo 3: 4); 0: none does."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "head_dim", "mlp_width", "vocab_size", "eps"):
            _check_positive(name, getattr(self, name))
        for name in ("token_shift", "embedding_scale"):
            if getattr(self, name) < 1:
                raise QuantityError(f"{name} must be 1 or more. Got {getattr(self, name)}. Set 1 for none.")
        if self.heads % self.kv_heads:
            raise QuantityError(
                "each key head has the same number of query heads: kv_heads must divide heads. "
                f"Got {self.kv_heads} for {self.heads} heads. Choose a divisor."
            )
        if self.head_dim % 2:
            raise QuantityError(f"rotary rotates pairs: head_dim must be even. Got {self.head_dim}. Add one.")
        if isinstance(self.rope, Rope) and self.head_dim * self.rope.fraction % 2:
            got = f"{self.rope.fraction} of {self.head_dim}"
            raise QuantityError(f"rotary rotates pairs: wanted an even part of each head. Got {got}. Change either.")
        if min(self.rotary_period, self.window, self.window_period) < 0 or (self.window_period and not self.window):
            got = f"rotary_period={self.rotary_period}, window={self.window}, window_period={self.window_period}"
            raise QuantityError(f"window and periods are 0 or above, a window_period needs a window. Got {got}.")
        if self.qk_norm_width == "head" and not self.qk_norm:
            raise QuantityError('qk_norm_width="head" needs qk_norm=True. Got qk_norm=False. Set both.')

    @property
    def attention_parameters(self) -> int:
        """Weights of one block's attention that multiply matrices."""
        return 2 * self.width * self.head_dim * (self.heads + self.kv_heads)

    @property
    def mlp_hidden_width(self) -> int:
        """Outputs of the first linear map of an MLP: gate and value of SwiGLU side by side."""
        return self.mlp_width * (2 if self.mlp == "swiglu" else 1)

    @property
    def block_parameters(self) -> int:
        """Weights of one block that multiply matrices."""
        return self.attention_parameters + self.width * (self.mlp_hidden_width + self.mlp_width)

    def parameters(self) -> int:
        """Count of all weights, norms included."""
        qk_heads = 2 if self.qk_norm_width == "head" else self.heads + self.kv_heads
        norms = 2 * self.width + (self.head_dim * qk_heads if self.qk_norm else 0)
        token_shift = self.token_shift * self.width if self.token_shift > 1 else 0
        head_biases = self.head_dim * (self.heads + 2 * self.kv_heads)
        biases = head_biases + 4 * self.width + self.mlp_hidden_width if self.has_biases else 0
        final_norm = self.width * (2 if self.has_biases else 1)
        embeddings = (1 if self.ties_embeddings else 2) * self.vocab_size * self.width
        return self.layers * (self.block_parameters + norms + token_shift + biases) + final_norm + embeddings

    def flops(self, row_length: int) -> int:
        """Forward FLOPs of one token in a row: 2 per weight used, and those between tokens."""
        weights = self.layers * self.block_parameters + self.vocab_size * self.width
        return 2 * weights + self.attention_flops(row_length)

    def attention_flops(self, row_length: int) -> int:
        """The part of `flops` without weights: scores and weighted values, half of the full matrix as it is causal."""
        windowed = sum(map(self.is_windowed, range(self.layers))) if self.window < row_length else 0
        window_area = self.window * (2 * row_length - self.window) // row_length if windowed else 0
        return 2 * self.heads * self.head_dim * ((self.layers - windowed) * row_length + windowed * window_area)

    def has_rotary(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has rotary embeddings."""
        return not self.rotary_period or (layer + 1) % self.rotary_period != 0

    def is_windowed(self, layer: int) -> bool:
        """Whether the attention of a layer, counted from 0, is limited to the window."""
        return self.window > 0 and (not self.window_period or (layer + 1) % self.window_period != 0)


def swiglu_width(width: int) -> int:
    """open_lm's rule: 8/3 of the width, rounded up to a multiple of 256."""
    return 256 * ((int(8 * width / 3) + 255) // 256)


def openlm_spec(*, layers: int, width: int, heads: int, vocab_size: int) -> LMSpec:
    """The paper's family at any size, with open_lm's defaults."""
    if heads < 1 or width % heads:
        raise QuantityError(
            f"the heads share the width: heads must divide width. Got {heads} heads for width {width}. "
            "Choose a divisor, or build the LMSpec with another head_dim."
        )
    return LMSpec(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp_width=swiglu_width(width),
        vocab_size=vocab_size,
        norm="layer",
        eps=1e-5,
        qk_norm=True,
        rope=Rope(base=10_000.0),
        ties_embeddings=False,
        token_shift=1,
        embedding_scale=1,
    )


def llama_family_spec(*, layers: int, width: int, heads: int, kv_heads: int, mlp_width: int, vocab_size: int) -> LMSpec:
    """Llama 1's settings: rotary base 10,000, untied embeddings, eps 1e-5; `replace` makes those of later models."""
    openlm = openlm_spec(layers=layers, width=width, heads=heads, vocab_size=vocab_size)
    return replace(openlm, kv_heads=kv_heads, mlp_width=mlp_width, norm="rms", qk_norm=False)


def _check_positive(name: str, value: int | float) -> None:
    if not value > 0:
        raise QuantityError(f"{name} must be above zero. Got {value}. Take it from the model's configuration.")


def _check_scaling_factor(factor: float) -> None:
    if not factor >= 1:
        advice = "Divide the longer context by the shorter"
        raise QuantityError(f"a rotary scaling factor must be 1 or more. Got {factor}. {advice}.")


@spec
class ProjectorSpec:
    """From vision width to LM width: mlp2 is the paper's text, mlp3 its code (fused-gelu-mlp).

    The hidden layer of mlp3 is four times the vision width, before pixel shuffle.
    """

    TAG: ClassVar = "projector"
    kind: Literal["linear", "mlp2", "mlp3"]
    pixel_shuffle: int
    """Squares of f x f tokens become one token, channels concatenated, so that an image has 1/f^2 as many tokens.

    Missing tokens at the right and lower edge are zeros. 1 is none (the paper).
    """
    tokens_per_patch: int
    """Consecutive image tokens that each vision token becomes; 1 in the paper."""
    has_position_embeddings: bool
    """Whether a learned vector is added to each image token; off in the paper."""

    def __post_init__(self) -> None:
        factors = (self.pixel_shuffle, self.tokens_per_patch)
        if min(factors) < 1:
            raise QuantityError(f"pixel_shuffle and tokens_per_patch are 1 or more. Got {factors[0]} and {factors[1]}.")

    def tokens(self, vision: VisionSpec) -> int:
        """Image tokens of one image."""
        return (-(-vision.grid_size // self.pixel_shuffle)) ** 2 * self.tokens_per_patch

    def parameters(self, vision: VisionSpec, lm: LMSpec) -> int:
        layers = sum(fan_in * fan_out + fan_out for fan_in, fan_out in pairwise(self.widths(vision, lm)))
        return layers + (self.tokens(vision) * lm.width if self.has_position_embeddings else 0)

    def flops(self, vision: VisionSpec, lm: LMSpec) -> int:
        """Forward FLOPs of one image."""
        token_flops = sum(2 * fan_in * fan_out for fan_in, fan_out in pairwise(self.widths(vision, lm)))
        return self.tokens(vision) // self.tokens_per_patch * token_flops

    def widths(self, vision: VisionSpec, lm: LMSpec) -> tuple[int, ...]:
        """Widths of the input (one or a square of vision tokens), the hidden layers and the output (image tokens)."""
        in_width, out_width = vision.width * self.pixel_shuffle**2, self.tokens_per_patch * lm.width
        hidden_widths = {"linear": (), "mlp2": (lm.width,), "mlp3": (4 * vision.width, lm.width)}[self.kind]
        return (in_width, *hidden_widths, out_width)


@spec
class VLMSpec:
    """A vision-language model: vision, projector, decoder."""

    TAG: ClassVar = "vlm"
    FORMER_WORDS: ClassVar = {"frozen": "external", "trained": "included"}
    lm: LMSpec
    vision: VisionSpec
    encoder: Literal["external", "included"]
    """Where the encoder's weights are.

    external: outside the checkpoint, published or from this study's own training, never trained further and the same in
    every arm. included: a copy in the checkpoint, which each stage trains or freezes (`Trains.encoder`).
    """
    projector: ProjectorSpec
    attention: Literal["causal", "prefix"]
    """prefix: the tokens of one image attend to each other in both directions; causal everywhere in the paper."""
    stores_features: bool = field(default=False, metadata=OMITTED_AT_DEFAULT)
    """Whether the features of an external encoder are computed once for all arms, stages and seeds, in fixed batches.

    Where the site has no room for them (`Site.feature_bytes`), training computes the same features, to the bit. Without
    it, a published encoder runs in training, in batches of training's size, whose last bits differ; the features of an
    encoder that the study trains are stored all the same.
    """

    def __post_init__(self) -> None:
        if self.stores_features and (self.encoder == "included" or not self.vision.towers):
            reason = "the features of an encoder that is in the checkpoint, or of none, cannot be stored"
            raise QuantityError(f"{reason}. Leave stores_features out.")
        if self.encoder == "included" and isinstance(self.vision, PatchProjectionSpec):
            reason = "a patch projection has no encoder; it is in the checkpoint and trains with the projector"
            raise QuantityError(f'{reason}. Set encoder="external".')

    @property
    def image_tokens(self) -> int:
        """Tokens of one image in a row."""
        return self.projector.tokens(self.vision)


def decoder_spec(spec: LMSpec | VLMSpec) -> LMSpec:
    """The decoder of a spec."""
    return spec.lm if isinstance(spec, VLMSpec) else spec
