"""The decoder block as functions of tensors: norm, rotary position embedding, token shift, projections, SwiGLU.

As in bf16 autocast, weights are float32 and cast to `dtype` for matrix products only; residual stream, angles, masks
and softmax are float32. Source: open_lm (paper section 1.2); for the Llama settings transformers.
Shapes: B rows, T tokens, D width, H query heads, G key and value heads, K head width, F MLP width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from firstsight.model.attention import AttentionMask, Heads, masked_attention
from firstsight.recipe.model import LinearRope, Llama3Rope, Rope
from firstsight.recipe.model import Rotary as RopeSpec

HiddenStates = Float[Tensor, "B T D"]
RotaryCosSin = tuple[Float[Tensor, "B 1 T half"], Float[Tensor, "B 1 T half"]]


class BlockConfig(NamedTuple):
    """Settings of a block's arithmetic, the same for every layer."""

    heads: int
    kv_heads: int
    is_rms_norm: bool
    eps: float
    dtype: torch.dtype


class BlockWeights(NamedTuple):
    """The weights of one block in open_lm's layout."""

    attention_norm: Float[Tensor, " D"]
    in_proj: Float[Tensor, "(H+2*G)*K D"]
    q_norm: Float[Tensor, " H*K"] | None
    k_norm: Float[Tensor, " G*K"] | None
    out_proj: Float[Tensor, "D H*K"]
    ffn_norm: Float[Tensor, " D"]
    w12: Float[Tensor, "2*F D"]
    """Gate, then value."""
    w3: Float[Tensor, "D F"]
    shift: Float[Tensor, "taps D"] | None

    def qkv_sizes(self, config: BlockConfig) -> list[int]:
        """Rows of `in_proj` for queries, keys and values."""
        head_dim = self.in_proj.shape[0] // (config.heads + 2 * config.kv_heads)
        return [config.heads * head_dim, config.kv_heads * head_dim, config.kv_heads * head_dim]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionInputs:
    """Tensors of a batch that all layers share: rotary cosine and sine, attention mask, positions."""

    cos: Float[Tensor, "B 1 T half"]
    sin: Float[Tensor, "B 1 T half"]
    mask: AttentionMask
    positions: Int[Tensor, "B T"]


def rotary_frequencies(rope: RopeSpec, head_dim: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[head_dim / 2] radians per position for each pair of a head's dimensions."""
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


def norm(x: Float[Tensor, "*any D"], weight: Float[Tensor, " D"], config: BlockConfig) -> Float[Tensor, "*any D"]:
    """LayerNorm or RMSNorm with a weight and no bias, computed in `config.dtype`."""
    x, weight = x.to(config.dtype), weight.to(config.dtype)
    if config.is_rms_norm:
        return F.rms_norm(x, weight.shape, weight, config.eps)
    return F.layer_norm(x, weight.shape, weight, None, config.eps)


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


def project_qkv(block: BlockWeights, h: HiddenStates, rotary: RotaryCosSin, config: BlockConfig) -> tuple[Tensor, ...]:
    """Queries [B, H, T, K], keys and values [B, G, T, K] of normed inputs, with QK-norm (over all heads) and rotary."""
    q, k, v = F.linear(h, block.in_proj.to(h.dtype)).split(block.qkv_sizes(config), dim=-1)
    if block.q_norm is not None and block.k_norm is not None:
        q, k = norm(q, block.q_norm, config), norm(k, block.k_norm, config)
    counts = (config.heads, config.kv_heads, config.kv_heads)
    q, k, v = (x.unflatten(-1, (count, -1)).transpose(1, 2) for x, count in zip((q, k, v), counts, strict=True))
    return apply_rotary(q, *rotary), apply_rotary(k, *rotary), v


def output_and_feed_forward(
    weights: BlockWeights, x: HiddenStates, attended: Heads, config: BlockConfig
) -> HiddenStates:
    """The block after its attention: output projection and SwiGLU, each added to the residual stream."""
    dtype = attended.dtype
    x = x + F.linear(attended.transpose(1, 2).flatten(2), weights.out_proj.to(dtype))
    gate, value = F.linear(norm(x, weights.ffn_norm, config), weights.w12.to(dtype)).chunk(2, dim=-1)
    return x + F.linear(silu(gate) * value, weights.w3.to(dtype))


def silu(gate: Float[Tensor, "*any F"]) -> Float[Tensor, "*any F"]:
    """x sigmoid(x) in float32, written so that the compiled backward pass computes one exponential instead of two."""
    wide = gate if gate.dtype == torch.float64 else gate.float()
    return (wide * wide.sigmoid()).to(gate.dtype)


def decoder_block(x: HiddenStates, weights: BlockWeights, inputs: AttentionInputs, config: BlockConfig) -> HiddenStates:
    """One pre-norm block on the residual stream."""
    h = norm(x, weights.attention_norm, config)
    if weights.shift is not None:
        preceding = h.new_zeros(h.shape[0], weights.shift.shape[0] - 1, h.shape[2])
        h = shift_tokens(h, weights.shift.to(h.dtype), preceding, inputs.positions)
    q, k, v = project_qkv(weights, h, (inputs.cos, inputs.sin), config)
    return output_and_feed_forward(weights, x, masked_attention(q, k, v, inputs.mask), config)
