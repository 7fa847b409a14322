"""What files are known by: sha256 of their bytes, kept so that nothing is read twice for it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import file_digest, sha256
from pathlib import Path
from secrets import token_hex
from typing import Any


class Digests:
    """sha256 of files by place, size and time of change, kept in one file."""

    def __init__(self, cache: Path) -> None:
        self._file = cache / "digests.json"
        self._known: dict[str, list[Any]] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._new = False

    def of(self, file: Path) -> str:
        """The digest of a file's bytes, read only where the file is new or has changed."""
        stat, name = file.stat(), str(file.absolute())
        known = self._known.get(name)
        if known is None or known[:2] != [stat.st_size, stat.st_mtime_ns]:
            with file.open("rb") as data:
                known = [stat.st_size, stat.st_mtime_ns, file_digest(data, "sha256").hexdigest()]
            self._known[name], self._new = known, True
        return known[2]

    def of_all(self, folder: Path, files: Iterable[Path]) -> str:
        """One digest over the names below `folder` and the bytes of several files."""
        told = [[file.relative_to(folder).as_posix(), self.of(file)] for file in sorted(files)]
        return sha256(json.dumps(told).encode()).hexdigest()

    def keep(self) -> None:
        """Write down what was learned."""
        if self._new:
            write_whole(self._file, json.dumps(self._known, sort_keys=True) + "\n")
            self._new = False


def write_whole(file: Path, text: str) -> None:
    """A text that is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{token_hex(4)}")
    new.write_text(text, encoding="utf-8")
    new.replace(file)
