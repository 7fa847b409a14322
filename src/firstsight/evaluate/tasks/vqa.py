"""VQAv2, GQA and VizWiz: open questions with short answers; `kinds`, the synthetic world's diagnostic in VQAv2's form.

The VQA form is two files, {"questions": [...]} and {"annotations": [...]}, joined by `question_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.exact_match import EXACT_MATCH
from firstsight.evaluate.metrics.vqa import VIZWIZ_ACCURACY, VQA_ACCURACY
from firstsight.evaluate.task import Question, load_json, load_json_records, record_tags, require_key, single_file
from firstsight.evaluate.tasks.records import (
    SHORT_ANSWER_PROMPT,
    abbreviate_names,
    check_unique_ids,
    find_file_with_key,
    first_text_field,
    image_question,
    join_paths,
    read_benchmark_records,
    require_unique_ids,
    text_field,
    vision_task,
)

_GQA_ID_KEYS = ("question_id", "questionId", "id")
_GQA_IMAGE_KEYS = ("imageId", "image_id", "image")
_VIZWIZ_PROMPT = (
    "\n{q}\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)


def read_vqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form's two files, in any order."""
    return join_vqa_files({path: load_json(path) for path in paths})


def read_gqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """GQA's own file, {question id: {"imageId", "question", "answer"}}, or a list or JSON lines with ids."""
    path = single_file(paths, "GQA's questions of one split")
    return require_unique_ids(
        [
            image_question(
                record.fields,
                question_id=first_text_field(record.fields, _GQA_ID_KEYS, record.location)
                if record.key is None
                else record.key,
                text=text_field(record.fields, "question", record.location),
                truth=text_field(record.fields, "answer", record.location),
                image=first_text_field(record.fields, _GQA_IMAGE_KEYS, record.location),
            )
            for record in read_benchmark_records(path)
        ],
        paths,
    )


def read_vizwiz(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form, or VizWiz's own list, whose question ids are the image names."""
    contents = {path: load_json(path) for path in paths}
    if find_file_with_key(contents, "questions") or find_file_with_key(contents, "annotations"):
        return join_vqa_files(contents)
    path = single_file(paths, "VizWiz's list of one split")
    return require_unique_ids(
        [
            _vizwiz_question(row, f"{path}: record {number}", path)
            for number, row in enumerate(load_json_records(path), start=1)
        ],
        paths,
    )


def _vizwiz_question(row: Mapping[str, Any], location: str, path: Path) -> Question:
    image = text_field(row, "image", location)
    return image_question(
        row,
        question_id=text_field(row, "question_id", location) if "question_id" in row else image,
        text=text_field(row, "question", location),
        truth=annotator_answers(require_key(row, "answers", location), path),
        image=image,
    )


def join_vqa_files(contents: Mapping[Path, Any]) -> tuple[Question, ...]:
    """The questions of parsed files in the VQA form; DataError if a question or an annotation has no counterpart."""
    questions_path, annotations_path = _find_vqa_files(contents)
    annotations = _rows_by_id(contents[annotations_path]["annotations"], annotations_path)
    rows = _rows_by_id(contents[questions_path]["questions"], questions_path)
    for ids, problem, path, counterpart in (
        (rows.keys() - annotations.keys(), "questions have no annotation", questions_path, annotations_path),
        (annotations.keys() - rows.keys(), "annotations have no question", annotations_path, questions_path),
    ):
        if ids:
            raise DataError(
                f"{path}: {len(ids):,} {problem} in {counterpart.name}: {abbreviate_names(sorted(ids))}. "
                "Are both files of one split?"
            )
    questions = [
        Question(
            id=key,
            text=text_field(row, "question", questions_path),
            truth=annotator_answers(require_key(annotations[key], "answers", annotations_path), annotations_path),
            image=text_field(row, "image_id", questions_path),
            choices=(),
            split="",
            tags=record_tags(annotations[key]) | record_tags(row),
        )
        for key, row in rows.items()
    ]
    return require_unique_ids(questions, list(contents))


def _find_vqa_files(contents: Mapping[Path, Any]) -> tuple[Path, Path]:
    questions_path, annotations_path = (find_file_with_key(contents, key) for key in ("questions", "annotations"))
    extra_names = [path.name for path in contents if path not in (questions_path, annotations_path)]
    if questions_path is None or annotations_path is None or extra_names:
        pairs = (("questions", questions_path), ("annotations", annotations_path))
        problems = [f"no {kind}" for kind, path in pairs if path is None]
        problems += [f"{name} beside them" for name in extra_names]
        raise DataError(
            f"{join_paths(contents)}: wanted a file with questions and one with annotations. "
            f"Got {' and '.join(problems)}. Keep both files of one split, and nothing else, in the folder."
        )
    return questions_path, annotations_path


def _rows_by_id(rows: Any, path: Path) -> dict[str, dict[str, Any]]:
    ids = [text_field(row, "question_id", path) for row in rows]
    check_unique_ids(ids, path)
    return dict(zip(ids, rows, strict=True))


def annotator_answers(value: Any, path: Path) -> tuple[str, ...]:
    """All annotators' answers in order, from strings or from records with an `answer`."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{path}: a question without answers cannot be scored. Use a split with public answers.")
    # VQAv2 has two million answers, so text_field runs only if a value is no string.
    texts: list[Any] = [entry.get("answer") if isinstance(entry, dict) else entry for entry in value]
    if not all(isinstance(answer, str) for answer in texts):
        texts = [answer if isinstance(answer, str) else text_field(answer, "answer", path) for answer in value]
    return tuple(texts)


VQAV2 = vision_task(
    "vqav2",
    VQA_ACCURACY,
    read_vqa,
    prompt=SHORT_ANSWER_PROMPT,
    version=2,
    chance=0.25,
    baseline=0.25,
    published={"VQAv2 val2014": 214354, "train2014": 443757},
)
"""The baseline is the score of "yes" to every question."""

KINDS = vision_task("kinds", VQA_ACCURACY, read_vqa, prompt=SHORT_ANSWER_PROMPT, version=2)
"""Knowledge that occurs only in the synthetic texts, needed to answer about images; reported apart, in no mean."""

GQA = vision_task(
    "gqa",
    EXACT_MATCH,
    read_gqa,
    prompt=SHORT_ANSWER_PROMPT,
    version=1,
    chance=0.25,
    baseline=0.25,
    published={
        "GQA testdev_balanced": 12578,
        "testdev_all": 172174,
        "val_balanced": 132062,
        "train_balanced": 943000,
    },
)

VIZWIZ = vision_task(
    "vizwiz",
    VIZWIZ_ACCURACY,
    read_vizwiz,
    prompt=_VIZWIZ_PROMPT,
    version=2,
    published={"VizWiz val": 4319, "train": 20523},
)
"""Questions of blind people, many of them unanswerable; scored, but no part of the stable score."""
