"""TextVQA: questions about text in images, with or without an OCR system's tokens in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.vqa import TEXTVQA_ACCURACY
from firstsight.evaluate.task import Question, load_json, require_key
from firstsight.evaluate.tasks.records import (
    SHORT_ANSWER_PROMPT,
    abbreviate_names,
    find_file_with_key,
    image_question,
    is_text_list,
    join_paths,
    require_unique_ids,
    text_field,
    vision_task,
)
from firstsight.evaluate.tasks.vqa import annotator_answers, join_vqa_files

_OCR_PROMPT = "\nReference OCR token: "
"""LLaVA's words before OCR tokens, which the paper's harness uses too."""


def read_textvqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form, or TextVQA's own file ({"data": [...]}, ten strings per item); files of OCR tokens are ignored."""
    return _parse_questions({path: load_json(path) for path in paths})


def read_textvqa_ocr(paths: Sequence[Path]) -> tuple[Question, ...]:
    """As `read_textvqa`, with the OCR tokens of the Rosetta file, or else of the questions' file, after each text."""
    contents = {path: load_json(path) for path in paths}
    tokens = _ocr_tokens(contents)
    questions = _parse_questions(contents)
    missing = sorted({str(question.image) for question in questions} - tokens.keys())
    if missing:
        raise DataError(
            f"{join_paths(paths)}: {len(missing):,} images have no OCR tokens: {abbreviate_names(missing)}. "
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
        raise DataError(
            f"{join_paths(contents)}: wanted TextVQA_0.5.1_val.json or the VQA form's two files. "
            "Keep one split a folder."
        )
    questions = [
        image_question(
            row,
            question_id=text_field(row, "question_id", location),
            text=text_field(row, "question", location),
            truth=annotator_answers(require_key(row, "answers", location), path),
            image=text_field(row, "image_id", location),
        )
        for location, row in _located_rows(path, question_contents[path])
    ]
    return require_unique_ids(questions, [path])


def _located_rows(path: Path, content: Any) -> list[tuple[str, Any]]:
    rows = content.get("data") if isinstance(content, dict) else None
    return [(f"{path}: record {n}", row) for n, row in enumerate(rows, start=1)] if isinstance(rows, list) else []


def _has_only_ocr_tokens(content: Any) -> bool:
    rows = [row for _, row in _located_rows(Path(), content)]
    return bool(rows) and all(isinstance(row, dict) and "ocr_tokens" in row and "question" not in row for row in rows)


def _ocr_tokens(contents: Mapping[Path, Any]) -> dict[str, list[str]]:
    """OCR tokens by image; a file with only tokens has precedence over tokens in the questions' file."""
    token_contents = {path: content for path, content in contents.items() if _has_only_ocr_tokens(content)}
    path = find_file_with_key(token_contents or contents, "data")
    tokens: dict[str, list[str]] = {}
    for location, row in [] if path is None else _located_rows(path, contents[path]):
        if not isinstance(row, dict) or "ocr_tokens" not in row:
            continue
        value = row["ocr_tokens"]
        if not is_text_list(value):
            raise DataError(
                f"{location}: ocr_tokens is a list of texts. Got {str(value)[:80]}. Is this the Rosetta file?"
            )
        tokens[text_field(row, "image_id", location)] = value
    return tokens


TEXTVQA = vision_task(
    "textvqa",
    TEXTVQA_ACCURACY,
    read_textvqa,
    prompt=SHORT_ANSWER_PROMPT,
    version=2,
    baseline=0.0,
    published={"TextVQA val": 5000, "train": 34602},
)

TEXTVQA_OCR = replace(
    TEXTVQA, name="textvqa_ocr", baseline=None, read_questions=read_textvqa_ocr, variant_of="textvqa", version=1
)
"""The prompt contains another system's reading of the image, so the task is no part of the stable score."""
