"""VizWiz: questions of blind people, many of them unanswerable; judged, but outside the stable score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from firstsight.evaluate.metrics.vqa import VIZWIZ_ACCURACY as ITS_OWN
from firstsight.evaluate.task import (
    PublishedVersion,
    Question,
    Task,
    load_json,
    load_json_records,
    record_tags,
    require_key,
    single_file,
)
from firstsight.evaluate.tasks.records import find_file_with_key, require_unique_ids, text_field
from firstsight.evaluate.tasks.vqav2 import annotator_answers, join_vqa_files

_VIZWIZ_PROMPT = (
    "\n{q}\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)


def read_vizwiz(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form, or VizWiz's own list, whose items are known by their picture."""
    contents = {path: load_json(path) for path in paths}
    if find_file_with_key(contents, "questions") or find_file_with_key(contents, "annotations"):
        return join_vqa_files(contents)
    path = single_file(paths, "VizWiz's list of one split")
    questions: list[Question] = []
    for number, row in enumerate(load_json_records(path), start=1):
        location = f"{path}: record {number}"
        image_name = text_field(row, "image", location)
        questions.append(
            Question(
                id=text_field(row, "question_id", location) if "question_id" in row else image_name,
                text=text_field(row, "question", location),
                truth=annotator_answers(require_key(row, "answers", location), path),
                image=image_name,
                choices=(),
                split="",
                tags=record_tags(row),
            )
        )
    return require_unique_ids(questions, paths)


VIZWIZ = Task(
    name="vizwiz",
    kind="vision",
    answer_type="words",
    metric=ITS_OWN,
    chance=0.0,
    baseline=None,
    read_questions=read_vizwiz,
    prompt_templates={"bare": "{q}", "paper": _VIZWIZ_PROMPT},
    version=2,
    published=(
        PublishedVersion(name="VizWiz val", split_sizes={"": 4319}),
        PublishedVersion(name="train", split_sizes={"": 20523}),
    ),
)
