"""Attention between the tokens of packed rows: masks in the form that suits the device, and the softmax itself.

Shapes: B rows, T query tokens, S key tokens, n blocks a row, H query heads, G key and value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

ATTENTION_BLOCK = 128
"""Tokens along each side of the blocks that flex attention skips if no pair in them is allowed."""
QUERY_STRIPE = 256
"""Query tokens of a stripe: a CPU computes its scores at once, only against keys up to the stripe's end."""
MIN_FLEX_HEAD_DIM = 16
"""Smallest head width that the flex attention kernel supports on a GPU."""
MAX_EAGER_LENGTH = 2048
"""Longest row whose scores are computed in stripes: torch's fused CPU kernel is three times slower in bf16, but needs
less memory."""

Heads = Float[Tensor, "B H T K"]
KVHeads = Float[Tensor, "B G S K"]
StripedMask = tuple[Float[Tensor, "B 1 _ _"], ...]
AttentionMask = Float[Tensor, "B 1 T S"] | StripedMask | BlockMask
"""0 where a query may attend to a key, -inf elsewhere: whole, or in stripes of queries, each against the row's keys up
to the last one that it may attend to; or the sparse blocks of flex attention."""
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(row, head, query index, key index): whether the query may attend to the key."""


def boolean_mask(
    docs: Int[Tensor, "B T"], image_ids: Int[Tensor, "B T"] | None = None, *, window: int = 0
) -> Bool[Tensor, "B 1 T T"]:
    """True where a token may attend: to earlier tokens of its document, and to all tokens of its own image.

    With a window only to its last `window` tokens, itself included, besides those of its image. `image_ids` numbers
    each row's images from 0, -1 for text; None makes all tokens causal.
    Padding is a document of its own, so that no row of the softmax is empty.
    """
    length = docs.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=docs.device).tril()
    causal = causal.triu(1 - window) if window else causal
    allowed = (docs[:, :, None] == docs[:, None, :]) & causal
    if image_ids is not None:
        allowed |= (image_ids[:, :, None] == image_ids[:, None, :]) & (image_ids >= 0)[:, None, :]
    return allowed[:, None]


def additive_mask(allowed: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """0 where allowed, -inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def window_mask(token_mask: Bool[Tensor, "B S"], new_tokens: int, window: int) -> Bool[Tensor, "B 1 T S"]:
    """True where the last `window` tokens before each of the new ones are, itself and those after it included.

    `token_mask` is False at padding, which does not count as a distance.
    """
    positions = token_mask.cumsum(1)
    return (positions[:, -new_tokens:, None] - positions[:, None, :] < window)[:, None]


def block_mask(docs: Int[Tensor, "B T"], image_ids: Int[Tensor, "B T"] | None = None, *, window: int = 0) -> BlockMask:
    """`boolean_mask` as sparse blocks, without evaluating every pair.

    Documents must be in ascending order with padding last, and an image within one document.
    """
    length = docs.shape[1]
    padding_id = torch.iinfo(docs.dtype).max
    doc_blocks = _split_blocks(docs.masked_fill(docs < 0, padding_id), padding=padding_id)
    first, last = doc_blocks[:, :, 0], doc_blocks[:, :, -1]
    index = torch.arange(doc_blocks.shape[1], device=docs.device)
    is_earlier, is_full = index[:, None] > index, index[:, None] < length // ATTENTION_BLOCK
    # ids ascend, so two blocks share a document if the earlier one's last id reaches the later one's first
    any_allowed = (last[:, None, :] >= first[:, :, None]) & (is_earlier | (index[:, None] == index))
    all_allowed = (first[:, None, :] == last[:, :, None]) & is_earlier & is_full
    if window:
        distance = ATTENTION_BLOCK * (index[:, None] - index)  # of the blocks' first tokens
        any_allowed = any_allowed & (distance - ATTENTION_BLOCK < window - 1)
        all_allowed = all_allowed & (distance + ATTENTION_BLOCK <= window)
    if image_ids is not None:
        is_outside = index[:, None] != index if window else index[:, None] < index
        any_allowed |= _blocks_sharing_images(image_ids) & is_outside
    return BlockMask.from_kv_blocks(
        *_kv_block_indices(any_allowed & ~all_allowed),
        *_kv_block_indices(all_allowed),
        BLOCK_SIZE=ATTENTION_BLOCK,
        mask_mod=_mask_mod(docs, image_ids, window),
        seq_lengths=(length, length),
    )


def _split_blocks(ids: Int[Tensor, "B T"], *, padding: int) -> Int[Tensor, "B n block"]:
    return F.pad(ids, (0, -ids.shape[1] % ATTENTION_BLOCK), value=padding).unflatten(1, (-1, ATTENTION_BLOCK))


def _blocks_sharing_images(image_ids: Int[Tensor, "B T"]) -> Bool[Tensor, "B n n"]:
    blocks = _split_blocks(image_ids, padding=-1)
    last = blocks.amax(dim=2)
    first = blocks.masked_fill(blocks < 0, torch.iinfo(blocks.dtype).max).amin(dim=2)
    return (first[:, None, :] <= last[:, :, None]) & (first[:, :, None] <= last[:, None, :])


def _causal_mask_mod(docs: Int[Tensor, "B T"]) -> MaskMod:
    return lambda row, head, q, k: (docs[row, q] == docs[row, k]) & (k <= q)


def _windowed_mask_mod(docs: Int[Tensor, "B T"], window: int) -> MaskMod:
    causal = _causal_mask_mod(docs)
    return lambda row, head, q, k: causal(row, head, q, k) & (q - k < window)


def _mask_mod(docs: Int[Tensor, "B T"], ids: Int[Tensor, "B T"] | None, window: int) -> MaskMod:
    causal = _windowed_mask_mod(docs, window) if window else _causal_mask_mod(docs)
    if ids is None:
        return causal
    return lambda row, head, q, k: causal(row, head, q, k) | ((ids[row, q] == ids[row, k]) & (ids[row, k] >= 0))


def _kv_block_indices(is_selected: Bool[Tensor, "B n n"]) -> tuple[Int[Tensor, "B 1 n"], Int[Tensor, "B 1 n n"]]:
    """For each query block the number of selected key blocks, and the key blocks' indices, selected ones first."""
    indices = is_selected.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return is_selected.sum(dim=-1, dtype=torch.int32)[:, None], indices.to(torch.int32)[:, None]


def attention_mask(
    docs: Int[Tensor, "B T"],
    image_ids: Int[Tensor, "B T"] | None,
    dtype: torch.dtype,
    *,
    head_dim: int,
    window: int = 0,
) -> AttentionMask:
    """The mask in the form for the device: blocks on a GPU (whose kernel has no float64), else additive."""
    if docs.is_cuda and dtype != torch.float64 and head_dim >= MIN_FLEX_HEAD_DIM:
        return block_mask(docs, image_ids, window=window)
    mask, length = additive_mask(boolean_mask(docs, image_ids, window=window), dtype), docs.shape[1]
    if not QUERY_STRIPE < length <= MAX_EAGER_LENGTH:
        return mask
    starts, stripes = range(0, length, QUERY_STRIPE), mask.split(QUERY_STRIPE, dim=2)
    ends = [length if image_ids is not None else start + QUERY_STRIPE for start in starts]
    return tuple(stripe[..., :end].contiguous() for stripe, end in zip(stripes, ends, strict=True))


def masked_attention(q: Heads, k: KVHeads, v: KVHeads, mask: AttentionMask) -> Heads:
    """Softmax attention under a mask; with an additive mask the softmax has the mask's precision.

    H must be a multiple of G: each key and value head is shared by H / G query heads.
    """
    is_grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, BlockMask):
        needs_compile = q.is_cuda and not torch.compiler.is_compiling()  # on a CPU flex attention is plain operations
        attend = _compiled_flex_attention() if needs_compile else flex_attention
        return attend(q, k, v, block_mask=mask, enable_gqa=is_grouped)
    if isinstance(mask, Tensor) and k.shape[2] > QUERY_STRIPE:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), enable_gqa=is_grouped)
    if is_grouped:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    if isinstance(mask, Tensor):
        return _eager_attention(q, k, v, mask)
    stripes = zip(q.split([stripe.shape[2] for stripe in mask], dim=2), mask, strict=True)
    outputs = [_eager_attention(x, k[:, :, : m.shape[3]], v[:, :, : m.shape[3]], m) for x, m in stripes]
    return torch.cat(outputs, dim=2)


def _eager_attention(q: Heads, k: KVHeads, v: KVHeads, mask: Float[Tensor, "B 1 T S"]) -> Heads:
    scores = (q @ k.transpose(-2, -1)).to(mask.dtype) * q.shape[-1] ** -0.5 + mask
    return scores.softmax(dim=-1).to(q.dtype) @ v


@cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)
