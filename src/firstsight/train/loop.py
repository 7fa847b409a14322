"""The training loop: yields after every update; logging, judging and saving belong to the caller's `for`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from firstsight.data.loader import Batch
from firstsight.model.loss import lm_loss
from firstsight.train.state import TrainState
from firstsight.units import Tokens

NUM_LOSS_GROUPS = 8
"""Kinds of rows that losses are told apart by: text, then up to seven image sources."""


MicroBatches = tuple[Batch, ...]
"""The rows of one step, as many at once as the machine holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """What one update did."""

    tokens_seen: Tokens
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
    state: TrainState, batches: Iterator[MicroBatches], lr_schedule: Callable[[Tokens], float], until: Tokens
) -> Iterator[StepInfo]:
    """One update a batch until `state.seen` reaches `until`; the update that brings it to s uses `rate(s)`.

    A batch may come in parts: their gradients add up to that of the mean over all loss tokens of the batch.
    """
    while state.tokens_seen < until:
        micro_batches = next(batches)
        tokens = sum(micro_batch.tokens.numel() for micro_batch in micro_batches)
        state.tokens_seen = Tokens(state.tokens_seen + tokens)
        lr = _set_lr(state, lr_schedule(state.tokens_seen))
        num_loss_tokens = (
            torch.stack([(micro_batch.targets >= 0).sum() for micro_batch in micro_batches]).sum().clamp(min=1)
        )
        group_losses, group_counts = zip(
            *(_accumulate_gradients(state, micro_batch, num_loss_tokens) for micro_batch in micro_batches), strict=True
        )
        losses, loss_tokens = torch.stack(group_losses).sum(dim=0), torch.stack(group_counts).sum(dim=0)
        grad_norm = clip_grad_norm(list(state.model.parameters()), state.optim.max_grad_norm)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        yield StepInfo(
            tokens_seen=state.tokens_seen,
            step=state.tokens_seen // tokens,
            lr=lr,
            loss=float(losses.sum() / num_loss_tokens),
            grad_norm=float(grad_norm),
            losses=tuple(losses.tolist()),
            loss_tokens=tuple(loss_tokens.tolist()),
        )


def _set_lr(state: TrainState, lr: float) -> float:
    """Give each group of parameters its share of the rate; returns the rate."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["scale"]
    return lr


def _accumulate_gradients(state: TrainState, micro_batch: Batch, num_loss_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Add a part's gradients of the loss over `counts` tokens; its loss and loss tokens by kind of row."""
    hidden, z_coefficient = state.model(micro_batch), state.optim.z_loss
    loss_sums = lm_loss(
        state.model.lm,
        hidden,
        micro_batch.targets,
        row_groups=micro_batch.source_ids,
        num_groups=NUM_LOSS_GROUPS,
        z_coefficient=z_coefficient,
    )
    (loss_sums.total / num_loss_tokens).backward()
    return loss_sums.by_group, loss_sums.token_counts


@torch.no_grad()
def clip_grad_norm(parameters: list[torch.nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a global norm of at most `most`; returns the norm before.

    Squares are added one parameter after the other in float64, so that parameters with zero gradients
    (a projector that saw no picture) leave the norm's bits as they are.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack(torch._foreach_norm(grads)).double().square()  # pyright: ignore[reportPrivateImportUsage]
    norm = squares.cumsum(0)[-1].sqrt()
    torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0).float())  # pyright: ignore[reportPrivateImportUsage]
    return norm
