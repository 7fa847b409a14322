"""What a running step reports: log.jsonl, the same bytes on every rerun, and progress on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from firstsight.site import Progress, ProgressCallback
from firstsight.train.loop import StepInfo

TARGET_LINES = 200
"""About how many lines a run writes."""
REPORT_SECONDS = 0.5
"""Least time between two progress reports."""


class MetricsLog:
    """log.jsonl: one line an interval, with the mean losses by source over the interval."""

    def __init__(self, out: Path, names: Sequence[str], *, steps: int) -> None:
        self.file, self.names, self.steps = out / "log.jsonl", tuple(names), steps
        self.interval = max(1, steps // TARGET_LINES)
        self.byte_size = 0
        self._clear()

    def _clear(self) -> None:
        self.loss_sums, self.token_counts = [0.0] * len(self.names), [0] * len(self.names)

    def state_dict(self) -> dict[str, Any]:
        """The whole state as plain JSON."""
        return {"size": self.byte_size, "sums": self.loss_sums, "counts": self.token_counts}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from a state, cutting later lines off the file; None starts over."""
        if state is not None:
            self.byte_size = state["size"]
            self.loss_sums, self.token_counts = list(state["sums"]), list(state["counts"])
        with self.file.open("ab") as log:
            log.truncate(self.byte_size)

    def add_step(self, info: StepInfo) -> None:
        """Add a step's losses; the last step of an interval or of the run writes a line."""
        for group in range(len(self.names)):
            self.loss_sums[group] += info.losses[group]
            self.token_counts[group] += info.loss_tokens[group]
        if info.step % self.interval == 0 or info.step == self.steps:
            with self.file.open("ab") as log:
                log.write(json.dumps(self._interval_record(info)).encode() + b"\n")
                self.byte_size = log.tell()
            self._clear()

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

    def report(self, done: int, **metrics: float) -> None:
        self.on_progress(Progress(done=done, total=self.total, unit=self.unit, metrics=metrics))
        self.last_done, self.last_time = done, monotonic()
