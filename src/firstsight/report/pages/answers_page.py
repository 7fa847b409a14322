"""answers.html: questions, answers and scores of one checkpoint, or of two with their differences first.

Questions are compared in the condition that both checkpoints have: with the image if possible, else without. Ties are
ordered by alternating tasks and, within a task, by a hash of the question, so that the page does not depend
on the order of the files, and pages of different checkpoints show the same questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from firstsight.evaluate.statistics.bootstrap import ClusteredScores, bca_interval, cluster_scores
from firstsight.report.answers import QUESTION_KEY, AnswersTable, text_digest
from firstsight.report.format import axis_limit, csp_hash, read_assets, render_template
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


COMPARED_KINDS = ("score", "wording", "same")
"""Different scores; the same score with different answers; the same answer."""
DISAGREEMENT_KINDS = (*COMPARED_KINDS, "truth", "unpaired")
"""The last two cannot be compared: the truth differs between the files, or only one checkpoint has an answer."""
SINGLE_CHECKPOINT = "single"


def rank_disagreements(first: AnswersTable, second: AnswersTable) -> pl.DataFrame:
    """Every question once, in page order; columns task, question, kind, blind, difference (first minus second)."""
    columns = ["blind", "score", "answer", "truth", *QUESTION_KEY]
    a, b = (table.rows.select(columns) for table in (first, second))
    pairs = a.join(b, on=[*QUESTION_KEY, "blind"], suffix="_b").sort("blind")
    pairs = pairs.unique(QUESTION_KEY, keep="first", maintain_order=True)
    # Scores are stored to nine decimal places; smaller differences are rounding.
    pairs = pairs.with_columns(difference=(pl.col("score") - pl.col("score_b")).round(9))
    questions = pl.concat([a.select(QUESTION_KEY), b.select(QUESTION_KEY)]).unique(QUESTION_KEY, maintain_order=True)
    truth_differs, answer_differs = pl.col("truth") != pl.col("truth_b"), pl.col("answer") != pl.col("answer_b")
    kind = pl.when(truth_differs).then(pl.lit("truth")).when(pl.col("difference") != 0).then(pl.lit("score"))
    kind = kind.when(answer_differs).then(pl.lit("wording")).otherwise(pl.lit("same"))
    pairs = pairs.select(*QUESTION_KEY, "blind", "difference", kind=kind)
    ranking = _with_order(questions.join(pairs, on=QUESTION_KEY, how="left", maintain_order="left"))
    ranking = ranking.with_columns(pl.col("kind").fill_null("unpaired"), pl.col("difference").fill_null(0.0))
    ranks = {kind: rank for rank, kind in enumerate(DISAGREEMENT_KINDS)}
    ranking = ranking.with_columns(group=pl.col("kind").replace_strict(ranks), size=pl.col("difference").abs())
    ranking = ranking.with_columns(task_rank=pl.col("hash").rank("ordinal").over("group", "size", "task"))
    ranking = ranking.sort("group", "size", "task_rank", "order", descending=[False, True, False, False])
    return ranking.select(*QUESTION_KEY, "kind", "blind", "difference")


def draw_questions(table: AnswersTable, *, count: int) -> pl.DataFrame:
    """At most `count` questions of a checkpoint, drawn with alternating tasks, sorted by task; the same columns."""
    questions = table.rows.sort("blind", maintain_order=True).unique(QUESTION_KEY, keep="first", maintain_order=True)
    ranking = _with_order(questions.select(*QUESTION_KEY, "blind"))
    ranking = ranking.with_columns(task_rank=pl.col("hash").rank("ordinal").over("task"))
    drawn = ranking.sort("task_rank", "order").head(count).sort("order", "task_rank")
    return drawn.select(*QUESTION_KEY, kind=pl.lit(SINGLE_CHECKPOINT), blind="blind", difference=pl.lit(0.0))


def _with_order(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with the hash of every question, and the position of its task in the files (`order`)."""
    tasks = rows.get_column("task").unique(maintain_order=True)
    order = pl.col("task").replace_strict(tasks, range(len(tasks)), return_dtype=pl.Int64)
    hashes = [text_digest("\0".join(key)) for key in rows.select(QUESTION_KEY).iter_rows()]
    return rows.with_columns(order=order, hash=pl.Series(hashes, dtype=pl.UInt64))


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """One checkpoint's score on one task."""

    questions: int
    sighted: float | None
    """With the image, or of a text task; None where there are only answers without the image."""
    blind: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStats:
    """One task on answers.html. With one checkpoint, all but task, scores and kind_counts is None or zero."""

    task: str
    scores: tuple[TaskScore | None, ...]
    """None for a checkpoint without answers to this task."""
    compared_count: int
    difference: float | None
    """First minus second, over the questions that both answered, with the same truth and condition."""
    interval: tuple[float, float] | None
    """95 % over questions, paired; it does not cover another seed."""
    better_counts: tuple[int, int]
    """Questions on which the first, and the second, checkpoint scores more."""
    kind_counts: Mapping[str, int]


def compute_task_stats(tables: tuple[AnswersTable, ...], questions: pl.DataFrame) -> list[TaskStats]:
    """One entry for each task, in the order of the files; `questions` from rank_disagreements or draw_questions."""
    tasks = pl.concat([table.rows.get_column("task") for table in tables]).unique(maintain_order=True)
    return [_task_stats(task, tables, questions.filter(task=task)) for task in tasks]


def _task_stats(task: str, tables: tuple[AnswersTable, ...], questions: pl.DataFrame) -> TaskStats:
    compared = questions.filter(pl.col("kind").is_in(COMPARED_KINDS))
    joined = compared.join(tables[0].rows, on=[*QUESTION_KEY, "blind"], how="left", maintain_order="left")
    paired_scores = _question_scores(joined, "difference") if len(compared) else None
    differences = compared.get_column("difference")
    return TaskStats(
        task=task,
        scores=tuple(_task_score(table.rows.filter(task=task)) for table in tables),
        compared_count=len(compared),
        difference=paired_scores and paired_scores.mean,
        interval=paired_scores and bca_interval(paired_scores, bounds=(-1.0, 1.0)),
        better_counts=(int((differences > 0).sum()), int((differences < 0).sum())),
        kind_counts=Counter(questions.get_column("kind")),
    )


def _task_score(rows: pl.DataFrame) -> TaskScore | None:
    if rows.is_empty():
        return None
    parts = [rows.filter(blind=blind) for blind in (False, True)]
    sighted, blind = (None if part.is_empty() else _question_scores(part, "score").mean for part in parts)
    return TaskScore(questions=rows.select(QUESTION_KEY).n_unique(), sighted=sighted, blind=blind)


def _question_scores(rows: pl.DataFrame, column: str) -> ClusteredScores:
    clusters = rows.select(pl.when(pl.col("image") == "").then("question").otherwise("image")).to_series().to_list()
    return cluster_scores(rows[column].to_list(), clusters=clusters, splits=rows["split"].to_list())
