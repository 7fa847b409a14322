"""A few pictures with question, answers and truth: the same questions asked of the best and of the worst arm.

They are not chosen for their looks: tasks take turns, and within a task the order is that of a hash of the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import polars as pl

from firstsight.evaluate.metrics.boxes import BoundingBox, parse_box
from firstsight.report.compare import Comparison
from firstsight.report.pages.thumbnails import Thumbnail, Thumbnails
from firstsight.report.results import ArmResult, arms_with_scores
from firstsight.report.table import STABLE


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleAnswer:
    """What one arm answered, with its picture or without."""

    label: str
    address: str
    text: str
    score: float
    blind: bool
    box: BoundingBox | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSample:
    """One question with its picture as a data URI; boxes are shares of width and height."""

    task: str
    question: str
    prompt: str
    truth: str
    box: BoundingBox | None
    image_uri: str
    pixelated: bool
    answers: tuple[SampleAnswer, ...]


def draw_samples(
    arms: Sequence[ArmResult], rows: pl.DataFrame, comparison: Comparison, *, count: int = 12
) -> list[AnswerSample]:
    """Up to `count` questions with pictures; fewer where answers or pictures are missing."""
    best_and_worst = _best_and_worst(arms, rows)
    if not best_and_worst:
        return []
    best = best_and_worst[0]
    answers = {arm.label: _answers_by_question(comparison.answers[arm.label], blind=False) for arm in best_and_worst}
    blind_answers = _answers_by_question(comparison.answers[best.label], blind=True)
    if best.benchmarks_dir is None or not best.benchmarks_dir.is_dir():
        return []
    thumbnails = Thumbnails()
    samples: list[AnswerSample] = []
    for key, row in _round_robin(answers[best.label])[:count]:
        page_image = thumbnails.find(best.benchmarks_dir, row["task"], row["image"])
        if isinstance(page_image, str):
            continue
        sample_answers = [
            _sample_answer(arm, answers[arm.label][key]) for arm in best_and_worst if key in answers[arm.label]
        ]
        if key in blind_answers:
            sample_answers.append(_sample_answer(best, blind_answers[key]))
        samples.append(_answer_sample(row, page_image.thumbnail, sample_answers))
    thumbnails.close()
    return samples


def _best_and_worst(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[ArmResult]:
    row_filter = (pl.col("task") == STABLE) & (pl.col("kind") == "vision") & (pl.col("condition") == "sighted")
    ranked = rows.filter(row_filter).sort("score", descending=True).get_column("label").to_list()
    by_label = {arm.label: arm for arm in arms_with_scores(arms)}
    return [by_label[label] for label in dict.fromkeys(ranked[:1] + ranked[-1:])]


def _answers_by_question(answers: pl.DataFrame, *, blind: bool) -> dict[tuple[str, str], dict[str, Any]]:
    rows = answers.filter((pl.col("blind") == blind) & (pl.col("image") != ""))
    return {(row["task"], row["question"]): row for row in rows.to_dicts()}


def _round_robin(answers: Mapping[tuple[str, str], dict[str, Any]]) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """Questions with tasks taking turns, each picture once, in an order that only their names decide."""
    queues: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(answers, key=lambda key: sha256("/".join(key).encode()).digest()):
        queues.setdefault(key[0], []).append(key)
    used_images: set[str] = set()
    questions = []
    for turn in range(max((len(queue) for queue in queues.values()), default=0)):
        for task in sorted(queues):
            if turn < len(queues[task]) and answers[queues[task][turn]]["image"] not in used_images:
                row = answers[queues[task][turn]]
                used_images.add(row["image"])
                questions.append((queues[task][turn], row))
    return questions


def _sample_answer(arm: ArmResult, row: Mapping[str, Any]) -> SampleAnswer:
    answer, blind = row["answer"], row["blind"]
    return SampleAnswer(
        label=arm.label, address=arm.address, text=answer, score=row["score"], blind=blind, box=parse_box(answer)
    )


def _answer_sample(row: Mapping[str, Any], thumbnail: Thumbnail, answers: list[SampleAnswer]) -> AnswerSample:
    return AnswerSample(
        task=row["task"],
        question=row["question"],
        prompt=row["prompt"],
        truth=row["truth"],
        box=parse_box(row["truth"]),
        image_uri=thumbnail.uri,
        pixelated=thumbnail.pixelated,
        answers=tuple(answers),
    )
