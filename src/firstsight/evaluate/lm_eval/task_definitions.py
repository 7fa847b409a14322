"""lm-eval's tasks over offline copies: its own definition with other data, or query, choices and gold as they stand.

Both are files in lm-eval's own form, so that the `lm_eval` command can run them as well (see `write`).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from datasets import Dataset
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from firstsight.errors import DataError
from firstsight.evaluate.lm_eval import adapter, doc_adapters, local_data
from firstsight.evaluate.lm_eval.doc_adapters import ChoiceQuery
from firstsight.evaluate.lm_eval.tasks import definition_version, find_definition, get_lm_eval_task, query_version
from firstsight.evaluate.tasks import TASKS

_FEWSHOT_CONFIG = f"{{sampler: !function {__name__}.LocalFewshotSampler}}"
REGISTERED_MODEL = adapter.MODEL_NAME
"""The model type that whoever loads one of these definitions has registered."""


class LoadedTask(NamedTuple):
    """A task that lm-eval can run."""

    task: Task
    version: str
    file: str
    """Its definition."""


def load_local_task(name: str, folder: Path) -> LoadedTask:
    """The task over its copy in `folder`, in lm-eval's own wording wherever the copy allows it.

    Raises DataError for a copy in none of the known forms, or with a record that lacks something.
    """
    rows = local_data.load_dataset_splits(folder, name)[get_lm_eval_task(name).split]
    parsed_queries = doc_adapters.parse_queries(rows, str(folder))
    if parsed_queries is None:
        _check_columns(rows, name, folder)
        return _load_definition(_include_definition(name, folder, examples=False), definition_version(name), folder)
    if all(doc_adapters.definition_row(name, query) is not None for query in parsed_queries):
        loaded_task = _load_definition(
            _include_definition(name, folder, examples=False), definition_version(name), folder
        )
        if _has_same_questions(loaded_task.task, parsed_queries):
            return loaded_task
    return load_query_task(name, folder)


def load_query_task(name: str, folder: Path, *, ending: str | None = None) -> LoadedTask:
    """The task of a copy in query form, asked as it stands; `ending` is put behind a query that lacks it."""
    rows = local_data.load_dataset_splits(folder, name)[get_lm_eval_task(name).split]
    if doc_adapters.parse_queries(rows, str(folder)) is None:
        raise DataError(f"{folder}: wanted query, choices and gold. Got {', '.join(rows[0])}. Give such a file.")
    return _load_definition(
        _query_definition(name, folder, _query_ending(name) if ending is None else ending), query_version(name), folder
    )


def _query_ending(name: str) -> str:
    """What our own wording puts behind a query that the definition's template cannot make again."""
    return TASKS[name].prompt_templates["paper"].removeprefix("{q}")


def load_hub_task(name: str) -> LoadedTask:
    """The task over data that lm-eval fetches; DataError that says where a copy belongs where it cannot."""
    try:
        return _load_definition(
            find_definition(name).read_text(encoding="utf-8"),
            definition_version(name),
            find_definition(name),
            definition_path=find_definition(name),
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{name}: lm-eval could not fetch the task's data. Got: {str(error)[:200]}. "
            f"Put a copy into a folder {name} of your benchmarks."
        ) from error


def write(name: str, folder: Path, out: Path) -> Path:
    """Leave OUT/NAME.yaml, which `lm_eval --tasks` takes: the task over its copy in `folder`."""
    out.mkdir(parents=True, exist_ok=True)
    file, loaded_task = out / f"{name}.yaml", load_local_task(name, folder.absolute())
    uses_definition = loaded_task.version == definition_version(name)
    file.write_text(
        _include_definition(name, folder.absolute(), examples=True) if uses_definition else loaded_task.file,
        encoding="utf-8",
    )
    return file


class LocalFewshotSampler(ContextSampler):
    """Examples from the copy's training split; DataError where `--num_fewshot` asks and the copy has none."""

    def sample(self, n: int, *args: Any, **kwargs: Any) -> Sequence[dict[str, Any]]:
        """`n` examples for one question."""
        if n and not self.df:
            raise DataError(
                f"--num_fewshot {n}: wanted a copy whose training split holds examples, in its own records. Got none. "
                "Put train.jsonl (or .parquet) beside the judged split and write the definition again, or ask without."
            )
        return super().sample(n, *args, **kwargs)


def definition_dataset(folder: str, name: str, *, examples: bool, **_: object) -> dict[str, Dataset]:
    """The judged split as lm-eval's definition reads it, the others for `examples` alone; called by lm-eval."""
    evaluated_split, splits = get_lm_eval_task(name).split, local_data.load_dataset_splits(Path(folder), name)
    selected_splits = splits if examples else {evaluated_split: splits[evaluated_split]}
    split_datasets = {
        split: Dataset.from_list(_definition_rows(rows, name, folder))
        for split, rows in selected_splits.items()
        if rows
    }
    # lm-eval looks into every split that the definition names, even if it takes no examples from it.
    return {
        split: split_datasets[evaluated_split].select([]) for split in ("train", "validation", "test")
    } | split_datasets


def query_dataset(folder: str, name: str, ending: str = "", **_: object) -> dict[str, Dataset]:
    """The judged split of a copy in query form; called by lm-eval for the files made here."""
    rows = local_data.load_dataset_splits(Path(folder), name)[get_lm_eval_task(name).split]
    query_rows = [doc_adapters.query_row(query) for query in doc_adapters.parse_queries(rows, folder) or ()]
    for row in query_rows:
        row["query"] = row["query"].removesuffix(ending) + ending
    dataset = Dataset.from_list(query_rows)
    return {"test": dataset, "train": dataset.select([])}


def _definition_rows(rows: Sequence[local_data.DatasetRow], name: str, folder: str) -> list[dict[str, Any]]:
    parsed_queries = doc_adapters.parse_queries(rows, folder)
    if parsed_queries is None:
        return [{key: int(value) if isinstance(value, bool) else value for key, value in row.items()} for row in rows]
    definition_rows = [doc_adapters.definition_row(name, item) for item in parsed_queries]
    return [item for item in definition_rows if item is not None]


def _check_columns(rows: Sequence[local_data.DatasetRow], name: str, folder: Path) -> None:
    columns = get_lm_eval_task(name).columns
    for number, row in enumerate(rows, start=1):
        missing_columns = [column for column in columns if row.get(column) is None]
        if missing_columns:
            raise DataError(
                f"{folder}, record {number}: wanted {', '.join(columns)}, or query, choices and gold. "
                f"Got {', '.join(row)}. Copy the data set that lm-eval's {name} names."
            )


def _include_definition(name: str, folder: Path, *, examples: bool) -> str:
    return _to_yaml(
        {
            "include": str(find_definition(name)),
            "custom_dataset": f"!function {__name__}.definition_dataset",
            "dataset_kwargs": {"folder": str(folder), "name": name, "examples": examples},
            "fewshot_config": _FEWSHOT_CONFIG,
        }
    )


def _query_definition(name: str, folder: Path, ending: str) -> str:
    return _to_yaml(
        {
            "task": name,
            "custom_dataset": f"!function {__name__}.query_dataset",
            "dataset_kwargs": {"folder": str(folder), "name": name, "ending": ending},
            "output_type": "multiple_choice",
            "training_split": "train",
            "test_split": "test",
            "fewshot_config": _FEWSHOT_CONFIG,
            "doc_to_text": "query",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
            "metadata": {"version": query_version(name)},
        }
    )


def _to_yaml(fields: dict[str, Any]) -> str:
    """YAML, of which JSON is a part; only what names a function stands bare."""
    lines = (f"{key}: {value if '!function ' in str(value) else json.dumps(value)}" for key, value in fields.items())
    return "\n".join(lines) + "\n"


def _load_definition(file: str, version: str, location: Path, *, definition_path: Path | None = None) -> LoadedTask:
    with TemporaryDirectory() as temporary_folder:
        path = definition_path or Path(temporary_folder) / "task.yaml"
        if definition_path is None:
            path.write_text(file, encoding="utf-8")
        with convert_record_errors(str(location)):
            [task] = TaskManager(include_defaults=False).load([str(path)])["tasks"].values()
    return LoadedTask(task, version, file)


@contextmanager
def convert_record_errors(location: str) -> Generator[None, None, None]:
    """What lm-eval stumbles over in a record becomes a DataError."""
    try:
        yield
    except (IndexError, KeyError, ValueError) as error:
        raise DataError(
            f"{location}: wanted records that lm-eval's definition can read. Got {type(error).__name__}: {error}. "
            "Look for a choice or a truth that is none."
        ) from error


def _has_same_questions(task: Task, parsed_queries: Sequence[ChoiceQuery]) -> bool:
    """Whether the definition offers the choices that the copy tells, with the same one right, in every question."""
    docs = list(task.eval_docs)
    return len(docs) == len(parsed_queries) and all(
        _has_same_choices(task, doc, query) for doc, query in zip(docs, parsed_queries, strict=True)
    )


def _has_same_choices(task: Any, doc: Any, query: ChoiceQuery) -> bool:
    choices = task.doc_to_choice(doc)
    definition_choices = [choice.removeprefix(" ") for choice in choices]
    query_choices = [choice.removeprefix(" ") for choice in query.choices]
    return (
        sorted(definition_choices) == sorted(query_choices)
        and definition_choices[gold_index(task.doc_to_target(doc), choices, doc)] == query_choices[query.gold]
    )


def gold_index(target: Any, choices: Sequence[str], doc: object) -> int:
    """The number of the right choice, however a definition tells it; DataError where it is none of them."""
    value = target[0] if isinstance(target, list) and target else target
    index = choices.index(value) if isinstance(value, str) and value in choices else value
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise DataError(f"{str(doc)[:120]}: wanted the number of a choice as truth. Got {target!r}. Mend the record.")
    return index
