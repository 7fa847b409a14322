"""Reading of answer files in the forms that benchmarks, evaluation harnesses and models write.

The meaning of each form's keys is in the tables below; keys are tried in the order of their table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
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
_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_UNSUPPORTED_SIGNATURES = {
    b"PK\x03\x04": "a spreadsheet or a zip archive",
    b"PAR1": "a Parquet table",
    b"\x80": "a Python pickle",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "text in UTF-16"),
}
"""First bytes of files that tools write but that are not read here."""
_WRAPPER_KEYS = ("annotations", "answers", "predictions", "results", "data", "outputs", "samples", "logs")


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


def read_answer_files(paths: Sequence[Path], task: str) -> list[AnswerRecord]:
    """All answers to `task` in the files, in order; DataError names a record without an answer."""
    files = [file for path in paths for file in _list_files(path)]
    answers = [answer for path, name in files for answer in _file_answers(path, name, task)]
    if not answers:
        names = ", ".join(path.name for path in paths) or "no file"
        raise DataError(f"{names}: wanted answers. Got none. Give the file that the model's answers were written to.")
    return answers


def _list_files(path: Path) -> list[tuple[Path, str]]:
    """(file, relative name) of the files in a folder and its subfolders; some harnesses write a subfolder per split."""
    if not path.is_dir():
        return [(path, path.name)]
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(_SUFFIXES))
    return [(file, file.relative_to(path).as_posix()) for file in files if not file.name.startswith(".")]


def _file_answers(path: Path, name: str, task: str) -> list[AnswerRecord]:
    """A file's answers; of the answers.jsonl of `firstsight evaluate` those to `task` with the image."""
    records = list(read_answer_records(path, display_name=name))
    task_records = [
        (location, record)
        for location, record in records
        if not {"task", "blind"} <= record.keys() or (record["task"] == task and not record["blind"])
    ]
    if records and not task_records:
        names = ", ".join(sorted({str(record["task"]) for _, record in records}))
        raise DataError(f"{path}: wanted answers to {task}, with the image. Got {names}. Name one of its tasks.")
    return [_parse_answer(record, task, name, location) for location, record in task_records]


def _parse_answer(record: Mapping[str, Any], task: str, file: str, location: str) -> AnswerRecord:
    fields = _flatten_record(record)
    keys = (*TASK_ANSWER_KEYS.get(task, ()), *ANSWER_KEYS, _YES_NO_KEY)
    is_llava = "prompt" in record and "text" in record
    key = "text" if is_llava else next((key for key in keys if key in record), None)
    if key is None:
        raise DataError(
            f"{location}: wanted an answer, under a key such as answer, text, prediction, response, model_output or "
            f"caption. Got only {', '.join(map(str, record))}. Rename its key, or give the file with the answers."
        )
    value = record[key]
    return AnswerRecord(
        id=_name_field(fields, ID_KEYS, location),
        answer=_yes_or_no(value, location) if key == _YES_NO_KEY else _answer_text(value, f"{location}, {key}"),
        image=_name_field(fields, IMAGE_KEYS, location),
        prompt=_prompt(fields, key),
        split=_name_field(fields, SPLIT_KEYS, location),
        true_box=next((_parse_true_box(fields[k], fields.get("hw")) for k in TRUE_BOX_KEYS if k in fields), ()),
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
        match record.get(key):
            case str(name):
                return name.strip()
            case float(number) if not number.is_integer():
                raise DataError(f"{location}: {key} is a name or a whole number. Got {number}. Correct the record.")
            case int() | float() as number if not isinstance(number, bool):
                return str(int(number))
    return ""


def _answer_text(value: Any, location: str) -> str:
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
            return str(value)
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
        raise DataError(f"{path}: contains questions. Wanted answers. Name this file with --references.")
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
    """A JSON file, or JSON lines as a list; plain or gzip. NaN, which Python writes, is valid."""
    check_file_format(path)
    text = read_text_file(path)
    content = parse_json_text(text, path) if text.strip() else []
    return [content] if isinstance(content, dict) and ".jsonl" in path.name else content


def check_file_format(path: Path) -> None:
    """DataError for a missing file and for known formats that are not read."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file. Is it the right folder?")
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(4)
    kind = next((kind for signature, kind in _UNSUPPORTED_SIGNATURES.items() if head.startswith(signature)), "")
    if kind or path.name.endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz")):
        raise DataError(
            f"{path}: is {kind or 'a table'}. Wanted JSON or JSON lines in UTF-8, plain or gzip. Unpack it, or write "
            "its records in one of these forms (VLMEvalKit: PRED_FORMAT=json)."
        )
