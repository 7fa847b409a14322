"""Reading without gradients: a decoder with its weights made ready, and a cache of what it has read.

Keys and values of all rows stand in the same columns of one block of memory that is taken once; what a ragged read
leaves empty at the right of shorter rows is masked ever after.
Shapes: B rows, T new tokens, S columns read, D width, V vocabulary, H heads (G of keys and values), K head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from firstsight.model import layers
from firstsight.model.layers import BlockConfig, BlockWeights, Heads, KVHeads, norm
from firstsight.model.lm import LM, HiddenStates

TensorFn = Callable[[Tensor], Tensor]
"""Vectors times one weight, or normed and times a gain."""
RotaryFactors = Complex[Tensor, "*rows T 1 half"]
"""What a head's pairs of numbers are multiplied by at each position."""


@dataclass(kw_only=True, slots=True)
class KVCache:
    """Keys, values and, with token shift, the last normed inputs of every layer; it grows as `Reader.extend` reads."""

    keys_values: list[Float[Tensor, "2 B G room K"]]
    """Keys, then values."""
    shift_inputs: list[Float[Tensor, "B lag D"]]
    padding_bias: Float[Tensor, "B room"]
    """0, and -inf where a row has padding among the columns that are read."""
    row_lengths: Int[Tensor, " B"]
    """Real tokens of each row: the position of its next one."""
    length: int = 0
    """Columns in use, padding included."""
    has_padding: bool = False
    """Whether any of them is padding."""

    @property
    def capacity(self) -> int:
        """Most columns."""
        return self.keys_values[0].shape[3]

    def select_rows(self, row_indices: Sequence[int], capacity: int) -> KVCache:
        """These rows, in this order and as often as named, in `room` columns; itself where it is that already."""
        if list(row_indices) == list(range(len(self.row_lengths))) and capacity == self.capacity:
            return self
        indices = torch.tensor(list(row_indices), dtype=torch.int64, device=self.row_lengths.device)
        return KVCache(
            keys_values=[
                self._select_layer(layer_keys_values, indices, capacity) for layer_keys_values in self.keys_values
            ],
            shift_inputs=[layer_shift_inputs[indices] for layer_shift_inputs in self.shift_inputs],
            padding_bias=F.pad(self.padding_bias[indices, : self.length], (0, capacity - self.length)),
            row_lengths=self.row_lengths[indices],
            length=self.length,
            has_padding=self.has_padding,
        )

    def _select_layer(self, keys_values: Tensor, indices: Tensor, capacity: int) -> Tensor:
        selected = keys_values.new_empty(2, len(indices), keys_values.shape[2], capacity, keys_values.shape[4])
        for target, source in zip(selected, keys_values, strict=True):
            target[:, :, : self.length] = source[indices, :, : self.length]
        return selected


def empty_cache(lm: LM, num_rows: int, capacity: int) -> KVCache:
    """A cache for `rows` rows of up to `room` tokens, padding included."""
    spec, device = lm.spec, lm.norm.weight.device
    # a CPU attends from one token 2 to 8 times as fast in float32 as in bf16
    dtype = torch.float32 if device.type == "cpu" and lm.compute_dtype == torch.bfloat16 else lm.compute_dtype
    shape = (2, num_rows, spec.kv_heads, capacity, spec.head_dim)
    zero_inputs = torch.zeros(num_rows, spec.token_shift - 1, spec.width, dtype=lm.compute_dtype, device=device)
    return KVCache(
        keys_values=[torch.empty(shape, dtype=dtype, device=device) for _ in range(spec.layers)],
        shift_inputs=[zero_inputs.clone() for _ in range(spec.layers)],
        padding_bias=torch.zeros(num_rows, capacity, dtype=dtype, device=device),
        row_lengths=torch.zeros(num_rows, dtype=torch.int64, device=device),
    )


class PreparedLayer(NamedTuple):
    """A block made ready."""

    attention_norm: TensorFn
    in_proj: TensorFn
    """Queries and keys with the two numbers that turn together side by side, values."""
    q_norm: TensorFn | None
    k_norm: TensorFn | None
    out_proj: TensorFn
    ffn_norm: TensorFn
    w12: TensorFn
    w3: TensorFn
    shift: Float[Tensor, "taps D"] | None


class InferenceDecoder:
    """A decoder made ready to read rows of up to `longest` tokens: weights are cast and laid out once, not per token.

    It holds a copy of the weights and does not see what a training step changes: see `reader`.
    """

    @torch.no_grad()
    def __init__(self, lm: LM, max_length: int) -> None:
        self.lm = lm
        self._config = lm.block_config
        self._layers = [_prepare_layer(layer.weights(), lm.block_config) for layer in lm.layers]  # pyright: ignore[reportCallIssue]
        self._final_norm, self._output_projection = (
            _prepare_norm(lm.norm.weight, lm.block_config),
            prepare_linear(lm.head_weight, lm.compute_dtype),
        )
        rotary_dtype = torch.promote_types(lm.compute_dtype, torch.float32)
        positions = torch.arange(max_length, device=lm.norm.weight.device)[None]
        cos, sin = layers.rotary_cos_sin(positions, lm.spec.rope, head_dim=lm.spec.head_dim, dtype=rotary_dtype)
        self._rotary_factors = torch.complex(cos, sin)[0, 0, :, None]

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """What `LM.logits` says."""
        logits = self._output_projection(self._final_norm(hidden))
        return logits if logits.dtype == torch.float64 else logits.float()

    def extend(
        self, x: HiddenStates, token_counts: Sequence[int] | None, cache: KVCache, *, is_bidirectional: bool = False
    ) -> HiddenStates:
        """Hidden states of tokens that come after those in the cache, which takes them up.

        Row r's first counts[r] tokens are real, all where `counts` is None. Each sees what its row read before it
        and, where `ahead` is true, all of this read (which then has no padding).
        """
        context = self._extend_context(x.shape[1], token_counts, cache, is_bidirectional=is_bidirectional)
        with _attention_backends(x.device):
            for layer, keys_values, shift_inputs in zip(
                self._layers, cache.keys_values, cache.shift_inputs, strict=True
            ):
                x = self._block(x, layer, context, keys_values, shift_inputs)
        return x

    def _extend_context(
        self, num_new: int, token_counts: Sequence[int] | None, cache: KVCache, *, is_bidirectional: bool
    ) -> _ExtendContext:
        """What every layer knows of this read, which the cache's counters take up."""
        start, row_lengths = cache.length, cache.row_lengths
        positions = None
        rotary_factors = self._rotary_factors[start : start + num_new]
        if cache.has_padding or self.lm.spec.token_shift > 1:
            positions = row_lengths[:, None] + torch.arange(num_new, device=row_lengths.device)
            rotary_factors = self._rotary_factors[positions.clamp(max=len(self._rotary_factors) - 1)]
        new_lengths = None
        if token_counts is None:
            cache.row_lengths = row_lengths + num_new
        else:
            new_lengths = torch.tensor(list(token_counts), dtype=torch.int64, device=row_lengths.device)
            padding = torch.arange(num_new, device=row_lengths.device) >= new_lengths[:, None]
            cache.padding_bias[:, start : start + num_new].masked_fill_(padding, float("-inf"))
            cache.row_lengths, cache.has_padding = (
                row_lengths + new_lengths,
                cache.has_padding or min(token_counts) < num_new,
            )
        cache.length += num_new
        return _ExtendContext(
            rotary_factors=rotary_factors,
            positions=positions,
            new_lengths=new_lengths,
            start=start,
            end=cache.length,
            is_causal=start == 0 and num_new > 1 and not is_bidirectional,
            mask=_additive_mask(cache, num_new) if start else None,
        )

    def _block(
        self, x: HiddenStates, layer: PreparedLayer, context: _ExtendContext, keys_values: Tensor, shift_inputs: Tensor
    ) -> HiddenStates:
        """One pre-norm block, as `layers.block` has it."""
        config = self._config
        h = layer.attention_norm(x)
        if layer.shift is not None and context.positions is not None:
            previous_inputs = shift_inputs.clone()
            shift_inputs.copy_(
                _last_inputs(torch.cat((previous_inputs, h), dim=1), context.new_lengths, shift_inputs.shape[1])
            )
            h = layers.shift_tokens(h, layer.shift, previous_inputs, context.positions)
        heads = layer.in_proj(h)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k, v = heads.split(
                [num_heads * self.lm.spec.head_dim for num_heads in (config.heads, *[config.kv_heads] * 2)], dim=-1
            )
            heads = torch.cat((layer.q_norm(q), layer.k_norm(k), v), dim=-1)
        heads = _rotate_heads(heads, context.rotary_factors, config)
        new_keys_values = heads[:, :, config.heads :].view(*x.shape[:2], 2, config.kv_heads, -1)
        keys_values[:, :, :, context.start : context.end] = new_keys_values.permute(2, 0, 3, 1, 4)
        keys, values = keys_values[:, :, :, : context.end].unbind(0)
        attention_output = _attention(
            heads[:, :, : config.heads].transpose(1, 2).to(keys_values.dtype), keys, values, context
        )
        x = x + layer.out_proj(attention_output.transpose(1, 2).flatten(2).to(h.dtype))
        gate, value = layer.w12(layer.ffn_norm(x)).chunk(2, dim=-1)
        return x + layer.w3(F.silu(gate) * value)


def inference_decoder(lm: LM, max_length: int) -> InferenceDecoder:
    """A reader for rows of up to `longest` tokens: the one of the call before, as long as no weight has changed.

    A model that is being trained gets a new one each time: fused optimizers change weights without a trace.
    """
    if any(weight.requires_grad for weight in lm.parameters()):
        return InferenceDecoder(lm, max_length)
    weight_versions = (
        lm.compute_dtype,
        [(id(weight), weight.data_ptr(), weight._version) for weight in lm.parameters()],
    )
    if lm.cached_decoder is None or lm.cached_decoder[0] != weight_versions or lm.cached_decoder[1] < max_length:
        lm.cached_decoder = None  # two copies of the weights at once are enough
        lm.cached_decoder = (weight_versions, max_length, InferenceDecoder(lm, max_length))
    return lm.cached_decoder[2]


class _ExtendContext(NamedTuple):
    """What every layer knows of one call."""

    rotary_factors: RotaryFactors
    positions: Int[Tensor, "B T"] | None
    """None where nothing asks for them."""
    new_lengths: Int[Tensor, " B"] | None
    """Real tokens of each row; None where all are."""
    start: int
    end: int
    is_causal: bool
    mask: Float[Tensor, "_ 1 T S"] | None


def prepare_linear(weight: Float[Tensor, "out into"], dtype: torch.dtype) -> TensorFn:
    """Multiplication by a weight in `dtype`, laid out once for many short reads.

    On a CPU oneDNN's own layout serves 16 rows 1.5 times (bf16) to 3 times (float32) as fast as a plain product.
    """
    cast_weight = weight.detach().to(dtype)
    if cast_weight.device.type != "cpu" or not _has_onednn(dtype):
        return lambda x: F.linear(x, cast_weight)
    packed_weight, multiply = (
        torch.ops.mkldnn._reorder_linear_weight(cast_weight),
        torch.ops.mkldnn._linear_pointwise.default,
    )
    return lambda x: multiply(x, packed_weight, None, "none", [], "")


def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether this CPU's oneDNN multiplies in this dtype."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _prepare_norm(weight: Float[Tensor, " D"], config: BlockConfig) -> TensorFn:
    """What `layers.norm` says; on a CPU an RMSNorm from its length, in half the time of torch's many steps."""
    cast_weight = weight.detach().to(config.dtype)
    if not config.is_rms_norm or cast_weight.device.type != "cpu":
        return lambda x: norm(x, cast_weight, config)
    wide_dtype = torch.promote_types(config.dtype, torch.float32)
    sqrt_width = len(cast_weight) ** 0.5
    scaled_weight, min_length = (
        cast_weight.to(wide_dtype) * sqrt_width,
        torch.tensor(config.eps**0.5 * sqrt_width, dtype=torch.float64),
    )

    def rms_norm(x: Tensor) -> Tensor:
        x = x.to(config.dtype).to(wide_dtype)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(min_length)
        return x.div(length).mul_(scaled_weight).to(config.dtype)

    return rms_norm


def _prepare_layer(weights: BlockWeights, config: BlockConfig) -> PreparedLayer:
    head_dim = weights.in_proj.shape[0] // (config.heads + 2 * config.kv_heads)
    q, k, v = weights.in_proj.detach().split(
        [config.heads * head_dim, config.kv_heads * head_dim, config.kv_heads * head_dim]
    )
    return PreparedLayer(
        attention_norm=_prepare_norm(weights.attention_norm, config),
        in_proj=prepare_linear(
            torch.cat((_interleave_halves(q, head_dim), _interleave_halves(k, head_dim), v)), config.dtype
        ),
        q_norm=None
        if weights.q_norm is None
        else _prepare_norm(_interleave_halves(weights.q_norm.detach(), head_dim), config),
        k_norm=None
        if weights.k_norm is None
        else _prepare_norm(_interleave_halves(weights.k_norm.detach(), head_dim), config),
        out_proj=prepare_linear(weights.out_proj, config.dtype),
        ffn_norm=_prepare_norm(weights.ffn_norm, config),
        w12=prepare_linear(weights.w12, config.dtype),
        w3=prepare_linear(weights.w3, config.dtype),
        shift=None if weights.shift is None else weights.shift.detach().to(config.dtype),
    )


def _interleave_halves(weight: Float[Tensor, "rows *any"], head_dim: int) -> Float[Tensor, "rows *any"]:
    """Each head's first half and second half in turns: attention does not see the order, if keys have it too."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def _rotate_heads(
    x: Float[Tensor, "B T _"], rotary_factors: RotaryFactors, config: BlockConfig
) -> Float[Tensor, "B T heads K"]:
    """Heads of queries, keys and values; the first two turned by `layers.rotate`'s angles, in their precision."""
    num_rows, num_new, _ = x.shape
    pairs = x.to(rotary_factors.real.dtype).view(num_rows, num_new, config.heads + 2 * config.kv_heads, -1, 2)
    torch.view_as_complex(pairs)[:, :, : config.heads + config.kv_heads].mul_(rotary_factors)
    return pairs.flatten(3)


def _attention_backends(device: torch.device) -> AbstractContextManager[object]:
    """Without cuDNN's attention, which newer GPUs take first: it plans some 30 ms for every length it has not met."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _attention(q: Heads, keys: KVHeads, values: KVHeads, context: _ExtendContext) -> Heads:
    """Softmax attention; a single token's queries that share a head of keys stand side by side, as tokens would."""
    num_rows, num_heads, num_new, head_dim = q.shape
    group_size = num_heads // keys.shape[1]
    if num_new == 1 and q.device.type == "cpu":
        return _single_token_attention(q, keys, values, context.mask)
    if num_new == 1 and group_size > 1:
        grouped_queries = q.reshape(num_rows, num_heads // group_size, group_size, head_dim)
        return F.scaled_dot_product_attention(grouped_queries, keys, values, attn_mask=context.mask).reshape(q.shape)
    return F.scaled_dot_product_attention(
        q, keys, values, attn_mask=context.mask, is_causal=context.is_causal, enable_gqa=group_size > 1
    )


def _single_token_attention(q: Heads, keys: KVHeads, values: KVHeads, mask: Float[Tensor, "_ 1 T S"] | None) -> Heads:
    """One token's attention as plain products: two thirds of what torch's fused kernel takes on a CPU."""
    scaled_queries = (q * q.shape[-1] ** -0.5).reshape(-1, q.shape[1] // keys.shape[1], q.shape[-1])
    scores = torch.bmm(keys.flatten(0, 1), scaled_queries.transpose(1, 2)).transpose(1, 2)
    if mask is not None:
        scores = (scores.unflatten(0, (len(q), -1)) + mask).flatten(0, 1)
    return torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1)).view(q.shape)


def _additive_mask(cache: KVCache, num_new: int) -> Float[Tensor, "_ 1 T S"] | None:
    """0 where each of the last `new` columns may look, -inf elsewhere; None where that is everywhere."""
    bias = cache.padding_bias[:, None, None, : cache.length] if cache.has_padding else None
    if num_new == 1:
        return bias
    future = cache.padding_bias.new_full((num_new, num_new), float("-inf")).triu(1)
    causal = F.pad(future, (cache.length - num_new, 0))[None, None]
    return causal if bias is None else causal + bias


def _last_inputs(
    inputs: Float[Tensor, "B _ D"], new_lengths: Int[Tensor, " B"] | None, count: int
) -> Float[Tensor, "B lag D"]:
    """The `count` inputs that end at each row's last real token; `count` remembered ones precede those of this call."""
    if new_lengths is None:
        return inputs[:, inputs.shape[1] - count :]
    columns = new_lengths[:, None] + torch.arange(count, device=new_lengths.device)
    return inputs.gather(1, columns[..., None].expand(-1, -1, inputs.shape[-1]))
