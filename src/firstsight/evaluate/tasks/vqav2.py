"""VQAv2: open questions, ten answers each; and `kinds`, the built-in world's diagnostic in the same form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.vqa import VQA_ACCURACY
from firstsight.evaluate.task import PublishedVersion, Question, Task, load_json, record_tags, require_key
from firstsight.evaluate.tasks.records import abbreviate_names, find_file_with_key, require_unique_ids, text_field

SHORT_ANSWER_PROMPT = "\n{q}\nAnswer the question using a single word or phrase."
"""The paper's wording. Source: paper 5.2."""


def read_vqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The challenge's two files, questions and annotations, in any order, joined by question id."""
    return join_vqa_files({path: load_json(path) for path in paths})


def join_vqa_files(contents: Mapping[Path, Any]) -> tuple[Question, ...]:
    """The VQA form out of files that are loaded; DataError where a question or an annotation stands alone."""
    questions_path, annotations_path = (
        find_file_with_key(contents, "questions"),
        find_file_with_key(contents, "annotations"),
    )
    unexpected_names = [path.name for path in contents if path not in (questions_path, annotations_path)]
    if questions_path is None or annotations_path is None or unexpected_names:
        names, mismatch = (
            ", ".join(str(path) for path in contents),
            _describe_mismatch(questions_path, annotations_path, unexpected_names),
        )
        raise DataError(
            f"{names}: wanted a file with questions and one with annotations. Got {mismatch}. "
            "Keep both files of one split, and nothing else, in the folder."
        )
    annotations = _rows_by_id(contents[annotations_path]["annotations"], annotations_path)
    rows = _rows_by_id(contents[questions_path]["questions"], questions_path)
    _check_unmatched(
        sorted(rows.keys() - annotations.keys()), "questions have no annotation", questions_path, annotations_path
    )
    _check_unmatched(
        sorted(annotations.keys() - rows.keys()), "annotations have no question", annotations_path, questions_path
    )
    return require_unique_ids(
        [_question(key, row, annotations[key], questions_path, annotations_path) for key, row in rows.items()],
        list(contents),
    )


def _describe_mismatch(
    questions_path: Path | None, annotations_path: Path | None, unexpected_names: Sequence[str]
) -> str:
    missing_kinds = [
        kind for kind, path in (("questions", questions_path), ("annotations", annotations_path)) if path is None
    ]
    return " and ".join([f"no {kind}" for kind in missing_kinds] + [f"{name} beside them" for name in unexpected_names])


def _rows_by_id(rows: Any, path: Path) -> dict[str, dict[str, Any]]:
    rows_by_id: dict[str, dict[str, Any]] = {}
    duplicate_ids: list[str] = []
    for row in rows:
        key = text_field(row, "question_id", path)
        duplicate_ids += [key] if key in rows_by_id else []
        rows_by_id[key] = row
    if duplicate_ids:
        raise DataError(
            f"{path}: question ids are told twice: {abbreviate_names(duplicate_ids)}. Keep one record for each."
        )
    return rows_by_id


def _check_unmatched(unmatched_ids: Sequence[str], problem: str, path: Path, counterpart_path: Path) -> None:
    if unmatched_ids:
        raise DataError(
            f"{path}: {len(unmatched_ids):,} {problem} in {counterpart_path.name}: {abbreviate_names(unmatched_ids)}. Are both files of one split?"
        )


def _question(
    key: str, row: dict[str, Any], annotation: dict[str, Any], questions_path: Path, annotations_path: Path
) -> Question:
    return Question(
        id=key,
        text=text_field(row, "question", questions_path),
        truth=annotator_answers(require_key(annotation, "answers", annotations_path), annotations_path),
        image=text_field(row, "image_id", questions_path),
        choices=(),
        split="",
        tags=record_tags(annotation) | record_tags(row),
    )


def annotator_answers(value: Any, path: Path) -> tuple[str, ...]:
    """Every annotator's answer, kept in order: as strings, or as records with an `answer`."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{path}: a question without answers cannot be scored. Use a split with public answers.")
    # Two million of them in VQAv2, so what is as it should be is not looked at twice.
    texts: list[Any] = [entry.get("answer") if isinstance(entry, dict) else entry for entry in value]
    if not all(isinstance(answer, str) for answer in texts):
        texts = [answer if isinstance(answer, str) else text_field(answer, "answer", path) for answer in value]
    return tuple(texts)


VQAV2 = Task(
    name="vqav2",
    kind="vision",
    answer_type="words",
    metric=VQA_ACCURACY,
    chance=0.25,
    baseline=0.25,
    read_questions=read_vqa,
    prompt_templates={"bare": "{q}", "paper": SHORT_ANSWER_PROMPT},
    version=2,
    published=(
        PublishedVersion(name="VQAv2 val2014", split_sizes={"": 214354}),
        PublishedVersion(name="train2014", split_sizes={"": 443757}),
    ),
)
"""The baseline is what "yes" to everything scores."""

KINDS = Task(
    name="kinds",
    kind="vision",
    answer_type="words",
    metric=VQA_ACCURACY,
    chance=0.0,
    baseline=None,
    read_questions=read_vqa,
    prompt_templates={"bare": "{q}", "paper": SHORT_ANSWER_PROMPT},
    version=2,
)
"""Knowledge told only in text, applied to sight; reported apart, in no mean."""
