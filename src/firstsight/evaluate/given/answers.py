"""Answer files in the forms that benchmarks, harnesses and models write; what each key means stands in tables here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.question import parsed, text_of

IDS = (
    "question_id",
    "questionId",
    "questionID",
    "question_ID",
    "qid",
    "img_id",
    "id",
    "sample_id",
    "data_id",
    "example_id",
    "index",
)
"""Where a record says which question it answers, tried in this order (as all of these tables)."""
IMAGES = (
    "image",
    "image_file",
    "image_path",
    "img_path",
    "image_name",
    "file_name",
    "image_source",
    "scene_path",
    "img",
    "image_id",
    "imageId",
    "img_id",
)
"""Files come before numbers: MDETR's `image_id`, which Ferret repeats, counts sentences."""
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
    "pred_ans",
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
_YES_NO = "yes_no_probabilities"
"""What the authors' harness keeps of a yes-no question in place of an answer."""
SPLITS = ("split", "category")
TRUE_BOXES = ("ground_truth_bbox", "gt_bbox", "gt_box", "true_bbox")
"""True boxes that harnesses repeat in their results; they say which question was meant."""
_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_FOREIGN = {
    b"PK\x03\x04": "a spreadsheet or a zip archive",
    b"PAR1": "a Parquet table",
    b"\x80": "a Python pickle",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}
"""Files that tools write answers and references to and that are not read, by how they begin."""
_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
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
    given = [one for path in paths for file, name in _files(path) for one in _answers(file, name, task)]
    if not given:
        names = ", ".join(path.name for path in paths) or "no file"
        raise DataError(f"{names}: wanted answers. Got none. Give the file that the model's answers were written to.")
    return given


def _files(path: Path) -> list[tuple[Path, str]]:
    """A folder's files and its folders', by their names in it: harnesses write a folder a split or subject."""
    if not path.is_dir():
        return [(path, path.name)]
    inside = sorted(one for one in path.rglob("*") if one.is_file() and one.name.endswith(_ENDINGS))
    return [(one, one.relative_to(path).as_posix()) for one in inside if not one.name.startswith(".")]


def _answers(path: Path, name: str, task: str) -> Iterator[Given]:
    """Of a file that `firstsight evaluate` left, with all tasks, each seen and blind, the seen ones to `task`."""
    every = list(records(path, called=name))
    kept = [(where, record) for where, record in every if not _other(record, task)]
    if every and not kept:
        held = ", ".join(sorted({str(record["task"]) for _, record in every}))
        raise DataError(f"{path}: wanted answers to {task}, with the picture. Got {held}. Name one of its tasks.")
    for where, record in kept:
        yield _given(record, task, name, where)


def _other(record: Mapping[str, Any], task: str) -> bool:
    return "task" in record and "blind" in record and (record["task"] != task or bool(record["blind"]))


def _given(record: Mapping[str, Any], task: str, file: str, where: str) -> Given:
    said = _about(record)
    key = "text" if "prompt" in record and "text" in record else None  # LLaVA's form, whatever else it keeps.
    key = key or next((key for key in (*FIRST.get(task, ()), *ANSWERS, _YES_NO) if key in record), None)
    if key is None:
        raise DataError(
            f"{where}: wanted an answer, under a key such as answer, text, prediction, response, model_output or "
            f"caption. Got only {', '.join(map(str, record))}. Rename its key, or give the file of the answers."
        )
    return Given(
        id=_name(said, IDS, where),
        answer=_likelier(record[key], where) if key == _YES_NO else _words(record[key], f"{where}, {key}"),
        image=_name(said, IMAGES, where),
        prompt=_prompt(said, key),
        split=_name(said, SPLITS, where),
        box=next((_box(said[name], said.get("hw")) for name in TRUE_BOXES if name in said), ()),
        file=file,
        where=where,
    )


def _prompt(said: Mapping[str, Any], key: str) -> str:
    """What the model was asked; of the harness's two answers the one without OCR tokens was asked without them."""
    prompt = next((said[name] for name in PROMPTS if name != key and isinstance(said.get(name), str)), "")
    return prompt.partition("\nReference OCR")[0] if key in FIRST["textvqa"] else prompt


def _about(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record with what lmms-eval keeps below it: the question under `doc`, or its names among a metric's marks."""
    inner = [value for value in record.values() if isinstance(value, dict)]
    if not inner:
        return record
    said: dict[str, Any] = {}
    for value in inner:
        said |= {key: value[key] for key in (*IDS, *IMAGES) if key in value}
        said |= {"true_bbox": value["bbox"]} if "bbox" in value else {}
    doc = record.get("doc")
    said |= doc if isinstance(doc, dict) else {}
    # The prompt says more than the document's question, which for boxes is that of another task.
    asked = {"prompt": record["input"]} if isinstance(record.get("input"), str) else {}
    return {**said, **asked, **record}


def _likelier(given: Any, where: str) -> str:
    """The likelier of yes and no; yes of equals, as the harness has it."""
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(one, int | float) for one in given):
        raise DataError(f"{where}: {_YES_NO} are two numbers. Got {json.dumps(given)[:80]}. Mend the record.")
    return "Yes" if given[0] >= given[1] else "No"


def _name(record: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    """A name or number; 17.0, as some tables write ids, is 17."""
    for key in keys:
        if key not in record:
            continue
        value = record[key]
        if isinstance(value, str):
            return value.strip()
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


def _box(value: Any, size: Any) -> tuple[float, ...]:
    """Four finite numbers; with a picture's height and width beside them, as Qwen-VL writes, shares of it."""
    if not _numbers(value, 4) or (size is not None and not (_numbers(size, 2) and min(size) > 0)):
        return ()
    high, wide = size or (1, 1)
    return tuple(edge / whole for edge, whole in zip(value, (wide, high, wide, high), strict=True))


def _numbers(given: Any, count: int) -> bool:
    plain = isinstance(given, list) and all(isinstance(one, int | float) and math.isfinite(one) for one in given)
    return plain and len(given) == count


def records(path: Path, *, called: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each record and where it stands; values of an object keyed by id carry the key as their `id`."""
    name, content = called or path.name, content_of(path)
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
            if isinstance(content.get("questions"), list):
                raise DataError(f"{path}: holds questions. Wanted answers. Give it with --references.")
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
    refuse_foreign(path)
    text = text_of(path)
    held = parsed(text, path) if text.strip() else []
    return [held] if isinstance(held, dict) and ".jsonl" in path.name else held


def refuse_foreign(path: Path) -> None:
    """DataError where a file is not there or of a kind that is known and not read."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file. Is it the right folder?")
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(4)
    kind = next((what for start, what in _FOREIGN.items() if head.startswith(start)), "")
    if kind or path.name.endswith(_TABLES):
        raise DataError(
            f"{path}: is {kind or 'a table'}. Wanted JSON or JSON lines in UTF-8, plain or gzip. Unpack it, or have "
            "its records written so (VLMEvalKit: PRED_FORMAT=json)."
        )
