"""The decoder block: norm, token shift, attention with rotary position embeddings, MLP.

`decoder_block` is its arithmetic, for training, for inference with a cache and for the transformers classes. These
differ in the functions that multiply by the weights (`BlockOps`) and in the attention (`BlockInputs`).

As in bf16 autocast, weights are float32 and cast to `dtype` for matrix products only; residual stream, angles, masks
and softmax are float32. Source: open_lm (paper section 1.2); for the Llama settings transformers.
Shapes: B rows, T tokens, D width, H query heads, G key and value heads, K head width, F MLP width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from firstsight.model.attention import AttentionMask, Heads, masked_attention
from firstsight.recipe.model import LinearRope, Llama3Rope, LMSpec, Rope
from firstsight.recipe.model import Rotary as RopeSpec

HiddenStates = Float[Tensor, "B T D"]
Projection = Float[Tensor, "B T _"]
"""Queries, keys or values of all heads side by side."""
TensorFn = Callable[[Tensor], Tensor]
BlockOrder = Literal["pre_norm", "parallel", "post_norm"]
"""As `LMSpec.block`."""
RotaryCosSin = tuple[Float[Tensor, "B 1 T half"], Float[Tensor, "B 1 T half"]]


@runtime_checkable
class BlockInputs(Protocol):
    """What a block needs besides its input: its place in the rows, and attention, with or without a cache."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of norms and matrix products."""
        ...

    @property
    def positions(self) -> Int[Tensor, "B T"] | None:
        """The position of each token in its document; None is allowed without token shift."""
        ...

    def preceding_inputs(self, h: HiddenStates, count: int) -> Float[Tensor, "B count D"]:
        """The `count` normed inputs of this block before the first token of `h`."""
        ...

    def attend(self, q: Projection, k: Projection, v: Projection, reach: Reach) -> Projection:
        """Attention of queries [B, T, H*K] to keys and values [B, T, G*K], in the way of a layer."""
        ...


class Reach(NamedTuple):
    """How the attention of a layer sees distances."""

    has_rotary: bool
    is_windowed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionInputs:
    """The `BlockInputs` of rows without a cache, the same for all blocks."""

    cos: Float[Tensor, "B 1 T half"]
    sin: Float[Tensor, "B 1 T half"]
    mask: AttentionMask
    positions: Int[Tensor, "B T"]
    dtype: torch.dtype
    windowed_mask: AttentionMask | None = None
    """The mask of windowed layers; None where it would be that of the others."""

    def preceding_inputs(self, h: HiddenStates, count: int) -> Float[Tensor, "B count D"]:
        """Zeros: each row begins with its first token."""
        return h.new_zeros(h.shape[0], count, h.shape[2])

    def attend(self, q: Projection, k: Projection, v: Projection, reach: Reach) -> Projection:
        """Softmax attention under the mask."""
        mask = self.mask if self.windowed_mask is None or not reach.is_windowed else self.windowed_mask
        return merge_heads(masked_attention(*self.split_heads(q, k, v, reach), mask))

    def split_heads(self, q: Projection, k: Projection, v: Projection, reach: Reach) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, K], keys and values [B, G, T, K] by head; queries and keys are rotated."""
        head_dim = 2 * self.cos.shape[-1]
        q, k, v = (x.unflatten(-1, (-1, head_dim)).transpose(1, 2) for x in (q, k, v))
        if not reach.has_rotary:
            return q, k, v
        return apply_rotary(q, self.cos, self.sin), apply_rotary(k, self.cos, self.sin), v


class BlockOps(NamedTuple):
    """The linear maps and norms of a block as functions, and its other weights: what `decoder_block` computes with."""

    attention_norm: TensorFn
    in_proj: TensorFn
    """Queries, keys and values, in this order."""
    q_norm: TensorFn | None
    k_norm: TensorFn | None
    out_proj: TensorFn
    ffn_norm: TensorFn
    w12: TensorFn
    """Gate, then value; without a gate the hidden layer."""
    w3: TensorFn
    shift: Float[Tensor, "taps D"] | None
    qkv_sizes: tuple[int, int, int]
    """Widths of queries, keys and values: H*K, G*K, G*K."""
    activation: TensorFn
    """From the output of `w12` to the input of `w3`."""
    order: BlockOrder
    reach: Reach


BlockFn = Callable[[Tensor, BlockOps, BlockInputs], Tensor]


class Weight(nn.Module):
    """A parameter `weight`, uninitialised, and where a model has biases a `bias` with an entry for each row of it."""

    bias: nn.Parameter | None

    def __init__(self, *shape: int, has_bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.register_parameter("bias", nn.Parameter(torch.empty(shape[:1])) if has_bias else None)

    def cast_bias(self, dtype: torch.dtype) -> Tensor | None:
        """The bias in `dtype`."""
        return None if self.bias is None else self.bias.to(dtype)


class Linear(Weight):
    """A linear map in the dtype of its input."""

    def forward(self, x: Float[Tensor, "*any into"]) -> Float[Tensor, "*any out"]:
        return F.linear(x, self.weight.to(x.dtype), self.cast_bias(x.dtype))


class Norm(Weight):
    """LayerNorm or RMSNorm with a weight, computed in the dtype of its input.

    `is_per_head`: each head of heads side by side is normalised by itself, all with the same weight.
    """

    def __init__(self, width: int, spec: LMSpec, *, has_bias: bool = False, is_per_head: bool = False) -> None:
        super().__init__(width, has_bias=has_bias)
        self.is_rms_norm, self.eps, self.is_per_head = spec.norm == "rms", spec.eps, is_per_head

    def forward(self, x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        if self.is_per_head:
            return self._normalize(x.unflatten(-1, (-1, len(self.weight)))).flatten(-2)
        return self._normalize(x)

    def _normalize(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        if self.is_rms_norm:
            return F.rms_norm(x, weight.shape, weight, self.eps)
        return F.layer_norm(x, weight.shape, weight, self.cast_bias(x.dtype), self.eps)


class Attention(nn.Module):
    """The weights of a block's attention."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        query_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.qkv_sizes = (query_width, kv_width, kv_width)
        self.in_proj = Linear(query_width + 2 * kv_width, spec.width, has_bias=spec.has_biases)
        self.q_norm = _qk_norm(query_width, spec)
        self.k_norm = _qk_norm(kv_width, spec)
        self.out_proj = Linear(spec.width, query_width, has_bias=spec.has_biases)
        self.shift = nn.Parameter(torch.empty(spec.token_shift, spec.width)) if spec.token_shift > 1 else None


def _qk_norm(width: int, spec: LMSpec) -> Norm | None:
    if not spec.qk_norm:
        return None
    is_per_head = spec.qk_norm_width == "head"
    return Norm(spec.head_dim if is_per_head else width, spec, is_per_head=is_per_head)


class FeedForward(nn.Module):
    """The weights of the MLP: `w12` for SwiGLU's gate and value or the hidden layer, `w3` for the output."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.w12 = Linear(spec.mlp_hidden_width, spec.width, has_bias=spec.has_biases)
        self.w3 = Linear(spec.width, spec.mlp_width, has_bias=spec.has_biases)


class Block(nn.Module):
    """One block, with open_lm's parameter names: a module that torch's wrappers and hooks apply to."""

    def __init__(self, spec: LMSpec, layer: int) -> None:
        super().__init__()
        self.order: BlockOrder = spec.block
        self.reach = Reach(spec.has_rotary(layer), spec.is_windowed(layer))
        self.activation = swiglu if spec.mlp == "swiglu" else F.gelu
        self.block_fn: BlockFn = decoder_block
        """`decoder_block` or its compiled form, which all blocks share; hooks and wrappers stay outside of it."""
        self.attention_norm, self.ffn_norm = (Norm(spec.width, spec, has_bias=spec.has_biases) for _ in range(2))
        self.attention = Attention(spec)
        self.feed_forward = FeedForward(spec)

    def ops(self) -> BlockOps:
        """The block's modules and weights under the names of `BlockOps`."""
        attention, feed_forward = self.attention, self.feed_forward
        return BlockOps(
            attention_norm=self.attention_norm,
            in_proj=attention.in_proj,
            q_norm=attention.q_norm,
            k_norm=attention.k_norm,
            out_proj=attention.out_proj,
            ffn_norm=self.ffn_norm,
            w12=feed_forward.w12,
            w3=feed_forward.w3,
            shift=attention.shift,
            qkv_sizes=attention.qkv_sizes,
            activation=self.activation,
            order=self.order,
            reach=self.reach,
        )

    def forward(self, x: HiddenStates, inputs: BlockInputs) -> HiddenStates:
        """The residual stream after this block."""
        return self.block_fn(x, self.ops(), inputs)


def decoder_block(x: HiddenStates, ops: BlockOps, inputs: BlockInputs) -> HiddenStates:
    """One block on the residual stream: the only place of its arithmetic, with and without a cache."""
    has_post_norm = ops.order == "post_norm"
    h = x.to(inputs.dtype) if has_post_norm else ops.attention_norm(x.to(inputs.dtype))
    if ops.shift is not None:
        assert inputs.positions is not None
        preceding = inputs.preceding_inputs(h, ops.shift.shape[0] - 1)
        h = shift_tokens(h, ops.shift.to(h.dtype), preceding, inputs.positions)
    q, k, v = ops.in_proj(h).split(ops.qkv_sizes, dim=-1)
    if ops.q_norm is not None and ops.k_norm is not None:
        q, k = ops.q_norm(q), ops.k_norm(k)
    attended = ops.out_proj(inputs.attend(q, k, v, ops.reach))
    stream = x + (ops.attention_norm(attended) if has_post_norm else attended)
    mlp_input = (x if ops.order == "parallel" else stream).to(inputs.dtype)
    hidden = ops.w12(mlp_input if has_post_norm else ops.ffn_norm(mlp_input))
    output = ops.w3(ops.activation(hidden))
    return stream + (ops.ffn_norm(output) if has_post_norm else output)


def rotary_frequencies(rope: RopeSpec, head_dim: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[head_dim / 2] radians per position for each pair of a head's dimensions; 0 for those that are not rotated."""
    if isinstance(rope, Rope) and rope.fraction != 1:
        rotary_dim = int(head_dim * rope.fraction)
        inv_freq = rope.base ** (-torch.arange(0, rotary_dim, 2, device=device, dtype=dtype) / rotary_dim)
        return F.pad(inv_freq, (0, (head_dim - rotary_dim) // 2))
    inv_freq = rope.base ** (-torch.arange(0, head_dim, 2, device=device, dtype=dtype) / head_dim)
    match rope:
        case LinearRope():
            return inv_freq / rope.factor
        case Llama3Rope():
            low, high = rope.low_freq_factor, rope.high_freq_factor
            rotations = rope.original_context * inv_freq / (2 * math.pi)
            smooth = ((rotations - low) / (high - low)).clamp(0, 1)
            return smooth * inv_freq + (1 - smooth) * inv_freq / rope.factor
        case Rope():
            return inv_freq


def rotary_cos_sin(positions: Int[Tensor, "B T"], rope: RopeSpec, *, head_dim: int, dtype: torch.dtype) -> RotaryCosSin:
    """Cosine and sine of the rotary angles of every position."""
    inv_freq = rotary_frequencies(rope, head_dim, device=positions.device, dtype=dtype)
    angles = positions[:, None, :, None].to(dtype) * inv_freq
    return angles.cos(), angles.sin()


def apply_rotary(x: Heads, cos: Float[Tensor, "B 1 T half"], sin: Float[Tensor, "B 1 T half"]) -> Heads:
    """Rotate the pairs (i, i + K / 2) of each head by the positions' angles, in float32."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def shift_tokens(
    x: HiddenStates, taps: Float[Tensor, "taps D"], preceding: Float[Tensor, "B lag D"], positions: Int[Tensor, "B T"]
) -> HiddenStates:
    """Each token plus weighted earlier tokens of its document; `preceding` are the tokens before the row's first."""
    length, lag = x.shape[1], taps.shape[0] - 1
    padded = torch.cat((preceding, x), dim=1)
    mixed = x * taps[0]
    for k in range(1, lag + 1):
        in_document = (positions >= k)[..., None]
        mixed = mixed + torch.where(in_document, padded[:, lag - k : lag - k + length], 0) * taps[k]
    return mixed


def merge_heads(x: Heads) -> Projection:
    """Heads [B, H, T, K] side by side: [B, T, H*K]."""
    return x.transpose(1, 2).flatten(2)


def swiglu(gate_value: Float[Tensor, "*any _"]) -> Float[Tensor, "*any F"]:
    """The values times the SiLU of their gates, which come first."""
    gate, value = gate_value.chunk(2, dim=-1)
    return silu(gate) * value


def silu(gate: Float[Tensor, "*any F"]) -> Float[Tensor, "*any F"]:
    """x sigmoid(x) in float32, written so that the compiled backward pass computes one exponential instead of two."""
    wide = gate if gate.dtype == torch.float64 else gate.float()
    return (wide * wide.sigmoid()).to(gate.dtype)
