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
from firstsight.model.layers import Heads, Keys, Shape, Weights, norm
from firstsight.model.lm import LM, Stream

Product = Callable[[Tensor], Tensor]
"""Vectors times one weight, or normed and times a gain."""
Turns = Complex[Tensor, "*rows T 1 half"]
"""What a head's pairs of numbers are multiplied by at each position."""


@dataclass(kw_only=True, slots=True)
class Cache:
    """Keys, values and, with token shift, the last normed inputs of every layer; it grows as `Reader.extend` reads."""

    kept: list[Float[Tensor, "2 B G room K"]]
    """Keys, then values."""
    before: list[Float[Tensor, "B lag D"]]
    bias: Float[Tensor, "B room"]
    """0, and -inf where a row has padding among the columns that are read."""
    tokens: Int[Tensor, " B"]
    """Real tokens of each row: the position of its next one."""
    read: int = 0
    """Columns in use, padding included."""
    padded: bool = False
    """Whether any of them is padding."""

    @property
    def room(self) -> int:
        """Most columns."""
        return self.kept[0].shape[3]

    def take(self, rows: Sequence[int], room: int) -> Cache:
        """These rows, in this order and as often as named, in `room` columns; itself where it is that already."""
        if list(rows) == list(range(len(self.tokens))) and room == self.room:
            return self
        chosen = torch.tensor(list(rows), dtype=torch.int64, device=self.tokens.device)
        return Cache(
            kept=[self._taken(kept, chosen, room) for kept in self.kept],
            before=[before[chosen] for before in self.before],
            bias=F.pad(self.bias[chosen, : self.read], (0, room - self.read)),
            tokens=self.tokens[chosen],
            read=self.read,
            padded=self.padded,
        )

    def _taken(self, kept: Tensor, chosen: Tensor, room: int) -> Tensor:
        taken = kept.new_empty(2, len(chosen), kept.shape[2], room, kept.shape[4])
        for into, out in zip(taken, kept, strict=True):
            into[:, :, : self.read] = out[chosen, :, : self.read]
        return taken


def empty(lm: LM, rows: int, room: int) -> Cache:
    """A cache for `rows` rows of up to `room` tokens, padding included."""
    spec, device = lm.spec, lm.norm.weight.device
    # a CPU attends from one token 2 to 8 times as fast in float32 as in bf16
    dtype = torch.float32 if device.type == "cpu" and lm.compute == torch.bfloat16 else lm.compute
    shape = (2, rows, spec.kv_heads, room, spec.head)
    lately = torch.zeros(rows, spec.token_shift - 1, spec.width, dtype=lm.compute, device=device)
    return Cache(
        kept=[torch.empty(shape, dtype=dtype, device=device) for _ in range(spec.layers)],
        before=[lately.clone() for _ in range(spec.layers)],
        bias=torch.zeros(rows, room, dtype=dtype, device=device),
        tokens=torch.zeros(rows, dtype=torch.int64, device=device),
    )


class Layer(NamedTuple):
    """A block made ready."""

    attention_norm: Product
    in_proj: Product
    """Queries and keys with the two numbers that turn together side by side, values."""
    q_norm: Product | None
    k_norm: Product | None
    out_proj: Product
    ffn_norm: Product
    w12: Product
    w3: Product
    shift: Float[Tensor, "taps D"] | None


class Reader:
    """A decoder made ready to read rows of up to `longest` tokens: weights are cast and laid out once, not per token.

    It holds a copy of the weights and does not see what a training step changes: see `reader`.
    """

    @torch.no_grad()
    def __init__(self, lm: LM, longest: int) -> None:
        self.lm = lm
        self._shape = lm.shape
        self._layers = [_ready(layer.weights(), lm.shape) for layer in lm.layers]  # pyright: ignore[reportCallIssue]
        self._norm, self._head = _normed(lm.norm.weight, lm.shape), product(lm.head, lm.compute)
        wide = torch.promote_types(lm.compute, torch.float32)
        positions = torch.arange(longest, device=lm.norm.weight.device)[None]
        cos, sin = layers.rotations(positions, lm.spec.rope, head=lm.spec.head, dtype=wide)
        self._turns = torch.complex(cos, sin)[0, 0, :, None]

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """What `LM.logits` says."""
        logits = self._head(self._norm(hidden))
        return logits if logits.dtype == torch.float64 else logits.float()

    def extend(self, x: Stream, counts: Sequence[int] | None, cache: Cache, *, ahead: bool = False) -> Stream:
        """Hidden states of tokens that come after those in the cache, which takes them up.

        Row r's first counts[r] tokens are real, all where `counts` is None. Each sees what its row read before it
        and, where `ahead` is true, all of this read (which then has no padding).
        """
        read = self._begin(x.shape[1], counts, cache, ahead=ahead)
        with _kernels(x.device):
            for layer, kept, before in zip(self._layers, cache.kept, cache.before, strict=True):
                x = self._block(x, layer, read, kept, before)
        return x

    def _begin(self, new: int, counts: Sequence[int] | None, cache: Cache, *, ahead: bool) -> _Read:
        """What every layer knows of this read, which the cache's counters take up."""
        start, tokens = cache.read, cache.tokens
        positions = None
        turns = self._turns[start : start + new]
        if cache.padded or self.lm.spec.token_shift > 1:
            positions = tokens[:, None] + torch.arange(new, device=tokens.device)
            turns = self._turns[positions.clamp(max=len(self._turns) - 1)]
        real = None
        if counts is None:
            cache.tokens = tokens + new
        else:
            real = torch.tensor(list(counts), dtype=torch.int64, device=tokens.device)
            padding = torch.arange(new, device=tokens.device) >= real[:, None]
            cache.bias[:, start : start + new].masked_fill_(padding, float("-inf"))
            cache.tokens, cache.padded = tokens + real, cache.padded or min(counts) < new
        cache.read += new
        return _Read(
            turns=turns,
            positions=positions,
            real=real,
            start=start,
            end=cache.read,
            causal=start == 0 and new > 1 and not ahead,
            mask=_mask(cache, new) if start else None,
        )

    def _block(self, x: Stream, w: Layer, read: _Read, kept: Tensor, before: Tensor) -> Stream:
        """One pre-norm block, as `layers.block` has it."""
        shape = self._shape
        h = w.attention_norm(x)
        if w.shift is not None and read.positions is not None:
            lately = before.clone()
            before.copy_(_last(torch.cat((lately, h), dim=1), read.real, before.shape[1]))
            h = layers.shifted(h, w.shift, lately, read.positions)
        heads = w.in_proj(h)
        if w.q_norm is not None and w.k_norm is not None:
            q, k, v = heads.split([count * self.lm.spec.head for count in (shape.heads, *[shape.kv_heads] * 2)], dim=-1)
            heads = torch.cat((w.q_norm(q), w.k_norm(k), v), dim=-1)
        heads = _turned(heads, read.turns, shape)
        new = heads[:, :, shape.heads :].view(*x.shape[:2], 2, shape.kv_heads, -1)
        kept[:, :, :, read.start : read.end] = new.permute(2, 0, 3, 1, 4)
        keys, values = kept[:, :, :, : read.end].unbind(0)
        attended = _attend(heads[:, :, : shape.heads].transpose(1, 2).to(kept.dtype), keys, values, read)
        x = x + w.out_proj(attended.transpose(1, 2).flatten(2).to(h.dtype))
        gate, value = w.w12(w.ffn_norm(x)).chunk(2, dim=-1)
        return x + w.w3(F.silu(gate) * value)


def reader(lm: LM, longest: int) -> Reader:
    """A reader for rows of up to `longest` tokens: the one of the call before, as long as no weight has changed.

    A model that is being trained gets a new one each time: fused optimizers change weights without a trace.
    """
    if any(weight.requires_grad for weight in lm.parameters()):
        return Reader(lm, longest)
    state = (lm.compute, [(id(weight), weight.data_ptr(), weight._version) for weight in lm.parameters()])
    if lm.ready is None or lm.ready[0] != state or lm.ready[1] < longest:
        lm.ready = None  # two copies of the weights at once are enough
        lm.ready = (state, longest, Reader(lm, longest))
    return lm.ready[2]


class _Read(NamedTuple):
    """What every layer knows of one call."""

    turns: Turns
    positions: Int[Tensor, "B T"] | None
    """None where nothing asks for them."""
    real: Int[Tensor, " B"] | None
    """Real tokens of each row; None where all are."""
    start: int
    end: int
    causal: bool
    mask: Float[Tensor, "_ 1 T S"] | None


def product(weight: Float[Tensor, "out into"], dtype: torch.dtype) -> Product:
    """Multiplication by a weight in `dtype`, laid out once for many short reads.

    On a CPU oneDNN's own layout serves 16 rows 1.5 times (bf16) to 3 times (float32) as fast as a plain product.
    """
    held = weight.detach().to(dtype)
    if held.device.type != "cpu" or not _packs(dtype):
        return lambda x: F.linear(x, held)
    packed, multiply = torch.ops.mkldnn._reorder_linear_weight(held), torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, None, "none", [], "")


def _packs(dtype: torch.dtype) -> bool:
    """Whether this CPU's oneDNN multiplies in this dtype."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _normed(gain: Float[Tensor, " D"], shape: Shape) -> Product:
    """What `layers.norm` says; on a CPU an RMSNorm from its length, in half the time of torch's many steps."""
    held = gain.detach().to(shape.dtype)
    if not shape.rms or held.device.type != "cpu":
        return lambda x: norm(x, held, shape)
    wide = torch.promote_types(shape.dtype, torch.float32)
    root = len(held) ** 0.5
    scaled, least = held.to(wide) * root, torch.tensor(shape.eps**0.5 * root, dtype=torch.float64)

    def rms(x: Tensor) -> Tensor:
        x = x.to(shape.dtype).to(wide)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(least)
        return x.div(length).mul_(scaled).to(shape.dtype)

    return rms


def _ready(w: Weights, shape: Shape) -> Layer:
    head = w.in_proj.shape[0] // (shape.heads + 2 * shape.kv_heads)
    q, k, v = w.in_proj.detach().split([shape.heads * head, shape.kv_heads * head, shape.kv_heads * head])
    return Layer(
        attention_norm=_normed(w.attention_norm, shape),
        in_proj=product(torch.cat((_paired(q, head), _paired(k, head), v)), shape.dtype),
        q_norm=None if w.q_norm is None else _normed(_paired(w.q_norm.detach(), head), shape),
        k_norm=None if w.k_norm is None else _normed(_paired(w.k_norm.detach(), head), shape),
        out_proj=product(w.out_proj, shape.dtype),
        ffn_norm=_normed(w.ffn_norm, shape),
        w12=product(w.w12, shape.dtype),
        w3=product(w.w3, shape.dtype),
        shift=None if w.shift is None else w.shift.detach().to(shape.dtype),
    )


def _paired(rows: Float[Tensor, "rows *any"], head: int) -> Float[Tensor, "rows *any"]:
    """Each head's first half and second half in turns: attention does not see the order, if keys have it too."""
    return rows.unflatten(0, (-1, 2, head // 2)).transpose(1, 2).flatten(0, 2)


def _turned(x: Float[Tensor, "B T _"], turns: Turns, shape: Shape) -> Float[Tensor, "B T heads K"]:
    """Heads of queries, keys and values; the first two turned by `layers.rotate`'s angles, in their precision."""
    rows, new, _ = x.shape
    pairs = x.to(turns.real.dtype).view(rows, new, shape.heads + 2 * shape.kv_heads, -1, 2)
    torch.view_as_complex(pairs)[:, :, : shape.heads + shape.kv_heads].mul_(turns)
    return pairs.flatten(3)


def _kernels(device: torch.device) -> AbstractContextManager[object]:
    """Without cuDNN's attention, which newer GPUs take first: it plans some 30 ms for every length it has not met."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _attend(q: Heads, keys: Keys, values: Keys, read: _Read) -> Heads:
    """Softmax attention; a single token's queries that share a head of keys stand side by side, as tokens would."""
    rows, heads, new, width = q.shape
    shared = heads // keys.shape[1]
    if new == 1 and q.device.type == "cpu":
        return _looked_up(q, keys, values, read.mask)
    if new == 1 and shared > 1:
        together = q.reshape(rows, heads // shared, shared, width)
        return F.scaled_dot_product_attention(together, keys, values, attn_mask=read.mask).reshape(q.shape)
    return F.scaled_dot_product_attention(
        q, keys, values, attn_mask=read.mask, is_causal=read.causal, enable_gqa=shared > 1
    )


def _looked_up(q: Heads, keys: Keys, values: Keys, mask: Float[Tensor, "_ 1 T S"] | None) -> Heads:
    """One token's attention as plain products: two thirds of what torch's fused kernel takes on a CPU."""
    asked = (q * q.shape[-1] ** -0.5).reshape(-1, q.shape[1] // keys.shape[1], q.shape[-1])
    scores = torch.bmm(keys.flatten(0, 1), asked.transpose(1, 2)).transpose(1, 2)
    if mask is not None:
        scores = (scores.unflatten(0, (len(q), -1)) + mask).flatten(0, 1)
    return torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1)).view(q.shape)


def _mask(cache: Cache, new: int) -> Float[Tensor, "_ 1 T S"] | None:
    """0 where each of the last `new` columns may look, -inf elsewhere; None where that is everywhere."""
    bias = cache.bias[:, None, None, : cache.read] if cache.padded else None
    if new == 1:
        return bias
    ahead = cache.bias.new_full((new, new), float("-inf")).triu(1)
    causal = F.pad(ahead, (cache.read - new, 0))[None, None]
    return causal if bias is None else causal + bias


def _last(inputs: Float[Tensor, "B _ D"], real: Int[Tensor, " B"] | None, count: int) -> Float[Tensor, "B lag D"]:
    """The `count` inputs that end at each row's last real token; `count` remembered ones precede those of this call."""
    if real is None:
        return inputs[:, inputs.shape[1] - count :]
    columns = real[:, None] + torch.arange(count, device=real.device)
    return inputs.gather(1, columns[..., None].expand(-1, -1, inputs.shape[-1]))
