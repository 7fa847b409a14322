"""What followed a fault, and the table of the campaign."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.chaos.command import Attempt, Bench, published

from firstsight.leases import owned_name

Ending = Literal["same bytes", "named", "silent", "foreign", "stuck", "left over"]
"""same bytes: the same command ends with the bytes of the undisturbed run. named: it named the file and what to do, and
that led to these bytes. The others are failures: used in silence, a traceback, no way on, or files left behind."""
ENDINGS: tuple[Ending, ...] = ("same bytes", "named", "silent", "foreign", "stuck", "left over")
ACCEPTED = ("same bytes", "named")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What followed one fault."""

    study: str
    kind: str
    """The row of the table."""
    fault: str
    """The fault itself, to repeat it."""
    ending: Ending
    detail: str = ""


def difference(bench: Bench) -> str:
    """How the published files differ from those of the undisturbed run; empty if they are the same bytes."""
    expected, actual = published(bench.reference), published(bench.store)
    lines = [f"missing {name}" for name in expected.keys() - actual.keys()]
    lines += [f"unexpected {name}" for name in actual.keys() - expected.keys()]
    lines += [f"changed {name}" for name in expected.keys() & actual.keys() if expected[name] != actual[name]]
    return ", ".join(sorted(lines)[:6])


def left_over(store: Path) -> str:
    """Temporary files, and working folders of steps that are published; empty if there are none."""
    names = [path.relative_to(store).as_posix() for path in store.rglob(".*")]
    names += [
        f"work/{folder.name}"
        for folder in (store / "work").iterdir()
        if (store / "steps" / owned_name(folder)).exists()
    ]
    return ", ".join(sorted(names)[:6])


def settle(bench: Bench, attempts: Sequence[Attempt], *, tries: int = 1) -> tuple[Ending, str]:
    """Run the same command without faults, and judge what it leaves."""
    last = Attempt(1, "")
    for _ in range(tries):
        last = bench.run()
        if last.code == 0:
            break
    if any(attempt.has_traceback for attempt in (*attempts, last)):
        return "foreign", next(a.output for a in (*attempts, last) if a.has_traceback)[-2000:]
    if last.code:
        return "stuck", last.output[-2000:]
    if changes := difference(bench):
        return "silent", changes
    if names := left_over(bench.store):
        return "left over", names
    return "same bytes", ""


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """The counts of each ending by kind of fault, as lines of a Markdown table."""
    counts = Counter((outcome.kind, outcome.ending) for outcome in outcomes)
    kinds = sorted({kind for kind, _ in counts})
    shown = [ending for ending in ENDINGS if ending in ACCEPTED or any(counts[kind, ending] for kind in kinds)]
    rows = [["kind of fault", "faults", *shown], ["---", *["---:"] * (len(shown) + 1)]]
    for kind in kinds:
        row = [counts[kind, ending] for ending in shown]
        rows.append([kind, *map(str, (sum(row), *row))])
    totals = [sum(counts[kind, ending] for kind in kinds) for ending in shown]
    rows.append(["all", *map(str, (sum(totals), *totals))])
    return [f"| {' | '.join(row)} |" for row in rows]
