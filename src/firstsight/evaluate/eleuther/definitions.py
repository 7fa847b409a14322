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
from firstsight.evaluate.eleuther import adapter, copies, queries
from firstsight.evaluate.eleuther.known import definition, known, plain_version, text_version
from firstsight.evaluate.eleuther.queries import Query
from firstsight.evaluate.tasks import TASKS

_EXAMPLES = f"{{sampler: !function {__name__}.Examples}}"
MODEL = adapter.NAME
"""The model type that whoever loads one of these definitions has registered."""


class Ready(NamedTuple):
    """A task that lm-eval can run."""

    task: Task
    version: str
    file: str
    """Its definition."""


def ready(name: str, folder: Path) -> Ready:
    """The task over its copy in `folder`, in lm-eval's own wording wherever the copy allows it.

    Raises DataError for a copy in none of the known forms, or with a record that lacks something.
    """
    rows = copies.records(folder, name)[known(name).split]
    asked = queries.queries(rows, str(folder))
    if asked is None:
        _refuse_others(rows, name, folder)
        return _loaded(_own(name, folder, examples=False), text_version(name), folder)
    if all(queries.record(name, one) is not None for one in asked):
        made = _loaded(_own(name, folder, examples=False), text_version(name), folder)
        if _same(made.task, asked):
            return made
    return plain(name, folder)


def plain(name: str, folder: Path, *, ending: str | None = None) -> Ready:
    """The task of a copy in query form, asked as it stands; `ending` is put behind a query that lacks it."""
    rows = copies.records(folder, name)[known(name).split]
    if queries.queries(rows, str(folder)) is None:
        raise DataError(f"{folder}: wanted query, choices and gold. Got {', '.join(rows[0])}. Give such a file.")
    return _loaded(_plain(name, folder, _ending(name) if ending is None else ending), plain_version(name), folder)


def _ending(name: str) -> str:
    """What our own wording puts behind a query that the definition's template cannot make again."""
    return TASKS[name].wording["paper"].removeprefix("{q}")


def from_hub(name: str) -> Ready:
    """The task over data that lm-eval fetches; DataError that says where a copy belongs where it cannot."""
    try:
        return _loaded(
            definition(name).read_text(encoding="utf-8"), text_version(name), definition(name), place=definition(name)
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{name}: lm-eval could not fetch the task's data. Got: {str(error)[:200]}. "
            f"Put a copy into a folder {name} of your benchmarks."
        ) from error


def write(name: str, folder: Path, out: Path) -> Path:
    """Leave OUT/NAME.yaml, which `lm_eval --tasks` takes: the task over its copy in `folder`."""
    out.mkdir(parents=True, exist_ok=True)
    file, made = out / f"{name}.yaml", ready(name, folder.absolute())
    own = made.version == text_version(name)
    file.write_text(_own(name, folder.absolute(), examples=True) if own else made.file, encoding="utf-8")
    return file


class Examples(ContextSampler):
    """Examples from the copy's training split; DataError where `--num_fewshot` asks and the copy has none."""

    def sample(self, n: int, *asked: Any, **more: Any) -> Sequence[dict[str, Any]]:
        """`n` examples for one question."""
        if n and not self.df:
            raise DataError(
                f"--num_fewshot {n}: wanted a copy whose training split holds examples, in its own records. Got none. "
                "Put train.jsonl (or .parquet) beside the judged split and write the definition again, or ask without."
            )
        return super().sample(n, *asked, **more)


def own_records(folder: str, name: str, *, examples: bool, **_: object) -> dict[str, Dataset]:
    """The judged split as lm-eval's definition reads it, the others for `examples` alone; called by lm-eval."""
    judged, splits = known(name).split, copies.records(Path(folder), name)
    wanted = splits if examples else {judged: splits[judged]}
    made = {split: Dataset.from_list(_readable(rows, name, folder)) for split, rows in wanted.items() if rows}
    # lm-eval looks into every split that the definition names, even if it takes no examples from it.
    return {split: made[judged].select([]) for split in ("train", "validation", "test")} | made


def plain_records(folder: str, name: str, ending: str = "", **_: object) -> dict[str, Dataset]:
    """The judged split of a copy in query form; called by lm-eval for the files made here."""
    rows = copies.records(Path(folder), name)[known(name).split]
    asked = [queries.plain(one) for one in queries.queries(rows, folder) or ()]
    for row in asked:
        row["query"] = row["query"].removesuffix(ending) + ending
    made = Dataset.from_list(asked)
    return {"test": made, "train": made.select([])}


def _readable(rows: Sequence[copies.Record], name: str, folder: str) -> list[dict[str, Any]]:
    asked = queries.queries(rows, folder)
    if asked is None:
        return [{key: int(value) if isinstance(value, bool) else value for key, value in row.items()} for row in rows]
    made = [queries.record(name, one) for one in asked]
    return [one for one in made if one is not None]


def _refuse_others(rows: Sequence[copies.Record], name: str, folder: Path) -> None:
    columns = known(name).columns
    for number, row in enumerate(rows, start=1):
        lacking = [column for column in columns if row.get(column) is None]
        if lacking:
            raise DataError(
                f"{folder}, record {number}: wanted {', '.join(columns)}, or query, choices and gold. "
                f"Got {', '.join(row)}. Copy the data set that lm-eval's {name} names."
            )


def _own(name: str, folder: Path, *, examples: bool) -> str:
    return _file(
        {
            "include": str(definition(name)),
            "custom_dataset": f"!function {__name__}.own_records",
            "dataset_kwargs": {"folder": str(folder), "name": name, "examples": examples},
            "fewshot_config": _EXAMPLES,
        }
    )


def _plain(name: str, folder: Path, ending: str) -> str:
    return _file(
        {
            "task": name,
            "custom_dataset": f"!function {__name__}.plain_records",
            "dataset_kwargs": {"folder": str(folder), "name": name, "ending": ending},
            "output_type": "multiple_choice",
            "training_split": "train",
            "test_split": "test",
            "fewshot_config": _EXAMPLES,
            "doc_to_text": "query",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
            "metadata": {"version": plain_version(name)},
        }
    )


def _file(told: dict[str, Any]) -> str:
    """YAML, of which JSON is a part; only what names a function stands bare."""
    lines = (f"{key}: {value if '!function ' in str(value) else json.dumps(value)}" for key, value in told.items())
    return "\n".join(lines) + "\n"


def _loaded(file: str, version: str, where: Path, *, place: Path | None = None) -> Ready:
    with TemporaryDirectory() as made:
        path = place or Path(made) / "task.yaml"
        if place is None:
            path.write_text(file, encoding="utf-8")
        with readable(str(where)):
            [task] = TaskManager(include_defaults=False).load([str(path)])["tasks"].values()
    return Ready(task, version, file)


@contextmanager
def readable(where: str) -> Generator[None, None, None]:
    """What lm-eval stumbles over in a record becomes a DataError."""
    try:
        yield
    except (IndexError, KeyError, ValueError) as error:
        raise DataError(
            f"{where}: wanted records that lm-eval's definition can read. Got {type(error).__name__}: {error}. "
            "Look for a choice or a truth that is none."
        ) from error


def _same(task: Task, asked: Sequence[Query]) -> bool:
    """Whether the definition offers the choices that the copy tells, with the same one right, in every question."""
    docs = list(task.eval_docs)
    return len(docs) == len(asked) and all(_offers(task, doc, one) for doc, one in zip(docs, asked, strict=True))


def _offers(task: Any, doc: Any, asked: Query) -> bool:
    choices = task.doc_to_choice(doc)
    bare = [choice.removeprefix(" ") for choice in choices]
    told = [choice.removeprefix(" ") for choice in asked.choices]
    return sorted(bare) == sorted(told) and bare[gold(task.doc_to_target(doc), choices, doc)] == told[asked.gold]


def gold(target: Any, choices: Sequence[str], doc: object) -> int:
    """The number of the right choice, however a definition tells it; DataError where it is none of them."""
    one = target[0] if isinstance(target, list) and target else target
    number = choices.index(one) if isinstance(one, str) and one in choices else one
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(choices):
        raise DataError(f"{str(doc)[:120]}: wanted the number of a choice as truth. Got {target!r}. Mend the record.")
    return number
