"""A benchmark's pictures, by the names that its files use."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from firstsight.data.readers.tars import list_tar_members
from firstsight.errors import DataError

_TAR_NAME, _FOLDER_NAME = "images.tar", "images"
_IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_NUMBER_PATTERN = re.compile(r"(?:.*_)?0*(\d{12})|0*(\d+)")
"""COCO_val2014_000000458752, 000000458752 and 458752 are one number; GQA's n578564 is a name."""
_MAX_EXAMPLES = 3


class BenchmarkImages:
    """Encoded pictures from `images.tar` or the folder `images`, in a task's own folder or beside the tasks' folders.

    A task's own come first. COCO's numbers (458752) find COCO_val2014_000000458752.jpg, names without an ending find
    their file, and a name with folders finds the file that lies in them.
    """

    def __init__(self, benchmarks_path: Path) -> None:
        self._root = benchmarks_path
        self._shared_stores = _open_stores(benchmarks_path)
        self._task_stores: dict[str, list[_ImageStore]] = {}
        if not self._shared_stores and not any(_has_images(folder) for folder in benchmarks_path.glob("*/")):
            raise DataError(f"{benchmarks_path}: wanted the pictures in {_TAR_NAME} or {_FOLDER_NAME}/. Got neither.")

    def read(self, name: str, folder: str = "") -> bytes:
        """The encoded bytes of the picture that the tasks in `folder` call `name`; DataError where it is missing."""
        store, index = self._require(name, folder)
        return store.read(index)

    def location(self, name: str, folder: str = "") -> str:
        """Which picture it is, whatever the tasks call it: equal for two names of one picture. DataError as `read`."""
        store, index = self._require(name, folder)
        return f"{store.root}/{store.names[index]}"

    def fingerprint(self, name: str, folder: str = "") -> tuple[int, int] | None:
        """Size and time of change of the file that holds a picture; None where `read` would refuse."""
        try:
            store, index = self._require(name, folder)
            return store.stamp(index)
        except (DataError, OSError):
            return None

    def missing_names(self, names: Iterable[str], folder: str = "") -> tuple[str, ...]:
        """Those of `names` that are not here, each once; DataError where a name means several pictures."""
        return tuple(name for name in dict.fromkeys(names) if self._lookup(name, folder) is None)

    def check_present(self, names: Iterable[str], folder: str = "") -> None:
        """DataError that counts the missing ones and shows the first: to be asked before any work is done."""
        unique_names = list(dict.fromkeys(names))
        missing = self.missing_names(unique_names, folder)
        if missing:
            raise DataError(self._missing_message(missing, folder, total=len(unique_names)))

    def close(self) -> None:
        """Let go of the archives."""
        for store in (*self._shared_stores, *(store for stores in self._task_stores.values() for store in stores)):
            store.close()

    def _require(self, name: str, folder: str) -> tuple[_ImageStore, int]:
        match = self._lookup(name, folder)
        if match is None:
            raise DataError(self._missing_message([name], folder, total=1))
        return match

    def _lookup(self, name: str, folder: str) -> tuple[_ImageStore, int] | None:
        if folder and folder not in self._task_stores:
            self._task_stores[folder] = _open_stores(self._root / folder)
        for store in (*self._task_stores.get(folder, ()), *self._shared_stores):
            index = store.find(name)
            if index is not None:
                return store, index
        return None

    def _missing_message(self, missing: Iterable[str], folder: str, *, total: int) -> str:
        names = list(missing)
        example_names = ", ".join(repr(name) for name in names[:_MAX_EXAMPLES]) + (
            ", ..." if len(names) > _MAX_EXAMPLES else ""
        )
        stores = (*self._task_stores.get(folder, ()), *self._shared_stores)
        available_names = next((store.names[:_MAX_EXAMPLES] for store in stores if store.names), [])
        problem = "no picture is called" if total == 1 else f"{len(names):,} of {total:,} pictures are missing:"
        availability = f"There are {', '.join(available_names)}, ..." if available_names else "There are none."
        advice = f"Put them into {_FOLDER_NAME}/ or {_TAR_NAME} there" + (f", or in {folder}/." if folder else ".")
        return f"{self._root}: {problem} {example_names}. {availability} {advice}"


class _ImageStore:
    """Pictures in one archive or folder: their paths, and for an archive where each begins and how long it is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: list[str] = []
        self._offsets, self._sizes = array("Q"), array("Q")
        self._links: set[str] = set()
        self._indices_by_key: dict[str, int | list[int]] = {}
        self._tar_file: BinaryIO | None = root.open("rb") if root.is_file() else None
        for name, offset, size in self._members() if self._tar_file else _walk_files(root):
            self._add(name, offset, size)

    def find(self, name: str) -> int | None:
        """Which picture is called so: by its path, by the end of its path, then without the ending or by number."""
        entry = self._indices_by_key.get(_lookup_key(name), [])
        candidates = [entry] if isinstance(entry, int) else entry
        matches: list[int] = []
        for is_match in (_matches_path, _matches_suffix, _matches_stem):
            matches = [index for index in candidates if is_match(self.names[index], name)]
            if matches:
                break
        if len(matches) > 1:
            match_names = ", ".join(self.names[index] for index in matches[:_MAX_EXAMPLES])
            raise DataError(
                f"{self.root}: {name!r} may be any of {match_names}. Give each task its own {_FOLDER_NAME}/ folder."
            )
        return matches[0] if matches else None

    def read(self, index: int) -> bytes:
        """The bytes of one picture."""
        name = self.names[index]
        if name in self._links:
            raise DataError(f"{self.root}: {name} is no plain file, but a link. Pack the archive with --dereference.")
        if self._tar_file is None:
            return _read_bytes(self.root / name)
        self._tar_file.seek(self._offsets[index])
        data = self._tar_file.read(self._sizes[index])
        if len(data) != self._sizes[index]:
            raise DataError(f"{self.root}: ends within {name}. Copy the archive again.")
        return data

    def stamp(self, index: int) -> tuple[int, int]:
        """Size and time of change of a picture's file, or of the archive; OSError for a link that leads nowhere."""
        file_stat = (self.root if self._tar_file else self.root / self.names[index]).stat()
        return file_stat.st_size, file_stat.st_mtime_ns

    def close(self) -> None:
        """Let go of the archive."""
        if self._tar_file is not None:
            self._tar_file.close()

    def _add(self, name: str, offset: int, size: int) -> None:
        index, key = len(self.names), _lookup_key(name)
        self.names.append(name)
        self._offsets.append(offset)
        self._sizes.append(size)
        entry = self._indices_by_key.setdefault(key, index)
        if entry != index:
            self._indices_by_key[key] = [entry, index] if isinstance(entry, int) else [*entry, index]

    def _members(self) -> Iterator[tuple[str, int, int]]:
        """(name, begin, size) of an archive's files, read once from front to back; nothing is ever unpacked."""
        for member in list_tar_members(self.root):
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise DataError(f"{self.root}: {member.name} points out of the archive. Pack it again, from inside.")
            name = member.name.removeprefix("./")
            if not member.is_regular:
                self._links.add(name)
            yield name, member.offset_data, member.size


def _has_images(folder: Path) -> bool:
    return (folder / _TAR_NAME).is_file() or (folder / _FOLDER_NAME).is_dir()


def _open_stores(folder: Path) -> list[_ImageStore]:
    tar_path, folder_path = folder / _TAR_NAME, folder / _FOLDER_NAME
    return [
        _ImageStore(path)
        for path, exists in ((tar_path, tar_path.is_file()), (folder_path, folder_path.is_dir()))
        if exists
    ]


def _walk_files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Every file below `folder`; folders that are linked in are walked, each once."""
    visited: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real_path = os.path.realpath(root)
        if real_path in visited:
            folders.clear()
            continue
        visited.add(real_path)
        folders.sort()
        relative_root = os.path.relpath(root, folder)
        yield from ((name if relative_root == "." else f"{relative_root}/{name}", 0, 0) for name in sorted(names))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: wanted a picture. Got {error.strerror}. Mend the file or the link.") from error


def _lookup_key(name: str) -> str:
    """What all ways to call one picture have in common: its number, or its name without folders and ending."""
    stem = _stem(name)
    return _image_number(stem) or stem


def _stem(name: str) -> str:
    return _IMAGE_SUFFIX.sub("", name.rpartition("/")[2])


def _image_number(stem: str) -> str:
    match = _NUMBER_PATTERN.fullmatch(stem)
    return (match[1] or match[2]).lstrip("0") or "0" if match else ""


def _matches_path(path: str, name: str) -> bool:
    return path == name


def _matches_suffix(path: str, name: str) -> bool:
    return path.endswith(f"/{name}")


def _matches_stem(path: str, name: str) -> bool:
    """Numbers are compared as numbers alone: Visual Genome's 107899.jpg and COCO's number 107899 are two pictures."""
    if "/" in name:
        return False
    if name.isdecimal() and name.isascii():
        return _image_number(_stem(path)) == _image_number(name)
    return _stem(path) == name
