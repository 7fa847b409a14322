"""A benchmark's pictures, by the names that its files use."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from firstsight.data.sources.tars import plain_members
from firstsight.errors import DataError

_TAR, _FOLDER = "images.tar", "images"
_ENDING = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:.*_)?0*(\d{12})|0*(\d+)")
"""COCO_val2014_000000458752, 000000458752 and 458752 are one number; GQA's n578564 is a name."""
_SHOWN = 3


class Pictures:
    """Encoded pictures from `images.tar` or the folder `images`, in a task's own folder or beside the tasks' folders.

    A task's own come first. COCO's numbers (458752) find COCO_val2014_000000458752.jpg, names without an ending find
    their file, and a name with folders finds the file that lies in them.
    """

    def __init__(self, benchmarks: Path) -> None:
        self._home = benchmarks
        self._common = _places(benchmarks)
        self._own: dict[str, list[_Place]] = {}
        if not self._common and not any(_held(folder) for folder in benchmarks.glob("*/")):
            raise DataError(f"{benchmarks}: wanted the pictures in {_TAR} or {_FOLDER}/. Got neither.")

    def read(self, name: str, folder: str = "") -> bytes:
        """The encoded bytes of the picture that the tasks in `folder` call `name`; DataError where it is missing."""
        place, at = self._found(name, folder)
        return place.read(at)

    def where(self, name: str, folder: str = "") -> str:
        """Which picture it is, whatever the tasks call it: equal for two names of one picture. DataError as `read`."""
        place, at = self._found(name, folder)
        return f"{place.home}/{place.names[at]}"

    def stamp(self, name: str, folder: str = "") -> tuple[int, int] | None:
        """Size and time of change of the file that holds a picture; None where `read` would refuse."""
        try:
            place, at = self._found(name, folder)
            return place.stamp(at)
        except (DataError, OSError):
            return None

    def missing(self, names: Iterable[str], folder: str = "") -> tuple[str, ...]:
        """Those of `names` that are not here, each once; DataError where a name means several pictures."""
        return tuple(name for name in dict.fromkeys(names) if self._find(name, folder) is None)

    def require(self, names: Iterable[str], folder: str = "") -> None:
        """DataError that counts the missing ones and shows the first: to be asked before any work is done."""
        wanted = list(dict.fromkeys(names))
        lacking = self.missing(wanted, folder)
        if lacking:
            raise DataError(self._refusal(lacking, folder, of=len(wanted)))

    def close(self) -> None:
        """Let go of the archives."""
        for place in (*self._common, *(place for places in self._own.values() for place in places)):
            place.close()

    def _found(self, name: str, folder: str) -> tuple[_Place, int]:
        found = self._find(name, folder)
        if found is None:
            raise DataError(self._refusal([name], folder, of=1))
        return found

    def _find(self, name: str, folder: str) -> tuple[_Place, int] | None:
        if folder and folder not in self._own:
            self._own[folder] = _places(self._home / folder)
        for place in (*self._own.get(folder, ()), *self._common):
            at = place.find(name)
            if at is not None:
                return place, at
        return None

    def _refusal(self, lacking: Iterable[str], folder: str, *, of: int) -> str:
        names = list(lacking)
        shown = ", ".join(repr(name) for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        places = (*self._own.get(folder, ()), *self._common)
        held = next((place.names[:_SHOWN] for place in places if place.names), [])
        count = "no picture is called" if of == 1 else f"{len(names):,} of {of:,} pictures are missing:"
        there = f"There are {', '.join(held)}, ..." if held else "There are none."
        looked = f"Put them into {_FOLDER}/ or {_TAR} there" + (f", or in {folder}/." if folder else ".")
        return f"{self._home}: {count} {shown}. {there} {looked}"


class _Place:
    """Pictures in one archive or folder: their paths, and for an archive where each begins and how long it is."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.names: list[str] = []
        self._starts, self._sizes = array("Q"), array("Q")
        self._links: set[str] = set()
        self._keys: dict[str, int | list[int]] = {}
        self._tar: BinaryIO | None = home.open("rb") if home.is_file() else None
        for name, start, size in self._members() if self._tar else _files(home):
            self._add(name, start, size)

    def find(self, name: str) -> int | None:
        """Which picture is called so: by its path, by the end of its path, then without the ending or by number."""
        held = self._keys.get(_key(name), [])
        places = [held] if isinstance(held, int) else held
        near: list[int] = []
        for same in (_same_path, _same_tail, _same_stem):
            near = [at for at in places if same(self.names[at], name)]
            if near:
                break
        if len(near) > 1:
            both = ", ".join(self.names[at] for at in near[:_SHOWN])
            raise DataError(f"{self.home}: {name!r} may be any of {both}. Give each task its own {_FOLDER}/ folder.")
        return near[0] if near else None

    def read(self, at: int) -> bytes:
        """The bytes of one picture."""
        name = self.names[at]
        if name in self._links:
            raise DataError(f"{self.home}: {name} is no plain file, but a link. Pack the archive with --dereference.")
        if self._tar is None:
            return _bytes(self.home / name)
        self._tar.seek(self._starts[at])
        data = self._tar.read(self._sizes[at])
        if len(data) != self._sizes[at]:
            raise DataError(f"{self.home}: ends within {name}. Copy the archive again.")
        return data

    def stamp(self, at: int) -> tuple[int, int]:
        """Size and time of change of a picture's file, or of the archive; OSError for a link that leads nowhere."""
        told = (self.home if self._tar else self.home / self.names[at]).stat()
        return told.st_size, told.st_mtime_ns

    def close(self) -> None:
        """Let go of the archive."""
        if self._tar is not None:
            self._tar.close()

    def _add(self, name: str, start: int, size: int) -> None:
        at, key = len(self.names), _key(name)
        self.names.append(name)
        self._starts.append(start)
        self._sizes.append(size)
        held = self._keys.setdefault(key, at)
        if held != at:
            self._keys[key] = [held, at] if isinstance(held, int) else [*held, at]

    def _members(self) -> Iterator[tuple[str, int, int]]:
        """(name, begin, size) of an archive's files, read once from front to back; nothing is ever unpacked."""
        for member in plain_members(self.home):
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise DataError(f"{self.home}: {member.name} points out of the archive. Pack it again, from inside.")
            name = member.name.removeprefix("./")
            if not member.plain:
                self._links.add(name)
            yield name, member.offset_data, member.size


def _held(folder: Path) -> bool:
    return (folder / _TAR).is_file() or (folder / _FOLDER).is_dir()


def _places(folder: Path) -> list[_Place]:
    tar, loose = folder / _TAR, folder / _FOLDER
    return [_Place(path) for path, there in ((tar, tar.is_file()), (loose, loose.is_dir())) if there]


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Every file below `folder`; folders that are linked in are walked, each once."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        below = os.path.relpath(root, folder)
        yield from ((name if below == "." else f"{below}/{name}", 0, 0) for name in sorted(names))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: wanted a picture. Got {error.strerror}. Mend the file or the link.") from error


def _key(name: str) -> str:
    """What all ways to call one picture have in common: its number, or its name without folders and ending."""
    stem = _stem(name)
    return _number(stem) or stem


def _stem(name: str) -> str:
    return _ENDING.sub("", name.rpartition("/")[2])


def _number(stem: str) -> str:
    found = _NUMBERED.fullmatch(stem)
    return (found[1] or found[2]).lstrip("0") or "0" if found else ""


def _same_path(path: str, name: str) -> bool:
    return path == name


def _same_tail(path: str, name: str) -> bool:
    return path.endswith(f"/{name}")


def _same_stem(path: str, name: str) -> bool:
    """Numbers are compared as numbers alone: Visual Genome's 107899.jpg and COCO's number 107899 are two pictures."""
    if "/" in name:
        return False
    if name.isdecimal() and name.isascii():
        return _number(_stem(path)) == _number(name)
    return _stem(path) == name
