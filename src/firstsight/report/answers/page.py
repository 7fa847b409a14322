"""answers.html: one file that loads nothing; every word that others wrote is escaped by the template."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from math import ceil
from typing import Any

import polars as pl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from firstsight.report.answers.album import SIDE, Album
from firstsight.report.answers.cards import Card, cards
from firstsight.report.answers.pairing import alone, paired
from firstsight.report.answers.sheet import Sheet
from firstsight.report.answers.tally import Tally, tallies
from firstsight.report.answers.wording import marked, seen

TITLES = {
    "score": "Scored differently",
    "words": "Same score, other words",
    "same": "Same answer",
    "unlike": "Not compared: the truths of the two files differ",
    "one": "Not compared: only one was asked",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Questions under one heading."""

    title: str
    total: int
    """How many there are, shown or not."""
    cards: tuple[Card, ...]


def render(sheets: Sequence[Sheet], *, rows: int, task: str = "", credit: bool = False) -> str:
    """The page of one checkpoint, or of two with their differences on top, with at most `rows` questions.

    `task` is what the sheets were narrowed to, `credit` whether the pictures are made of OpenMoji drawings. Equal
    answers and pictures give equal text.
    """
    every = _every(sheets)
    chosen = every.head(rows) if len(sheets) > 1 else alone(sheets[0], count=rows)
    album = Album()
    shown = list(cards(sheets, chosen, album))
    album.close()
    counted = tallies(tuple(sheets), every if len(sheets) > 1 else chosen)
    ours, style, script = files("firstsight.report.answers"), _style(), _text("answers", "answers.js")
    frame = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    frame.filters |= {"seen": seen, "marked": marked, "percent": _percent, "points": _points}
    return frame.from_string((ours / "answers.html").read_text(encoding="utf-8")).render(
        names=[sheet.name for sheet in sheets],
        sources=[(sheet.name, [str(one.answers) for one in sheet.kept]) for sheet in sheets],
        task=task,
        rows=rows,
        credit=credit and bool(album.prints),
        summary=_summary(sheets, counted),
        asked=len(every),
        shown=len(shown),
        lacking=Counter(card.picture for card in shown if card.image and isinstance(card.picture, str)),
        tallies=counted,
        uncompared=any(row.kinds.get("unlike") or row.kinds.get("one") for row in counted),
        reach=_reach(counted),
        held=any(card.held for card in shown),
        groups=_groups(shown, every),
        prints=album.prints,
        side=SIDE,
        css=Markup(style),
        js=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _every(sheets: Sequence[Sheet]) -> pl.DataFrame:
    """All questions, in the order of the page."""
    if len(sheets) > 1:
        return paired(sheets[0], sheets[1])
    return alone(sheets[0], count=len(sheets[0].rows))


def _groups(shown: Sequence[Card], every: pl.DataFrame) -> list[Group]:
    """By how two checkpoints differ; by task where there is one."""
    by = "kind" if shown and shown[0].kind in TITLES else "task"
    totals = Counter(every.get_column(by))
    found: dict[str, list[Card]] = {}
    for card in shown:
        found.setdefault(card.kind if by == "kind" else card.task, []).append(card)
    return [Group(title=TITLES[k] if by == "kind" else k, total=totals[k], cards=tuple(c)) for k, c in found.items()]


def _summary(sheets: Sequence[Sheet], counted: Sequence[Tally]) -> str:
    tasks = f"{len(counted)} task{'s' if len(counted) != 1 else ''}"
    if len(sheets) == 1:
        questions = sum(score.questions for row in counted for score in row.scores if score)
        return f"What it answered to {questions:,} questions of {tasks}."
    first, second = (sum(row.better[place] for row in counted) for place in (0, 1))
    words = sum(row.kinds.get("words", 0) for row in counted)
    same = sum(row.kinds.get("same", 0) for row in counted)
    return (
        f"Of {sum(row.compared for row in counted):,} questions of {tasks} that both were asked, "
        f"{sheets[0].name} scores more on {first:,} and {sheets[1].name} on {second:,}. "
        f"On {words:,} they score the same with other words, on {same:,} they answer the same."
    )


def _reach(counted: Sequence[Tally]) -> float:
    """How far the strips of differences reach to either side of 0, in whole 5 points."""
    ends = [abs(end) for row in counted for end in (*(row.interval or ()), row.difference or 0.0)]
    return 0.05 * ceil(max([0.01, *ends]) / 0.05 - 1e-9)


def _style() -> str:
    return _text("", "page.css") + _text("answers", "answers.css")


def _text(part: str, name: str) -> str:
    return (files("firstsight.report") / part / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the page's own policy knows a style or a script by: nothing else runs."""
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def _percent(value: float | None) -> Any:
    return "" if value is None else f"{100 * value:.1f}".replace("-", "\N{MINUS SIGN}")


def _points(value: float) -> str:
    told = f"{100 * value:+.1f}"
    return "0.0" if told in ("+0.0", "-0.0") else told.replace("-", "\N{MINUS SIGN}")
