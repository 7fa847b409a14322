"""Cross-entropy and z-loss on the tokens that carry loss, and on no others.

The hidden states are gathered before the head, so that a batch with few loss tokens pays for few logits.
Gradients are worked out in the forward pass, chunk by chunk: no [tokens, vocabulary] matrix outlives its chunk, and
within a chunk logits become slopes in place, a few rows at a time, so that what is float32 stays in the CPU's cache.
Source: paper section 1.2 (z-loss: coefficient x mean of logsumexp squared), here over loss tokens only.
Shapes: N loss tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight.errors import ModelError
from firstsight.model.layers import norm
from firstsight.model.lm import LM

IGNORED = -100


class _Most(NamedTuple):
    """How many numbers are worked on at once: what a CPU's cache holds, and on a GPU what keeps it busy."""

    chunk: int
    """Logits that are held."""
    piece: int
    """Logits in float32."""
    product: int
    """Of a chunk's gradient of the head."""


CPU = _Most(chunk=2**26, piece=2**20, product=2**22)
"""128, 4 and 8 MiB."""
GPU = _Most(chunk=2**28, piece=2**26, product=2**62)
"""512 and 256 MiB, and the gradient whole."""

Turn = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Sums over loss tokens, so that the caller normalises by the count it means."""

    total: Tensor
    """Cross-entropy and z-loss, summed: the one to differentiate."""
    each: Tensor
    """[kinds] cross-entropy summed by kind of row; no gradient."""
    counts: Tensor
    """[kinds] loss tokens by kind of row."""


class Asked(NamedTuple):
    """Whose loss is asked for: normed states [N, D], a head [V, D], targets [N] and each token's group [N]."""

    states: Tensor
    head: Tensor
    targets: Tensor
    group: Tensor
    groups: int
    z: float


def turn(logits: Tensor, targets: Tensor, z: float) -> tuple[Tensor, Tensor]:
    """Logits [n, V] become, in place, the slope of the loss against targets [n, 1]; cross-entropy and logsumexp [n]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    lse = wide.logsumexp(dim=1, keepdim=True)
    picked, weight = wide.gather(1, targets), 1 + 2 * z * lse
    at_target = (picked - lse).exp() * weight - 1
    logits.copy_((wide - lse).exp() * weight)
    logits.scatter_(1, targets, at_target.to(logits.dtype))
    return (lse - picked)[:, 0], lse[:, 0]


@cache
def _compiled() -> Turn:
    return torch.compile(turn, fullgraph=True, dynamic=False)


class _Chunks:
    """How N tokens are cut: chunks of `size` rows whose logits are held, in pieces of `piece` rows."""

    def __init__(self, count: int, head: Tensor) -> None:
        vocabulary, most = head.shape[0], GPU if head.is_cuda else CPU
        self.piece = max(1, most.piece // vocabulary)
        chunks = max(1, -(-count * vocabulary // most.chunk))
        self.size = -(-max(1, -(-count // chunks)) // self.piece) * self.piece
        self.starts = range(0, count, self.size)


class _Head(torch.autograd.Function):
    """Summed loss of states [N, D] against a head [V, D] and targets [N], with its gradients found on the way."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, targets: Tensor, z: float, turn: Turn) -> tuple[Tensor, Tensor]:
        count, wide = states.shape[0], torch.float64 if states.dtype == torch.float64 else torch.float32
        cut, cast = _Chunks(count, head), head.to(states.dtype)
        to_states, to_head = torch.empty_like(states), torch.empty_like(head, dtype=wide)
        each, lse = (states.new_empty(count, dtype=wide) for _ in range(2))
        # every piece has the same shape, whatever the batch holds: one compiled function, chosen without looking at it
        padded = F.pad(targets, (0, -count % cut.piece))[:, None]
        buffer = states.new_empty(min(cut.size, padded.shape[0]), head.shape[0])
        for start in cut.starts:
            part = slice(start, min(start + cut.size, count))
            slope = buffer[: part.stop - start]
            torch.mm(states[part], cast.T, out=slope)
            buffer[slope.shape[0] :].zero_()
            for row in range(0, slope.shape[0], cut.piece):
                here, stop = slice(row, row + cut.piece), min(row + cut.piece, slope.shape[0])
                found = turn(buffer[here], padded[start + row : start + row + cut.piece], z)
                for all_of, some in zip((each, lse), found, strict=True):
                    all_of[start + row : start + stop] = some[: stop - row]
            torch.mm(slope, cast, out=to_states[part])
            _add_up(to_head, slope, states[part], first=start == 0)
        ctx.found = (to_states, to_head if count else to_head.zero_())
        ctx.mark_non_differentiable(each)
        return each.sum() + z * lse.square().sum(), each

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        if ctx.found is None:
            raise ModelError("loss: wanted one backward pass a loss. Got another. Work the loss out again.")
        to_states, to_head = ctx.found
        ctx.found = None  # handed over, not copied: the head's gradient is the largest tensor of a small model
        return to_states.mul_(grads[0].to(to_states.dtype)), to_head.mul_(grads[0]), None, None, None


def _add_up(to_head: Tensor, slope: Tensor, states: Tensor, *, first: bool) -> None:
    """Add slope' x states to float32 `to_head`, or begin it, so many rows at a time as the cache holds."""
    rows = max(1, (GPU if to_head.is_cuda else CPU).product // to_head.shape[1])
    product = states.new_empty(min(rows, to_head.shape[0]), to_head.shape[1])
    for start in range(0, to_head.shape[0], rows):
        sums = to_head[start : start + rows]
        part = torch.mm(slope[:, start : start + rows].T, states, out=product[: sums.shape[0]])
        if first:
            sums.copy_(part)
        else:
            sums.add_(part)


def next_token(states: Tensor, head: Tensor, targets: Tensor, *, z: float, turn: Turn = turn) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy + z-loss, and each token's cross-entropy (no gradient), of normed states [N, D].

    It can be differentiated once.
    """
    return _Head.apply(states, head, targets, z, turn)


def chunked(asked: Asked, turn: Turn = turn) -> tuple[Tensor, Tensor]:
    """Summed loss, and cross-entropy summed by group (no gradient)."""
    total, each = next_token(asked.states, asked.head, asked.targets, z=asked.z, turn=turn)
    groups = torch.arange(asked.groups, device=each.device)[:, None]
    return total, (each * (asked.group == groups)).sum(dim=1)  # not added up by index: a GPU would do so in any order


def liger(asked: Asked) -> tuple[Tensor, Tensor]:
    """What `chunked` gives, by Liger's fused kernel on a GPU: called once for each group, as it tells sums alone."""
    kernel = _liger_kernel(asked.states.device)(
        ignore_index=IGNORED, lse_square_scale=asked.z, reduction="sum", return_z_loss=True, accum_dtype=torch.float32
    )
    head, sums = asked.head.to(asked.states.dtype), torch.zeros(asked.groups, device=asked.states.device)
    total = (asked.states.sum() + head.sum()) * 0.0  # gradients of zero for a batch without loss tokens
    for group in asked.group.unique().tolist():
        mine = (asked.group == group).nonzero()[:, 0]
        found = kernel(head, asked.states[mine], asked.targets[mine])
        total = total + found.loss
        sums[group] = (found.loss - found.z_loss).detach()
    return total, sums


def _liger_kernel(device: torch.device) -> Any:
    advice = 'Take loss = "liger" out of the site file'
    if device.type != "cuda":
        raise ModelError(f"loss: wanted a GPU for Liger's kernel. Got {device.type}. {advice}.")
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore
    except ImportError as error:
        raise ModelError(f"loss: wanted the package liger-kernel. Got {error}. {advice}, or install it.") from error
    return LigerFusedLinearCrossEntropyLoss


def compiled(asked: Asked) -> tuple[Tensor, Tensor]:
    """What `chunked` gives to rounding, its elementwise part compiled."""
    return chunked(asked, _compiled())


def loss(lm: LM, hidden: Tensor, targets: Tensor, *, kinds: Tensor, groups: int, z: float) -> Loss:
    """The loss of hidden states [B, T, D] before the last norm; `kinds` [B] names each row's group, 0 to groups-1."""
    where = (targets.flatten() != IGNORED).nonzero()[:, 0]
    states = norm(hidden.flatten(0, 1).index_select(0, where), lm.norm.weight, lm.shape)
    group = kinds.long()[where // targets.shape[1]]
    asked = Asked(states=states, head=lm.head, targets=targets.flatten()[where], group=group, groups=groups, z=z)
    total, sums = (lm.score or chunked)(asked)
    return Loss(total=total, each=sums, counts=torch.bincount(group, minlength=groups))
