"""Reading without gradients: a decoder with its weights made ready, and a cache of what it has read.

Keys and values of all rows stand in the same columns of one block of memory that is taken once; what a ragged read
leaves empty at the right of shorter rows is masked ever after.
Shapes: B rows, T new tokens, S columns read, D width, V vocabulary, H heads (G of keys and values), K head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from firstsight.model import layers
from firstsight.model.layers import Heads, Keys, Weights, norm
from firstsight.model.lm import LM, Stream

Product = Callable[[Tensor], Tensor]
"""Vectors times one weight."""
Turn = tuple[Float[Tensor, "*rows T K"], Float[Tensor, "*rows T K"]]
"""Cosine, and sine with the sign that its half of a head needs."""


@dataclass(kw_only=True, slots=True)
class Cache:
    """Keys, values and, with token shift, the last normed inputs of every layer; it grows as `Reader.extend` reads."""

    keys: Float[Tensor, "layers B G room K"]
    values: Float[Tensor, "layers B G room K"]
    before: Float[Tensor, "layers B lag D"]
    real: Bool[Tensor, "B room"]
    """False where a row has padding among the columns that are read."""
    tokens: Int[Tensor, " B"]
    """Real tokens of each row: the position of its next one."""
    read: int = 0
    """Columns in use, padding included."""
    padded: bool = False
    """Whether any of them is padding."""

    def take(self, rows: Sequence[int], room: int) -> Cache:
        """These rows, in this order and as often as named, in `room` columns; itself where it is that already."""
        if list(rows) == list(range(self.keys.shape[1])) and room == self.keys.shape[3]:
            return self
        chosen = torch.tensor(list(rows), dtype=torch.int64, device=self.keys.device)
        return Cache(
            keys=self._taken(self.keys, chosen, room),
            values=self._taken(self.values, chosen, room),
            before=self.before[:, chosen],
            real=F.pad(self.real[chosen, : self.read], (0, room - self.read), value=True),
            tokens=self.tokens[chosen],
            read=self.read,
            padded=self.padded,
        )

    def _taken(self, held: Tensor, chosen: Tensor, room: int) -> Tensor:
        taken = held.new_empty(held.shape[0], len(chosen), held.shape[2], room, held.shape[4])
        for into, out in zip(taken, held, strict=True):
            into[:, :, : self.read] = out[chosen, :, : self.read]
        return taken


def empty(lm: LM, rows: int, room: int) -> Cache:
    """A cache for `rows` rows of up to `room` tokens, padding included."""
    spec, device = lm.spec, lm.norm.weight.device
    # torch's attention of one token is 2 to 8 times as fast in float32 as in bf16 on a CPU
    dtype = torch.float32 if device.type == "cpu" and lm.compute == torch.bfloat16 else lm.compute
    keys = torch.empty(spec.layers, rows, spec.kv_heads, room, spec.head, dtype=dtype, device=device)
    return Cache(
        keys=keys,
        values=torch.empty_like(keys),
        before=keys.new_zeros(spec.layers, rows, spec.token_shift - 1, spec.width, dtype=lm.compute),
        real=torch.ones(rows, room, dtype=torch.bool, device=device),
        tokens=torch.zeros(rows, dtype=torch.int64, device=device),
    )


class Layer(NamedTuple):
    """A block made ready: small weights in the dtype of products, large ones as products."""

    attention_norm: Float[Tensor, " D"]
    in_proj: Product
    q_norm: Float[Tensor, " H*K"] | None
    k_norm: Float[Tensor, " G*K"] | None
    out_proj: Product
    ffn_norm: Float[Tensor, " D"]
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
        self._layers = [_ready(layer.weights(), lm.compute) for layer in lm.layers]  # pyright: ignore[reportCallIssue]
        self._head = product(lm.head, lm.compute)
        wide = torch.float64 if lm.compute == torch.float64 else torch.float32
        positions = torch.arange(longest, device=lm.norm.weight.device)[None]
        cos, sin = layers.rotations(positions, lm.spec.rope, head=lm.spec.head, dtype=wide)
        self._turns = torch.cat((cos, cos), dim=-1)[0, 0], torch.cat((-sin, sin), dim=-1)[0, 0]

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """What `LM.logits` says."""
        logits = self._head(norm(hidden, self.lm.norm.weight, self._shape))
        return logits if logits.dtype == torch.float64 else logits.float()

    def extend(self, x: Stream, counts: Sequence[int] | None, cache: Cache, *, ahead: bool = False) -> Stream:
        """Hidden states of tokens that come after those in the cache, which takes them up.

        Row r's first counts[r] tokens are real, all where `counts` is None. Each sees what its row read before it
        and, where `ahead` is true, all of this read (which then has no padding).
        """
        new, start, kept = x.shape[1], cache.read, cache.tokens
        steps = torch.arange(new, device=x.device)
        if counts is None:
            cache.tokens = kept + new
        else:
            real = torch.tensor(list(counts), dtype=torch.int64, device=x.device)
            cache.real[:, start : start + new] = steps < real[:, None]
            cache.tokens, cache.padded = kept + real, cache.padded or min(counts) < new
        positions = kept[:, None] + steps
        cos, sin = (table[positions.clamp(max=len(table) - 1)][:, None] for table in self._turns)
        cache.read += new
        read = _Read(
            turn=(cos, sin),
            positions=positions,
            real=None if counts is None else cache.tokens - kept,
            start=start,
            causal=start == 0 and new > 1 and not ahead,
            mask=_mask(cache, new) if start else None,
        )
        for index, layer in enumerate(self._layers):
            x = self._block(x, layer, read, cache, index)
        return x

    def _block(self, x: Stream, w: Layer, read: _Read, cache: Cache, index: int) -> Stream:
        """One pre-norm block, as `layers.block` has it."""
        shape = self._shape
        h = norm(x, w.attention_norm, shape)
        if w.shift is not None:
            before = cache.before[index].clone()
            cache.before[index] = _last(torch.cat((before, h), dim=1), read.real, before.shape[1])
            h = layers.shifted(h, w.shift, before, read.positions)
        asked, kept = shape.heads * self.lm.spec.head, shape.kv_heads * self.lm.spec.head
        q, k, v = w.in_proj(h).split([asked, kept, kept], dim=-1)
        if w.q_norm is not None and w.k_norm is not None:
            q, k = norm(q, w.q_norm, shape), norm(k, w.k_norm, shape)
        turned = _turned(_heads(torch.cat((q, k), dim=-1), shape.heads + shape.kv_heads), read.turn)
        end = read.start + x.shape[1]
        keys, values = cache.keys[index, :, :, :end], cache.values[index, :, :, :end]
        keys[:, :, read.start :] = turned[:, shape.heads :]
        values[:, :, read.start :] = _heads(v, shape.kv_heads)
        attended = _attend(turned[:, : shape.heads].to(keys.dtype), keys, values, read)
        x = x + w.out_proj(attended.transpose(1, 2).flatten(2).to(h.dtype))
        gate, value = w.w12(norm(x, w.ffn_norm, shape)).chunk(2, dim=-1)
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

    turn: Turn
    positions: Int[Tensor, "B T"]
    real: Int[Tensor, " B"] | None
    """Real tokens of each row; None where all are."""
    start: int
    causal: bool
    mask: Float[Tensor, "B 1 T S"] | None


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


def _ready(w: Weights, dtype: torch.dtype) -> Layer:
    return Layer(
        attention_norm=w.attention_norm.to(dtype),
        in_proj=product(w.in_proj, dtype),
        q_norm=None if w.q_norm is None else w.q_norm.to(dtype),
        k_norm=None if w.k_norm is None else w.k_norm.to(dtype),
        out_proj=product(w.out_proj, dtype),
        ffn_norm=w.ffn_norm.to(dtype),
        w12=product(w.w12, dtype),
        w3=product(w.w3, dtype),
        shift=None if w.shift is None else w.shift.to(dtype),
    )


def _heads(x: Float[Tensor, "B T _"], count: int) -> Heads:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _turned(x: Heads, turn: Turn) -> Heads:
    """What `layers.rotate` says, for queries and keys at once; in the precision of the angles."""
    cos, sin = turn
    wide = x.to(cos.dtype)
    return torch.addcmul(wide * cos, wide.roll(x.shape[-1] // 2, dims=-1), sin)


def _attend(q: Heads, keys: Keys, values: Keys, read: _Read) -> Heads:
    """Softmax attention; a single token's queries that share a head of keys stand side by side, as tokens would."""
    rows, heads, new, width = q.shape
    shared = heads // keys.shape[1]
    if new == 1 and shared > 1:
        together = q.reshape(rows, heads // shared, shared, width)
        return F.scaled_dot_product_attention(together, keys, values, attn_mask=read.mask).reshape(q.shape)
    return F.scaled_dot_product_attention(
        q, keys, values, attn_mask=read.mask, is_causal=read.causal, enable_gqa=shared > 1
    )


def _mask(cache: Cache, new: int) -> Float[Tensor, "B 1 T S"] | None:
    """0 where each of the last `new` columns may look, -inf elsewhere; None where that is everywhere."""
    if new == 1 and not cache.padded:
        return None
    columns = torch.arange(cache.read, device=cache.keys.device)
    seen = (columns <= columns[cache.read - new :, None]) & cache.real[:, None, : cache.read]
    return layers.additive(seen[:, None], cache.keys.dtype)


def _last(inputs: Float[Tensor, "B _ D"], real: Int[Tensor, " B"] | None, count: int) -> Float[Tensor, "B lag D"]:
    """The `count` inputs that end at each row's last real token; `count` remembered ones precede those of this call."""
    if real is None:
        return inputs[:, inputs.shape[1] - count :]
    columns = real[:, None] + torch.arange(count, device=real.device)
    return inputs.gather(1, columns[..., None].expand(-1, -1, inputs.shape[-1]))
