"""All layouts of an offline copy have the same records; invalid copies are refused with their path."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from firstsight.errors import DataError
from firstsight.evaluate.lm_eval.doc_adapters import load_dataset_splits

ROWS: list[dict[str, Any]] = [
    {"question": f"q{n}", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "AB"[n % 2]}
    for n in range(4)
]


def to_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write_parquet(folder: Path) -> None:
    for number in range(2):
        rows = pa.Table.from_pylist(ROWS[2 * number : 2 * number + 2])
        parquet.write_table(rows, folder / f"test-0000{number}-of-00002.parquet")
    parquet.write_table(pa.Table.from_pylist(ROWS[:1]), folder / "train-00000-of-00001.parquet")


def _write_configurations(folder: Path) -> None:
    for name, rows in (("ARC-Easy", ROWS), ("ARC-Challenge", ROWS[:1])):
        (folder / name).mkdir()
        (folder / name / "test.jsonl").write_text(to_lines(rows))
    (folder / "README.md").write_text("from the hub")


def _save_to_disk(folder: Path) -> None:
    splits = {"test": datasets.Dataset.from_list(ROWS), "train": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(splits).save_to_disk(str(folder))


LAYOUTS: dict[str, Callable[[Path], Any]] = {
    "to_lines": lambda folder: (folder / "arc.jsonl").write_text(to_lines(ROWS)),
    "gzip": lambda folder: (folder / "arc.jsonl.gz").write_bytes(gzip.compress(to_lines(ROWS).encode())),
    "list": lambda folder: (folder / "test.json").write_text(json.dumps(ROWS)),
    "table": _write_parquet,
    "configured": _write_configurations,
    "saved": _save_to_disk,
    "saved split": lambda folder: datasets.Dataset.from_list(ROWS).save_to_disk(str(folder)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_have_the_same_records(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    assert load_dataset_splits(tmp_path, "arc_easy")["test"] == ROWS


def test_invalid_copies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Got nothing"):
        load_dataset_splits(tmp_path, "arc_easy")
    (tmp_path / "arc_train.jsonl").write_text(to_lines(ROWS))
    with pytest.raises(DataError, match="evaluated on the split test"):
        load_dataset_splits(tmp_path, "arc_easy")
    (tmp_path / "test.jsonl").write_text("[1, 2]")
    with pytest.raises(DataError, match="record 1 is not an object"):
        load_dataset_splits(tmp_path, "arc_easy")
    (tmp_path / "again_test.json").write_text(json.dumps(ROWS))
    with pytest.raises(DataError, match="wanted the split test once"):
        load_dataset_splits(tmp_path, "arc_easy")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="wanted a table in Parquet or Arrow"):
        load_dataset_splits(tmp_path / "broken", "arc_easy")
