"""The training loop: yields after every update; logging, judging and saving belong to the caller's `for`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from firstsight.data.loader import Batch
from firstsight.model.loss import loss
from firstsight.train.state import TrainState
from firstsight.units import Tokens

GROUPS = 8
"""Kinds of rows that losses are told apart by: text, then up to seven image sources."""


Parts = tuple[Batch, ...]
"""The rows of one step, as many at once as the machine holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """What one update did."""

    seen: Tokens
    step: int
    lr: float
    loss: float
    """Cross-entropy per loss token."""
    grad_norm: float
    losses: tuple[float, ...]
    """Cross-entropy summed by kind of row."""
    loss_tokens: tuple[int, ...]
    """Loss tokens by kind of row."""


def train(
    state: TrainState, batches: Iterator[Parts], rate: Callable[[Tokens], float], until: Tokens
) -> Iterator[StepInfo]:
    """One update a batch until `state.seen` reaches `until`; the update that brings it to s uses `rate(s)`.

    A batch may come in parts: their gradients add up to that of the mean over all loss tokens of the batch.
    """
    while state.seen < until:
        parts = next(batches)
        tokens = sum(part.tokens.numel() for part in parts)
        state.seen = Tokens(state.seen + tokens)
        lr = _paced(state, rate(state.seen))
        counts = torch.stack([(part.targets >= 0).sum() for part in parts]).sum().clamp(min=1)
        each, held = zip(*(_learn(state, part, counts) for part in parts), strict=True)
        losses, loss_tokens = torch.stack(each).sum(dim=0), torch.stack(held).sum(dim=0)
        grad_norm = clip(list(state.model.parameters()), state.optim.clip)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        yield StepInfo(
            seen=state.seen,
            step=state.seen // tokens,
            lr=lr,
            loss=float(losses.sum() / counts),
            grad_norm=float(grad_norm),
            losses=tuple(losses.tolist()),
            loss_tokens=tuple(loss_tokens.tolist()),
        )


def _paced(state: TrainState, lr: float) -> float:
    """Give each group of parameters its share of the rate; returns the rate."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["scale"]
    return lr


def _learn(state: TrainState, part: Batch, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Add a part's gradients of the loss over `counts` tokens; its loss and loss tokens by kind of row."""
    hidden, z = state.model(part), state.optim.z_loss
    found = loss(state.model.lm, hidden, part.targets, kinds=part.kinds, groups=GROUPS, z=z)
    (found.total / counts).backward()
    return found.each, found.counts


@torch.no_grad()
def clip(parameters: list[torch.nn.Parameter], most: float) -> Tensor:
    """Scale gradients down to a global norm of at most `most`; returns the norm before.

    Squares are added one parameter after the other in float64, so that parameters with zero gradients
    (a projector that saw no picture) leave the norm's bits as they are.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack(torch._foreach_norm(grads)).double().square()  # pyright: ignore[reportPrivateImportUsage]
    norm = squares.cumsum(0)[-1].sqrt()
    torch._foreach_mul_(grads, (most / (norm + 1e-6)).clamp(max=1.0).float())  # pyright: ignore[reportPrivateImportUsage]
    return norm
