"""TextVQA: read what is written in the picture; alone, or with what an OCR system read there in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.vqa import TEXTVQA_ACCURACY as EVALAI
from firstsight.evaluate.task import PublishedVersion, Question, Task, load_json, record_tags, require_key
from firstsight.evaluate.tasks.records import abbreviate_names, find_file_with_key, require_unique_ids, text_field
from firstsight.evaluate.tasks.vqav2 import SHORT_ANSWER_PROMPT, annotator_answers, join_vqa_files

_OCR_PROMPT = "\nReference OCR token: "
"""LLaVA's words for them, which the paper's harness takes over."""


def read_textvqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form, or TextVQA's own file ({"data": [...]}, ten strings an item); OCR tokens are skipped."""
    return _parse_questions({path: load_json(path) for path in paths})


def read_textvqa_ocr(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The same with the tokens after each question, from the Rosetta file or, without one, from the questions' own."""
    contents = {path: load_json(path) for path in paths}
    tokens = _ocr_tokens(contents)
    questions = _parse_questions(contents)
    missing_names = sorted({str(question.image) for question in questions} - tokens.keys())
    if missing_names:
        names = ", ".join(str(path) for path in paths)
        raise DataError(
            f"{names}: {len(missing_names):,} pictures have no OCR tokens: {abbreviate_names(missing_names)}. "
            "Put TextVQA_Rosetta_OCR_v0.2_val.json beside the questions."
        )
    return tuple(
        replace(question, text=question.text + _OCR_PROMPT + ", ".join(tokens[str(question.image)]))
        for question in questions
    )


def _parse_questions(contents: Mapping[Path, Any]) -> tuple[Question, ...]:
    question_contents = {path: content for path, content in contents.items() if not _has_only_ocr_tokens(content)}
    if find_file_with_key(question_contents, "questions") or find_file_with_key(question_contents, "annotations"):
        return join_vqa_files(question_contents)
    path = find_file_with_key(question_contents, "data")
    if path is None or len(question_contents) > 1:
        names = ", ".join(str(path) for path in contents)
        raise DataError(f"{names}: wanted TextVQA_0.5.1_val.json or the VQA form's two files. Keep one split a folder.")
    return require_unique_ids(
        [_question(row, f"{path}: record {number}", path) for number, row in _numbered_rows(question_contents[path])],
        [path],
    )


def _question(row: Any, location: str, path: Path) -> Question:
    return Question(
        id=text_field(row, "question_id", location),
        text=text_field(row, "question", location),
        truth=annotator_answers(require_key(row, "answers", location), path),
        image=text_field(row, "image_id", location),
        choices=(),
        split="",
        tags=record_tags(row),
    )


def _numbered_rows(content: Any) -> list[tuple[int, Any]]:
    data = content["data"]
    return list(enumerate(data, start=1)) if isinstance(data, list) else []


def _has_only_ocr_tokens(content: Any) -> bool:
    rows = [row for _, row in _numbered_rows(content)] if isinstance(content, dict) and "data" in content else []
    return bool(rows) and all(isinstance(row, dict) and "ocr_tokens" in row and "question" not in row for row in rows)


def _ocr_tokens(contents: Mapping[Path, Any]) -> dict[str, list[str]]:
    """By picture; a file of tokens alone goes before those that stand beside the questions."""
    token_contents = {path: content for path, content in contents.items() if _has_only_ocr_tokens(content)}
    path = find_file_with_key(token_contents or contents, "data")
    if path is None:
        return {}
    rows = [
        (f"{path}: record {number}", row) for number, row in _numbered_rows(contents[path]) if isinstance(row, dict)
    ]
    token_rows = [(location, row) for location, row in rows if "ocr_tokens" in row]
    return {
        text_field(row, "image_id", location): _require_strings(row["ocr_tokens"], location)
        for location, row in token_rows
    }


def _require_strings(value: Any, location: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
        raise DataError(f"{location}: ocr_tokens is a list of texts. Got {str(value)[:80]}. Is this the Rosetta file?")
    return value


TEXTVQA = Task(
    name="textvqa",
    kind="vision",
    answer_type="words",
    metric=EVALAI,
    chance=0.0,
    baseline=0.0,
    read_questions=read_textvqa,
    prompt_templates={"bare": "{q}", "paper": SHORT_ANSWER_PROMPT},
    version=2,
    published=(
        PublishedVersion(name="TextVQA val", split_sizes={"": 5000}),
        PublishedVersion(name="train", split_sizes={"": 34602}),
    ),
)

TEXTVQA_OCR = replace(
    TEXTVQA, name="textvqa_ocr", baseline=None, read_questions=read_textvqa_ocr, variant_of="textvqa", version=1
)
"""Another system reads the picture for the model, so this one is kept out of the stable score."""
