"""A few questions with their image, truth and the answers of the best and the worst arm, for report.html.

Questions are not selected by content: tasks alternate, and within a task the order is that of a hash of the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, zip_longest
from typing import Any

import polars as pl

from firstsight.evaluate.metrics.boxes import BoundingBox, parse_box
from firstsight.report.answers import QUESTION_KEY
from firstsight.report.compare import ArmComparison
from firstsight.report.pages.thumbnails import Thumbnail, Thumbnails
from firstsight.report.results import ArmResult, arms_with_scores
from firstsight.report.table import STABLE

AnswerRow = Mapping[str, Any]
QuestionId = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleAnswer:
    """One arm's answer, with the image or without."""

    label: str
    address: str
    text: str
    score: float
    blind: bool
    box: BoundingBox | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSample:
    """One question with its image; boxes are shares of width and height."""

    task: str
    question: str
    prompt: str
    truth: str
    box: BoundingBox | None
    thumbnail: Thumbnail
    answers: tuple[SampleAnswer, ...]


def draw_samples(
    arms: Sequence[ArmResult], rows: pl.DataFrame, comparison: ArmComparison, *, count: int = 12
) -> list[AnswerSample]:
    """Up to `count` questions with images; fewer where answers or images are missing."""
    stable = rows.filter(task=STABLE, kind="vision", condition="sighted").sort("score", descending=True)
    labels, by_label = stable.get_column("label").to_list(), {arm.label: arm for arm in arms_with_scores(arms)}
    best_and_worst = [by_label[label] for label in dict.fromkeys(labels[:1] + labels[-1:])]
    if not best_and_worst or best_and_worst[0].benchmarks_dir is None:
        return []
    best = best_and_worst[0]
    sighted = [(arm, _answers_by_question(comparison.answers[arm.label], blind=False)) for arm in best_and_worst]
    blind = (best, _answers_by_question(comparison.answers[best.label], blind=True))
    thumbnails = Thumbnails()
    samples: list[AnswerSample] = []
    for question, row in _round_robin(sighted[0][1])[:count]:
        thumbnail = thumbnails.find(best.benchmarks_dir, row["task"], row["image"])
        if isinstance(thumbnail, str):
            continue
        answers = tuple(_sample_answer(arm, by_id[question]) for arm, by_id in (*sighted, blind) if question in by_id)
        texts = {name: row[name] for name in ("task", "question", "prompt", "truth")}
        samples.append(AnswerSample(**texts, box=parse_box(row["truth"]), thumbnail=thumbnail, answers=answers))
    thumbnails.close()
    return samples


def _answers_by_question(answers: pl.DataFrame, *, blind: bool) -> dict[QuestionId, AnswerRow]:
    rows = answers.filter(pl.col("image") != "", blind=blind)
    return dict(zip(rows.select(QUESTION_KEY).iter_rows(), rows.to_dicts(), strict=True))


def _round_robin(answers: Mapping[QuestionId, AnswerRow]) -> list[tuple[QuestionId, AnswerRow]]:
    """Questions with alternating tasks, each image once, in an order that depends on their names alone."""
    queues: dict[str, list[QuestionId]] = {}
    for question in sorted(answers, key=lambda question: sha256("/".join(question).encode()).digest()):
        queues.setdefault(question[0], []).append(question)
    rounds = zip_longest(*(queues[task] for task in sorted(queues)))
    by_image: dict[str, tuple[QuestionId, AnswerRow]] = {}
    for question in filter(None, chain.from_iterable(rounds)):
        by_image.setdefault(answers[question]["image"], (question, answers[question]))
    return list(by_image.values())


def _sample_answer(arm: ArmResult, row: AnswerRow) -> SampleAnswer:
    values = {"text": row["answer"], "score": row["score"], "blind": row["blind"], "box": parse_box(row["answer"])}
    return SampleAnswer(label=arm.label, address=arm.address, **values)
