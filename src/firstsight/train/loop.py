"""The training loop, a generator that yields after every update, and the log and progress reports of its caller.

log.jsonl has the same bytes on every rerun; progress goes to the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import torch
from torch import Tensor

from firstsight.data.loader import Batch
from firstsight.model.loss import lm_loss
from firstsight.recipe.mixture import MAX_SOURCES
from firstsight.resume_folder import AppendedFile
from firstsight.site import Progress, ProgressCallback
from firstsight.train import parallel
from firstsight.train.spikes import LossCheck
from firstsight.train.state import TrainState
from firstsight.units import Tokens

TARGET_LOG_LINES = 200
REPORT_SECONDS = 0.5
MicroBatches = tuple[Batch, ...]
"""The rows of one step, in parts that fit the device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """Numbers of one update."""

    tokens_seen: Tokens
    tokens: int
    """Of this update, padding included."""
    num_images: int
    step: int
    lr: float
    loss: float
    grad_norm: float
    """Before clipping."""
    losses: tuple[float, ...]
    loss_tokens: tuple[int, ...]

    def describe(self) -> str:
        """The update, its learning rate, loss and gradient norm in words."""
        return (
            f"loss {self.loss:.6g} and gradient norm {self.grad_norm:.6g} in update {self.step:,} "
            f"(to {self.tokens_seen:,} tokens), at learning rate {self.lr:.6g}"
        )


def train(
    state: TrainState,
    batches: Iterator[MicroBatches],
    lr_schedule: Callable[[Tokens], float],
    until: Tokens,
    loss_check: LossCheck | None = None,
) -> Iterator[StepInfo]:
    """One update per batch until `tokens_seen` reaches `until`; the update that reaches s has rate `lr_schedule(s)`.

    The gradients of micro-batches, and of all ranks, add up to that of the mean loss over all loss tokens of the batch.
    Raises Diverged before an update that `loss_check` refuses, with `state` as after the update before.
    """
    loss_check = loss_check or LossCheck(0.0)
    while state.tokens_seen < until:
        micro_batches = next(batches)
        tokens = parallel.world_size() * sum(batch.tokens.numel() for batch in micro_batches)
        lr = lr_schedule(Tokens(state.tokens_seen + tokens))
        for group in state.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        sums = _sum_gradients(state, micro_batches)
        grad_norm = clip_grad_norm(list(state.model.parameters()), state.optim.max_grad_norm)
        info = sums.step_info(Tokens(state.tokens_seen + tokens), tokens=tokens, lr=lr, grad_norm=float(grad_norm))
        error = loss_check.error(info.loss, info.grad_norm, info.describe())
        if error is None:
            state.optimizer.step()
            state.tokens_seen = info.tokens_seen
        state.optimizer.zero_grad(set_to_none=True)
        if error:
            raise error
        yield info


class _StepSums(NamedTuple):
    """Sums over the micro-batches of a step and over all ranks."""

    num_loss_tokens: Tensor
    """At least 1."""
    num_images: Tensor
    losses: Tensor
    """Loss sums by source."""
    loss_tokens: Tensor
    """By source."""

    def step_info(self, tokens_seen: Tokens, *, tokens: int, lr: float, grad_norm: float) -> StepInfo:
        """The numbers of the update that reaches `tokens_seen`."""
        return StepInfo(
            tokens_seen=tokens_seen,
            tokens=tokens,
            num_images=int(self.num_images),
            step=tokens_seen // tokens,
            lr=lr,
            loss=float(self.losses.sum() / self.num_loss_tokens),
            grad_norm=grad_norm,
            losses=tuple(self.losses.tolist()),
            loss_tokens=tuple(self.loss_tokens.tolist()),
        )


def _sum_gradients(state: TrainState, micro_batches: MicroBatches) -> _StepSums:
    """Set the gradients of a step."""
    targets = torch.stack([(batch.targets >= 0).sum() for batch in micro_batches]).sum()
    images = targets.new_full((), sum(len(batch.images) for batch in micro_batches))
    targets, num_images = parallel.total(torch.stack([targets, images]))
    num_loss_tokens = targets.clamp(min=1)
    sums: list[tuple[Tensor, Tensor]] = []
    for batch in micro_batches:
        parallel.set_gradient_sync(state.model, is_last=batch is micro_batches[-1])
        sums.append(_accumulate_gradients(state, batch, num_loss_tokens))
    losses, loss_tokens = (parallel.total(torch.stack(parts).sum(dim=0)) for parts in zip(*sums, strict=True))
    return _StepSums(num_loss_tokens, num_images, losses, loss_tokens)


def _accumulate_gradients(state: TrainState, batch: Batch, num_loss_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Add the gradients of the batch's summed loss / `num_loss_tokens`; returns loss sums and loss tokens by source."""
    model, z, ids = state.model, state.optim.z_loss, batch.source_ids
    sums = lm_loss(model.lm, model(batch), batch.targets, row_groups=ids, num_groups=MAX_SOURCES, z_coefficient=z)
    (sums.total / num_loss_tokens).backward()
    return sums.by_group, sums.token_counts


def measure_gradients(state: TrainState, batch: Batch) -> tuple[float, float]:
    """Loss and gradient norm of one batch, without an update."""
    num_loss_tokens = (batch.targets >= 0).sum().clamp(min=1)
    losses, _ = _accumulate_gradients(state, batch, num_loss_tokens)
    norm = clip_grad_norm(list(state.model.parameters()), state.optim.max_grad_norm)
    state.optimizer.zero_grad(set_to_none=True)
    return float(losses.sum() / num_loss_tokens), float(norm)


@torch.no_grad()
def clip_grad_norm(parameters: list[torch.nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a global norm of at most `max_norm`; returns the norm before.

    Squares are added one parameter after the other in float64, so that parameters with zero gradients (a projector in
    a batch without images) do not change the norm's bits.
    """
    grads = [parallel.local_tensor(p.grad) for p in parameters if p.grad is not None]
    squares = torch.stack(torch._foreach_norm(grads)).double().square()  # pyright: ignore[reportPrivateImportUsage]
    norm = parallel.sum_over_shards(squares).cumsum(0)[-1].sqrt()
    torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0).float())  # pyright: ignore[reportPrivateImportUsage]
    return norm


class MetricsLog:
    """log.jsonl: one line per interval, with the mean losses by source over the interval."""

    def __init__(
        self, file: AppendedFile | None, names: Sequence[str], *, steps: int, state: Mapping[str, Any] | None
    ) -> None:
        """`state`: that of the point from which `file` continues; None for an empty file. Without a file nothing is
        written."""
        self.file, self.names, self.steps = file, tuple(names), steps
        self.interval = max(1, steps // TARGET_LOG_LINES)
        self._clear()
        if state is not None:
            self.loss_sums, self.token_counts = list(state["sums"]), list(state["counts"])

    def _clear(self) -> None:
        self.loss_sums, self.token_counts = [0.0] * len(self.names), [0] * len(self.names)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain JSON."""
        return {"sums": self.loss_sums, "counts": self.token_counts}

    def add_step(self, info: StepInfo) -> dict[str, Any] | None:
        """Add a step's losses; the last step of an interval or of the run writes a line, and returns it."""
        for group in range(len(self.names)):
            self.loss_sums[group] += info.losses[group]
            self.token_counts[group] += info.loss_tokens[group]
        if info.step % self.interval and info.step != self.steps:
            return None
        record = self._interval_record(info)
        if self.file is not None:
            self.file.append(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._clear()
        return record

    def _interval_record(self, info: StepInfo) -> dict[str, Any]:
        totals = zip(self.names, self.loss_sums, self.token_counts, strict=True)
        return {
            "step": info.step,
            "seen": info.tokens_seen,
            "lr": info.lr,
            "loss": round(sum(self.loss_sums) / max(1, sum(self.token_counts)), 6),
            "losses": {name: round(loss_sum / count, 6) for name, loss_sum, count in totals if count},
            "loss_tokens": sum(self.token_counts),
            "grad_norm": round(info.grad_norm, 6),
        }


class ProgressReporter:
    """Progress reports at most every `REPORT_SECONDS`: call `report` when `is_due`."""

    def __init__(self, on_progress: ProgressCallback, *, total: int, unit: str, done: int = 0) -> None:
        self.on_progress, self.total, self.unit = on_progress, total, unit
        self.last_done, self.last_time = done, monotonic()

    @property
    def is_due(self) -> bool:
        return monotonic() - self.last_time >= REPORT_SECONDS

    def rate(self, done: int) -> float:
        """Units per second since the last report."""
        return (done - self.last_done) / max(1e-9, monotonic() - self.last_time)

    def report(self, done: int, *, record: Mapping[str, Any] | None = None, **metrics: float) -> None:
        self.on_progress(Progress(done=done, total=self.total, unit=self.unit, metrics=metrics, record=record or {}))
        self.last_done, self.last_time = done, monotonic()

    def note(self, text: str) -> None:
        """Show a line of text."""
        self.on_progress(Progress(done=self.last_done, total=self.total, unit=self.unit, note=text))
