"""Answer files in the forms that benchmarks, harnesses and models write; what each key means stands in tables here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.question import files, parsed, text_of

IDS = ("question_id", "questionId", "questionID", "question_ID", "qid", "img_id", "id", "sample_id", "data_id", "index")
"""Where a record says which question it answers, tried in this order (as all of these tables)."""
IMAGES = (
    "image",
    "image_id",
    "imageId",
    "img_id",
    "image_file",
    "image_path",
    "img_path",
    "image_name",
    "file_name",
    "image_source",
    "scene_path",
    "img",
)
PROMPTS = (
    "prompt",
    "question",
    "query",
    "sentence",
    "sents",
    "sent",
    "ref_exp",
    "ref_expression",
    "expression",
    "caption_text",
    "input",
    "text",
)
ANSWERS = (
    "model_output",
    "model_answer",
    "model_response",
    "prediction",
    "pred_answer",
    "predicted_answer",
    "predicted",
    "pred",
    "pred_bbox",
    "pred_box",
    "predicted_bbox",
    "filtered_resps",
    "response",
    "resps",
    "generated_text",
    "generated",
    "output",
    "outputs",
    "answer",
    "caption",
    "bbox",
    "box",
    "text",
)
"""`answer` and `bbox` come late: files that hold a `response` or `prediction` keep the truth there; `text` is the
question wherever something else is the answer, save beside a `prompt`."""
FIRST = {"textvqa": ("model_output_no_ocr",), "textvqa_ocr": ("model_output_ocr",)}
"""Keys that are tried before all others for one task: the authors' harness keeps two answers in a record."""
SPLITS = ("split", "category")
TRUE_BOXES = ("ground_truth_bbox", "gt_bbox", "gt_box")
"""Boxes that the authors' harness repeats in its results; with the sentence they say which question was meant."""
WRAPPERS = ("annotations", "answers", "predictions", "results", "data", "outputs", "samples", "logs")
"""Keys of an object under which a file's records may lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """One answer as its file gives it; what the file does not say is empty."""

    id: str
    answer: str
    image: str
    prompt: str
    split: str
    box: tuple[float, ...]
    """The true box that the record repeats."""
    file: str
    where: str
    """File and record, for messages."""


def read(paths: Sequence[Path], task: str) -> list[Given]:
    """Every answer to `task` in the files, in order; DataError names the record that holds none."""
    every = [file for path in paths for file in (files(path) if path.is_dir() else (path,))]
    given = [one for path in every for one in _answers(path, task)]
    if not given:
        names = ", ".join(path.name for path in paths) or "no file"
        raise DataError(f"{names}: wanted answers. Got none. Give the file that the model's answers were written to.")
    return given


def _answers(path: Path, task: str) -> Iterator[Given]:
    """Of a file that `firstsight evaluate` left, with all tasks, each seen and blind, the seen ones to `task`."""
    every = list(records(path))
    kept = [(where, record) for where, record in every if not _other(record, task)]
    if every and not kept:
        held = ", ".join(sorted({str(record["task"]) for _, record in every}))
        raise DataError(f"{path}: wanted answers to {task}, with the picture. Got {held}. Name one of its tasks.")
    for where, record in kept:
        yield _given(record, task, path, where)


def _other(record: Mapping[str, Any], task: str) -> bool:
    return "task" in record and "blind" in record and (record["task"] != task or bool(record["blind"]))


def _given(record: Mapping[str, Any], task: str, path: Path, where: str) -> Given:
    doc = record.get("doc")
    said = {**doc, **record} if isinstance(doc, dict) else record  # lmms-eval keeps the question under `doc`.
    key = "text" if "prompt" in record and "text" in record else None  # LLaVA's form, whatever else it keeps.
    key = key or next((key for key in (*FIRST.get(task, ()), *ANSWERS) if key in record), None)
    if key is None:
        tried = ", ".join((*FIRST.get(task, ()), *ANSWERS))
        raise DataError(f"{where}: wanted an answer under one of {tried}. Got only {', '.join(map(str, record))}.")
    return Given(
        id=_name(said, IDS, where),
        answer=_words(record[key], f"{where}, {key}"),
        image=_name(said, IMAGES, where),
        prompt=next((said[name] for name in PROMPTS if name != key and isinstance(said.get(name), str)), ""),
        split=_name(said, SPLITS, where),
        box=next((_box(said[name]) for name in TRUE_BOXES if name in said), ()),
        file=path.name,
        where=where,
    )


def _name(record: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    """A name or number; 17.0, as some tables write ids, is 17."""
    for key in keys:
        if key not in record:
            continue
        value = record[key]
        if isinstance(value, str):
            return value
        if isinstance(value, float) and not value.is_integer():
            raise DataError(f"{where}: {key} is a name or a whole number. Got {value}. Mend the record.")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(int(value))
    return ""


def _words(value: Any, where: str) -> str:
    """An answer in words; null and NaN are empty, and so not readable."""
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float() if math.isnan(value):
            return ""
        case int() | float():
            return str(value)
        case [one]:
            return _words(one, where)
        case []:
            return ""
        case list() if all(isinstance(one, int | float) for one in value):
            return json.dumps(value)
    raise DataError(f"{where}: wanted one answer, as words or numbers. Got {json.dumps(value)[:80]}. Keep one of them.")


def _box(value: Any) -> tuple[float, ...]:
    if isinstance(value, list) and len(value) == 4 and all(isinstance(edge, int | float) for edge in value):
        return tuple(float(edge) for edge in value)
    return ()


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each record and where it stands; values of an object keyed by id carry the key as their `id`."""
    name, content = path.name, content_of(path)
    for number, (key, value) in enumerate(_entries(content, path), start=1):
        where = f"{name}:{number}" if key is None else f"{name}, {key}"
        if isinstance(value, dict):
            yield where, value if key is None or _named(value) else {"id": key, **value}
        elif key is not None:
            yield where, {"id": key, "answer": value}
        else:
            shown = json.dumps(value)[:80]
            raise DataError(f"{where}: wanted an object with a question's id and its answer. Got {shown}.")


def _named(record: Mapping[str, Any]) -> bool:
    return any(key in record for key in IDS)


def _entries(content: Any, path: Path) -> Iterator[tuple[str | None, Any]]:
    match content:
        case list():
            yield from ((None, value) for value in content)
        case dict():
            inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), list | dict)]
            if len(inner) == 1 and not _is_record(content):
                yield from _entries(inner[0], path)
            elif _is_record(content):
                yield None, content
            else:
                yield from (entry for key, value in content.items() for entry in _under(key, value))
        case _:
            kind = type(content).__name__
            raise DataError(
                f"{path}: wanted a list of answers or an object keyed by id. Got a {kind}: {content!r:.60}."
            )


def _is_record(content: Mapping[str, Any]) -> bool:
    """One answer on its own, not an object keyed by id."""
    return _named(content) and any(key in content for key in ANSWERS)


def _under(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What lies under one id: an answer, a box, or several answers."""
    several = isinstance(value, list) and value and all(isinstance(one, str | dict | list) for one in value)
    yield from ((key, one) for one in value) if several else [(key, value)]


def content_of(path: Path) -> Any:
    """A JSON file, or one JSON value a line as a list; plain or gzip. NaN, which Python writes, is read."""
    text = text_of(path)
    held = parsed(text, path) if text.strip() else []
    return [held] if isinstance(held, dict) and ".jsonl" in path.name else held
