"""The decoder's parts as functions of tensors: norm, rotary, attention inside documents, SwiGLU.

Weights are float32 and cast to `dtype` where a matrix product uses them, the residual stream stays float32: what
bf16 autocast does, written out so that one compiled block serves every layer. Angles, masks and softmax are float32
whatever the products are computed in. Source: open_lm (paper section 1.2); for the Llama settings transformers.
Shapes: B rows, T tokens, S tokens looked at, D width, H heads (G of keys and values), K head width, F hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from firstsight.recipe.lm import LinearRope, Llama3Rope, Rope
from firstsight.recipe.lm import Rotary as RopeSpec

BLOCK = 128
"""Tokens a side of the squares in which a GPU's attention kernel skips what nobody may look at."""
STRIPE = 256
"""Tokens of a row whose attention a CPU writes out at once, against those before them: half the square is left out."""
NARROWEST = 16
"""Numbers of the narrowest head that a GPU's attention kernel takes."""
WRITTEN_OUT = 2048
"""Longest row whose attention is written out: torch's fused CPU kernel takes three times as long in bf16, but less
memory."""

Heads = Float[Tensor, "B H T K"]
Keys = Float[Tensor, "B G S K"]
Stripes = tuple[Float[Tensor, "B 1 _ _"], ...]
Mask = Float[Tensor, "B 1 T S"] | Stripes | BlockMask
"""Who may look where: 0 where a token may look and -inf elsewhere, whole or in stripes of tokens, each against the
row's tokens up to the last it may see; or the squares in which anybody looks at all."""
Rotary = tuple[Float[Tensor, "B 1 T half"], Float[Tensor, "B 1 T half"]]
Look = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(row, head, here, there): whether the token here may look there."""


class Shape(NamedTuple):
    """What a block's arithmetic hangs on beside its weights: the same for every layer."""

    heads: int
    kv_heads: int
    rms: bool
    eps: float
    dtype: torch.dtype
    """Of matrix products."""


class Weights(NamedTuple):
    """One block's weights, in open_lm's layout."""

    attention_norm: Float[Tensor, " D"]
    in_proj: Float[Tensor, "(H+2*G)*K D"]
    """Queries, keys, values."""
    q_norm: Float[Tensor, " H*K"] | None
    k_norm: Float[Tensor, " G*K"] | None
    out_proj: Float[Tensor, "D H*K"]
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


def frequencies(rope: RopeSpec, head: int, *, device: torch.device, dtype: torch.dtype) -> Float[Tensor, " half"]:
    """Radians a position turns each pair of a head's numbers by."""
    plain = rope.base ** (-torch.arange(0, head, 2, device=device, dtype=dtype) / head)
    match rope:
        case LinearRope():
            return plain / rope.factor
        case Llama3Rope():
            turns = rope.context * plain / (2 * math.pi)
            fast = ((turns - rope.low) / (rope.high - rope.low)).clamp(0, 1)
            return fast * plain + (1 - fast) * plain / rope.factor
        case Rope():
            return plain


def rotations(positions: Int[Tensor, "B T"], rope: RopeSpec, *, head: int, dtype: torch.dtype) -> Rotary:
    """Cosine and sine of every position's angles."""
    turned = frequencies(rope, head, device=positions.device, dtype=dtype)
    angles = positions[:, None, :, None].to(dtype) * turned
    return angles.cos(), angles.sin()


def visible(docs: Int[Tensor, "B T"], pictures: Int[Tensor, "B T"] | None = None) -> Bool[Tensor, "B 1 T T"]:
    """True where a token may look: backwards inside its own document, and anywhere inside its own picture.

    `pictures` numbers each row's pictures from 0, -1 for words; without it nobody looks ahead.
    Padding is a document of its own that nobody else sees, so that no row of the softmax is empty.
    """
    length = docs.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=docs.device).tril()
    seen = (docs[:, :, None] == docs[:, None, :]) & causal
    if pictures is not None:
        seen |= (pictures[:, :, None] == pictures[:, None, :]) & (pictures >= 0)[:, None, :]
    return seen[:, None]


def additive(allowed: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """0 where allowed, -inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def blocks(docs: Int[Tensor, "B T"], pictures: Int[Tensor, "B T"] | None = None) -> BlockMask:
    """What `visible` says, as squares: nobody looks, some do, all do; documents stand in order, padding last.

    A picture lies within one document, so that what looks ahead in it is in squares of that document.
    """
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
    if pictures is not None:
        some |= _ahead(pictures, count) & (nth[:, None] < nth)

    return BlockMask.from_kv_blocks(
        *_listed(some & ~whole),
        *_listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=_looks(docs) if pictures is None else _looks_ahead(docs, pictures),
        seq_lengths=(length, length),
    )


def _ahead(pictures: Int[Tensor, "B T"], count: int) -> Bool[Tensor, "B n n"]:
    """Squares whose row and column hold tokens of one picture: each of its first and last squares and all between."""
    squares = F.pad(pictures, (0, count * BLOCK - pictures.shape[1]), value=-1).unflatten(1, (count, BLOCK))
    last = squares.amax(dim=2)
    first = squares.masked_fill(squares < 0, torch.iinfo(squares.dtype).max).amin(dim=2)
    return (first[:, None, :] <= last[:, :, None]) & (first[:, :, None] <= last[:, None, :])


def _looks(docs: Int[Tensor, "B T"]) -> Look:
    return lambda row, head, here, there: (docs[row, here] == docs[row, there]) & (there <= here)


def _looks_ahead(docs: Int[Tensor, "B T"], pictures: Int[Tensor, "B T"]) -> Look:
    back = _looks(docs)
    return lambda row, head, here, there: (
        back(row, head, here, there) | ((pictures[row, here] == pictures[row, there]) & (pictures[row, there] >= 0))
    )


def _listed(squares: Bool[Tensor, "B n n"]) -> tuple[Int[Tensor, "B 1 n"], Int[Tensor, "B 1 n n"]]:
    """For each row of squares how many are true, and their numbers first."""
    numbers = squares.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return squares.sum(dim=-1, dtype=torch.int32)[:, None], numbers.to(torch.int32)[:, None]


def sight(docs: Int[Tensor, "B T"], pictures: Int[Tensor, "B T"] | None, dtype: torch.dtype, *, head: int) -> Mask:
    """The mask in the form that suits the device: squares on a GPU (whose kernel has no float64), else written out."""
    if docs.is_cuda and dtype != torch.float64 and head >= NARROWEST:
        return blocks(docs, pictures)
    mask, length = additive(visible(docs, pictures), dtype), docs.shape[1]
    if not STRIPE < length <= WRITTEN_OUT:
        return mask
    ahead = pictures is not None  # then a stripe's tokens may see beyond its end
    starts = range(0, length, STRIPE)
    return tuple(mask[:, :, at : at + STRIPE, : length if ahead else at + STRIPE].contiguous() for at in starts)


def norm(x: Float[Tensor, "*any D"], gain: Float[Tensor, " D"], shape: Shape) -> Float[Tensor, "*any D"]:
    """LayerNorm or RMSNorm with a gain and no bias, in the dtype of products."""
    x, gain = x.to(shape.dtype), gain.to(shape.dtype)
    if shape.rms:
        return F.rms_norm(x, gain.shape, gain, shape.eps)
    return F.layer_norm(x, gain.shape, gain, None, shape.eps)


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


def project(
    w: Weights, h: Float[Tensor, "B T D"], rotary: Rotary, shape: Shape
) -> tuple[Heads, Float[Tensor, "B G T K"], Float[Tensor, "B G T K"]]:
    """Queries, keys, values of the normed input; QK-norm over all heads, where there is one, then rotary."""
    head = w.in_proj.shape[0] // (shape.heads + 2 * shape.kv_heads)
    parts = [shape.heads * head, shape.kv_heads * head, shape.kv_heads * head]
    q, k, v = F.linear(h, w.in_proj.to(h.dtype)).split(parts, dim=-1)
    if w.q_norm is not None and w.k_norm is not None:
        q, k = norm(q, w.q_norm, shape), norm(k, w.k_norm, shape)
    q, k, v = _heads(q, shape.heads), _heads(k, shape.kv_heads), _heads(v, shape.kv_heads)
    return rotate(q, *rotary), rotate(k, *rotary), v


def _heads(x: Float[Tensor, "B T D"], count: int) -> Heads:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(q: Heads, k: Keys, v: Keys, mask: Mask) -> Heads:
    """Softmax attention under a mask; under one that is written out, the softmax has the mask's own precision.

    Each head of keys and values serves as many heads of queries as there are for it.
    """
    shared = q.shape[1] != k.shape[1]
    if isinstance(mask, BlockMask):
        return _in_squares(q, k, v, mask)
    if isinstance(mask, Tensor) and k.shape[2] > STRIPE:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), enable_gqa=shared)
    if shared:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    if isinstance(mask, Tensor):
        return _written_out(q, k, v, mask)
    parts = zip(q.split([stripe.shape[2] for stripe in mask], dim=2), mask, strict=True)
    return torch.cat([_written_out(own, k[:, :, : m.shape[3]], v[:, :, : m.shape[3]], m) for own, m in parts], dim=2)


def _written_out(
    q: Heads, k: Float[Tensor, "B H S K"], v: Float[Tensor, "B H S K"], mask: Float[Tensor, "B 1 T S"]
) -> Heads:
    scores = (q @ k.transpose(-2, -1)).to(mask.dtype) * q.shape[-1] ** -0.5 + mask
    return scores.softmax(dim=-1).to(q.dtype) @ v


def _in_squares(q: Heads, k: Keys, v: Keys, mask: BlockMask) -> Heads:
    """Flex attention: part of a compiled block, else on a GPU a kernel of its own, else plain operations."""
    alone = q.is_cuda and not torch.compiler.is_compiling()
    return (_kernel() if alone else flex_attention)(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


@cache
def _kernel() -> Any:
    return torch.compile(flex_attention)


def finish(w: Weights, x: Float[Tensor, "B T D"], attended: Heads, shape: Shape) -> Float[Tensor, "B T D"]:
    """The rest of a block: attention's output and the feed-forward, each added to the stream."""
    dtype = attended.dtype
    x = x + F.linear(attended.transpose(1, 2).flatten(2), w.out_proj.to(dtype))
    gate, value = F.linear(norm(x, w.ffn_norm, shape), w.w12.to(dtype)).chunk(2, dim=-1)
    return x + F.linear(swish(gate) * value, w.w3.to(dtype))


def swish(gate: Float[Tensor, "*any F"]) -> Float[Tensor, "*any F"]:
    """x sigmoid(x), worked out in float32; written so that a compiled backward pass takes one exponential, not two."""
    wide = gate if gate.dtype == torch.float64 else gate.float()
    return (wide * wide.sigmoid()).to(gate.dtype)


def block(x: Float[Tensor, "B T D"], weights: Weights, frame: Frame, shape: Shape) -> Float[Tensor, "B T D"]:
    """One pre-norm block on the stream."""
    h = norm(x, weights.attention_norm, shape)
    if weights.shift is not None:
        before = h.new_zeros(h.shape[0], weights.shift.shape[0] - 1, h.shape[2])
        h = shifted(h, weights.shift.to(h.dtype), before, frame.positions)
    q, k, v = project(weights, h, (frame.cos, frame.sin), shape)
    return finish(weights, x, attend(q, k, v, frame.mask), shape)
