"""Helpers to write and read small files in the benchmarks' own forms."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from firstsight.evaluate.task import Question, benchmark_files
from firstsight.evaluate.tasks import get_task

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")


def write(folder: Path, name: str, content: Any) -> Path:
    """Write text, or other content as JSON; compressed if the name ends with .gz."""
    folder.mkdir(parents=True, exist_ok=True)
    data = (content if isinstance(content, str) else json.dumps(content)).encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def lines(rows: list[dict[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(name: str, folder: Path) -> tuple[Question, ...]:
    """The questions that the task reads from a folder."""
    return get_task(name).read_questions(benchmark_files(folder))


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a tar archive of files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
