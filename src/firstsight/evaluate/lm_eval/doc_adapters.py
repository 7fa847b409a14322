"""Offline copies of data sets, and their conversion to records of lm-eval's definitions.

A copy is Parquet, Arrow, JSON or JSON lines (also compressed) or a `save_to_disk` folder, or questions in
llm-foundry's or OLMES' form (query, choices, gold).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from firstsight.data.file_types import FileType, file_type, known_endings
from firstsight.data.readers.tables import check_row_groups, open_table
from firstsight.data.records import Notices
from firstsight.errors import DataError
from firstsight.evaluate.lm_eval.tasks import LmEvalTask, get_lm_eval_task
from firstsight.evaluate.task import TAGS, load_json_records, select_data_files
from firstsight.limits import check_limit

DatasetRow = dict[str, Any]
DatasetSplits = dict[str, list[DatasetRow]]

COPY_TYPES: tuple[FileType, ...] = ("table", "json")
"""The types of files that a copy consists of."""
_SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")


def load_dataset_splits(folder: Path, name: str) -> DatasetSplits:
    """The splits of a task's offline copy; a file without a split in its name is the evaluated split.

    Raises DataError for a folder without data, for several copies of a split, and for a missing evaluated split.
    """
    task = get_lm_eval_task(name)
    root = folder / task.config if task.config and (folder / task.config).is_dir() else folder
    is_saved = (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()
    splits = _load_saved(root, task) if is_saved else _load_files(root, task)
    if not splits.get(task.split):
        split_names = ", ".join(split for split, rows in splits.items() if rows) or "none"
        raise DataError(f"{folder}: {name} is evaluated on the split {task.split}. Got {split_names}. Add its file.")
    return splits


def _load_saved(root: Path, task: LmEvalTask) -> DatasetSplits:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(root))
    except (OSError, ValueError) as error:
        raise DataError(f"{root}: wanted the output of datasets' save_to_disk. Got: {error}. Save it again.") from error
    if isinstance(dataset, datasets.Dataset):
        return {task.split: dataset.to_list()}
    return {str(split): rows.to_list() for split, rows in dataset.items()}


def _load_files(root: Path, task: LmEvalTask) -> DatasetSplits:
    paths = [path for path in root.rglob("*") if path.is_file()]
    files = select_data_files(root, paths, types=COPY_TYPES, notices=Notices())
    if not files:
        names = ", ".join(sorted(path.name for path in root.iterdir())) if root.is_dir() else "no folder"
        raise DataError(
            f"{root}: wanted a copy of the task's data set ({known_endings(COPY_TYPES)} or save_to_disk). "
            f"Got {names or 'nothing'}. Put it there."
        )
    split_names = _SPLIT_NAMES | {task.split: task.split}
    files_by_split: dict[str, list[Path]] = {}
    for file in files:
        # The last word of a path that is a split's name; `default` is one only if that split is evaluated.
        words = re.split(r"[^a-z]+", str(file.relative_to(root)).lower())
        split = next((split_names[word] for word in reversed(words) if word in split_names), task.split)
        files_by_split.setdefault(split, []).append(file)
    for split, group in files_by_split.items():
        if len(group) > 1 and any(file_type(file.name) != "table" for file in group):
            names = ", ".join(str(file.relative_to(root)) for file in group)
            raise DataError(f"{root}: wanted the split {split} once. Got {names}. Keep one copy of it.")
    return {split: [row for file in group for row in _read_rows(file)] for split, group in files_by_split.items()}


def _read_rows(file: Path) -> list[DatasetRow]:
    if file_type(file.name) == "json":
        return load_json_records(file)
    rows: list[DatasetRow] = []
    try:
        with ExitStack() as stack:
            schema, table, batches = open_table(file, stack)
            if table is not None:
                check_row_groups(table, file, schema.names)
                size = sum(table.metadata.row_group(n).total_byte_size for n in range(table.num_row_groups))
            else:
                size = file.stat().st_size
            check_limit(file, "file", size)
            for batch in batches(schema.names):
                rows += batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: wanted a table in Parquet or Arrow. Got: {error}. Copy it again.") from error
    return rows


_UNCONDITIONAL_OFFSET = 1_000_000
"""OLMES repeats all questions for their unconditional likelihood, with ids from this number."""
_QUERY_PATTERNS = {
    "boolq": re.compile(r"(?:Passage: )?(.*)\nQuestion: (.*?)\??(?:\nAnswer:)?", re.DOTALL),
    "copa": re.compile(r"(.*?),? (because|therefore)", re.DOTALL),
    "hellaswag": re.compile(r"(.*?): (.*)", re.DOTALL),
    "pubmedqa": re.compile(r"(?:Abstract: )?(.*)\nQuestion: (.*?)(?:\nAnswer:)?", re.DOTALL),
}
"""The parts of a query by task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceQuery:
    """A question, its choices, and the index of the right one."""

    query: str
    choices: tuple[str, ...]
    gold: int
    extra_fields: Mapping[str, Any]
    """Its id and tags."""


def parse_queries(rows: Sequence[Mapping[str, Any]], location: str) -> list[ChoiceQuery] | None:
    """The questions of rows in query form; None if the first row has another form, DataError if a later row has."""
    numbered_rows = _unique_docs(rows) if rows and "request" in rows[0] else list(enumerate(rows))
    if not numbered_rows or not _is_query(numbered_rows[0][1]):
        return None
    return [_query({"question_id": number, **row}, f"{location}, record {number}") for number, row in numbered_rows]


def _unique_docs(requests: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Mapping[str, Any]]]:
    """(native id, document) once per question; OLMES has a request per choice, and each again without a context."""
    docs_by_id: dict[Any, tuple[Any, Mapping[str, Any]]] = {}
    for request in requests:
        doc_id, doc = request.get("doc_id"), request.get("doc")
        if isinstance(doc_id, int) and doc_id < _UNCONDITIONAL_OFFSET and isinstance(doc, dict):
            docs_by_id.setdefault(doc_id, (request.get("native_id", doc_id), doc))
    return list(docs_by_id.values())


def _is_query(row: Mapping[str, Any]) -> bool:
    return {"query", "choices", "gold"} <= row.keys() and isinstance(row["gold"], int)


def _query(row: Mapping[str, Any], location: str) -> ChoiceQuery:
    if not _is_query(row):
        raise DataError(f"{location}: wanted query, choices and gold. Got {str(dict(row))[:120]}. Correct it.")
    choices, gold = tuple(row["choices"]), row["gold"]
    if not isinstance(row["query"], str) or not all(isinstance(choice, str) and choice for choice in choices):
        raise DataError(f"{location}: wanted a query and choices in words. Got {str(row)[:120]}. Correct it.")
    if isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise DataError(f"{location}: gold is the number of a choice, 0 to {len(choices) - 1}. Got {gold!r}. Fix it.")
    extra_fields = {key: row[key] for key in ("question_id", *TAGS) if key in row}
    return ChoiceQuery(query=row["query"], choices=choices, gold=gold, extra_fields=extra_fields)


def definition_row(name: str, query: ChoiceQuery) -> dict[str, Any] | None:
    """A record for lm-eval's definition of task `name`; None if the definition cannot express the question."""
    fields = _definition_fields(name, query.query, query.choices, query.gold)
    return None if fields is None else {**query.extra_fields, **fields}


def _definition_fields(name: str, text: str, choices: Sequence[str], gold: int) -> dict[str, Any] | None:
    # The question without the text that lm-eval's template adds.
    question = text.removesuffix("Answer:").removesuffix("\n").removeprefix("Question: ")
    pattern = _QUERY_PATTERNS.get(name)
    parts = pattern.fullmatch(text) if pattern else None
    match name, sorted(choices):
        case "arc_easy", _:
            letters = [chr(ord("A") + index) for index in range(len(choices))]
            labelled = {"text": list(choices), "label": letters}
            return {"question": question, "choices": labelled, "answerKey": letters[gold]}
        case "piqa", [_, _]:
            return {"goal": question, "sol1": choices[0], "sol2": choices[1], "label": gold}
        case "mathqa", [_, _, _, _, _]:
            options = " , ".join(f"{letter} ) {choice}" for letter, choice in zip("abcde", choices, strict=True))
            return {"Problem": question, "options": options, "correct": "abcde"[gold]}
        case "boolq", ["no", "yes"] if parts:
            return {"passage": parts[1], "question": parts[2], "label": int(choices[gold] == "yes")}
        case "pubmedqa", ["maybe", "no", "yes"] if parts:
            return {"CONTEXTS": [parts[1]], "QUESTION": parts[2], "final_decision": choices[gold]}
        case "copa", [_, _] if parts:
            # The definition removes the premise's last character, its full stop.
            fields = {"premise": f"{parts[1]}.", "question": "cause" if parts[2] == "because" else "effect"}
            return {**fields, "choice1": choices[0], "choice2": choices[1], "label": gold}
        case "hellaswag", _ if parts:
            fields = {"activity_label": parts[1], "ctx_a": _protect_from_cleaning(parts[2]), "ctx_b": ""}
            return {**fields, "endings": list(map(_protect_from_cleaning, choices)), "label": str(gold)}
    return None


def _protect_from_cleaning(text: str) -> str:
    """Text that becomes `text` by the definition's cleaning, which strips, drops brackets and halves double spaces."""
    spaced_text = re.sub(" {2,}", lambda spaces: 2 * spaces[0], text)
    return f"[]{spaced_text}[]" if text != text.strip() else spaced_text


def gold_index(target: Any, choices: Sequence[str], doc: object) -> int:
    """The index of the right choice from a definition's target, an index or a text; DataError if it is neither."""
    value = target[0] if isinstance(target, list) and target else target
    index = choices.index(value) if isinstance(value, str) and value in choices else value
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        excerpt = str(doc)[:120]
        raise DataError(f"{excerpt}: wanted the number of a choice as truth. Got {target!r}. Correct the record.")
    return index
