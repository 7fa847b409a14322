"""log.jsonl: one line an interval with means over it, the same bytes on every rerun."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstsight.train.loop import StepInfo

TARGET_LINES = 200
"""About how many lines a run writes."""


class MetricsLog:
    """Losses by kind of row since the last line; its whole state is `notes()`."""

    def __init__(self, out: Path, names: Sequence[str], *, steps: int) -> None:
        self.file, self.names, self.steps = out / "log.jsonl", tuple(names), steps
        self.interval = max(1, steps // TARGET_LINES)
        self.byte_size = 0
        self.loss_sums: list[float] = []
        self.token_counts: list[int] = []
        self._clear()

    def _clear(self) -> None:
        self.loss_sums, self.token_counts = [0.0] * len(self.names), [0] * len(self.names)

    def state_dict(self) -> dict[str, Any]:
        """All that `open` needs, as plain JSON."""
        return {"size": self.byte_size, "sums": self.loss_sums, "counts": self.token_counts}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from `notes` and cut the log back to where they were taken, or start over."""
        if state is not None:
            self.byte_size, self.loss_sums, self.token_counts = (
                state["size"],
                list(state["sums"]),
                list(state["counts"]),
            )
        with self.file.open("ab") as log:
            log.truncate(self.byte_size)

    def add_step(self, info: StepInfo) -> None:
        """Add a step's losses; every interval's end and the last step write a line."""
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
