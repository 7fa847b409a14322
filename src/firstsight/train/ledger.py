"""log.jsonl: one line an interval with means over it, the same bytes on every rerun."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstsight.train.loop import StepInfo

LINES = 200
"""About how many lines a run writes."""


class Ledger:
    """Losses by kind of row since the last line; its whole state is `notes()`."""

    def __init__(self, out: Path, names: Sequence[str], *, steps: int) -> None:
        self.file, self.names, self.steps = out / "log.jsonl", tuple(names), steps
        self.every = max(1, steps // LINES)
        self.size = 0
        self.sums: list[float] = []
        self.counts: list[int] = []
        self._clear()

    def _clear(self) -> None:
        self.sums, self.counts = [0.0] * len(self.names), [0] * len(self.names)

    def notes(self) -> dict[str, Any]:
        """All that `open` needs, as plain JSON."""
        return {"size": self.size, "sums": self.sums, "counts": self.counts}

    def open(self, notes: dict[str, Any] | None) -> None:
        """Go on from `notes` and cut the log back to where they were taken, or start over."""
        if notes is not None:
            self.size, self.sums, self.counts = notes["size"], list(notes["sums"]), list(notes["counts"])
        with self.file.open("ab") as log:
            log.truncate(self.size)

    def add(self, info: StepInfo) -> None:
        """Add a step's losses; every interval's end and the last step write a line."""
        for kind in range(len(self.names)):
            self.sums[kind] += info.losses[kind]
            self.counts[kind] += info.loss_tokens[kind]
        if info.step % self.every == 0 or info.step == self.steps:
            with self.file.open("ab") as log:
                log.write(json.dumps(self._line(info)).encode() + b"\n")
                self.size = log.tell()
            self._clear()

    def _line(self, info: StepInfo) -> dict[str, Any]:
        told = zip(self.names, self.sums, self.counts, strict=True)
        return {
            "step": info.step,
            "seen": info.seen,
            "lr": info.lr,
            "loss": round(sum(self.sums) / max(1, sum(self.counts)), 6),
            "losses": {name: round(total / count, 6) for name, total, count in told if count},
            "loss_tokens": sum(self.counts),
            "grad_norm": round(info.grad_norm, 6),
        }
