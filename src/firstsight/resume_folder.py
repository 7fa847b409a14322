"""What an unfinished step continues from: files and a state, with digests of every byte that the next attempt uses.

resume/                 the files of an unfinished step
    point.json          its state, the size and sha256 of each file, and a digest of all this; replaced last
resume.damaged-1/       the last `resume/` that did not fit its point, set aside

Files are on the disk before the point that names them is written, so that a power loss leaves the old point or the new
one. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.files import fsync_path, link_or_copy, write_atomic

RESUME_FOLDER, POINT_FILE = "resume", "point.json"
UNFINISHED_FILES = (f"{RESUME_FOLDER}/**", f"{RESUME_FOLDER}.damaged-*", f"{RESUME_FOLDER}.damaged-*/**")
"""What a step with a `ResumeFolder` leaves for its next attempt, as patterns relative to its work folder."""
_POINT_FORMAT = 2
_CHUNK = 1 << 20


def seal_json(content: Any) -> str:
    """JSON of `content` with its digest, for `unseal_json`."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return f'{{"sha256": "{hashlib.sha256(text.encode()).hexdigest()}", "content": {text}}}\n'


def unseal_json(text: str) -> Any:
    """The content of `seal_json`; DataError if a character of it has changed."""
    try:
        content = json.loads(text)["content"]
        if seal_json(content) == text:
            return content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"wanted JSON with its digest. Got {error!r}.") from error
    raise DataError("its digest is not that of its content.")


class AppendedFile:
    """A file that is only appended to, with the sha256 of all of its bytes."""

    def __init__(self, path: Path, *, size: int = 0, digest: Any = None) -> None:
        """`digest`: the hash object over the first `size` bytes of the file; what follows them is cut off."""
        self.path, self.size, self._digest = path, size, digest or hashlib.sha256()
        with path.open("ab") as file:
            file.truncate(size)

    @property
    def sha256(self) -> str:
        """The digest of the file, in hexadecimal."""
        return self._digest.hexdigest()

    def append(self, data: bytes | memoryview) -> None:
        """Write bytes at the end. OSError if the disk is full."""
        with self.path.open("ab") as file:
            file.write(data)
        self._digest.update(data)
        self.size += len(data)


class ResumeFolder:
    """The folder `resume/` of a work folder. `restore` comes first, then `open_appended`, then any number of `save`.

    `on_damage` gets one line about a folder that is set aside; it is written to stderr too.
    """

    def __init__(self, out: Path, *, on_damage: Callable[[str], None]) -> None:
        self.out, self.path, self._on_damage = out, out / RESUME_FOLDER, on_damage
        self.state: Mapping[str, Any] | None = None
        """The state of the point; None if there is none."""
        self._verified: dict[str, tuple[int, Any]] = {}
        self._appended: dict[str, AppendedFile] = {}

    def restore(self) -> Mapping[str, Any] | None:
        """The state of the last `save` if all of its files have the bytes of then; else None, and an empty folder."""
        if not self.path.is_symlink() and not (self.path / POINT_FILE).exists():
            self.clear()  # killed before the first point
            return None
        try:
            self.state = self._verify()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            self.set_aside(str(error))
        return self.state

    def _verify(self) -> Mapping[str, Any]:
        if not _is_folder(self.path):
            raise DataError(f"{self.path} is not a folder.")
        point = unseal_json(_read_regular(self.path / POINT_FILE))
        if point["format"] != _POINT_FORMAT:
            raise DataError(f"it has format {point['format']}, this firstsight writes {_POINT_FORMAT}.")
        for name, (size, sha256) in point["files"].items():
            if not _is_folder((self.path / name).parent):
                raise DataError(f"{name} is not in a folder.")
            digest = _prefix_digest(self.path / name, size)
            if digest.hexdigest() != sha256:
                raise DataError(f"{name} does not have the {size:,} bytes that {POINT_FILE} names.")
            os.truncate(self.path / name, size)  # what was written after the point
            self._verified[name] = size, digest
        return point["state"]

    def clear(self) -> None:
        """Start over with an empty folder."""
        self.state = None
        self._verified.clear()
        remove_path(self.path)
        self.path.mkdir(parents=True)
        fsync_path(self.out)

    def set_aside(self, reason: str) -> None:
        """Rename the folder, so that the step starts over, and say why."""
        set_aside(self.path, reason, then="the step starts over", on_damage=self._on_damage)
        self.clear()

    def open_appended(self, name: str) -> AppendedFile:
        """The file `name`, continued from the restored point or empty; every later point covers it."""
        size, digest = self._verified.get(name, (0, None))
        self._appended[name] = AppendedFile(self.path / name, size=size, digest=digest)
        return self._appended[name]

    def record_files(self, files: Iterable[Path]) -> dict[str, tuple[int, str]]:
        """Sync `files`, which are in the folder or in a folder in it, and record their size and sha256 by name."""
        records = dict[str, tuple[int, str]]()
        for file in files:
            fsync_path(file)
            fsync_path(file.parent)
            size = file.stat().st_size
            records[str(file.relative_to(self.path))] = size, _prefix_digest(file, size).hexdigest()
        return records

    def record_appended(self) -> dict[str, tuple[int, str]]:
        """Size and sha256 of the appended files as they are now, by name."""
        return {file.path.name: (file.size, file.sha256) for file in self._appended.values()}

    def save(self, state: Mapping[str, Any], files: Mapping[str, tuple[int, str]] | None = None) -> None:
        """Make `state` (plain JSON), the appended files and `files` (`record_files`) the point; others are removed.

        Records of appended files in `files` (`record_appended`) count instead of those of now. OSError if the disk is
        full: the point before stays.
        """
        for name in self._appended:
            fsync_path(self.path / name)
        records = self.record_appended() | dict(files or {})
        fsync_path(self.path)
        point = {"format": _POINT_FORMAT, "state": state, "files": records}
        write_atomic(self.path / POINT_FILE, seal_json(point), sync=True)
        self.state = state
        names = {Path(name).parts[0] for name in (*records, POINT_FILE)}
        for path in self.path.iterdir():
            if path.name not in names:
                remove_path(path)

    def finish(self) -> None:
        """Put the appended files into the work folder. The folder stays until the step is published."""
        for name, file in self._appended.items():
            remove_path(self.out / name)
            link_or_copy(file.path, self.out / name)


def set_aside(path: Path, reason: str, *, then: str, on_damage: Callable[[str], None]) -> None:
    """Rename a file or folder to NAME.damaged-1, in place of an earlier one, and say why and what happens `then`."""
    aside = path.with_name(f"{path.name}.damaged-1")
    remove_path(aside)
    path.rename(aside)
    line = f"{path}: damaged since it was written: {reason} It is now {aside.name}; {then}."
    sys.stderr.write(line + "\n")
    on_damage(line)


def remove_path(path: Path) -> None:
    """Remove a file, a link (not what it points to) or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def check_regular(path: Path) -> None:
    """DataError for a link, a folder or a special file, OSError for nothing."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise DataError(f"{path.name} is not a file.")


def _read_regular(path: Path) -> str:
    check_regular(path)
    return path.read_text()


def _prefix_digest(path: Path, size: int) -> Any:
    """The hash object over the first `size` bytes of a regular file; DataError if it has fewer."""
    check_regular(path)
    digest, left = hashlib.sha256(), size
    with path.open("rb", buffering=0) as file:
        while left and (data := file.read(min(left, _CHUNK))):
            digest.update(data)
            left -= len(data)
    if left:
        raise DataError(f"{path.name} has {size - left:,} bytes, {POINT_FILE} names {size:,}.")
    return digest
