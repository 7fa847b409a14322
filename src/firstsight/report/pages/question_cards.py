"""Questions with their answers and scores: all for answers.html and the terminal, a few samples for report.html.

Samples are not selected by content: tasks alternate, and within a task the order is that of a hash of the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, zip_longest
from typing import Any
from urllib.parse import quote

import polars as pl

from firstsight.errors import RequestError
from firstsight.evaluate.metrics.boxes import BoundingBox, iou, parse_box
from firstsight.evaluate.result_files import StoredAnswer
from firstsight.report.answers import QUESTION_KEY, AnswersTable
from firstsight.report.format import describe_box, escape_invisible, format_score, parse_truth_box, readable_answer
from firstsight.report.pages.thumbnails import Thumbnail, Thumbnails
from firstsight.report.results import ArmResult, arms_with_scores
from firstsight.report.table import STABLE

CORRECT_SCORE = 0.5
"""Minimal score of a correct answer, as in the report."""
HELDOUT_TAG = "heldout"
"""Value of a question's tag for a part that was held out of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAnswer:
    """One checkpoint's answer in one condition."""

    checkpoint_index: int
    """0 for the first checkpoint, 1 for the second."""
    blind: bool
    text: str
    score: float
    readable: bool
    box: BoundingBox | None
    """The box of an answer with the image, where the truth is a box."""
    overlap: float | None
    """Intersection over union of that box with the true one."""
    prompt: str
    truth: str
    """Prompt and truth only where they differ from the card's."""

    @property
    def is_correct(self) -> bool:
        return self.score >= CORRECT_SCORE


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionCard:
    """One question with all its answers."""

    task: str
    question: str
    kind: str
    difference: float
    prompt: str
    truth: str
    box: BoundingBox | None
    image_name: str
    """Name of the image; empty for a text question."""
    page_image: Thumbnail | str
    tags: tuple[str, ...]
    """What was held out of training, and the split."""
    has_heldout: bool
    answers: tuple[ModelAnswer, ...]

    @property
    def anchor(self) -> str:
        """Id of the card, task/question with percent-encoding: the fragment of its URL."""
        return f"{quote(self.task, safe='')}/{quote(self.question, safe='')}"

    @property
    def conditions(self) -> tuple[bool, ...]:
        """The values of `blind` that occur, sighted first."""
        return tuple(sorted({answer.blind for answer in self.answers}))

    def answer(self, checkpoint_index: int, blind: bool) -> ModelAnswer | None:
        """One checkpoint's answer in one condition, if there is one."""
        return next((a for a in self.answers if (a.checkpoint_index, a.blind) == (checkpoint_index, blind)), None)

    @property
    def image_description(self) -> str:
        """The image's name and its boxes in words."""
        boxes = [("truth", self.box), *(("AB"[answer.checkpoint_index], answer.box) for answer in self.answers)]
        described = [f"{label}: {describe_box(box)}" for label, box in boxes if box]
        return "; ".join([f"image {escape_invisible(self.image_name)}", *described])


def question_cards(tables: Sequence[AnswersTable], rows: pl.DataFrame, thumbs: Thumbnails) -> Iterator[QuestionCard]:
    """Cards of `rows` (columns task, question, kind, blind, difference) in their order, read from the files."""
    locations = [_answer_locations(table, rows) for table in tables]
    for task, question, kind, _, difference in rows.iter_rows():
        answers = [
            (index, file, tables[index].read_answer(file, offset))
            for index, by_question in enumerate(locations)
            for file, offset in by_question.get((task, question), ())
        ]
        index, file, first = answers[0]
        benchmarks = tables[index].files[file].benchmarks_of(task)
        heldout = [f"{tag} held out" for tag, value in first.tags if value == HELDOUT_TAG]
        yield QuestionCard(
            task=task,
            question=question,
            kind=kind,
            difference=difference,
            prompt=first.prompt,
            truth=readable_answer(first.truth_text),
            box=parse_truth_box(first.truth),
            image_name=first.image_name,
            page_image=thumbs.find(benchmarks, task, first.image_name) if first.image_name else "no image",
            tags=(*heldout, *filter(None, [first.split])),
            has_heldout=bool(heldout),
            answers=tuple(_model_answer(index, answer, first) for index, _, answer in answers),
        )


def _answer_locations(table: AnswersTable, questions: pl.DataFrame) -> dict[tuple[str, str], list[tuple[int, int]]]:
    locations: dict[tuple[str, str], list[tuple[int, int]]] = {}
    rows = table.rows.join(questions.select(QUESTION_KEY), on=QUESTION_KEY, how="semi")
    rows = rows.sort("blind", maintain_order=True)
    for task, question, file, offset in rows.select(*QUESTION_KEY, "file", "offset").iter_rows():
        locations.setdefault((task, question), []).append((file, offset))
    return locations


def _model_answer(checkpoint_index: int, answer: StoredAnswer, first: StoredAnswer) -> ModelAnswer:
    truth_box = parse_truth_box(answer.truth)
    box = parse_box(answer.text) if truth_box and not answer.blind else None
    return ModelAnswer(
        checkpoint_index=checkpoint_index,
        blind=answer.blind,
        text=readable_answer(answer.text) if truth_box else answer.text,
        score=answer.score,
        readable=answer.readable,
        box=box,
        overlap=iou(box, truth_box) if box and truth_box else None,
        prompt="" if answer.prompt == first.prompt else answer.prompt,
        truth="" if answer.truth == first.truth else readable_answer(answer.truth_text),
    )


def question_lines(tables: Sequence[AnswersTable], question_id: str) -> list[str]:
    """Every question whose id or task/id is `question_id`, as terminal lines; RequestError where there is none."""
    full_ids = pl.concat_str("task", pl.lit("/"), "question")
    keys = pl.concat([table.rows.select(QUESTION_KEY) for table in tables]).unique(QUESTION_KEY, maintain_order=True)
    matches = keys.filter((pl.col("question") == question_id) | (full_ids == question_id))
    if matches.is_empty():
        examples = ", ".join(map("/".join, keys.unique("task", maintain_order=True).iter_rows()))
        message = "wanted the id of a question. Got none with an answer"
        raise RequestError(f"{question_id}: {message}. Ids look like {examples}.")
    questions = matches.with_columns(kind=pl.lit(""), blind=pl.lit(None), difference=pl.lit(0.0))
    thumbnails, names = Thumbnails(), [table.name for table in tables]
    lines = [line for card in question_cards(tables, questions, thumbnails) for line in (*_card_lines(card, names), "")]
    thumbnails.close()
    return lines[:-1]


def _card_lines(card: QuestionCard, names: Sequence[str]) -> Iterator[str]:
    yield f"{escape_invisible(card.task)}/{escape_invisible(card.question)}"
    lines = [("image", card.image_name)] * bool(card.image_name) + [("prompt", card.prompt), ("truth", card.truth)]
    for answer in card.answers:
        overlap = "" if answer.overlap is None else f", overlap {answer.overlap:.2f}"
        notes = f"score {format_score(answer.score)}{overlap}{'' if answer.readable else ', unreadable'}"
        lines += [line for line in (("  prompt", answer.prompt), ("  truth", answer.truth)) if line[1]]
        label = f"{names[answer.checkpoint_index]}{' without the image' if answer.blind else ''}"
        lines.append((label, f"{answer.text or '(nothing)'}  [{notes}]"))
    yield from (f"{label}: " + escape_invisible(text).replace("\n", "\n    ") for label, text in lines)


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


def draw_samples(arms: Sequence[ArmResult], rows: pl.DataFrame, *, count: int = 12) -> list[AnswerSample]:
    """Up to `count` questions with images; fewer where answers or images are missing."""
    stable = rows.filter(task=STABLE, kind="vision", condition="sighted").sort("score", descending=True)
    labels, by_label = stable.get_column("label").to_list(), {arm.label: arm for arm in arms_with_scores(arms)}
    best_and_worst = [by_label[label] for label in dict.fromkeys(labels[:1] + labels[-1:])]
    if not best_and_worst or best_and_worst[0].benchmarks_dir is None:
        return []
    best = best_and_worst[0]
    sighted = [(arm, _answers_by_question(arm, blind=False)) for arm in best_and_worst]
    blind = (best, _answers_by_question(best, blind=True))
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


def _answers_by_question(arm: ArmResult, *, blind: bool) -> dict[QuestionId, AnswerRow]:
    if arm.answers is None:
        return {}
    rows = arm.answers.filter(pl.col("image") != "", blind=blind)
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
