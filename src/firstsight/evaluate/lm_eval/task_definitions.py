"""lm-eval's tasks over offline copies of their data.

A task uses lm-eval's own definition, or if a copy in query form (records of query, choices and gold) does not fit it,
the copy's texts unchanged. Both are YAML files that the `lm_eval` command can run too (see `write`).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from datasets import Dataset
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from firstsight.errors import DataError
from firstsight.evaluate.lm_eval import doc_adapters
from firstsight.evaluate.lm_eval.adapter import LmEvalAdapter  # also registers the model type for these definitions
from firstsight.evaluate.lm_eval.doc_adapters import ChoiceQuery, gold_index
from firstsight.evaluate.lm_eval.tasks import definition_version, find_definition, get_lm_eval_task, query_version
from firstsight.evaluate.tasks import TASKS
from firstsight.files import write_atomic

_FEWSHOT_CONFIG = f"{{sampler: !function {__name__}.LocalFewshotSampler}}"


class LoadedTask(NamedTuple):
    """A task that lm-eval can run."""

    task: Task
    version: str
    definition: str
    """The YAML text of its definition."""


def load_local_task(name: str, folder: Path) -> LoadedTask:
    """The task over its copy in `folder`, in lm-eval's own wording if the copy allows it.

    Raises DataError for a copy in an unknown form, or with an incomplete record.
    """
    rows, queries = _evaluated_rows(name, folder)
    if queries is None:
        _check_columns(rows, name, folder)
    elif any(doc_adapters.definition_row(name, query) is None for query in queries):
        return load_query_task(name, folder)
    definition = _include_definition(name, folder, examples=False)
    loaded = _load_definition(definition, definition_version(name), folder)
    is_same = queries is None or _has_same_questions(loaded.task, queries)
    return loaded if is_same else load_query_task(name, folder)


def load_query_task(name: str, folder: Path, *, ending: str | None = None) -> LoadedTask:
    """The task of a copy in query form, used unchanged; queries without `ending` (default: our prompt's) get it."""
    rows, queries = _evaluated_rows(name, folder)
    if queries is None:
        raise DataError(f"{folder}: wanted query, choices and gold. Got {', '.join(rows[0])}. Give such a file.")
    if ending is None:
        ending = TASKS[name].prompt_templates["paper"].removeprefix("{q}")
    return _load_definition(_query_definition(name, folder, ending), query_version(name), folder)


def _evaluated_rows(name: str, folder: Path) -> tuple[list[doc_adapters.DatasetRow], list[ChoiceQuery] | None]:
    rows = doc_adapters.load_dataset_splits(folder, name)[get_lm_eval_task(name).split]
    return rows, doc_adapters.parse_queries(rows, str(folder))


def load_hub_task(name: str) -> LoadedTask:
    """The task over data that lm-eval downloads; DataError with the folder for a copy if it cannot."""
    path = find_definition(name)
    try:
        return _load_definition(path.read_text(encoding="utf-8"), definition_version(name), path, path=path)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{name}: lm-eval could not fetch the task's data. Got: {str(error)[:200]}. "
            f"Put a copy into a folder {name} of your benchmarks."
        ) from error


def write(name: str, folder: Path, out: Path) -> Path:
    """Write OUT/NAME.yaml for `lm_eval --tasks`: the task over its copy in `folder`."""
    folder = folder.absolute()
    path, loaded = out / f"{name}.yaml", load_local_task(name, folder)
    uses_definition = loaded.version == definition_version(name)
    text = _include_definition(name, folder, examples=True) if uses_definition else loaded.definition
    write_atomic(path, text)
    return path


def collect_samples(model: LmEvalAdapter, loaded: Mapping[str, LoadedTask]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples by task, zero-shot, in the order of the task's documents.

    A sample has doc, target, arguments, resps, and a value for each of the task's metrics.
    Calls `evaluate`, because `simple_evaluate` sets the process's seeds and queries the machine's drivers.
    """
    lm_eval_tasks = [loaded_task.task for loaded_task in loaded.values()]
    for task in lm_eval_tasks:
        task.set_config(key="num_fewshot", value=0)
    task_dict = TaskManager(include_defaults=False).load(lm_eval_tasks)
    with _convert_record_errors(", ".join(loaded)):
        results: Any = evaluate(model, task_dict, bootstrap_iters=0, log_samples=True)
    samples = (results or {}).get("samples", {})
    return {name: sorted(group, key=lambda sample: sample["doc_id"]) for name, group in samples.items()}


class LocalFewshotSampler(ContextSampler):
    """Few-shot examples from the copy's training split; DataError if `--num_fewshot` needs some and it has none."""

    def sample(self, n: int, *args: Any, **kwargs: Any) -> Sequence[dict[str, Any]]:
        """`n` examples for one question."""
        if n and not self.df:
            raise DataError(
                f"--num_fewshot {n}: wanted examples in the copy's training split, in the data set's form. Got none. "
                "Put train.jsonl (or .parquet) next to the evaluated split and write the definition again, or use 0."
            )
        return super().sample(n, *args, **kwargs)


def definition_dataset(folder: str, name: str, *, examples: bool, **_: object) -> dict[str, Dataset]:
    """Records for lm-eval's definition: of the evaluated split, with `examples` of all splits. Called by lm-eval."""
    split, splits = get_lm_eval_task(name).split, doc_adapters.load_dataset_splits(Path(folder), name)
    used_splits = [key for key, rows in splits.items() if rows and (examples or key == split)]
    datasets = {key: Dataset.from_list(_definition_rows(splits[key], name, folder)) for key in used_splits}
    # lm-eval reads every split that the definition names, even if it takes no examples from it.
    return {key: datasets[split].select([]) for key in ("train", "validation", "test")} | datasets


def query_dataset(folder: str, name: str, ending: str = "", **_: object) -> dict[str, Dataset]:
    """The evaluated split of a copy in query form; called by lm-eval for `_query_definition`."""
    queries = _evaluated_rows(name, Path(folder))[1] or ()
    rows: list[dict[str, Any]] = []
    for query in queries:
        text = query.query.removesuffix(ending) + ending
        rows.append({**query.extra_fields, "query": text, "choices": list(query.choices), "gold": query.gold})
    dataset = Dataset.from_list(rows)
    return {"test": dataset, "train": dataset.select([])}


def _definition_rows(rows: Sequence[doc_adapters.DatasetRow], name: str, folder: str) -> list[dict[str, Any]]:
    queries = doc_adapters.parse_queries(rows, folder)
    if queries is None:
        return [{key: int(value) if isinstance(value, bool) else value for key, value in row.items()} for row in rows]
    return [row for query in queries if (row := doc_adapters.definition_row(name, query)) is not None]


def _check_columns(rows: Sequence[doc_adapters.DatasetRow], name: str, folder: Path) -> None:
    columns = get_lm_eval_task(name).columns
    for number, row in enumerate(rows, start=1):
        if any(row.get(column) is None for column in columns):
            raise DataError(
                f"{folder}, record {number}: wanted {', '.join(columns)}, or query, choices and gold. "
                f"Got {', '.join(row)}. Copy the data set that lm-eval's {name} uses."
            )


def _include_definition(name: str, folder: Path, *, examples: bool) -> str:
    fields = {
        "include": str(find_definition(name)),
        "custom_dataset": f"!function {__name__}.definition_dataset",
        "dataset_kwargs": {"folder": str(folder), "name": name, "examples": examples},
        "fewshot_config": _FEWSHOT_CONFIG,
    }
    return _to_yaml(fields)


def _query_definition(name: str, folder: Path, ending: str) -> str:
    fields = {
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
    return _to_yaml(fields)


def _to_yaml(fields: dict[str, Any]) -> str:
    lines = (f"{key}: {value if '!function ' in str(value) else json.dumps(value)}" for key, value in fields.items())
    return "\n".join(lines) + "\n"


def _load_definition(text: str, version: str, location: Path, *, path: Path | None = None) -> LoadedTask:
    """The task of a definition's text. `path`: the file with that text, needed if it includes relative paths."""
    with TemporaryDirectory() as folder, _convert_record_errors(str(location)):
        if path is None:
            path = Path(folder) / "task.yaml"
            path.write_text(text, encoding="utf-8")
        [task] = TaskManager(include_defaults=False).load([str(path)])["tasks"].values()
    return LoadedTask(task, version, text)


@contextmanager
def _convert_record_errors(location: str) -> Generator[None, None, None]:
    try:
        yield
    except (IndexError, KeyError, ValueError) as error:
        raise DataError(
            f"{location}: wanted records that lm-eval's definition can read. Got {type(error).__name__}: {error}. "
            "Check the records for an invalid choice or truth."
        ) from error


def _has_same_questions(task: Task, queries: Sequence[ChoiceQuery]) -> bool:
    docs = list(task.eval_docs)
    return len(docs) == len(queries) and all(map(partial(_has_same_choices, task), docs, queries))


def _has_same_choices(task: Any, doc: Any, query: ChoiceQuery) -> bool:
    choices = task.doc_to_choice(doc)
    labels, query_labels = ([choice.removeprefix(" ") for choice in group] for group in (choices, query.choices))
    right = labels[gold_index(task.doc_to_target(doc), choices, doc)]
    return sorted(labels) == sorted(query_labels) and right == query_labels[query.gold]
