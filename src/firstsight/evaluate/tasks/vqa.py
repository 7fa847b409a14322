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
from firstsight.evaluate.metrics.vqa import TEXTVQA_ACCURACY, VIZWIZ_ACCURACY, VQA_ACCURACY
from firstsight.evaluate.task import (
    PublishedVersion,
    Question,
    load_json,
    load_json_records,
    record_tags,
    require_key,
    single_file,
)
from firstsight.evaluate.tasks import records
from firstsight.evaluate.tasks.records import image_question, text_field, vision_task

SHORT_ANSWER_PROMPT = "\n{q}\nAnswer the question using a single word or phrase."
"""The paper's prompt. Source: paper 5.2."""
_GQA_ID_KEYS = ("question_id", "questionId", "id")
_GQA_IMAGE_KEYS = ("imageId", "image_id", "image")
_VIZWIZ_PROMPT = (
    "\n{q}\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)
_OCR_PROMPT = "\nReference OCR token: "
"""LLaVA's words before OCR tokens, which the paper's harness uses too."""
POPE_SPLITS = ("adversarial", "popular", "random")


def read_vqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form's two files, in any order."""
    return join_vqa_files({path: load_json(path) for path in paths})


def read_gqa(paths: Sequence[Path]) -> tuple[Question, ...]:
    """GQA's own file, {question id: {"imageId", "question", "answer"}}, or a list or JSON lines with ids."""
    path = single_file(paths, "GQA's questions of one split")
    return records.require_unique_ids(
        [
            image_question(
                record.fields,
                question_id=records.first_text_field(record.fields, _GQA_ID_KEYS, record.location)
                if record.key is None
                else record.key,
                text=text_field(record.fields, "question", record.location),
                truth=text_field(record.fields, "answer", record.location),
                image=records.first_text_field(record.fields, _GQA_IMAGE_KEYS, record.location),
            )
            for record in records.read_benchmark_records(path)
        ],
        paths,
    )


def read_vizwiz(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form, or VizWiz's own list, whose question ids are the image names."""
    contents = {path: load_json(path) for path in paths}
    if records.find_file_with_key(contents, "questions") or records.find_file_with_key(contents, "annotations"):
        return join_vqa_files(contents)
    path = single_file(paths, "VizWiz's list of one split")
    return records.require_unique_ids(
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
                f"{path}: {len(ids):,} {problem} in {counterpart.name}: {records.abbreviate_names(sorted(ids))}. "
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
    return records.require_unique_ids(questions, list(contents))


def _find_vqa_files(contents: Mapping[Path, Any]) -> tuple[Path, Path]:
    questions_path, annotations_path = (
        records.find_file_with_key(contents, key) for key in ("questions", "annotations")
    )
    extra_names = [path.name for path in contents if path not in (questions_path, annotations_path)]
    if questions_path is None or annotations_path is None or extra_names:
        pairs = (("questions", questions_path), ("annotations", annotations_path))
        problems = [f"no {kind}" for kind, path in pairs if path is None]
        problems += [f"{name} beside them" for name in extra_names]
        raise DataError(
            f"{records.join_paths(contents)}: wanted a file with questions and one with annotations. "
            f"Got {' and '.join(problems)}. Keep both files of one split, and nothing else, in the folder."
        )
    return questions_path, annotations_path


def _rows_by_id(rows: Any, path: Path) -> dict[str, dict[str, Any]]:
    ids = [text_field(row, "question_id", path) for row in rows]
    records.check_unique_ids(ids, path)
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
            f"{records.join_paths(paths)}: {len(missing):,} images have no OCR tokens: "
            f"{records.abbreviate_names(missing)}. Put TextVQA_Rosetta_OCR_v0.2_val.json beside the questions."
        )
    return tuple(
        replace(question, text=question.text + _OCR_PROMPT + ", ".join(tokens[str(question.image)]))
        for question in questions
    )


def _parse_textvqa(contents: Mapping[Path, Any]) -> tuple[Question, ...]:
    question_contents = {path: content for path, content in contents.items() if not _has_only_ocr_tokens(content)}
    if records.find_file_with_key(question_contents, "questions") or records.find_file_with_key(
        question_contents, "annotations"
    ):
        return join_vqa_files(question_contents)
    path = records.find_file_with_key(question_contents, "data")
    if path is None or len(question_contents) > 1:
        raise DataError(
            f"{records.join_paths(contents)}: wanted TextVQA_0.5.1_val.json or the VQA form's two files. "
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
    return records.require_unique_ids(questions, [path])


def _located_rows(path: Path, content: Any) -> list[tuple[str, Any]]:
    rows = content.get("data") if isinstance(content, dict) else None
    return [(f"{path}: record {n}", row) for n, row in enumerate(rows, start=1)] if isinstance(rows, list) else []


def _has_only_ocr_tokens(content: Any) -> bool:
    rows = [row for _, row in _located_rows(Path(), content)]
    return bool(rows) and all(isinstance(row, dict) and "ocr_tokens" in row and "question" not in row for row in rows)


def _ocr_tokens(contents: Mapping[Path, Any]) -> dict[str, list[str]]:
    """OCR tokens by image; a file with only tokens has precedence over tokens in the questions' file."""
    token_contents = {path: content for path, content in contents.items() if _has_only_ocr_tokens(content)}
    path = records.find_file_with_key(token_contents or contents, "data")
    tokens: dict[str, list[str]] = {}
    for location, row in [] if path is None else _located_rows(path, contents[path]):
        if not isinstance(row, dict) or "ocr_tokens" not in row:
            continue
        value = row["ocr_tokens"]
        if not records.is_text_list(value):
            raise DataError(
                f"{location}: ocr_tokens is a list of texts. Got {str(value)[:80]}. Is this the Rosetta file?"
            )
        tokens[text_field(row, "image_id", location)] = value
    return tokens


def read_pope(paths: Sequence[Path]) -> tuple[Question, ...]:
    """POPE's files, one per split, or lines with a `category`. Ids repeat in the splits, so they get its name."""
    for split in POPE_SPLITS:
        names = [str(path) for path in paths if _split_from_name(path) == split]
        if len(names) > 1:
            raise DataError(f"{', '.join(names)}: wanted one file of the split {split}. Keep one version to a folder.")
    questions = [
        _pope_question(row, f"{path}: record {number}", _split_from_name(path))
        for path in paths
        for number, row in enumerate(load_json_records(path), start=1)
    ]
    questions.sort(key=lambda question: POPE_SPLITS.index(question.split))
    return records.require_unique_ids(questions, paths)


def read_pope_choices(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The same questions with the choices "Yes" and "No"."""
    return tuple(replace(question, choices=("Yes", "No")) for question in read_pope(paths))


def _split_from_name(path: Path) -> str:
    splits = [split for split in POPE_SPLITS if split in path.name]
    return splits[0] if len(splits) == 1 else ""


def _pope_question(row: Mapping[str, Any], location: str, file_split: str) -> Question:
    split = str(row["category"]) if row.get("category") in POPE_SPLITS else file_split
    if not split:
        raise DataError(
            f"{location}: of which split? Name the file after one, or give a category: {', '.join(POPE_SPLITS)}."
        )
    label = records.first_text_field(row, ("label", "answer"), location)
    if label not in ("yes", "no"):
        raise DataError(f"{location}: a label is yes or no. Got {label!r}. Is this the benchmark's original file?")
    question = image_question(
        row,
        question_id=f"{split}-{text_field(row, 'question_id', location)}",
        text=records.first_text_field(row, ("text", "question"), location),
        truth=label,
        image=records.first_text_field(row, ("image", "image_source"), location),
    )
    return replace(question, split=split)


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

_SPLIT_COUNTS = {"adversarial": 3000, "popular": 3000}

POPE = replace(
    vision_task("pope", YES_NO_MATCH, read_pope, prompt=SHORT_ANSWER_PROMPT, version=1, chance=0.5, baseline=0.5),
    published=tuple(
        PublishedVersion(name=name, split_sizes={**_SPLIT_COUNTS, "random": count})
        for name, count in (
            ("POPE on COCO, head (3,000 random questions)", 3000),
            ("e3e3926 (2,910 random questions, LLaVA's)", 2910),
        )
    ),
)

POPE_P = replace(
    POPE, name="pope_p", answer_type="choice", baseline=None, read_questions=read_pope_choices, variant_of="pope"
)
"""P("Yes") against P("No"), as in the paper's harness; a task of its own, since generated answers may be neither."""
