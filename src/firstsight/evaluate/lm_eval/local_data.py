"""Offline copies of a data set's records, by split: parquet, JSON, JSON lines (.gz), or a `save_to_disk` folder.

Nothing of a copy is executed, and nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.lm_eval.tasks import LmEvalTask, get_lm_eval_task
from firstsight.evaluate.task import load_json_records

DatasetRow = dict[str, Any]
DatasetSplits = dict[str, list[DatasetRow]]

_ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
_IGNORED_NAMES = re.compile(r"\.|readme|license|question_blind\.json$|task\.json$|dataset_infos?\.json$", re.IGNORECASE)
_SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"} | {
    "dev": "validation",
    "test": "test",
}


def load_dataset_splits(folder: Path, name: str) -> DatasetSplits:
    """The splits of a task's offline copy; a file whose name tells none is the one that is judged.

    Raises DataError for a folder without data, for files of two kinds in a split, and where the judged split lacks.
    """
    task = get_lm_eval_task(name)
    root = folder / task.config if task.config and (folder / task.config).is_dir() else folder
    splits = _load_saved(root, task) if _is_saved_to_disk(root) else _load_files(root, task)
    if not splits.get(task.split):
        split_names = ", ".join(split for split, rows in splits.items() if rows) or "none"
        raise DataError(f"{folder}: {name} is judged on the split {task.split}. Got {split_names}. Add its file.")
    return splits


def _is_saved_to_disk(root: Path) -> bool:
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def _load_saved(root: Path, task: LmEvalTask) -> DatasetSplits:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(root))
    except (OSError, ValueError) as error:
        raise DataError(f"{root}: wanted what datasets' save_to_disk left. Got: {error}. Save it again.") from error
    if isinstance(dataset, datasets.Dataset):
        return {task.split: dataset.to_list()}
    return {str(split): rows.to_list() for split, rows in dataset.items()}


def _load_files(root: Path, task: LmEvalTask) -> DatasetSplits:
    files = list(_list_data_files(root))
    if not files:
        file_names = ", ".join(sorted(path.name for path in root.iterdir())) if root.is_dir() else "no folder"
        raise DataError(
            f"{root}: wanted a copy of the task's data set ({', '.join(_ENDINGS)} or save_to_disk). "
            f"Got {file_names or 'nothing'}. Put it there."
        )
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_from_path(file.relative_to(root), task.split), []).append(file)
    for split, split_files in splits.items():
        endings = sorted({_file_ending(file) for file in split_files})
        if len(endings) > 1 or (len(split_files) > 1 and endings != [".parquet"]):
            names = ", ".join(str(file.relative_to(root)) for file in split_files)
            raise DataError(f"{root}: wanted the split {split} once. Got {names}. Keep one copy of it.")
    return {split: [row for file in split_files for row in _read_rows(file)] for split, split_files in splits.items()}


def _list_data_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name.endswith(_ENDINGS) and not _IGNORED_NAMES.match(path.name):
            yield path


def _file_ending(file: Path) -> str:
    return next(ending for ending in _ENDINGS if file.name.endswith(ending))


def _split_from_path(file: Path, evaluated_split: str) -> str:
    """The last word of a path that names a split; `default` is one only where such a split is judged."""
    split_names = _SPLIT_NAMES | ({evaluated_split: evaluated_split})
    path_splits = [split_names[word] for word in re.split(r"[^a-z]+", str(file).lower()) if word in split_names]
    return path_splits[-1] if path_splits else evaluated_split


def _read_rows(file: Path) -> list[DatasetRow]:
    return _read_parquet(file) if file.suffix == ".parquet" else load_json_records(file)


def _read_parquet(file: Path) -> list[DatasetRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file}: wanted a parquet table. Got: {error}. Copy it again.") from error
