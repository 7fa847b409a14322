"""What files are known by: sha256 of their bytes, kept so that nothing is read twice for it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import file_digest, sha256
from pathlib import Path
from secrets import token_hex
from typing import Any


class FileDigests:
    """sha256 of files by place, size and time of change, kept in one file."""

    def __init__(self, cache: Path) -> None:
        self._file = cache / "digests.json"
        self._entries: dict[str, list[Any]] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._is_modified = False

    def digest(self, file: Path) -> str:
        """The digest of a file's bytes, read only where the file is new or has changed."""
        stat, name = file.stat(), str(file.absolute())
        entry = self._entries.get(name)
        if entry is None or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            with file.open("rb") as data:
                entry = [stat.st_size, stat.st_mtime_ns, file_digest(data, "sha256").hexdigest()]
            self._entries[name], self._is_modified = entry, True
        return entry[2]

    def combined_digest(self, folder: Path, files: Iterable[Path]) -> str:
        """One digest over the names below `folder` and the bytes of several files."""
        entries = [[file.relative_to(folder).as_posix(), self.digest(file)] for file in sorted(files)]
        return sha256(json.dumps(entries).encode()).hexdigest()

    def save(self) -> None:
        """Write down what was learned."""
        if self._is_modified:
            write_atomic(self._file, json.dumps(self._entries, sort_keys=True) + "\n")
            self._is_modified = False


def write_atomic(file: Path, text: str) -> None:
    """A text that is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{token_hex(4)}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
