"""GQA: compositional questions, one right answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from firstsight.evaluate.metrics.exact_match import EXACT_MATCH
from firstsight.evaluate.task import PublishedVersion, Question, Task, record_tags, single_file
from firstsight.evaluate.tasks.records import (
    BenchmarkRecord,
    first_text_field,
    read_benchmark_records,
    require_unique_ids,
    text_field,
)
from firstsight.evaluate.tasks.vqav2 import SHORT_ANSWER_PROMPT

_ID_KEYS = ("question_id", "questionId", "id")
_IMAGE_KEYS = ("imageId", "image_id", "image")


def read_gqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """GQA's own file: {question id: {"imageId", "question", "answer"}}; or a list or lines that hold their ids."""
    path = single_file(paths, "GQA's questions of one split")
    return require_unique_ids([_question(record) for record in read_benchmark_records(path)], paths)


def _question(record: BenchmarkRecord) -> Question:
    row, location = record.fields, record.location
    return Question(
        id=first_text_field(row, _ID_KEYS, location) if record.key is None else record.key,
        text=text_field(row, "question", location),
        truth=text_field(row, "answer", location),
        image=first_text_field(row, _IMAGE_KEYS, location),
        choices=(),
        split="",
        tags=record_tags(row),
    )


GQA = Task(
    name="gqa",
    kind="vision",
    answer_type="words",
    metric=EXACT_MATCH,
    chance=0.25,
    baseline=0.25,
    read_questions=read_gqa,
    prompt_templates={"bare": "{q}", "paper": SHORT_ANSWER_PROMPT},
    version=1,
    published=(
        PublishedVersion(name="GQA testdev_balanced", split_sizes={"": 12578}),
        PublishedVersion(name="testdev_all", split_sizes={"": 172174}),
        PublishedVersion(name="val_balanced", split_sizes={"": 132062}),
        PublishedVersion(name="train_balanced", split_sizes={"": 943000}),
    ),
)
