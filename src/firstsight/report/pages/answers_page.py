"""answers.html: questions, answers and scores of one checkpoint, or of two with their differences first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from firstsight.report.answers import AnswersTable
from firstsight.report.format import axis_limit
from firstsight.report.pages.disagreements import TaskStats, compute_task_stats, draw_questions, rank_disagreements
from firstsight.report.pages.question_cards import QuestionCard, question_cards
from firstsight.report.pages.templates import csp_hash, read_assets, render_template
from firstsight.report.pages.thumbnails import THUMBNAIL_SIDE, Thumbnails

GROUP_TITLES = {
    "score": "Different scores",
    "wording": "Same score, different wording",
    "same": "Same answer",
    "truth": "Not compared: the truths in the two files differ",
    "unpaired": "Not compared: only one checkpoint has an answer",
}


def render_answers(
    tables: Sequence[AnswersTable], *, max_questions: int, task: str = "", credit_openmoji: bool = False
) -> str:
    """The page of one checkpoint, or of two with their differences first, with at most `max_questions` questions.

    `task`: the only task in `tables`, if any. `credit_openmoji`: the images are made of OpenMoji drawings. Equal
    answers and images give equal text.
    """
    questions, page_questions = _select_questions(tables, max_questions)
    thumbnails = Thumbnails()
    cards = list(question_cards(tables, page_questions, thumbnails))
    thumbnails.close()
    stats = compute_task_stats(tuple(tables), questions if len(tables) > 1 else page_questions)
    differences = [end for row in stats for end in (*(row.interval or ()), row.difference or 0.0)]
    css, js = read_assets("page.css", "answers.css"), read_assets("answers.js")
    return render_template(
        "answers.html",
        names=[table.name for table in tables],
        files=[(table.name, [str(file.path) for file in table.files]) for table in tables],
        task=task,
        max_questions=max_questions,
        summary=_summary_text(tables, stats),
        question_count=len(questions),
        card_count=len(cards),
        missing_images=Counter(
            card.page_image for card in cards if card.image_name and isinstance(card.page_image, str)
        ),
        stats=stats,
        has_uncompared=any(row.kind_counts.get("truth") or row.kind_counts.get("unpaired") for row in stats),
        axis_limit=axis_limit(differences),
        has_heldout=any(card.has_heldout for card in cards),
        groups=_card_groups(cards, questions),
        page_images=thumbnails.page_images,
        thumbnail_side=THUMBNAIL_SIDE,
        credit_openmoji=credit_openmoji and bool(thumbnails.page_images),
        css=css,
        js=js,
        style_hash=csp_hash(css),
        script_hash=csp_hash(js),
    )


def _select_questions(tables: Sequence[AnswersTable], count: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All questions, and those on the page in their order."""
    if len(tables) > 1:
        questions = rank_disagreements(tables[0], tables[1])
        return questions, questions.head(count)
    return draw_questions(tables[0], count=len(tables[0].rows)), draw_questions(tables[0], count=count)


def _card_groups(cards: Sequence[QuestionCard], questions: pl.DataFrame) -> list[dict[str, Any]]:
    """Cards grouped by how two checkpoints differ, or by task; `total` also counts questions that have no card."""
    column = "kind" if cards and cards[0].kind in GROUP_TITLES else "task"
    totals = Counter(questions.get_column(column))
    grouped: dict[str, list[QuestionCard]] = {}
    for card in cards:
        grouped.setdefault(getattr(card, column), []).append(card)
    titles = GROUP_TITLES if column == "kind" else {}
    return [
        {"title": titles.get(group, group), "total": totals[group], "cards": members}
        for group, members in grouped.items()
    ]


def _summary_text(tables: Sequence[AnswersTable], stats: Sequence[TaskStats]) -> str:
    tasks = f"{len(stats)} task{'s' if len(stats) != 1 else ''}"
    if len(tables) == 1:
        questions = sum(score.questions for row in stats for score in row.scores if score)
        return f"Answers to {questions:,} questions of {tasks}."
    first_better, second_better = (sum(row.better_counts[index] for row in stats) for index in (0, 1))
    reworded, identical = (sum(row.kind_counts.get(kind, 0) for row in stats) for kind in ("wording", "same"))
    return (
        f"Of {sum(row.compared_count for row in stats):,} questions of {tasks} that both answered, "
        f"{tables[0].name} scores more on {first_better:,} and {tables[1].name} on {second_better:,}. "
        f"On {reworded:,} they score the same with different wording, on {identical:,} their answers are the same."
    )
