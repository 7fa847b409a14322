"""The decoder's parts as functions of tensors: gain-only norm, rotary, attention inside documents, SwiGLU.

Weights are float32 and cast to `dtype` where a matrix product uses them, the residual stream stays float32: what
bf16 autocast does, written out so that one compiled block serves every layer. Source: open_lm (paper section 1.2).
Shapes: B rows, T tokens, S tokens looked at, D width, H heads, K head width, F hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPS = 1e-5
WRITTEN_OUT = 256
"""Longest row whose attention is written out: torch's fused CPU kernel is slow backwards in bf16 at short rows."""

Heads = Float[Tensor, "B H T K"]
Rotary = tuple[Float[Tensor, "B 1 T half"], Float[Tensor, "B 1 T half"]]


class Weights(NamedTuple):
    """One block's weights, in open_lm's layout."""

    attention_norm: Float[Tensor, " D"]
    in_proj: Float[Tensor, "3*D D"]
    """Queries, keys, values."""
    q_norm: Float[Tensor, " D"]
    k_norm: Float[Tensor, " D"]
    out_proj: Float[Tensor, "D D"]
    ffn_norm: Float[Tensor, " D"]
    w12: Float[Tensor, "2*F D"]
    """Gate, then value."""
    w3: Float[Tensor, "D F"]
    shift: Float[Tensor, "taps D"] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What every layer knows about the rows of a batch, computed once: angles, who may look where, positions."""

    cos: Float[Tensor, "B 1 T half"]
    sin: Float[Tensor, "B 1 T half"]
    mask: Float[Tensor, "B 1 T S"]
    """0 where a token may look, -inf elsewhere."""
    positions: Int[Tensor, "B T"]


def rotations(positions: Int[Tensor, "B T"], *, head: int, base: float, dtype: torch.dtype) -> Rotary:
    """Cosine and sine of every position's angles."""
    half = torch.arange(0, head, 2, device=positions.device, dtype=dtype)
    angles = positions[:, None, :, None].to(dtype) * base ** (-half / head)
    return angles.cos(), angles.sin()


def visible(docs: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """True where a token may look, which is backwards inside its own document.

    Padding is a document of its own that nobody else sees, so that no row of the softmax is empty.
    """
    length = docs.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=docs.device).tril()
    return ((docs[:, :, None] == docs[:, None, :]) & causal)[:, None]


def additive(allowed: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """0 where allowed, -inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def norm(x: Float[Tensor, "*any D"], gain: Float[Tensor, " D"], dtype: torch.dtype) -> Float[Tensor, "*any D"]:
    """LayerNorm with a gain and no bias, in `dtype`."""
    return F.layer_norm(x.to(dtype), gain.shape, gain.to(dtype), None, EPS)


def rotate(x: Heads, cos: Float[Tensor, "B 1 T half"], sin: Float[Tensor, "B 1 T half"]) -> Heads:
    """Turn by the positions' angles, first half of each head against the second; float32 inside."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def shifted(
    x: Float[Tensor, "B T D"],
    taps: Float[Tensor, "taps D"],
    before: Float[Tensor, "B lag D"],
    positions: Int[Tensor, "B T"],
) -> Float[Tensor, "B T D"]:
    """Each token mixed with its predecessors in its document; `before` are the tokens ahead of the row."""
    length, lag = x.shape[1], taps.shape[0] - 1
    padded = torch.cat((before, x), dim=1)
    mixed = x * taps[0]
    for k in range(1, lag + 1):
        inside = (positions >= k)[..., None]
        mixed = mixed + torch.where(inside, padded[:, lag - k : lag - k + length], 0) * taps[k]
    return mixed


def project(w: Weights, h: Float[Tensor, "B T D"], rotary: Rotary, count: int) -> tuple[Heads, Heads, Heads]:
    """Queries, keys, values of the normed input; QK-norm over the full width, then heads, then rotary."""
    q, k, v = F.linear(h, w.in_proj.to(h.dtype)).chunk(3, dim=-1)
    q, k = norm(q, w.q_norm, h.dtype), norm(k, w.k_norm, h.dtype)
    return rotate(_heads(q, count), *rotary), rotate(_heads(k, count), *rotary), _heads(v, count)


def _heads(x: Float[Tensor, "B T D"], count: int) -> Heads:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(q: Heads, k: Float[Tensor, "B H S K"], v: Float[Tensor, "B H S K"], mask: Float[Tensor, "B 1 T S"]) -> Heads:
    """Softmax attention under an additive mask; the softmax in the mask's own precision."""
    if k.shape[2] > WRITTEN_OUT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
    scores = (q @ k.transpose(-2, -1)).to(mask.dtype) * q.shape[-1] ** -0.5 + mask
    return scores.softmax(dim=-1).to(q.dtype) @ v


def finish(w: Weights, x: Float[Tensor, "B T D"], attended: Heads) -> Float[Tensor, "B T D"]:
    """The rest of a block: attention's output and the feed-forward, each added to the stream."""
    dtype = attended.dtype
    x = x + F.linear(attended.transpose(1, 2).flatten(2), w.out_proj.to(dtype))
    gate, value = F.linear(norm(x, w.ffn_norm, dtype), w.w12.to(dtype)).chunk(2, dim=-1)
    return x + F.linear(swish(gate) * value, w.w3.to(dtype))


def swish(gate: Float[Tensor, "*any F"]) -> Float[Tensor, "*any F"]:
    """x sigmoid(x), worked out in float32; written so that a compiled backward pass takes one exponential, not two."""
    wide = gate if gate.dtype == torch.float64 else gate.float()
    return (wide * wide.sigmoid()).to(gate.dtype)


def block(
    x: Float[Tensor, "B T D"], weights: Weights, frame: Frame, count: int, dtype: torch.dtype
) -> Float[Tensor, "B T D"]:
    """One pre-norm block on the stream."""
    h = norm(x, weights.attention_norm, dtype)
    if weights.shift is not None:
        before = h.new_zeros(h.shape[0], weights.shift.shape[0] - 1, h.shape[2])
        h = shifted(h, weights.shift.to(dtype), before, frame.positions)
    q, k, v = project(weights, h, (frame.cos, frame.sin), count)
    return finish(weights, x, attend(q, k, v, frame.mask))
