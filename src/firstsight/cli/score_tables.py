"""A verdict as it stands in a terminal: scores, what they stand above, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def scores(tasks: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a task: what it scored with pictures."""
    head = ("task", "metric", "questions", "unreadable", "score", "95 % interval", "chance")
    return [
        head,
        *(
            (
                name,
                str(facts["metric"]),
                f"{facts['n']:,}",
                f"{facts['unreadable']:,}",
                _number(facts["score"]),
                _between(facts["interval"]),
                _number(facts["chance"]),
            )
            for name, facts in tasks.items()
        ),
    ]


def baselines(tasks: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a task: what is scored without eyes, and how far the score stands above it; no column that is empty."""
    known = {"blind": "blind", "text_only": "text only", "question_blind": "question-blind"}
    told = [key for key in known if any(facts[key] is not None for facts in tasks.values())]
    head = ("task", *(word for key in told for word in (known[key], "above it", "95 % of that")))
    rows = [(name, *(cell for key in told for cell in _above(facts, key))) for name, facts in tasks.items()]
    return [head, *rows] if told else []


def _above(facts: Mapping[str, Any], key: str) -> tuple[str, str, str]:
    over = facts["over"].get(key)
    return (
        _number(facts[key]),
        "" if over is None else f"{over['difference']:+.3f}",
        "" if over is None else _between(over["interval"]),
    )


def which(tasks: Mapping[str, Any]) -> Iterator[str]:
    """A line a task: which published version its questions are, which were not asked, and how boxes were read."""
    for name, facts in tasks.items():
        left = ", ".join(f"{count:,} {why}" for why, count in facts.get("left_out", {}).items())
        told = (facts["asked"], f"left out: {left}" if left else "", facts.get("boxes", ""))
        yield f"{name}: " + "; ".join(part for part in told if part)


def means(found: Mapping[str, Any]) -> Iterator[str]:
    """A line a kind of task that was asked; a mean that lacks tasks says which."""
    for kind in ("vision", "text"):
        if found["stable"][kind] is None:
            continue
        told = ", ".join(f"{name} {found[name][kind]:.4f}" for name in ("stable", "centred", "raw"))
        lacks = found["missing"][kind]
        yield f"{kind}: {told}" + (f"; INCOMPLETE, without {', '.join(lacks)}" if lacks else "")


def _between(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"
