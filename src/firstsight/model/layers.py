"""The decoder's parts as functions of tensors: gain-only norm, rotary, attention inside documents, SwiGLU.

Weights are float32 and cast to `dtype` where a matrix product uses them, the residual stream stays float32: what
bf16 autocast does, written out so that one compiled block serves every layer. Source: open_lm (paper section 1.2).
Shapes: B rows, T tokens, S tokens looked at, D width, H heads, K head width, F hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

EPS = 1e-5
BLOCK = 128
"""Tokens a side of the squares in which a GPU's attention kernel skips what nobody may look at."""
WRITTEN_OUT = 256
"""Longest row whose attention is written out: torch's fused CPU kernel is slow backwards in bf16 at short rows."""

Heads = Float[Tensor, "B H T K"]
Mask = Float[Tensor, "B 1 T S"] | BlockMask
"""Who may look where: 0 where a token may look and -inf elsewhere, or the squares in which anybody looks at all."""
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
    mask: Mask
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


def blocks(docs: Int[Tensor, "B T"]) -> BlockMask:
    """What `visible` says, as squares: nobody looks, some do, all do; documents stand in order, padding last."""
    length = docs.shape[1]
    count = -(-length // BLOCK)
    behind_all = torch.iinfo(docs.dtype).max
    in_order = docs.masked_fill(docs < 0, behind_all)
    squares = F.pad(in_order, (0, count * BLOCK - length), value=behind_all).unflatten(1, (count, BLOCK))
    low, high = squares[:, :, 0], squares[:, :, -1]
    nth = torch.arange(count, device=docs.device)
    before, filled = nth[:, None] > nth, nth[:, None] < length // BLOCK
    # squares are sorted, so two of them share a document where the earlier one's last is the later one's first
    some = (high[:, None, :] >= low[:, :, None]) & (before | (nth[:, None] == nth))
    whole = (low[:, None, :] == high[:, :, None]) & before & filled

    return BlockMask.from_kv_blocks(
        *_listed(some & ~whole),
        *_listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=lambda row, head, here, there: (docs[row, here] == docs[row, there]) & (there <= here),
        seq_lengths=(length, length),
    )


def _listed(squares: Bool[Tensor, "B n n"]) -> tuple[Int[Tensor, "B 1 n"], Int[Tensor, "B 1 n n"]]:
    """For each row of squares how many are true, and their numbers first."""
    numbers = squares.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return squares.sum(dim=-1, dtype=torch.int32)[:, None], numbers.to(torch.int32)[:, None]


def sight(docs: Int[Tensor, "B T"], dtype: torch.dtype) -> Mask:
    """The mask in the form that suits the device: squares on a GPU (whose kernel has no float64), else written out."""
    return blocks(docs) if docs.is_cuda and dtype != torch.float64 else additive(visible(docs), dtype)


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


def attend(q: Heads, k: Float[Tensor, "B H S K"], v: Float[Tensor, "B H S K"], mask: Mask) -> Heads:
    """Softmax attention under a mask; under one that is written out, the softmax has the mask's own precision."""
    if isinstance(mask, BlockMask):
        return _in_squares(q, k, v, mask)
    if k.shape[2] > WRITTEN_OUT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
    scores = (q @ k.transpose(-2, -1)).to(mask.dtype) * q.shape[-1] ** -0.5 + mask
    return scores.softmax(dim=-1).to(q.dtype) @ v


def _in_squares(q: Heads, k: Heads, v: Heads, mask: BlockMask) -> Heads:
    """Flex attention: part of a compiled block, else on a GPU a kernel of its own, else plain operations."""
    alone = q.is_cuda and not torch.compiler.is_compiling()
    return (_kernel() if alone else flex_attention)(q, k, v, block_mask=mask)


@cache
def _kernel() -> Any:
    return torch.compile(flex_attention)


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
