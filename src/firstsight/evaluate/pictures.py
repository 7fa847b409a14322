"""A benchmark's pictures, by the names that its files use."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from firstsight.errors import DataError

_NUMBERED = re.compile(r"(?:^|\D)0*(\d+)$")


class Pictures:
    """Encoded pictures from `images.tar` or the folder `images` beside the tasks' folders.

    COCO's numbers (458752) find COCO_val2014_000000458752.jpg, and names without an ending find their file.
    """

    def __init__(self, benchmarks: Path) -> None:
        tar, folder = benchmarks / "images.tar", benchmarks / "images"
        self._tar = tarfile.open(tar) if tar.is_file() else None  # noqa: SIM115 - closed by close()
        self._folder = folder
        if self._tar is None and not folder.is_dir():
            raise DataError(f"{benchmarks}: wanted the pictures in images.tar or images/. Got neither.")
        paths = self._tar.getnames() if self._tar else [str(p.relative_to(folder)) for p in sorted(folder.rglob("*"))]
        self._paths = {key: path for path in reversed(paths) for key in _keys(path)}
        self._paths.update({path: path for path in paths})

    def read(self, name: str) -> bytes:
        """The encoded bytes of the picture called `name`; DataError where it is missing."""
        path = self._paths.get(name)
        if path is None:
            near = ", ".join(sorted(self._paths)[:3])
            raise DataError(f"{self._folder.parent}: no picture is called {name!r}. There are {near}, ...")
        if self._tar is None:
            return (self._folder / path).read_bytes()
        member = self._tar.extractfile(path)
        if member is None:
            raise DataError(f"{self._folder.parent}/images.tar: {path!r} is no file. Rebuild the archive.")
        return member.read()

    def close(self) -> None:
        """Let go of the archive."""
        if self._tar is not None:
            self._tar.close()


def _keys(path: str) -> set[str]:
    name = path.rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    number = _NUMBERED.search(stem)
    return {name, stem} | ({number[1]} if number else set())
