"""Questions about images with short answers: VQAv2, GQA, VizWiz, TextVQA and POPE, and `kinds` of the synthetic world.

The VQA form is two files, {"questions": [...]} and {"annotations": [...]}, joined by `question_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.exact_match import EXACT_MATCH, YES_NO_MATCH
from firstsight.evaluate.metrics.vqa import (
    TEXTVQA_ACCURACY,
    VIZWIZ_ACCURACY,
    VQA_ACCURACY,
    foreign_vizwiz_note,
    normalise_vizwiz_annotations,
)
from firstsight.evaluate.task import QUESTION_BLIND, Question, load_json, record_tags, require_key, single_file
from firstsight.evaluate.tasks import records
from firstsight.evaluate.tasks.records import BenchmarkRecord, list_records, read_records, text_field, vision_task

_VIZWIZ = (
    "\n{q}\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)
_OCR_PROMPT = "\nReference OCR token: "
"""LLaVA's words before OCR tokens, which the paper's harness uses too."""
_POPE_SPLITS = ("adversarial", "popular", "random")


def read_vqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form's two files, in any order."""
    return _join_vqa_files({path: load_json(path) for path in paths})


def read_gqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """GQA's own file, {question id: {"imageId", "question", "answer"}}, or a list or JSON lines with ids."""
    questions = [
        record.question(
            question_id=record.key or record.text("question_id", "questionId", "id"),
            text=record.text("question"),
            truth=record.text("answer"),
            image=record.text("imageId", "image_id", "image"),
        )
        for record in read_records(single_file(paths, "GQA's questions of one split"))
    ]
    return records.require_unique_ids(questions, paths)


def read_vizwiz(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form, or VizWiz's own list, whose question ids are the image names.

    Annotations of a file of another origin are normalised, as VizWiz's are.
    """
    questions = _read_vizwiz_files(paths)
    truths = normalise_vizwiz_annotations([question.truth for question in questions])
    return tuple(replace(question, truth=truth) for question, truth in zip(questions, truths, strict=True))


def _read_vizwiz_files(paths: Sequence[Path]) -> tuple[Question, ...]:
    contents = {path: load_json(path) for path in paths}
    if _is_vqa_form(contents):
        return _join_vqa_files(contents)
    path = single_file(paths, "VizWiz's list of one split")
    return _annotated_questions(read_records(path), path, id_keys=("question_id", "image"), image_key="image")


def _vizwiz_notes(paths: Sequence[Path]) -> list[str]:
    if (paths[0].parent / QUESTION_BLIND).is_file():  # made together with its guesser's answers, not VizWiz's
        return []
    note = foreign_vizwiz_note([question.truth for question in _read_vizwiz_files(paths)])
    return [f"{records.join_paths(paths)}: {note}"] if note else []


def _annotated_questions(
    rows: Sequence[BenchmarkRecord], path: Path, *, id_keys: Sequence[str], image_key: str
) -> tuple[Question, ...]:
    questions = [
        row.question(
            question_id=row.text(*id_keys),
            text=row.text("question"),
            truth=_annotator_answers(row.value("answers"), row.location),
            image=row.text(image_key),
        )
        for row in rows
    ]
    return records.require_unique_ids(questions, [path])


def _is_vqa_form(contents: Mapping[Path, Any]) -> bool:
    return any(records.file_with_key(contents, key) for key in ("questions", "annotations"))


def _join_vqa_files(contents: Mapping[Path, Any]) -> tuple[Question, ...]:
    """The questions of parsed files in the VQA form; DataError if a question or an annotation has no counterpart."""
    questions_path, annotations_path = _find_vqa_files(contents)
    annotations = _rows_by_id(contents[annotations_path]["annotations"], annotations_path)
    rows = _rows_by_id(contents[questions_path]["questions"], questions_path)
    for ids, problem, path, counterpart in (
        (rows.keys() - annotations.keys(), "questions without annotation", questions_path, annotations_path),
        (annotations.keys() - rows.keys(), "annotations without question", annotations_path, questions_path),
    ):
        if ids:
            raise DataError(
                f"{path}: {problem} in {counterpart.name} ({len(ids):,}): {records.abbreviate_names(sorted(ids))}. "
                "Are both files of one split?"
            )
    questions = [
        Question(
            id=key,
            text=text_field(row, "question", questions_path),
            truth=_annotator_answers(require_key(annotations[key], "answers", annotations_path), annotations_path),
            image=text_field(row, "image_id", questions_path),
            tags=record_tags(annotations[key]) | record_tags(row),
        )
        for key, row in rows.items()
    ]
    return records.require_unique_ids(questions, list(contents))


def _find_vqa_files(contents: Mapping[Path, Any]) -> tuple[Path, Path]:
    questions_path, annotations_path = (records.file_with_key(contents, key) for key in ("questions", "annotations"))
    pairs = (("questions", questions_path), ("annotations", annotations_path))
    problems = [f"no {kind}" for kind, path in pairs if path is None]
    problems += [f"another file, {path.name}" for path in contents if path not in (questions_path, annotations_path)]
    if questions_path is None or annotations_path is None or problems:
        raise DataError(
            f"{records.join_paths(contents)}: wanted a file with questions and one with annotations. "
            f"Got {' and '.join(problems)}. Keep both files of one split, and nothing else, in the folder."
        )
    return questions_path, annotations_path


def _rows_by_id(rows: Any, path: Path) -> dict[str, dict[str, Any]]:
    ids = [text_field(row, "question_id", path) for row in rows]
    records.check_unique_ids(ids, path)
    return dict(zip(ids, rows, strict=True))


def _annotator_answers(value: Any, location: Path | str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{location}: a question without answers cannot be scored. Use a split with public answers.")
    # VQAv2 has two million answers, so text_field runs only if a value is not a string.
    texts: list[Any] = [entry.get("answer") if isinstance(entry, dict) else entry for entry in value]
    if not all(isinstance(text, str) for text in texts):
        texts = [entry if isinstance(entry, str) else text_field(entry, "answer", location) for entry in value]
    return tuple(texts)


def read_textvqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form, or TextVQA's own file ({"data": [...]}, ten strings per item); files of OCR tokens are ignored."""
    return _parse_textvqa({path: load_json(path) for path in paths})


def read_textvqa_ocr(paths: Sequence[Path]) -> tuple[Question, ...]:
    """As `read_textvqa`, with the OCR tokens of the Rosetta file, or else of the questions' file, after each text."""
    contents = {path: load_json(path) for path in paths}
    tokens = _ocr_tokens(contents)
    questions = _parse_textvqa(contents)
    missing = sorted({str(question.image) for question in questions} - tokens.keys())
    if missing:
        raise DataError(
            f"{records.join_paths(paths)}: images without OCR tokens ({len(missing):,}): "
            f"{records.abbreviate_names(missing)}. Put TextVQA_Rosetta_OCR_v0.2_val.json next to the questions."
        )
    texts = (f"{question.text}{_OCR_PROMPT}{', '.join(tokens[str(question.image)])}" for question in questions)
    return tuple(replace(question, text=text) for question, text in zip(questions, texts, strict=True))


def _parse_textvqa(contents: Mapping[Path, Any]) -> tuple[Question, ...]:
    question_contents = {path: content for path, content in contents.items() if not _has_only_ocr_tokens(content)}
    if _is_vqa_form(question_contents):
        return _join_vqa_files(question_contents)
    path = records.file_with_key(question_contents, "data")
    if path is None or len(question_contents) > 1:
        raise DataError(
            f"{records.join_paths(contents)}: wanted TextVQA_0.5.1_val.json or the VQA form's two files. "
            "Keep one split per folder."
        )
    rows = list_records(_data_rows(question_contents[path]), path)
    return _annotated_questions(rows, path, id_keys=("question_id",), image_key="image_id")


def _data_rows(content: Any) -> list[Any]:
    rows = content.get("data") if isinstance(content, dict) else None
    return rows if isinstance(rows, list) else []


def _has_only_ocr_tokens(content: Any) -> bool:
    rows = _data_rows(content)
    return bool(rows) and all(isinstance(row, dict) and "ocr_tokens" in row and "question" not in row for row in rows)


def _ocr_tokens(contents: Mapping[Path, Any]) -> dict[str, list[str]]:
    """OCR tokens by image; a file with only tokens has precedence over tokens in the questions' file."""
    token_contents = {path: content for path, content in contents.items() if _has_only_ocr_tokens(content)}
    path = records.file_with_key(token_contents or contents, "data")
    tokens: dict[str, list[str]] = {}
    for record in list_records(_data_rows(contents[path]), path) if path else ():
        value = record.fields.get("ocr_tokens", [])
        if not records.is_text_list(value):
            raise record.error(f"ocr_tokens is a list of texts. Got {str(value)[:80]}. Is this the Rosetta file?")
        if "ocr_tokens" in record.fields:
            tokens[record.text("image_id")] = value
    return tokens


def read_pope(paths: Sequence[Path]) -> tuple[Question, ...]:
    """POPE's files, one per split, or lines with a `category`. Splits repeat ids, so the split's name is put first."""
    for split in _POPE_SPLITS:
        names = [str(path) for path in paths if _split_from_name(path) == split]
        if len(names) > 1:
            raise DataError(f"{', '.join(names)}: wanted one file of the split {split}. Keep one version per folder.")
    questions = [_pope_question(record, _split_from_name(path)) for path in paths for record in read_records(path)]
    questions.sort(key=lambda question: _POPE_SPLITS.index(question.split))
    return records.require_unique_ids(questions, paths)


def read_pope_choices(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The same questions with the choices "Yes" and "No"."""
    return tuple(replace(question, choices=("Yes", "No")) for question in read_pope(paths))


def _split_from_name(path: Path) -> str:
    splits = [split for split in _POPE_SPLITS if split in path.name]
    return splits[0] if len(splits) == 1 else ""


def _pope_question(record: BenchmarkRecord, file_split: str) -> Question:
    category = record.fields.get("category")
    split = category if category in _POPE_SPLITS else file_split
    if not split:
        splits = ", ".join(_POPE_SPLITS)
        raise record.error(f"its split is unknown. Name the file after one, or add a category: {splits}.")
    label = record.text("label", "answer")
    if label not in ("yes", "no"):
        raise record.error(f"a label is yes or no. Got {label!r}. Is this the benchmark's original file?")
    return record.question(
        question_id=f"{split}-{record.text('question_id')}",
        text=record.text("text", "question"),
        truth=label,
        image=record.text("image", "image_source"),
        split=split,
    )


_SIZES = {
    "vqav2": {"VQAv2 val2014": 214354, "train2014": 443757},
    "gqa": {"GQA testdev_balanced": 12578, "testdev_all": 172174, "val_balanced": 132062, "train_balanced": 943000},
    "vizwiz": {"VizWiz val": 4319, "train": 20523},
    "textvqa": {"TextVQA val": 5000, "train": 34602},
}
"""Numbers of questions of the published versions by task."""

VQAV2 = vision_task("vqav2", VQA_ACCURACY, read_vqa, version=2, chance=0.25, baseline=0.25, published=_SIZES["vqav2"])
"""The baseline is the score of "yes" to every question."""

KINDS = vision_task("kinds", VQA_ACCURACY, read_vqa, version=2)
"""Questions about images that need knowledge of the synthetic texts only; reported apart, in no mean."""

GQA = vision_task("gqa", EXACT_MATCH, read_gqa, version=1, chance=0.25, baseline=0.25, published=_SIZES["gqa"])

_VIZWIZ_TASK = vision_task(
    "vizwiz", VIZWIZ_ACCURACY, read_vizwiz, prompt=_VIZWIZ, version=3, published=_SIZES["vizwiz"]
)
VIZWIZ = replace(_VIZWIZ_TASK, reading_notes=_vizwiz_notes)
"""Questions of blind people, many of them unanswerable; scored, but not in the stable score."""

TEXTVQA = vision_task("textvqa", TEXTVQA_ACCURACY, read_textvqa, version=2, baseline=0.0, published=_SIZES["textvqa"])

TEXTVQA_OCR = replace(
    TEXTVQA, name="textvqa_ocr", baseline=None, read_questions=read_textvqa_ocr, variant_of="textvqa", version=1
)
"""The prompt contains the output of an OCR system, so the task is not part of the stable score."""

_POPE_SIZES = {"adversarial": 3000, "popular": 3000}
POPE = replace(
    vision_task("pope", YES_NO_MATCH, read_pope, version=1, chance=0.5, baseline=0.5),
    published={
        "POPE on COCO, head (3,000 random questions)": {**_POPE_SIZES, "random": 3000},
        "e3e3926 (2,910 random questions, LLaVA's)": {**_POPE_SIZES, "random": 2910},
    },
)

POPE_P = replace(
    POPE, name="pope_p", answer_type="choice", baseline=None, read_questions=read_pope_choices, variant_of="pope"
)
"""P("Yes") against P("No"), as in the paper's harness; a task of its own, since generated answers may be neither."""
