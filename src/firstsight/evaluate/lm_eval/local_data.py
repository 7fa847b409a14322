"""Offline copies of data sets, by split: Parquet, JSON, JSON lines (.gz), or a `save_to_disk` folder.

No code of a copy is executed, and nothing is downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.lm_eval.tasks import LmEvalTask, get_lm_eval_task
from firstsight.evaluate.task import load_json_records

DatasetRow = dict[str, Any]
DatasetSplits = dict[str, list[DatasetRow]]

_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
_IGNORED_NAMES = re.compile(r"\.|readme|license|question_blind\.json$|task\.json$|dataset_infos?\.json$", re.IGNORECASE)
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
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name.endswith(_SUFFIXES)]
    files = [path for path in paths if not _IGNORED_NAMES.match(path.name)]
    if not files:
        names = ", ".join(sorted(path.name for path in root.iterdir())) if root.is_dir() else "no folder"
        raise DataError(
            f"{root}: wanted a copy of the task's data set ({', '.join(_SUFFIXES)} or save_to_disk). "
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
        if len(group) > 1 and any(file.suffix != ".parquet" for file in group):
            names = ", ".join(str(file.relative_to(root)) for file in group)
            raise DataError(f"{root}: wanted the split {split} once. Got {names}. Keep one copy of it.")
    return {split: [row for file in group for row in _read_rows(file)] for split, group in files_by_split.items()}


def _read_rows(file: Path) -> list[DatasetRow]:
    if file.suffix != ".parquet":
        return load_json_records(file)
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file}: wanted a Parquet table. Got: {error}. Copy it again.") from error
