"""Offline copies of a data set's records, by split: parquet, JSON, JSON lines (.gz), or a `save_to_disk` folder.

Nothing of a copy is executed, and nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.eleuther.known import Known, known
from firstsight.evaluate.question import lines

Record = dict[str, Any]
Splits = dict[str, list[Record]]

_ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
_BESIDE = re.compile(r"\.|readme|license|question_blind\.json$|task\.json$|dataset_infos?\.json$", re.IGNORECASE)
_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"} | {
    "dev": "validation",
    "test": "test",
}


def records(folder: Path, name: str) -> Splits:
    """The splits of a task's offline copy; a file whose name tells none is the one that is judged.

    Raises DataError for a folder without data, for files of two kinds in a split, and where the judged split lacks.
    """
    task = known(name)
    root = folder / task.config if task.config and (folder / task.config).is_dir() else folder
    found = _saved(root, task) if _is_saved(root) else _filed(root, task)
    if not found.get(task.split):
        held = ", ".join(split for split, rows in found.items() if rows) or "none"
        raise DataError(f"{folder}: {name} is judged on the split {task.split}. Got {held}. Add its file.")
    return found


def _is_saved(root: Path) -> bool:
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def _saved(root: Path, task: Known) -> Splits:
    import datasets

    try:
        held = datasets.load_from_disk(str(root))
    except (OSError, ValueError) as error:
        raise DataError(f"{root}: wanted what datasets' save_to_disk left. Got: {error}. Save it again.") from error
    if isinstance(held, datasets.Dataset):
        return {task.split: held.to_list()}
    return {str(split): rows.to_list() for split, rows in held.items()}


def _filed(root: Path, task: Known) -> Splits:
    files = list(_files(root))
    if not files:
        held = ", ".join(sorted(path.name for path in root.iterdir())) if root.is_dir() else "no folder"
        raise DataError(
            f"{root}: wanted a copy of the task's data set ({', '.join(_ENDINGS)} or save_to_disk). "
            f"Got {held or 'nothing'}. Put it there."
        )
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split(file.relative_to(root), task.split), []).append(file)
    for split, own in splits.items():
        kinds = sorted({_kind(file) for file in own})
        if len(kinds) > 1 or (len(own) > 1 and kinds != [".parquet"]):
            names = ", ".join(str(file.relative_to(root)) for file in own)
            raise DataError(f"{root}: wanted the split {split} once. Got {names}. Keep one copy of it.")
    return {split: [row for file in own for row in _rows(file)] for split, own in splits.items()}


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name.endswith(_ENDINGS) and not _BESIDE.match(path.name):
            yield path


def _kind(file: Path) -> str:
    return next(ending for ending in _ENDINGS if file.name.endswith(ending))


def _split(file: Path, judged: str) -> str:
    """The last word of a path that names a split; `default` is one only where such a split is judged."""
    names = _NAMES | ({judged: judged})
    told = [names[word] for word in re.split(r"[^a-z]+", str(file).lower()) if word in names]
    return told[-1] if told else judged


def _rows(file: Path) -> list[Record]:
    return _table(file) if file.suffix == ".parquet" else lines(file)


def _table(file: Path) -> list[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file}: wanted a parquet table. Got: {error}. Copy it again.") from error
