"""Reading of answer files in the forms that benchmarks, evaluation harnesses and models write.

The meaning of each form's keys is in the tables below; keys are tried in the order of their table.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.data.file_types import file_type, is_plain_json, uncompressed_ending
from firstsight.errors import DataError
from firstsight.evaluate.offline_scoring.answer_folders import (
    TABLE_SEPARATORS,
    AnswerFile,
    PassedOver,
    list_answer_files,
)
from firstsight.evaluate.task import parse_json_text, read_text_file

ID_KEYS = (
    *("question_id", "questionId", "questionID", "question_ID", "qid", "img_id", "id"),
    *("sample_id", "data_id", "example_id", "index"),
)
"""The question's id."""
IMAGE_KEYS = (
    *("image", "image_file", "image_path", "img_path", "image_name", "file_name", "image_source", "scene_path", "img"),
    *("image_id", "imageId", "img_id"),
)
"""File names come before numbers, since `image_id` of MDETR and Ferret counts sentences."""
PROMPT_KEYS = (
    *("prompt", "question", "query", "sentence", "sents", "sent", "ref_exp", "ref_expression", "expression"),
    *("caption_text", "input", "text"),
)
ANSWER_KEYS = (
    *("model_output", "model_answer", "model_response", "prediction", "pred_answer", "pred_ans", "predicted_answer"),
    *("predicted", "pred", "pred_bbox", "pred_box", "predicted_bbox", "filtered_resps", "response", "resps"),
    *("generated_text", "generated", "output", "outputs", "answer", "caption", "bbox", "box", "text"),
)
"""`answer` and `bbox` come late, since files with a `response` or `prediction` have the truth there; `text` is the
question if another key has the answer, unless the record also has a `prompt`."""
TASK_ANSWER_KEYS = {"textvqa": ("model_output_no_ocr",), "textvqa_ocr": ("model_output_ocr",)}
"""Keys with precedence for one task: the authors' harness writes two answers in a record."""
_YES_NO_KEY = "yes_no_probabilities"
"""The authors' harness writes these two numbers instead of an answer to a yes-no question."""
SPLIT_KEYS = ("split", "category")
TRUE_BOX_KEYS = ("ground_truth_bbox", "gt_bbox", "gt_box", "true_bbox")
"""True boxes, which harnesses repeat in their results; they identify the question."""
_REFEXP_BOXES = "predicted_bounding_boxes"
"""Google RefExp's key of the boxes of one expression, the likeliest first, as left, top, width and height in pixels."""
_UNSUPPORTED_SIGNATURES = {
    b"PK\x03\x04": "a spreadsheet or a zip archive",
    b"PAR1": "a Parquet table",
    b"\x80": "a Python pickle",
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "text in UTF-16"),
}
"""First bytes of files that tools write but that are not read here."""
_WRAPPER_KEYS = (
    *("annotations", "answers", "predictions", "results", "data", "outputs", "samples", "logs"),
    "examples",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRecord:
    """One answer of a file; fields that the file lacks are empty."""

    file: str
    location: str
    id: str = ""
    answer: str = ""
    image: str = ""
    prompt: str = ""
    split: str = ""
    true_box: tuple[float, ...] = ()
    """The true box that the record repeats."""
    box_unit: str = ""
    """The unit of the answered box, where the file's form defines it."""
    change: str = ""
    """How the answer was changed while reading, where it was no text."""


class _NoAnswers(DataError):
    """A file without any answer, such as a summary of scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFiles:
    """The answers of all files, and lines on what was passed over and what was changed while reading."""

    records: list[AnswerRecord]
    notes: tuple[str, ...]


def read_answer_files(paths: Sequence[Path], task: str) -> AnswerFiles:
    """All answers to `task` in the files, in order; DataError names a record without an answer.

    Of a folder, files without answers are passed over and named in the notes; a named file without answers is refused.
    """
    passed_over = PassedOver()
    files = list_answer_files(paths, task, passed_over)
    records: list[AnswerRecord] = []
    refused: list[_NoAnswers] = []
    for file in files:
        try:
            records += _file_answers(file, task)
        except _NoAnswers as error:
            if not file.is_in_folder:
                raise
            refused.append(error)
            passed_over.add("without answers to this task", file.name)
    if refused and not records:
        raise refused[0]
    if not records:
        names = ", ".join(path.name for path in paths) or "no file"
        raise DataError(f"{names}: wanted answers. Got none. Give the file that the model's answers were written to.")
    changes = Counter(record.change for record in records if record.change)
    notes = [f"{count:,} answers are {change}" for change, count in changes.items()]
    return AnswerFiles(records=records, notes=(*passed_over.notes(), *notes))


def _file_answers(file: AnswerFile, task: str) -> list[AnswerRecord]:
    """A file's answers; of the answers.jsonl of `firstsight evaluate` those to `task` with the image."""
    records = list(read_answer_records(file.path, display_name=file.name))
    task_records = [
        (location, record)
        for location, record in records
        if not {"task", "blind"} <= record.keys() or (record["task"] == task and not record["blind"])
    ]
    if records and not task_records:
        names = ", ".join(sorted({str(record["task"]) for _, record in records}))
        raise _NoAnswers(f"{file.path}: wanted answers to {task}, with the image. Got {names}. Name one of its tasks.")
    known_keys = (*TASK_ANSWER_KEYS.get(task, ()), _REFEXP_BOXES, *ANSWER_KEYS, _YES_NO_KEY)
    keys = [_answer_key(record, known_keys) for _, record in task_records]
    if records and not any(keys):
        location, record = task_records[0]
        raise _NoAnswers(_no_answer_message(location, record))
    return [
        _parse_answer(record, key, file.name, location)
        for (location, record), key in zip(task_records, keys, strict=True)
    ]


def _answer_key(record: Mapping[str, Any], known_keys: Sequence[str]) -> str:
    """The key of a record's answer; empty without one."""
    if "prompt" in record and "text" in record:
        return "text"  # LLaVA's
    return next((key for key in known_keys if key in record), "")


def _no_answer_message(location: str, record: Mapping[str, Any]) -> str:
    names = ", ".join(map(str, record))
    if any(re.fullmatch(r"generated_refexp|descrip_\d_\d", str(key)) for key in record):
        return (
            f"{location}: has generated expressions, which people compare. Wanted boxes: Google RefExp's JSON of "
            f"comprehension results, whose records have annotation_id and {_REFEXP_BOXES}."
        )
    return (
        f"{location}: wanted an answer, under a key such as answer, text, prediction, response, model_output or "
        f"caption. Got only {names:.200}. Rename its key, or give the answers (lmms-eval: samples_*.jsonl)."
    )


def _parse_answer(record: Mapping[str, Any], key: str, file: str, location: str) -> AnswerRecord:
    if not key:
        raise DataError(_no_answer_message(location, record))
    if key == _REFEXP_BOXES:
        return _parse_refexp(record, file, location)
    fields = _flatten_record(record)
    value = record[key]
    return AnswerRecord(
        id=_name_field(fields, ID_KEYS, location),
        answer=_yes_or_no(value, location) if key == _YES_NO_KEY else _answer_text(value, f"{location}, {key}"),
        image=_name_field(fields, IMAGE_KEYS, location),
        prompt=_prompt(fields, key),
        split=_name_field(fields, SPLIT_KEYS, location),
        true_box=next((_parse_true_box(fields[k], fields.get("hw")) for k in TRUE_BOX_KEYS if k in fields), ()),
        change="" if type(value) is str else _describe_change(value),
        file=file,
        location=location,
    )


def _parse_refexp(record: Mapping[str, Any], file: str, location: str) -> AnswerRecord:
    """Google RefExp's results of comprehension; the first box counts, as in its precision at 1."""
    boxes = record[_REFEXP_BOXES]
    if not isinstance(boxes, list) or not all(_is_number_list(box, 4) for box in boxes):
        excerpt = json.dumps(boxes)[:80]
        raise DataError(f"{location}: {_REFEXP_BOXES} is a list of [left, top, width, height]. Got {excerpt}.")
    names = [_name_field(record, (key,), location) for key in ("annotation_id", "refexp_id") if key in record]
    left, top, width, height = boxes[0] if boxes else (0, 0, 0, 0)
    return AnswerRecord(
        id="-".join(names),
        answer=json.dumps([left, top, left + width, top + height]) if boxes else "",
        image=_name_field(record, IMAGE_KEYS, location),
        prompt=record["refexp"] if isinstance(record.get("refexp"), str) else "",
        box_unit="pixels",
        change="Google RefExp's lists of left, top, width and height, of which the first counts",
        file=file,
        location=location,
    )


def _prompt(fields: Mapping[str, Any], key: str) -> str:
    """The model's prompt; for the harness's answer without OCR tokens, only the part before these tokens."""
    prompt = next((fields[name] for name in PROMPT_KEYS if name != key and isinstance(fields.get(name), str)), "")
    return prompt.partition("\nReference OCR")[0] if key in TASK_ANSWER_KEYS["textvqa"] else prompt


def _flatten_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record with lmms-eval's nested fields: the question under `doc`, or its names inside a metric's object."""
    nested = [value for value in record.values() if isinstance(value, dict)]
    if not nested:
        return record
    names = {"bbox": "true_bbox"} | {key: key for key in (*ID_KEYS, *IMAGE_KEYS)}
    fields: dict[str, Any] = {names[key]: value[key] for value in nested for key in names if key in value}
    fields |= record["doc"] if isinstance(record.get("doc"), dict) else {}
    # The prompt has precedence over the document's question, which for boxes is another task's.
    if isinstance(record.get("input"), str):
        fields["prompt"] = record["input"]
    return {**fields, **record}


def _yes_or_no(probabilities: Any, location: str) -> str:
    """The likelier of yes and no; yes if equal, as in the harness."""
    if not isinstance(probabilities, list) or [type(p) in (int, float, bool) for p in probabilities] != [True, True]:
        excerpt = json.dumps(probabilities)[:80]
        raise DataError(f"{location}: {_YES_NO_KEY} are two numbers. Got {excerpt}. Correct the record.")
    return "Yes" if probabilities[0] >= probabilities[1] else "No"


def _name_field(record: Mapping[str, Any], keys: Sequence[str], location: str) -> str:
    """A name or whole number as text; 17.0, as some tables write ids, is 17."""
    for key in keys:
        if key not in record:
            continue
        match record[key]:
            case str(name):
                return name.strip()
            case float(number) if not number.is_integer():
                raise DataError(f"{location}: {key} is a name or a whole number. Got {number}. Correct the record.")
            case int() | float() as number if not isinstance(number, bool):
                return str(int(number))
    return ""


def _describe_change(value: Any) -> str:
    """How `_answer_text` changes a value that is no text; empty if it only writes its digits."""
    match value:
        case bool():
            return "true or false, read as yes or no"
        case float() if value.is_integer():
            return "numbers such as 2.0, read as 2"
        case None | []:
            return "null or empty lists, read as no answer"
        case float() if math.isnan(value):
            return "NaN, read as no answer"
        case [item] if type(item) is not str:
            return _describe_change(item)
    return ""


def _answer_text(value: Any, location: str) -> str:
    """The text of an answer. A number is its digits, without a decimal point if it is whole, as for ids."""
    match value:
        case str():
            return value
        case bool():
            return "yes" if value else "no"
        case None | []:
            return ""
        case float() if math.isnan(value):
            return ""
        case int() | float():
            return str(int(value) if isinstance(value, float) and value.is_integer() else value)
        case [item]:
            return _answer_text(item, location)
        case list() if all(isinstance(item, int | float) for item in value):
            return json.dumps(value)
    excerpt = json.dumps(value)[:80]
    raise DataError(f"{location}: wanted one answer, as words or numbers. Got {excerpt}. Keep one of them.")


def _parse_true_box(value: Any, size: Any) -> tuple[float, ...]:
    """Four finite numbers; divided by an image's [height, width], which Qwen-VL writes. Empty if invalid."""
    if not _is_number_list(value, 4) or (size is not None and not (_is_number_list(size, 2) and min(size) > 0)):
        return ()
    height, width = size or (1, 1)
    return tuple(edge / extent for edge, extent in zip(value, (width, height, width, height), strict=True))


def _is_number_list(value: Any, count: int) -> bool:
    is_list = isinstance(value, list) and len(value) == count
    return is_list and all(isinstance(number, int | float) and math.isfinite(number) for number in value)


def read_answer_records(path: Path, *, display_name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(location, record) of a file; values of an object keyed by id get the key as their `id`."""
    name = display_name or path.name
    for number, (key, value) in enumerate(_entries(load_answer_json(path), path), start=1):
        location = f"{name}:{number}" if key is None else f"{name}, {key}"
        if isinstance(value, dict):
            yield location, value if key is None or _has_id(value) else {"id": key, **value}
        elif key is not None:
            yield location, {"id": key, "answer": value}
        else:
            excerpt = json.dumps(value)[:80]
            raise DataError(f"{location}: wanted an object with a question's id and its answer. Got {excerpt}.")


def _has_id(record: Mapping[str, Any]) -> bool:
    return any(key in record for key in ID_KEYS)


def _entries(content: Any, path: Path) -> list[tuple[str | None, Any]]:
    if isinstance(content, list):
        return [(None, value) for value in content]
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DataError(f"{path}: wanted a list of answers or an object keyed by id. Got a {kind}: {content!r:.60}.")
    if isinstance(content.get("questions"), list):
        raise _NoAnswers(f"{path}: contains questions. Wanted answers. Name this file with --references.")
    wrapped = [content[key] for key in _WRAPPER_KEYS if isinstance(content.get(key), list | dict)]
    if _has_id(content) and any(key in content for key in ANSWER_KEYS):
        return [(None, content)]
    if len(wrapped) == 1:
        return _entries(wrapped[0], path)
    return [(key, answer) for key, value in content.items() for answer in _answers_of_id(value)]


def _answers_of_id(value: Any) -> list[Any]:
    is_answer_list = isinstance(value, list) and value and all(isinstance(item, str | dict | list) for item in value)
    return value if is_answer_list else [value]


def load_answer_json(path: Path) -> Any:
    """A JSON file; JSON lines or a table with a header as a list; plain or compressed. NaN is valid."""
    check_file_format(path)
    text = read_text_file(path)
    if separator := TABLE_SEPARATORS.get(uncompressed_ending(path.name)):
        return _table_rows(text, separator, path)
    content = parse_json_text(text, path) if text.strip() else []
    is_lines = file_type(path.name) == "json" and not is_plain_json(path.name)
    return [content] if isinstance(content, dict) and is_lines else content


def _table_rows(text: str, separator: str, path: Path) -> list[dict[str, str]]:
    """The rows of a table with a header; ids such as 17.0, as pandas writes them beside empty cells, are whole."""
    csv.field_size_limit(1 << 30)
    rows: list[dict[str, str]] = []
    try:
        for cells in csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            if None in cells or None in cells.values():
                raise DataError(f"{path}: row {len(rows) + 1} has another number of cells than the header.")
            rows.append({key.strip(): cell for key, cell in cells.items()})
    except csv.Error as error:
        raise DataError(f"{path}: row {len(rows) + 1} is no valid row: {error}. Was the file cut short?") from error
    for row in rows:
        row.update({key: row[key].removesuffix(".0") for key in ID_KEYS if re.fullmatch(r"\d+\.0", row.get(key, ""))})
    return rows


def check_file_format(path: Path) -> None:
    """DataError for a missing file and for known formats that are not read."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file. Is it the right folder?")
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(4)
    kind = next((kind for signature, kind in _UNSUPPORTED_SIGNATURES.items() if head.startswith(signature)), "")
    if kind:
        raise DataError(
            f"{path}: is {kind}. Wanted JSON or JSON lines in UTF-8, or csv or tsv, plain, gzip or zstd. Unpack it, or "
            "write its records in one of these forms (VLMEvalKit: PRED_FORMAT=json)."
        )
