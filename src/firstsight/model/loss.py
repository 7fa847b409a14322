"""Cross-entropy and z-loss on the tokens that carry loss, and on no others.

The hidden states are gathered before the head, so that a batch with few loss tokens pays for few logits.
Gradients are worked out in the forward pass, chunk by chunk: no [tokens, vocabulary] matrix outlives its chunk.
Source: paper section 1.2 (z-loss: coefficient x mean of logsumexp squared), here over loss tokens only.
Shapes: N loss tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firstsight.model.layers import norm
from firstsight.model.lm import LM

IGNORED = -100
CHUNK = 2**26
"""Most logits held at once (256 MiB in float32)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Sums over loss tokens, so that the caller normalises by the count it means."""

    total: Tensor
    """Cross-entropy and z-loss, summed: the one to differentiate."""
    each: Tensor
    """[kinds] cross-entropy summed by kind of row; no gradient."""
    counts: Tensor
    """[kinds] loss tokens by kind of row."""


class _Head(torch.autograd.Function):
    """Summed loss of states [N, D] against a head [V, D] and targets [N], with its gradients found on the way."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, targets: Tensor, z: float) -> tuple[Tensor, Tensor]:
        cast, wide = head.to(states.dtype), torch.float64 if states.dtype == torch.float64 else torch.float32
        to_states, to_head = torch.empty_like(states), torch.zeros_like(head, dtype=wide)
        each = states.new_empty(states.shape[0], dtype=wide)
        squares = each.new_zeros(())
        size = max(1, CHUNK // head.shape[0])
        for start in range(0, states.shape[0], size):
            part = slice(start, start + size)
            logits, picked = (states[part] @ cast.T).to(wide), targets[part, None]
            lse = logits.logsumexp(dim=1)
            each[part] = lse - logits.gather(1, picked)[:, 0]
            squares += lse.square().sum()
            slope = logits.sub_(lse[:, None]).exp_().mul_((1 + 2 * z * lse)[:, None])
            slope.scatter_add_(1, picked, slope.new_full(picked.shape, -1.0))
            slope = slope.to(states.dtype)
            to_states[part] = slope @ cast
            to_head += slope.T @ states[part]
        ctx.save_for_backward(to_states, to_head)
        ctx.mark_non_differentiable(each)
        return each.sum() + z * squares, each

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_states, to_head = ctx.saved_tensors
        return to_states * grads[0].to(to_states.dtype), to_head * grads[0], None, None


def next_token(states: Tensor, head: Tensor, targets: Tensor, *, z: float) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy + z-loss, and each token's cross-entropy (no gradient), of normed states [N, D]."""
    return _Head.apply(states, head, targets, z)


def loss(lm: LM, hidden: Tensor, targets: Tensor, *, kinds: Tensor, groups: int, z: float) -> Loss:
    """The loss of hidden states [B, T, D] before the last norm; `kinds` [B] names each row's group, 0 to groups-1."""
    where = (targets.flatten() != IGNORED).nonzero()[:, 0]
    states = norm(hidden.flatten(0, 1).index_select(0, where), lm.norm.weight, lm.shape)
    total, each = next_token(states, lm.head, targets.flatten()[where], z=z)
    group = kinds.long()[where // targets.shape[1]]
    sums = each.new_zeros(groups).index_add_(0, group, each)
    return Loss(total=total, each=sums, counts=torch.bincount(group, minlength=groups))
