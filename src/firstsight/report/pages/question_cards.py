"""One question as it was asked, answered and scored: what a page and a terminal show of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import polars as pl

from firstsight.errors import RequestError
from firstsight.evaluate.metrics.boxes import BoundingBox, iou, parse_box
from firstsight.report.pages.answer_text import (
    describe_box,
    escape_invisible,
    format_score,
    parse_truth_box,
    readable_answer,
)
from firstsight.report.pages.answers_table import Answer, AnswersTable
from firstsight.report.pages.disagreements import QUESTION_KEY
from firstsight.report.pages.thumbnails import PageImage, Thumbnails

RIGHT_SCORE = 0.5
"""Least score that counts as right, as in the report."""
HELDOUT_TAG = "heldout"
"""What a tag of a question says that is of a part held out of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAnswer:
    """What one checkpoint said in one condition."""

    checkpoint_index: int
    """0 for the first checkpoint, 1 for the second."""
    blind: bool
    text: str
    score: float
    readable: bool
    box: BoundingBox | None
    """Of a seeing answer where the truth is a box."""
    overlap: float | None
    """Of that box with the true one."""
    prompt: str
    """Where it is not the card's own."""
    truth: str
    """Where it is not the card's own."""

    @property
    def is_right(self) -> bool:
        return self.score >= RIGHT_SCORE

    @property
    def score_text(self) -> str:
        return format_score(self.score)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionCard:
    """One question with everything that was answered to it."""

    task: str
    question: str
    kind: str
    difference: float
    prompt: str
    truth: str
    box: BoundingBox | None
    image_name: str
    """The picture's name; empty for text."""
    page_image: PageImage | str
    """The picture, or why it is not shown."""
    tags: tuple[str, ...]
    """What was held out of training, and the split."""
    has_heldout: bool
    """Some part of it was held out of training, as the benchmark says."""
    answers: tuple[ModelAnswer, ...]

    @property
    def anchor(self) -> str:
        """Where the page's address leads to it: #task/id, with letters that an address cannot hold written as %20."""
        return question_anchor(self.task, self.question)

    @property
    def conditions(self) -> tuple[bool, ...]:
        """Blind or not, whichever was asked."""
        return tuple(sorted({answer.blind for answer in self.answers}))

    def answer(self, checkpoint_index: int, blind: bool) -> ModelAnswer | None:
        """What checkpoint `who` said in that condition, if it was asked."""
        return next(
            (answer for answer in self.answers if (answer.checkpoint_index, answer.blind) == (checkpoint_index, blind)),
            None,
        )

    @property
    def image_description(self) -> str:
        """The picture in words: its name and where the boxes lie."""
        boxes = [("truth", self.box), *(("AB"[answer.checkpoint_index], answer.box) for answer in self.answers)]
        return "; ".join(
            [
                f"picture {escape_invisible(self.image_name)}",
                *(f"{label}: {describe_box(box)}" for label, box in boxes if box),
            ]
        )


def question_anchor(task: str, question: str) -> str:
    """Where the page's address leads to a question."""
    return f"{quote(task, safe='')}/{quote(question, safe='')}"


def question_cards(
    tables: Sequence[AnswersTable], questions: pl.DataFrame, thumbnails: Thumbnails
) -> Iterator[QuestionCard]:
    """The chosen questions in their order, their lines read anew from the files."""
    locations = [_answer_locations(table, questions) for table in tables]
    for task, question, kind, _, difference in questions.iter_rows():
        answers = [
            (checkpoint_index, file, tables[checkpoint_index].read_answer(file, offset))
            for checkpoint_index, by_question in enumerate(locations)
            for file, offset in by_question.get((task, question), ())
        ]
        checkpoint_index, file, first_answer = answers[0]
        benchmarks = tables[checkpoint_index].files[file].benchmarks_of(task)
        page_image = (
            thumbnails.find(benchmarks, task, first_answer.image_name) if first_answer.image_name else "no picture"
        )
        yield _question_card(
            kind, difference, page_image, [(checkpoint_index, answer) for checkpoint_index, _, answer in answers]
        )


def _answer_locations(table: AnswersTable, questions: pl.DataFrame) -> dict[tuple[str, str], list[tuple[int, int]]]:
    locations: dict[tuple[str, str], list[tuple[int, int]]] = {}
    answer_rows = table.rows.join(questions.select(QUESTION_KEY), on=QUESTION_KEY, how="semi").sort(
        "blind", maintain_order=True
    )
    for task, question, file, offset in answer_rows.select(*QUESTION_KEY, "file", "at").iter_rows():
        locations.setdefault((task, question), []).append((file, offset))
    return locations


def _question_card(
    kind: str, difference: float, page_image: PageImage | str, answers: Sequence[tuple[int, Answer]]
) -> QuestionCard:
    first_answer = answers[0][1]
    return QuestionCard(
        task=first_answer.task,
        question=first_answer.question,
        kind=kind,
        difference=difference,
        prompt=first_answer.prompt,
        truth=_truth_text(first_answer),
        box=parse_truth_box(first_answer.truth),
        image_name=first_answer.image_name,
        page_image=page_image,
        tags=(
            *(f"{tag} held out" for tag, value in first_answer.tags if value == HELDOUT_TAG),
            *filter(None, [first_answer.split]),
        ),
        has_heldout=any(value == HELDOUT_TAG for _, value in first_answer.tags),
        answers=tuple(_model_answer(checkpoint_index, answer, first_answer) for checkpoint_index, answer in answers),
    )


def _truth_text(answer: Answer) -> str:
    return readable_answer(answer.truth if isinstance(answer.truth, str) else _json_text(answer.truth))


def _json_text(truth: object) -> str:
    return "" if truth is None else json.dumps(truth, ensure_ascii=False)


def _model_answer(checkpoint_index: int, answer: Answer, first_answer: Answer) -> ModelAnswer:
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
        prompt="" if answer.prompt == first_answer.prompt else answer.prompt,
        truth="" if answer.truth == first_answer.truth else _truth_text(answer),
    )


def _card_lines(card: QuestionCard, names: Sequence[str]) -> list[str]:
    """One question as lines for a terminal."""
    image_lines = [_labelled_line("picture", card.image_name)] if card.image_name else []
    lines = [
        f"{escape_invisible(card.task)}/{escape_invisible(card.question)}",
        *image_lines,
        _labelled_line("prompt", card.prompt),
    ]
    lines.append(_labelled_line("truth", card.truth))
    for answer in card.answers:
        condition = " without the picture" if answer.blind else ""
        notes = [f"score {answer.score_text}"]
        notes += [f"overlap {answer.overlap:.2f}"] if answer.overlap is not None else []
        notes += [] if answer.readable else ["unreadable"]
        lines += [
            _labelled_line(f"  {name}", text)
            for name, text in (("prompt", answer.prompt), ("truth", answer.truth))
            if text
        ]
        lines.append(
            _labelled_line(
                f"{names[answer.checkpoint_index]}{condition}", f"{answer.text or '(nothing)'}  [{', '.join(notes)}]"
            )
        )
    return lines


def _labelled_line(name: str, text: str) -> str:
    return f"{name}: " + escape_invisible(text).replace("\n", "\n    ")


def question_lines(tables: Sequence[AnswersTable], question_id: str) -> list[str]:
    """Every question whose id, or whose task/id, is `wanted`, as lines for a terminal; RequestError where none is."""
    full_ids = pl.concat_str("task", pl.lit("/"), "question")
    keys = pl.concat([table.rows.select(QUESTION_KEY) for table in tables]).unique(QUESTION_KEY, maintain_order=True)
    matches = keys.filter((pl.col("question") == question_id) | (full_ids == question_id))
    if matches.is_empty():
        examples = ", ".join("/".join(key) for key in keys.unique("task", maintain_order=True).iter_rows())
        raise RequestError(
            f"{question_id}: wanted the id of a question. Got none that was answered. They look like {examples}."
        )
    questions = matches.with_columns(kind=pl.lit(""), blind=pl.lit(None), difference=pl.lit(0.0))
    thumbnails, names = Thumbnails(), [table.name for table in tables]
    lines = [line for card in question_cards(tables, questions, thumbnails) for line in (*_card_lines(card, names), "")]
    thumbnails.close()
    return lines[:-1]
