"""A benchmark's images, looked up by the names in its question files."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from firstsight.data.file_types import ARCHIVE_ENDINGS, no_data_reason
from firstsight.data.readers.tars import list_tar_members
from firstsight.data.records import Notices
from firstsight.errors import DataError
from firstsight.evaluate.task import coco_number, image_stem
from firstsight.limits import check_file_size, check_limit

_TAR_NAME, _FOLDER_NAME = "images.tar", "images"
_MAX_EXAMPLES = 3
_NO_MATCH = 3


class BenchmarkImages:
    """Image files in `images.tar` or the folder `images`, in a task's folder or next to the tasks' folders.

    A task's own come first. COCO's numbers (458752) match COCO_val2014_000000458752.jpg, names without a suffix match
    their file, and a name with folders matches a path that ends with it.
    """

    def __init__(self, benchmarks_path: Path) -> None:
        self._root = benchmarks_path
        self._shared_stores = _open_stores(benchmarks_path)
        self._task_stores: dict[str, list[_ImageStore]] = {}
        if not self._shared_stores and not any(_store_paths(folder) for folder in benchmarks_path.glob("*/")):
            archives = [path.name for path in benchmarks_path.glob("*") if path.name.lower().endswith(ARCHIVE_ENDINGS)]
            got = f"{archives[0]}, which is not read. Unpack it" if archives else "neither"
            raise DataError(f"{benchmarks_path}: wanted the images in {_TAR_NAME} or {_FOLDER_NAME}/. Got {got}.")

    def read(self, name: str, folder: str = "") -> bytes:
        """The bytes of the image file that the task in `folder` calls `name`; DataError where it is missing."""
        store, index = self._find(name, folder)
        return store.read(index)

    def location(self, name: str, folder: str = "") -> str:
        """The path of an image, equal for all names of one image; DataError where it is missing."""
        store, index = self._find(name, folder)
        return f"{store.root}/{store.names[index]}"

    def fingerprint(self, name: str, folder: str = "") -> tuple[int, int] | None:
        """Size and modification time of the file or archive with an image; None where `read` would raise."""
        try:
            store, index = self._find(name, folder)
            return store.fingerprint(index)
        except (DataError, OSError):
            return None

    def missing_names(self, names: Iterable[str], folder: str = "") -> tuple[str, ...]:
        """The distinct `names` without an image; DataError where a name matches several images."""
        return tuple(name for name in dict.fromkeys(names) if self._lookup(name, folder) is None)

    def check_present(self, names: Iterable[str], folder: str = "") -> None:
        """DataError that counts the missing images and shows the first; to be called before any work is done."""
        unique_names = list(dict.fromkeys(names))
        if missing := self.missing_names(unique_names, folder):
            raise DataError(self._missing_message(missing, folder, total=len(unique_names)))

    def notes(self) -> list[str]:
        """A line for each archive or folder opened so far with files that are not read, such as those of macOS."""
        notices = ((store.root, store.notices) for store in self._open_stores())
        return [f"{root}: not read: {unread.describe()}" for root, unread in notices if unread.entries]

    def close(self) -> None:
        """Close the archives."""
        for store in self._open_stores():
            store.close()

    def _open_stores(self) -> list[_ImageStore]:
        return [*self._shared_stores, *(store for stores in self._task_stores.values() for store in stores)]

    def _find(self, name: str, folder: str) -> tuple[_ImageStore, int]:
        if match := self._lookup(name, folder):
            return match
        raise DataError(self._missing_message((name,), folder, total=1))

    def _lookup(self, name: str, folder: str) -> tuple[_ImageStore, int] | None:
        if folder and folder not in self._task_stores:
            self._task_stores[folder] = _open_stores(self._root / folder)
        matches = ((store, store.find(name)) for store in self._stores(folder))
        return next(((store, index) for store, index in matches if index is not None), None)

    def _stores(self, folder: str) -> tuple[_ImageStore, ...]:
        return (*self._task_stores.get(folder, ()), *self._shared_stores)

    def _missing_message(self, names: tuple[str, ...], folder: str, *, total: int) -> str:
        examples = ", ".join(map(repr, names[:_MAX_EXAMPLES])) + (", ..." if len(names) > _MAX_EXAMPLES else "")
        available = next((store.names[:_MAX_EXAMPLES] for store in self._stores(folder) if store.names), [])
        problem = "no image is called" if total == 1 else f"{len(names):,} of {total:,} images are missing:"
        contents = f"There are {', '.join(available)}, ..." if available else "There are none."
        advice = f"Put them into {_FOLDER_NAME}/ or {_TAR_NAME} there" + (f", or in {folder}/." if folder else ".")
        return f"{self._root}: {problem} {examples}. {contents} {advice}"


class _ImageStore:
    """The images in one archive or folder: their paths, and for an archive their offsets and sizes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: list[str] = []
        self.notices = Notices()
        self._offsets, self._sizes = array("Q"), array("Q")
        self._links: set[str] = set()
        self._indices_by_key: dict[str, list[int]] = {}
        self._tar_file: BinaryIO | None = root.open("rb") if root.is_file() else None
        for name, offset, size in self._tar_members() if self._tar_file else _walk_files(root, self.notices):
            self._indices_by_key.setdefault(_lookup_key(name), []).append(len(self.names))
            self.names.append(name)
            self._offsets.append(offset)
            self._sizes.append(size)

    def find(self, name: str) -> int | None:
        """The index of the image with this path, else with a path that ends so, else with this stem or number."""
        indices = self._indices_by_key.get(_lookup_key(name), [])
        ranks = {index: _match_rank(self.names[index], name) for index in indices}
        best = min(ranks.values(), default=_NO_MATCH)
        matches = [index for index, rank in ranks.items() if rank == best < _NO_MATCH]
        if len(matches) > 1:
            names = ", ".join(self.names[index] for index in matches[:_MAX_EXAMPLES])
            raise DataError(f"{self.root}: {name!r} may be any of {names}. Give each task its own images/ folder.")
        return matches[0] if matches else None

    def read(self, index: int) -> bytes:
        """The bytes of one image file."""
        name = self.names[index]
        if name in self._links:
            raise DataError(f"{self.root}: {name} is a link, not a plain file. Pack the archive with --dereference.")
        if self._tar_file is None:
            path = self.root / name
            try:
                check_file_size(path, "picture")
                return path.read_bytes()
            except OSError as error:
                raise DataError(f"{path}: wanted an image. Got {error.strerror}. Mend the file or the link.") from error
        check_limit(f"{self.root}, {name}", "picture", self._sizes[index])
        self._tar_file.seek(self._offsets[index])
        data = self._tar_file.read(self._sizes[index])
        if len(data) != self._sizes[index]:
            raise DataError(f"{self.root}: ends within {name}. Copy the archive again.")
        return data

    def fingerprint(self, index: int) -> tuple[int, int]:
        """Size and modification time of an image's file, or of the archive; OSError for a broken link."""
        stat = (self.root if self._tar_file else self.root / self.names[index]).stat()
        return stat.st_size, stat.st_mtime_ns

    def close(self) -> None:
        """Close the archive."""
        if self._tar_file is not None:
            self._tar_file.close()

    def _tar_members(self) -> Iterator[tuple[str, int, int]]:
        for member in list_tar_members(self.root, notices=self.notices):
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise DataError(f"{self.root}: {member.name} points out of the archive. Pack it again, from inside.")
            name = member.name.removeprefix("./")
            if not member.is_regular:
                self._links.add(name)
            yield name, member.offset_data, member.size


def _store_paths(folder: Path) -> list[Path]:
    kinds = (folder / _TAR_NAME, Path.is_file), (folder / _FOLDER_NAME, Path.is_dir)
    return [path for path, is_kind in kinds if is_kind(path)]


def _open_stores(folder: Path) -> list[_ImageStore]:
    return [_ImageStore(path) for path in _store_paths(folder)]


def _walk_files(folder: Path, notices: Notices) -> Iterator[tuple[str, int, int]]:
    """(relative path, 0, 0) of every file below `folder`; those of macOS and hidden ones are counted instead.

    Links to folders are followed, each folder once.
    """
    visited: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real_path = os.path.realpath(root)
        if real_path in visited:
            folders.clear()
            continue
        visited.add(real_path)
        folders.sort()
        relative_root = os.path.relpath(root, folder)
        paths = (name if relative_root == "." else f"{relative_root}/{name}" for name in sorted(names))
        for path in paths:
            if reason := no_data_reason(path):
                notices.add(reason, path)
            else:
                yield path, 0, 0


def _lookup_key(name: str) -> str:
    """What all names of one image have in common: its number, or its name without folders and suffix."""
    stem = image_stem(name)
    return coco_number(stem) or stem


def _match_rank(path: str, name: str) -> int:
    """0: `name` is the path; 1: it is the end of the path; 2: its stem or number; 3: no match.

    Only a bare number is compared as a number: Visual Genome's 107899.jpg and COCO's number 107899 are two images.
    """
    if path == name:
        return 0
    if path.endswith(f"/{name}"):
        return 1
    is_number = name.isdecimal() and name.isascii()
    is_match = coco_number(image_stem(path)) == coco_number(name) if is_number else image_stem(path) == name
    return 2 if is_match and "/" not in name else _NO_MATCH
