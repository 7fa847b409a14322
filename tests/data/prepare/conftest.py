"""A text source of several shards, and comparison of folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstsight.data.prepare import shard_writer
from firstsight.data.readers import Shard
from firstsight.site import Progress
from tests.data.conftest import Workshop, words_of

SHARDS, ROWS = 6, 30


def ignore_progress(progress: Progress) -> None:
    del progress


def equal_folders(first: Path, second: Path) -> bool:
    """Whether two folders contain the same names with the same bytes, recursively.

    Without complete.json: it is never published, and has the times of the files.
    """
    paths = ([file for file in root.rglob("*") if file != root / "complete.json"] for root in (first, second))
    names = [
        sorted(file.relative_to(root).as_posix() for file in files)
        for root, files in zip((first, second), paths, strict=True)
    ]
    files = [name for name in names[0] if (first / name).is_file()]
    return names[0] == names[1] and all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def shard_rows(shard: int) -> list[dict[str, object]]:
    return [{"text": words_of(range(shard, shard + 1 + row % 7))} for row in range(ROWS)]


@pytest.fixture
def source(workshop: Workshop) -> Path:
    folder = workshop.folder("source")
    for shard in range(SHARDS):
        split = "unnamed" if shard == 4 else "train"
        lines = "".join(json.dumps(row) + "\n" for row in shard_rows(shard))
        (folder / f"{split}-{shard}.jsonl").write_text(lines)
    return folder


@pytest.fixture
def written_shards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards whose parts this process writes."""
    names: list[str] = []
    write = shard_writer.ShardWriter.write

    def record_name(self: shard_writer.ShardWriter, shard: Shard) -> Iterator[shard_writer.ShardProgress]:
        names.append(shard.name)
        return write(self, shard)

    monkeypatch.setattr(shard_writer.ShardWriter, "write", record_name)
    return names
