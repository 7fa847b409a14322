"""Files: whole or not at all, JSON line by line, digests. Standard library only, so that planning may use it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstsight.errors import DataError


def write_atomic(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a file under a temporary name beside it and rename it, so that no reader ever sees half of it.

    Makes the folder. `sync`: the bytes are on the disk before the rename, which a power loss then cannot undo.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system has them, else a copy of content and times."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of each line that is not blank; DataError names the file and the line of bad JSON."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number}: wanted JSON. Got {error}. Repair or remove that line."
                ) from error
