"""Inference with a key-value cache: a decoder whose weights are prepared once, and the cache that it extends.

Keys and values of all rows share the columns of one tensor; columns that shorter rows leave empty stay masked.
Shapes: B rows, T new tokens, S cached columns, D width, V vocabulary, H query heads, G key heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from firstsight.model import layers
from firstsight.model.attention import Heads, KVHeads, additive_mask, window_mask
from firstsight.model.layers import (
    Block,
    BlockOps,
    HiddenStates,
    Linear,
    Norm,
    Projection,
    Reach,
    TensorFn,
    decoder_block,
    merge_heads,
)
from firstsight.model.lm import LM

MAX_SHORT_ROWS = 32
"""Most rows for which a bf16 product with the weight as its first factor is the faster one."""
MAX_WHOLE_WEIGHT, BLOCK_OUTPUTS = 2**20, 256
"""Largest float32 weight, in numbers, that is multiplied as a whole, and the outputs of a larger one's blocks."""
RotaryFactors = Complex[Tensor, "*rows T 1 half"]
"""cos + i sin of the rotary angles of each position."""


@dataclass(kw_only=True, slots=True)
class KVCache:
    """Keys, values and, with token shift, last normed inputs of every layer; `InferenceDecoder.extend` adds to it."""

    keys_values: list[Float[Tensor, "2 B G capacity K"]]
    """One tensor a layer: keys, then values."""
    shift_inputs: list[Float[Tensor, "B lag D"]]
    padding_bias: Float[Tensor, "B capacity"]
    """0, and -inf at a row's padding."""
    row_lengths: Int[Tensor, " B"]
    """Tokens of each row without padding: the position of its next token."""
    length: int = 0
    """Columns in use, padding included."""
    has_padding: bool = False

    @property
    def capacity(self) -> int:
        return self.keys_values[0].shape[3]

    def select_rows(self, row_indices: Sequence[int], capacity: int) -> KVCache:
        """A cache of these rows, which may repeat, with another capacity; the same object if nothing changes."""
        is_same = list(row_indices) == list(range(len(self.row_lengths))) and capacity == self.capacity
        return self if is_same else self.copy_rows(row_indices, capacity)

    def copy_rows(self, row_indices: Sequence[int], capacity: int) -> KVCache:
        """A copy of these rows, which may repeat, with another capacity: extending it leaves this cache as it is."""
        indices = torch.tensor(list(row_indices), dtype=torch.int64, device=self.row_lengths.device)
        return KVCache(
            keys_values=[self._select_layer(layer, indices, capacity) for layer in self.keys_values],
            shift_inputs=[layer[indices] for layer in self.shift_inputs],
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
    """A cache for rows of up to `capacity` tokens, padding included."""
    spec, device = lm.spec, lm.norm.weight.device
    # a CPU computes the attention of one token 2 to 8 times as fast in float32 as in bf16
    dtype = torch.float32 if device.type == "cpu" and lm.compute_dtype == torch.bfloat16 else lm.compute_dtype
    shape = (2, num_rows, spec.kv_heads, capacity, spec.head_dim)
    zero_inputs = torch.zeros(num_rows, spec.token_shift - 1, spec.width, dtype=lm.compute_dtype, device=device)
    return KVCache(
        keys_values=[torch.empty(shape, dtype=dtype, device=device) for _ in range(spec.layers)],
        shift_inputs=[zero_inputs.clone() for _ in range(spec.layers)],
        padding_bias=torch.zeros(num_rows, capacity, dtype=dtype, device=device),
        row_lengths=torch.zeros(num_rows, dtype=torch.int64, device=device),
    )


class InferenceDecoder:
    """A decoder for rows of up to `max_length` tokens whose weights are cast and laid out once, not per token.

    It has a copy of the weights, so later changes of the model have no effect on it: see `inference_decoder`.
    """

    @torch.no_grad()
    def __init__(self, lm: LM, max_length: int) -> None:
        self.lm = lm
        self._blocks = [_prepare_block(block, lm.spec.head_dim, lm.compute_dtype) for block in lm.blocks]
        self._final_norm = _prepare_norm(lm.norm, lm.compute_dtype)
        self._output_projection = prepare_linear(lm.head_weight, lm.compute_dtype)
        positions = torch.arange(max_length, device=lm.norm.weight.device)[None]
        cos, sin = layers.rotary_cos_sin(positions, lm.spec.rope, head_dim=lm.spec.head_dim, dtype=lm.wide_dtype)
        self._rotary_factors = torch.complex(cos, sin)[0, 0, :, None]

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """Equal to `LM.logits` up to rounding."""
        logits = self._output_projection(self._final_norm(hidden.to(self.lm.compute_dtype)))
        return logits if logits.dtype == torch.float64 else logits.float()

    def extend(
        self, x: HiddenStates, token_counts: Sequence[int] | None, cache: KVCache, *, is_bidirectional: bool = False
    ) -> HiddenStates:
        """Hidden states of new tokens that follow those in the cache; their keys and values are added to it.

        The first `token_counts[r]` tokens of row r are real, the rest padding; None for rows without padding. Each
        token attends to its row's cached and earlier tokens, with `is_bidirectional` to all new ones (no padding then).
        """
        context = self._extend_context(x.shape[1], token_counts, cache, is_bidirectional=is_bidirectional)
        with _attention_backends(x.device):
            for ops, keys_values, inputs in zip(self._blocks, cache.keys_values, cache.shift_inputs, strict=True):
                x = decoder_block(x, ops, _CachedInputs(context, keys_values, inputs))
        return x

    def _extend_context(
        self, num_new: int, token_counts: Sequence[int] | None, cache: KVCache, *, is_bidirectional: bool
    ) -> _ExtendContext:
        """The tensors of one call that all layers share; updates the cache's lengths and padding."""
        start, row_lengths, device = cache.length, cache.row_lengths, cache.row_lengths.device
        positions = new_lengths = None
        rotary_factors = self._rotary_factors[start : start + num_new]
        if cache.has_padding or self.lm.spec.token_shift > 1:
            positions = row_lengths[:, None] + torch.arange(num_new, device=device)
            rotary_factors = self._rotary_factors[positions.clamp(max=len(self._rotary_factors) - 1)]
        if token_counts is None:
            cache.row_lengths = row_lengths + num_new
        else:
            new_lengths = torch.tensor(list(token_counts), dtype=torch.int64, device=device)
            padding = torch.arange(num_new, device=device) >= new_lengths[:, None]
            cache.padding_bias[:, start : start + num_new].masked_fill_(padding, float("-inf"))
            cache.row_lengths = row_lengths + new_lengths
            cache.has_padding = cache.has_padding or min(token_counts) < num_new
        cache.length += num_new
        is_causal = start == 0 and num_new > 1 and not is_bidirectional
        mask = windowed_mask = _additive_mask(cache, num_new) if start else None
        if 0 < self.lm.spec.window < cache.length and not is_bidirectional:
            windowed_mask = _windowed_mask(cache, num_new, self.lm.spec.window)
        dtype = self.lm.compute_dtype
        return _ExtendContext(
            rotary_factors, positions, new_lengths, start, cache.length, is_causal, mask, windowed_mask, dtype
        )


def inference_decoder(lm: LM, max_length: int) -> InferenceDecoder:
    """A decoder for rows of up to `max_length` tokens, reused from the last call if no weight has changed.

    A model with trainable parameters gets a new one every time: fused optimizers do not count versions of weights.
    """
    if any(weight.requires_grad for weight in lm.parameters()):
        return InferenceDecoder(lm, max_length)
    versions = lm.compute_dtype, [(id(weight), weight.data_ptr(), weight._version) for weight in lm.parameters()]
    if lm.cached_decoder is None or lm.cached_decoder[0] != versions or lm.cached_decoder[1] < max_length:
        lm.cached_decoder = None  # free its copy of the weights first
        lm.cached_decoder = (versions, max_length, InferenceDecoder(lm, max_length))
    return lm.cached_decoder[2]


class _ExtendContext(NamedTuple):
    """The tensors and numbers of one call of `extend` that all layers share."""

    rotary_factors: RotaryFactors
    positions: Int[Tensor, "B T"] | None
    """None if no layer needs them."""
    new_lengths: Int[Tensor, " B"] | None
    """Real new tokens of each row; None if there is no padding."""
    start: int
    end: int
    is_causal: bool
    mask: Float[Tensor, "_ 1 T S"] | None
    windowed_mask: Float[Tensor, "_ 1 T S"] | None
    """Of windowed layers; `mask` itself where all tokens are within the window."""
    dtype: torch.dtype


class _CachedInputs(NamedTuple):
    """The `BlockInputs` of one block for tokens that follow those in its cache, which it extends by them."""

    context: _ExtendContext
    keys_values: Float[Tensor, "2 B G capacity K"]
    shift_inputs: Float[Tensor, "B lag D"]

    @property
    def dtype(self) -> torch.dtype:
        return self.context.dtype

    @property
    def positions(self) -> Int[Tensor, "B T"] | None:
        return self.context.positions

    def preceding_inputs(self, h: HiddenStates, count: int) -> Float[Tensor, "B lag D"]:
        preceding = self.shift_inputs.clone()
        inputs = torch.cat((preceding, h), dim=1)
        self.shift_inputs.copy_(_last_inputs(inputs, self.context.new_lengths, count))
        return preceding

    def attend(self, q: Projection, k: Projection, v: Projection, reach: Reach) -> Projection:
        context, head_dim, num_new = self.context, self.keys_values.shape[4], q.shape[1]
        if reach.has_rotary:
            queries, rotated_keys = (_rotate_heads(x, context.rotary_factors) for x in (q, k))
        else:
            queries, rotated_keys = (x.unflatten(-1, (-1, head_dim)) for x in (q, k))
        queries = queries.transpose(1, 2).to(self.keys_values.dtype)
        new_keys, new_values = self.keys_values.narrow(3, context.start, num_new).unbind(0)
        new_keys.copy_(rotated_keys.transpose(1, 2))
        new_values.copy_(v.unflatten(-1, (-1, head_dim)).transpose(1, 2))
        keys, values = self.keys_values.narrow(3, 0, context.end).unbind(0)
        mask = context.windowed_mask if reach.is_windowed else context.mask
        is_causal = context.is_causal and mask is None
        return merge_heads(_attention(queries, keys, values, mask, is_causal=is_causal)).to(context.dtype)


def prepare_linear(weight: Float[Tensor, "out into"], dtype: torch.dtype) -> TensorFn:
    """Multiplication by a weight in `dtype`, prepared once for many short inputs.

    F.linear copies the weight into another layout in each call on a CPU, which takes longer than a few rows' product.
    """
    weight = weight.detach().to(dtype)
    if weight.device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return lambda x: F.linear(x, weight)
    return _weight_first_linear(weight) if dtype == torch.bfloat16 else _blocked_linear(weight)


def _weight_first_linear(weight: Float[Tensor, "out into"]) -> TensorFn:
    """For bf16: as oneDNN lays out its second factor anew, that is the input, as long as it has few rows."""

    def linear(x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if rows > MAX_SHORT_ROWS:
            return F.linear(x, weight)
        inputs = x.reshape(rows, -1)
        if rows == 1:  # two rows take less time than one
            inputs = F.pad(inputs, (0, 0, 0, 1))
        return torch.mm(weight, inputs.t())[:, :rows].t().contiguous().view(*x.shape[:-1], -1)

    return linear


def _blocked_linear(weight: Float[Tensor, "out into"]) -> TensorFn:
    """For float32: products with the transposed weight, a large one in blocks that fit the CPU's cache."""
    outputs = weight.shape[0]
    block_outputs = outputs if weight.numel() <= MAX_WHOLE_WEIGHT else BLOCK_OUTPUTS
    blocks = F.pad(weight, (0, 0, 0, -outputs % block_outputs)).unflatten(0, (-1, block_outputs))
    blocks = blocks.transpose(1, 2).contiguous()

    def linear(x: Tensor) -> Tensor:
        inputs = x.reshape(-1, x.shape[-1])
        if len(blocks) == 1:
            return torch.mm(inputs, blocks[0]).view(*x.shape[:-1], outputs)
        products = torch.bmm(inputs.expand(len(blocks), -1, -1), blocks)
        return products.transpose(0, 1).flatten(1)[:, :outputs].unflatten(0, x.shape[:-1])

    return linear


def _prepare_norm(norm: Norm, dtype: torch.dtype, weight: Float[Tensor, " D"] | None = None) -> TensorFn:
    """`norm`, or with this weight, for inputs in `dtype`; on a CPU RMSNorm by the vector's length, in half the time."""
    weight = (norm.weight if weight is None else weight).detach().to(dtype)
    if not norm.is_rms_norm:
        bias = None if norm.bias is None else norm.bias.detach().to(dtype)
        return lambda x: F.layer_norm(x, weight.shape, weight, bias, norm.eps)
    if weight.device.type != "cpu":
        return lambda x: F.rms_norm(x, weight.shape, weight, norm.eps)
    wide_dtype, sqrt_width = torch.promote_types(dtype, torch.float32), len(weight) ** 0.5
    scaled_weight = weight.to(wide_dtype) * sqrt_width
    min_length = torch.tensor(norm.eps**0.5 * sqrt_width, dtype=torch.float64)

    def rms_norm(x: Tensor) -> Tensor:
        x = x.to(wide_dtype)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(min_length)
        return x.div(length).mul_(scaled_weight).to(dtype)

    return rms_norm


def _prepare_block(block: Block, head_dim: int, dtype: torch.dtype) -> BlockOps:
    """The block's functions with weights cast and laid out for inference.

    Queries and keys have the two dimensions of a rotary pair next to each other.
    """
    attention, feed_forward = block.attention, block.feed_forward

    def interleaved_qkv(rows: Tensor) -> Tensor:
        q, k, v = rows.detach().split(attention.qkv_sizes)
        return torch.cat((_interleave_halves(q, head_dim), _interleave_halves(k, head_dim), v))

    return BlockOps(
        attention_norm=_prepare_norm(block.attention_norm, dtype),
        in_proj=_prepare_biased(attention.in_proj, dtype, interleaved_qkv),
        q_norm=_prepare_qk_norm(attention.q_norm, head_dim, dtype),
        k_norm=_prepare_qk_norm(attention.k_norm, head_dim, dtype),
        out_proj=_prepare_biased(attention.out_proj, dtype),
        ffn_norm=_prepare_norm(block.ffn_norm, dtype),
        w12=_prepare_biased(feed_forward.w12, dtype),
        w3=_prepare_biased(feed_forward.w3, dtype),
        shift=None if attention.shift is None else attention.shift.detach().to(dtype),
        qkv_sizes=attention.qkv_sizes,
        activation=_swiglu if block.activation is layers.swiglu else block.activation,
        order=block.order,
        reach=block.reach,
    )


def _prepare_biased(linear: Linear, dtype: torch.dtype, order_rows: TensorFn = torch.detach) -> TensorFn:
    """`prepare_linear` with the bias of the map, its outputs in another order."""
    product = prepare_linear(order_rows(linear.weight), dtype)
    if linear.bias is None:
        return product
    bias = order_rows(linear.bias).to(dtype)
    return lambda x: product(x) + bias


def _prepare_qk_norm(norm: Norm | None, head_dim: int, dtype: torch.dtype) -> TensorFn | None:
    """The norm of queries or keys whose rotary pairs are next to each other."""
    if norm is None:
        return None
    prepared = _prepare_norm(norm, dtype, _interleave_halves(norm.weight.detach(), head_dim))
    if not norm.is_per_head:
        return prepared
    return lambda x: prepared(x.unflatten(-1, (-1, head_dim))).flatten(-2)


def _swiglu(gate_value: Tensor) -> Tensor:
    gate, value = gate_value.chunk(2, dim=-1)
    return F.silu(gate) * value


def _interleave_halves(weight: Float[Tensor, "rows *any"], head_dim: int) -> Float[Tensor, "rows *any"]:
    """Alternate the first and second half of each head; applied to queries and keys it leaves their products equal."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def _rotate_heads(x: Projection, factors: RotaryFactors) -> Float[Tensor, "B T heads K"]:
    """Queries or keys by head, rotated by the angles in the angles' precision; float32 `x` is changed in place."""
    pairs = x.to(factors.real.dtype).view(*x.shape[:2], -1, factors.shape[-1], 2)
    torch.view_as_complex(pairs).mul_(factors)
    return pairs.flatten(3)


def _attention_backends(device: torch.device) -> AbstractContextManager[object]:
    """Exclude cuDNN's attention, the default of newer GPUs, which takes some 30 ms to plan for every new length."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _attention(q: Heads, k: KVHeads, v: KVHeads, mask: Float[Tensor, "_ 1 T S"] | None, *, is_causal: bool) -> Heads:
    """Softmax attention; for a single token the queries that share a key head are treated as tokens of that head."""
    num_rows, num_heads, num_new, head_dim = q.shape
    group = num_heads // k.shape[1]
    if num_new == 1 and q.device.type == "cpu":
        return _single_token_attention(q, k, v, mask)
    if num_new == 1 and group > 1:
        grouped = q.reshape(num_rows, num_heads // group, group, head_dim)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).reshape(q.shape)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=group > 1)


def _single_token_attention(q: Heads, keys: KVHeads, values: KVHeads, mask: Float[Tensor, "_ 1 T S"] | None) -> Heads:
    """Attention of one token as plain products, in two thirds of the time of torch's fused CPU kernel."""
    queries = (q * q.shape[-1] ** -0.5).reshape(-1, q.shape[1] // keys.shape[1], q.shape[-1])
    scores = torch.bmm(keys.flatten(0, 1), queries.transpose(1, 2)).transpose(1, 2)
    if mask is not None:
        scores = (scores.unflatten(0, (len(q), -1)) + mask).flatten(0, 1)
    return torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1)).view(q.shape)


def _additive_mask(cache: KVCache, num_new: int) -> Float[Tensor, "_ 1 T S"] | None:
    """0 where each of the last `num_new` columns may attend, -inf elsewhere; None if it is 0 everywhere."""
    bias = cache.padding_bias[:, None, None, : cache.length] if cache.has_padding else None
    if num_new == 1:
        return bias
    future = cache.padding_bias.new_full((num_new, num_new), float("-inf")).triu(1)
    causal = F.pad(future, (cache.length - num_new, 0))[None, None]
    return causal if bias is None else causal + bias


def _windowed_mask(cache: KVCache, num_new: int, window: int) -> Float[Tensor, "B 1 T S"]:
    """0 where each of the last `num_new` columns may attend in a windowed layer, -inf elsewhere.

    A padding column attends to itself, so that no row of the softmax is empty.
    """
    is_token = cache.padding_bias[:, : cache.length] == 0
    columns = torch.arange(cache.length, device=is_token.device)
    rows = columns[-num_new:, None]
    allowed = is_token[:, None, None] & (columns <= rows) & window_mask(is_token, num_new, window)
    return additive_mask(allowed | (columns == rows), cache.padding_bias.dtype)


def _last_inputs(inputs: HiddenStates, new_lengths: Int[Tensor, " B"] | None, count: int) -> Tensor:
    """The last `count` inputs of each row before its padding; `inputs` starts with `count` from earlier calls."""
    if new_lengths is None:
        return inputs[:, inputs.shape[1] - count :]
    columns = new_lengths[:, None] + torch.arange(count, device=new_lengths.device)
    return inputs.gather(1, columns[..., None].expand(-1, -1, inputs.shape[-1]))
