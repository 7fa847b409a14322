"""The training loop: yields after every update; logging, evaluation and saving are up to the caller's `for`."""

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
"""Most sources of rows with separate losses, text sources first."""

MicroBatches = tuple[Batch, ...]
"""The rows of one step, in parts that fit the device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """Numbers of one update."""

    tokens_seen: Tokens
    step: int
    lr: float
    loss: float
    """Cross-entropy per loss token."""
    grad_norm: float
    """Before clipping."""
    losses: tuple[float, ...]
    """Cross-entropy summed by source."""
    loss_tokens: tuple[int, ...]
    """Loss tokens by source."""


def train(
    state: TrainState, batches: Iterator[MicroBatches], lr_schedule: Callable[[Tokens], float], until: Tokens
) -> Iterator[StepInfo]:
    """One update a batch until `state.tokens_seen` reaches `until`; the one that reaches s has rate `lr_schedule(s)`.

    The gradients of micro-batches add up to that of the mean loss over all loss tokens of the batch.
    """
    while state.tokens_seen < until:
        micro_batches = next(batches)
        tokens = sum(batch.tokens.numel() for batch in micro_batches)
        state.tokens_seen = Tokens(state.tokens_seen + tokens)
        lr = _set_lr(state, lr_schedule(state.tokens_seen))
        num_loss_tokens = torch.stack([(batch.targets >= 0).sum() for batch in micro_batches]).sum().clamp(min=1)
        sums = [_accumulate_gradients(state, batch, num_loss_tokens) for batch in micro_batches]
        losses, loss_tokens = (torch.stack(tensors).sum(dim=0) for tensors in zip(*sums, strict=True))
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
    """Set each parameter group's rate to `lr` times its scale; returns `lr`."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["scale"]
    return lr


def _accumulate_gradients(state: TrainState, batch: Batch, num_loss_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Add the gradients of the batch's summed loss / `num_loss_tokens`; returns loss sums and loss tokens by source."""
    sums = lm_loss(
        state.model.lm,
        state.model(batch),
        batch.targets,
        row_groups=batch.source_ids,
        num_groups=NUM_LOSS_GROUPS,
        z_coefficient=state.optim.z_loss,
    )
    (sums.total / num_loss_tokens).backward()
    return sums.by_group, sums.token_counts


@torch.no_grad()
def clip_grad_norm(parameters: list[torch.nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a global norm of at most `max_norm`; returns the norm before.

    Squares are added one parameter after the other in float64, so that parameters with zero gradients (a projector in
    a batch without images) do not change the norm's bits.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack(torch._foreach_norm(grads)).double().square()  # pyright: ignore[reportPrivateImportUsage]
    norm = squares.cumsum(0)[-1].sqrt()
    torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0).float())  # pyright: ignore[reportPrivateImportUsage]
    return norm
