"""Where a finished study's time went: training, judging, making data, and neither.

    python benchmarks/study.py --scale cpu --out runs

Times come from the store's provenance (start and end of every step). The budget is every worker for as long as any
was at work: what no step used of it is waiting.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from firstsight.plan.graph import build_graph
from firstsight.plan.store import Store
from firstsight.workspace.study_functions import find_study_function

WORK = {
    "training": ("contrast", "encode", "pretrain", "midtrain", "finetune"),
    "judging": ("evaluate",),
    "data": ("vocabulary", "texts", "captions", "dialogues", "benchmarks", "prepare"),
}
GOAL = 0.10


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One step at work, in seconds since 1970."""

    kind: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def spans(study: str, scale: str, *, out: Path) -> list[Span]:
    """Every stored step of a study."""
    store = Store(out)
    found: list[Span] = []
    for step in build_graph(find_study_function(study).build(scale, seeds=None, options={})).steps:
        if store.has(step.address):
            note = store.provenance(step.address)
            began, ended = (datetime.fromisoformat(note[name]).timestamp() for name in ("started", "ended"))
            found.append(Span(kind=step.kind, began=began, ended=ended))
    return found


def busy(steps: Sequence[Span]) -> tuple[float, int]:
    """Seconds in which any step was at work, and the most steps that were at work at once."""
    moments = sorted([(one.began, 1) for one in steps] + [(one.ended, -1) for one in steps])
    total, now, most, since = 0.0, 0, 0, 0.0
    for at, change in moments:
        total += at - since if now else 0.0
        now, since = now + change, at
        most = max(most, now)
    return total, most


def main() -> None:
    """Print the shares, and whether overhead keeps to its goal."""
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--study", default="when")
    ask.add_argument("--scale", default="cpu")
    ask.add_argument("--out", type=Path, default=Path("runs"))
    asked = ask.parse_args()
    steps = spans(asked.study, asked.scale, out=asked.out) if (asked.out / "store.json").is_file() else []
    if not steps:
        raise SystemExit(f"no step of {asked.study} at {asked.scale} is stored under {asked.out}: run it first.")
    wall, workers = busy(steps)
    budget = wall * workers
    print(f"{asked.study} at {asked.scale}: {len(steps)} steps in {wall:.0f} s on {workers} workers")
    used = {name: sum(one.seconds for one in steps if one.kind in kinds) for name, kinds in WORK.items()}
    for name, seconds in {**used, "waiting": budget - sum(used.values())}.items():
        print(f"  {name:<10}{seconds:8.1f} s  {seconds / budget:6.1%}")
    for kind in dict.fromkeys(one.kind for one in steps):
        own = [one.seconds for one in steps if one.kind == kind]
        print(f"    {kind:<12}{len(own):4} steps  {sum(own):8.1f} s  {sum(own) / len(own):7.1f} s each")
    overhead = 1 - (used["training"] + used["judging"]) / budget
    print(f"neither training nor judging: {overhead:.1%} (goal: under {GOAL:.0%})")


if __name__ == "__main__":
    main()
