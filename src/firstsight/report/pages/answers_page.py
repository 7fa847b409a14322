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

from firstsight.report.pages.answer_text import escape_invisible, format_score
from firstsight.report.pages.answers_table import AnswersTable
from firstsight.report.pages.disagreements import draw_questions, rank_disagreements
from firstsight.report.pages.question_cards import QuestionCard, question_cards
from firstsight.report.pages.task_stats import TaskStats, compute_task_stats
from firstsight.report.pages.thumbnails import THUMBNAIL_SIDE, Thumbnails

GROUP_TITLES = {
    "score": "Scored differently",
    "words": "Same score, other words",
    "same": "Same answer",
    "unlike": "Not compared: the truths of the two files differ",
    "one": "Not compared: only one was asked",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CardGroup:
    """Questions under one heading."""

    title: str
    total: int
    """How many there are, shown or not."""
    cards: tuple[QuestionCard, ...]


def render_answers(
    tables: Sequence[AnswersTable], *, max_questions: int, task: str = "", credit_openmoji: bool = False
) -> str:
    """The page of one checkpoint, or of two with their differences on top, with at most `rows` questions.

    `task` is what the sheets were narrowed to, `credit` whether the pictures are made of OpenMoji drawings. Equal
    answers and pictures give equal text.
    """
    questions = _rank_questions(tables)
    page_questions = (
        questions.head(max_questions) if len(tables) > 1 else draw_questions(tables[0], count=max_questions)
    )
    thumbnails = Thumbnails()
    page_cards = list(question_cards(tables, page_questions, thumbnails))
    thumbnails.close()
    stats = compute_task_stats(tuple(tables), questions if len(tables) > 1 else page_questions)
    assets, style, script = files("firstsight.report.pages"), _read_css(), _read_asset("answers.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "seen": escape_invisible,
        "marked": format_score,
        "percent": _format_percent,
        "points": _format_points,
    }
    return environment.from_string((assets / "answers.html").read_text(encoding="utf-8")).render(
        names=[table.name for table in tables],
        sources=[(table.name, [str(file.path) for file in table.files]) for table in tables],
        task=task,
        rows=max_questions,
        credit=credit_openmoji and bool(thumbnails.page_images),
        summary=_summary_text(tables, stats),
        asked=len(questions),
        shown=len(page_cards),
        lacking=Counter(card.page_image for card in page_cards if card.image_name and isinstance(card.page_image, str)),
        tallies=stats,
        uncompared=any(row.kind_counts.get("unlike") or row.kind_counts.get("one") for row in stats),
        reach=_axis_limit(stats),
        held=any(card.has_heldout for card in page_cards),
        groups=_card_groups(page_cards, questions),
        prints=thumbnails.page_images,
        side=THUMBNAIL_SIDE,
        css=Markup(style),
        js=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _rank_questions(tables: Sequence[AnswersTable]) -> pl.DataFrame:
    """All questions, in the order of the page."""
    if len(tables) > 1:
        return rank_disagreements(tables[0], tables[1])
    return draw_questions(tables[0], count=len(tables[0].rows))


def _card_groups(page_cards: Sequence[QuestionCard], questions: pl.DataFrame) -> list[CardGroup]:
    """By how two checkpoints differ; by task where there is one."""
    column = "kind" if page_cards and page_cards[0].kind in GROUP_TITLES else "task"
    totals = Counter(questions.get_column(column))
    cards_by_group: dict[str, list[QuestionCard]] = {}
    for card in page_cards:
        cards_by_group.setdefault(card.kind if column == "kind" else card.task, []).append(card)
    return [
        CardGroup(
            title=GROUP_TITLES[group] if column == "kind" else group, total=totals[group], cards=tuple(group_cards)
        )
        for group, group_cards in cards_by_group.items()
    ]


def _summary_text(tables: Sequence[AnswersTable], stats: Sequence[TaskStats]) -> str:
    tasks = f"{len(stats)} task{'s' if len(stats) != 1 else ''}"
    if len(tables) == 1:
        questions = sum(score.questions for row in stats for score in row.scores if score)
        return f"What it answered to {questions:,} questions of {tasks}."
    first_better, second_better = (sum(row.better_counts[index] for row in stats) for index in (0, 1))
    reworded_count = sum(row.kind_counts.get("words", 0) for row in stats)
    identical_count = sum(row.kind_counts.get("same", 0) for row in stats)
    return (
        f"Of {sum(row.compared_count for row in stats):,} questions of {tasks} that both were asked, "
        f"{tables[0].name} scores more on {first_better:,} and {tables[1].name} on {second_better:,}. "
        f"On {reworded_count:,} they score the same with other words, on {identical_count:,} they answer the same."
    )


def _axis_limit(stats: Sequence[TaskStats]) -> float:
    """How far the strips of differences reach to either side of 0, in whole 5 points."""
    ends = [abs(end) for row in stats for end in (*(row.interval or ()), row.difference or 0.0)]
    return 0.05 * ceil(max([0.01, *ends]) / 0.05 - 1e-9)


def _read_css() -> str:
    return _read_asset("page.css") + _read_asset("answers.css")


def _read_asset(name: str) -> str:
    return (files("firstsight.report.pages") / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """What the page's own policy knows a style or a script by: nothing else runs."""
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def _format_percent(value: float | None) -> Any:
    return "" if value is None else f"{100 * value:.1f}".replace("-", "\N{MINUS SIGN}")


def _format_points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")
