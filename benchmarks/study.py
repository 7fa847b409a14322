"""Worker time of a finished study by activity: training, evaluation, data preparation and idle time.

    python benchmarks/study.py --scale cpu --out runs

Times come from the store's provenance (start and end of each step). The budget is the number of workers times the
wall-clock time in which at least one step ran. Budget that no step used is idle time. Training steps also have their
tokens per second and waiting for data, from `logs/<address>.metrics.jsonl`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from firstsight.plan.graph import build_graph
from firstsight.plan.store import Store
from firstsight.workspace.study_functions import find_study_function

STEP_KINDS = {
    "training": ("contrast", "encode", "pretrain", "midtrain", "finetune"),
    "evaluation": ("evaluate",),
    "data": ("vocabulary", "texts", "captions", "dialogues", "benchmarks", "prepare"),
}
OVERHEAD_TARGET = 0.10


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Start and end of a step in seconds since the epoch."""

    kind: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def load_spans(study: str, scale: str, *, out: Path) -> list[Span]:
    """The spans of all stored steps of a study."""
    store = Store(out)
    spans: list[Span] = []
    for step in build_graph(find_study_function(study).build(scale, seeds=None, options={})).steps:
        if store.has(step.address):
            provenance = store.provenance(step.address)
            start, end = (datetime.fromisoformat(provenance[name]).timestamp() for name in ("started", "ended"))
            spans.append(Span(kind=step.kind, start=start, end=end))
    return spans


def load_speeds(study: str, scale: str, *, out: Path) -> dict[str, tuple[float, float]]:
    """By kind of training step: tokens per second, and the share of the time that waits for data."""
    totals: dict[str, tuple[float, float, float]] = {}
    for step in build_graph(find_study_function(study).build(scale, seeds=None, options={})).steps:
        path = out / "logs" / f"{step.address}.metrics.jsonl"
        for line in map(json.loads, path.read_text().splitlines() if path.is_file() else ()):
            tokens, seconds, waited = totals.get(step.kind, (0.0, 0.0, 0.0))
            tokens += line["tokens_per_second"] * line["seconds"]
            totals[step.kind] = (tokens, seconds + line["seconds"], waited + line["data_wait_seconds"])
    return {kind: (tokens / seconds, waited / seconds) for kind, (tokens, seconds, waited) in totals.items()}


def busy_seconds(steps: Sequence[Span]) -> tuple[float, int]:
    """Seconds in which at least one step ran, and the maximum number of concurrent steps."""
    events = sorted([(span.start, 1) for span in steps] + [(span.end, -1) for span in steps])
    total, concurrent, max_concurrent, previous_time = 0.0, 0, 0, 0.0
    for time, change in events:
        total += time - previous_time if concurrent else 0.0
        concurrent, previous_time = concurrent + change, time
        max_concurrent = max(max_concurrent, concurrent)
    return total, max_concurrent


def main() -> None:
    """Print the shares of the budget and the overhead."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--study", default="when")
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args()
    steps = load_spans(args.study, args.scale, out=args.out) if (args.out / "store.json").is_file() else []
    if not steps:
        raise SystemExit(f"{args.out}: no step of {args.study} at {args.scale}. Run the study first.")
    wall, workers = busy_seconds(steps)
    budget = wall * workers
    print(f"{args.study} at {args.scale}: {len(steps)} steps in {wall:.0f} s on {workers} workers")
    totals = {name: sum(span.seconds for span in steps if span.kind in kinds) for name, kinds in STEP_KINDS.items()}
    for name, seconds in {**totals, "idle": budget - sum(totals.values())}.items():
        print(f"  {name:<10}{seconds:8.1f} s  {seconds / budget:6.1%}")
    for kind in dict.fromkeys(span.kind for span in steps):
        durations = [span.seconds for span in steps if span.kind == kind]
        print(
            f"    {kind:<12}{len(durations):4} steps  {sum(durations):8.1f} s  "
            f"mean {sum(durations) / len(durations):7.1f} s"
        )
    for kind, (speed, waiting) in load_speeds(args.study, args.scale, out=args.out).items():
        print(f"    {kind:<12}{speed:14,.0f} tokens/s, {waiting:.1%} of it waiting for data")
    overhead = 1 - (totals["training"] + totals["evaluation"]) / budget
    print(f"neither training nor evaluation: {overhead:.1%} (target: under {OVERHEAD_TARGET:.0%})")


if __name__ == "__main__":
    main()
