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

ATTENTION_BLOCK = 128
"""Tokens a side of the squares in which a GPU's attention kernel skips what nobody may look at."""
QUERY_STRIPE = 256
"""Tokens of a row whose attention a CPU writes out at once, against those before them: half the square is left out."""
MIN_FLEX_HEAD_DIM = 16
"""Numbers of the narrowest head that a GPU's attention kernel takes."""
MAX_EAGER_LENGTH = 2048
"""Longest row whose attention is written out: torch's fused CPU kernel takes three times as long in bf16, but less
memory."""

Heads = Float[Tensor, "B H T K"]
KVHeads = Float[Tensor, "B G S K"]
StripedMask = tuple[Float[Tensor, "B 1 _ _"], ...]
AttentionMask = Float[Tensor, "B 1 T S"] | StripedMask | BlockMask
"""Who may look where: 0 where a token may look and -inf elsewhere, whole or in stripes of tokens, each against the
row's tokens up to the last it may see; or the squares in which anybody looks at all."""
RotaryCosSin = tuple[Float[Tensor, "B 1 T half"], Float[Tensor, "B 1 T half"]]
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(row, head, here, there): whether the token here may look there."""


class BlockConfig(NamedTuple):
    """What a block's arithmetic hangs on beside its weights: the same for every layer."""

    heads: int
    kv_heads: int
    is_rms_norm: bool
    eps: float
    dtype: torch.dtype
    """Of matrix products."""


class BlockWeights(NamedTuple):
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
class AttentionInputs:
    """What every layer knows about the rows of a batch, computed once: angles, who may look where, positions."""

    cos: Float[Tensor, "B 1 T half"]
    sin: Float[Tensor, "B 1 T half"]
    mask: AttentionMask
    positions: Int[Tensor, "B T"]


def rotary_frequencies(
    rope: RopeSpec, head_dim: int, *, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, " half"]:
    """Radians a position turns each pair of a head's numbers by."""
    inv_freq = rope.base ** (-torch.arange(0, head_dim, 2, device=device, dtype=dtype) / head_dim)
    match rope:
        case LinearRope():
            return inv_freq / rope.factor
        case Llama3Rope():
            rotation_counts = rope.original_context * inv_freq / (2 * math.pi)
            smooth_factor = (
                (rotation_counts - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
            ).clamp(0, 1)
            return smooth_factor * inv_freq + (1 - smooth_factor) * inv_freq / rope.factor
        case Rope():
            return inv_freq


def rotary_cos_sin(positions: Int[Tensor, "B T"], rope: RopeSpec, *, head_dim: int, dtype: torch.dtype) -> RotaryCosSin:
    """Cosine and sine of every position's angles."""
    inv_freq = rotary_frequencies(rope, head_dim, device=positions.device, dtype=dtype)
    angles = positions[:, None, :, None].to(dtype) * inv_freq
    return angles.cos(), angles.sin()


def boolean_mask(docs: Int[Tensor, "B T"], image_ids: Int[Tensor, "B T"] | None = None) -> Bool[Tensor, "B 1 T T"]:
    """True where a token may look: backwards inside its own document, and anywhere inside its own picture.

    `pictures` numbers each row's pictures from 0, -1 for words; without it nobody looks ahead.
    Padding is a document of its own that nobody else sees, so that no row of the softmax is empty.
    """
    length = docs.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=docs.device).tril()
    is_allowed = (docs[:, :, None] == docs[:, None, :]) & causal
    if image_ids is not None:
        is_allowed |= (image_ids[:, :, None] == image_ids[:, None, :]) & (image_ids >= 0)[:, None, :]
    return is_allowed[:, None]


def additive_mask(allowed: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """0 where allowed, -inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def block_mask(docs: Int[Tensor, "B T"], image_ids: Int[Tensor, "B T"] | None = None) -> BlockMask:
    """What `visible` says, as squares: nobody looks, some do, all do; documents stand in order, padding last.

    A picture lies within one document, so that what looks ahead in it is in squares of that document.
    """
    length = docs.shape[1]
    num_blocks = -(-length // ATTENTION_BLOCK)
    padding_id = torch.iinfo(docs.dtype).max
    ordered_docs = docs.masked_fill(docs < 0, padding_id)
    doc_blocks = F.pad(ordered_docs, (0, num_blocks * ATTENTION_BLOCK - length), value=padding_id).unflatten(
        1, (num_blocks, ATTENTION_BLOCK)
    )
    first_docs, last_docs = doc_blocks[:, :, 0], doc_blocks[:, :, -1]
    block_index = torch.arange(num_blocks, device=docs.device)
    is_earlier, is_full = block_index[:, None] > block_index, block_index[:, None] < length // ATTENTION_BLOCK
    # squares are sorted, so two of them share a document where the earlier one's last is the later one's first
    any_visible = (last_docs[:, None, :] >= first_docs[:, :, None]) & (
        is_earlier | (block_index[:, None] == block_index)
    )
    all_visible = (first_docs[:, None, :] == last_docs[:, :, None]) & is_earlier & is_full
    if image_ids is not None:
        any_visible |= _blocks_sharing_images(image_ids, num_blocks) & (block_index[:, None] < block_index)

    return BlockMask.from_kv_blocks(
        *_kv_block_indices(any_visible & ~all_visible),
        *_kv_block_indices(all_visible),
        BLOCK_SIZE=ATTENTION_BLOCK,
        mask_mod=_causal_mask_mod(docs) if image_ids is None else _prefix_mask_mod(docs, image_ids),
        seq_lengths=(length, length),
    )


def _blocks_sharing_images(image_ids: Int[Tensor, "B T"], num_blocks: int) -> Bool[Tensor, "B n n"]:
    """Squares whose row and column hold tokens of one picture: each of its first and last squares and all between."""
    image_blocks = F.pad(image_ids, (0, num_blocks * ATTENTION_BLOCK - image_ids.shape[1]), value=-1).unflatten(
        1, (num_blocks, ATTENTION_BLOCK)
    )
    last_image = image_blocks.amax(dim=2)
    first_image = image_blocks.masked_fill(image_blocks < 0, torch.iinfo(image_blocks.dtype).max).amin(dim=2)
    return (first_image[:, None, :] <= last_image[:, :, None]) & (first_image[:, :, None] <= last_image[:, None, :])


def _causal_mask_mod(docs: Int[Tensor, "B T"]) -> MaskMod:
    return lambda row, head, q_index, kv_index: (docs[row, q_index] == docs[row, kv_index]) & (kv_index <= q_index)


def _prefix_mask_mod(docs: Int[Tensor, "B T"], image_ids: Int[Tensor, "B T"]) -> MaskMod:
    causal_mask_mod = _causal_mask_mod(docs)
    return lambda row, head, q_index, kv_index: (
        causal_mask_mod(row, head, q_index, kv_index)
        | ((image_ids[row, q_index] == image_ids[row, kv_index]) & (image_ids[row, kv_index] >= 0))
    )


def _kv_block_indices(is_selected: Bool[Tensor, "B n n"]) -> tuple[Int[Tensor, "B 1 n"], Int[Tensor, "B 1 n n"]]:
    """For each row of squares how many are true, and their numbers first."""
    indices = is_selected.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return is_selected.sum(dim=-1, dtype=torch.int32)[:, None], indices.to(torch.int32)[:, None]


def attention_mask(
    docs: Int[Tensor, "B T"], image_ids: Int[Tensor, "B T"] | None, dtype: torch.dtype, *, head_dim: int
) -> AttentionMask:
    """The mask in the form that suits the device: squares on a GPU (whose kernel has no float64), else written out."""
    if docs.is_cuda and dtype != torch.float64 and head_dim >= MIN_FLEX_HEAD_DIM:
        return block_mask(docs, image_ids)
    mask, length = additive_mask(boolean_mask(docs, image_ids), dtype), docs.shape[1]
    if not QUERY_STRIPE < length <= MAX_EAGER_LENGTH:
        return mask
    has_images = image_ids is not None  # then a stripe's tokens may see beyond its end
    starts = range(0, length, QUERY_STRIPE)
    return tuple(
        mask[:, :, start : start + QUERY_STRIPE, : length if has_images else start + QUERY_STRIPE].contiguous()
        for start in starts
    )


def norm(x: Float[Tensor, "*any D"], weight: Float[Tensor, " D"], config: BlockConfig) -> Float[Tensor, "*any D"]:
    """LayerNorm or RMSNorm with a gain and no bias, in the dtype of products."""
    x, weight = x.to(config.dtype), weight.to(config.dtype)
    if config.is_rms_norm:
        return F.rms_norm(x, weight.shape, weight, config.eps)
    return F.layer_norm(x, weight.shape, weight, None, config.eps)


def apply_rotary(x: Heads, cos: Float[Tensor, "B 1 T half"], sin: Float[Tensor, "B 1 T half"]) -> Heads:
    """Turn by the positions' angles, first half of each head against the second; float32 inside."""
    first_half, second_half = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat((first_half * cos - second_half * sin, second_half * cos + first_half * sin), dim=-1).to(x.dtype)


def shift_tokens(
    x: Float[Tensor, "B T D"],
    taps: Float[Tensor, "taps D"],
    preceding: Float[Tensor, "B lag D"],
    positions: Int[Tensor, "B T"],
) -> Float[Tensor, "B T D"]:
    """Each token mixed with its predecessors in its document; `before` are the tokens ahead of the row."""
    length, lag = x.shape[1], taps.shape[0] - 1
    padded = torch.cat((preceding, x), dim=1)
    mixed = x * taps[0]
    for k in range(1, lag + 1):
        in_document = (positions >= k)[..., None]
        mixed = mixed + torch.where(in_document, padded[:, lag - k : lag - k + length], 0) * taps[k]
    return mixed


def project_qkv(
    weights: BlockWeights, h: Float[Tensor, "B T D"], rotary: RotaryCosSin, config: BlockConfig
) -> tuple[Heads, Float[Tensor, "B G T K"], Float[Tensor, "B G T K"]]:
    """Queries, keys, values of the normed input; QK-norm over all heads, where there is one, then rotary."""
    head_dim = weights.in_proj.shape[0] // (config.heads + 2 * config.kv_heads)
    split_sizes = [config.heads * head_dim, config.kv_heads * head_dim, config.kv_heads * head_dim]
    q, k, v = F.linear(h, weights.in_proj.to(h.dtype)).split(split_sizes, dim=-1)
    if weights.q_norm is not None and weights.k_norm is not None:
        q, k = norm(q, weights.q_norm, config), norm(k, weights.k_norm, config)
    q, k, v = _split_heads(q, config.heads), _split_heads(k, config.kv_heads), _split_heads(v, config.kv_heads)
    return apply_rotary(q, *rotary), apply_rotary(k, *rotary), v


def _split_heads(x: Float[Tensor, "B T D"], num_heads: int) -> Heads:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def masked_attention(q: Heads, k: KVHeads, v: KVHeads, mask: AttentionMask) -> Heads:
    """Softmax attention under a mask; under one that is written out, the softmax has the mask's own precision.

    Each head of keys and values serves as many heads of queries as there are for it.
    """
    is_grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, BlockMask):
        return _flex_attention(q, k, v, mask)
    if isinstance(mask, Tensor) and k.shape[2] > QUERY_STRIPE:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), enable_gqa=is_grouped)
    if is_grouped:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    if isinstance(mask, Tensor):
        return _eager_attention(q, k, v, mask)
    stripe_pairs = zip(q.split([stripe.shape[2] for stripe in mask], dim=2), mask, strict=True)
    return torch.cat(
        [
            _eager_attention(q_stripe, k[:, :, : stripe_mask.shape[3]], v[:, :, : stripe_mask.shape[3]], stripe_mask)
            for q_stripe, stripe_mask in stripe_pairs
        ],
        dim=2,
    )


def _eager_attention(
    q: Heads, k: Float[Tensor, "B H S K"], v: Float[Tensor, "B H S K"], mask: Float[Tensor, "B 1 T S"]
) -> Heads:
    scores = (q @ k.transpose(-2, -1)).to(mask.dtype) * q.shape[-1] ** -0.5 + mask
    return scores.softmax(dim=-1).to(q.dtype) @ v


def _flex_attention(q: Heads, k: KVHeads, v: KVHeads, mask: BlockMask) -> Heads:
    """Flex attention: part of a compiled block, else on a GPU a kernel of its own, else plain operations."""
    needs_compile = q.is_cuda and not torch.compiler.is_compiling()
    return (_compiled_flex_attention() if needs_compile else flex_attention)(
        q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1]
    )


@cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)


def output_and_feed_forward(
    weights: BlockWeights, x: Float[Tensor, "B T D"], attention_output: Heads, config: BlockConfig
) -> Float[Tensor, "B T D"]:
    """The rest of a block: attention's output and the feed-forward, each added to the stream."""
    dtype = attention_output.dtype
    x = x + F.linear(attention_output.transpose(1, 2).flatten(2), weights.out_proj.to(dtype))
    gate, value = F.linear(norm(x, weights.ffn_norm, config), weights.w12.to(dtype)).chunk(2, dim=-1)
    return x + F.linear(silu(gate) * value, weights.w3.to(dtype))


def silu(gate: Float[Tensor, "*any F"]) -> Float[Tensor, "*any F"]:
    """x sigmoid(x), worked out in float32; written so that a compiled backward pass takes one exponential, not two."""
    float_gate = gate if gate.dtype == torch.float64 else gate.float()
    return (float_gate * float_gate.sigmoid()).to(gate.dtype)


def decoder_block(
    x: Float[Tensor, "B T D"], weights: BlockWeights, inputs: AttentionInputs, config: BlockConfig
) -> Float[Tensor, "B T D"]:
    """One pre-norm block on the stream."""
    h = norm(x, weights.attention_norm, config)
    if weights.shift is not None:
        preceding = h.new_zeros(h.shape[0], weights.shift.shape[0] - 1, h.shape[2])
        h = shift_tokens(h, weights.shift.to(h.dtype), preceding, inputs.positions)
    q, k, v = project_qkv(weights, h, (inputs.cos, inputs.sin), config)
    return output_and_feed_forward(weights, x, masked_attention(q, k, v, inputs.mask), config)
