"""answers.html: questions, answers and scores of one checkpoint, or of two with their differences first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from firstsight.report.answers import AnswersTable
from firstsight.report.format import axis_limit, csp_hash, read_assets, render_template
from firstsight.report.pages.disagreements import TaskStats, compute_task_stats, draw_questions, rank_disagreements
from firstsight.report.pages.question_cards import QuestionCard, question_cards
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
    if len(tables) > 1:
        questions = rank_disagreements(*tables)
        page_questions = questions.head(max_questions)
    else:
        questions, page_questions = (draw_questions(tables[0], count=n) for n in (len(tables[0].rows), max_questions))
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
        missing_images=Counter(c.page_image for c in cards if c.image_name and isinstance(c.page_image, str)),
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


def _card_groups(cards: Sequence[QuestionCard], questions: pl.DataFrame) -> list[dict[str, Any]]:
    """Cards grouped by how two checkpoints differ, or by task; `total` also counts questions that have no card."""
    column = "kind" if cards and cards[0].kind in GROUP_TITLES else "task"
    totals, titles = Counter(questions.get_column(column)), GROUP_TITLES if column == "kind" else {}
    groups: dict[str, dict[str, Any]] = {}
    for card in cards:
        name = getattr(card, column)
        group = groups.setdefault(name, {"title": titles.get(name, name), "total": totals[name], "cards": []})
        group["cards"].append(card)
    return list(groups.values())


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
