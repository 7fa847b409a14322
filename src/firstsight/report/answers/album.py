"""Pictures for a page: drawn anew and small, each once however many questions ask about it."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from firstsight.data.pictures import upright
from firstsight.errors import DataError
from firstsight.evaluate.pictures import Pictures
from firstsight.evaluate.tasks import TASKS

SIDE = 384
"""Pixels of a picture's longer side on a page."""
TINY = 128
"""Pictures of at most this many pixels a side stay lossless, and their pixels visible."""
MOST_BYTES = 64_000_000
"""All pictures of a page together, as text; what comes behind is named."""

_PLAIN = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A picture as it stands in a page: never the bytes that it came from."""

    uri: str
    width: int
    height: int
    pixelated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Print:
    """A picture of the album, under the name that the page refers to."""

    key: str
    shown: Thumbnail


def thumbnail(data: bytes) -> Thumbnail:
    """`data` decoded, shrunk to SIDE and encoded again as PNG or JPEG; Refused for what is no whole picture."""
    image = upright(data)
    tiny = max(image.size) <= TINY
    small = io.BytesIO()
    if tiny:
        image.save(small, "PNG", optimize=True)
    else:
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(small, "JPEG", quality=82)
    uri = f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(small.getvalue()).decode()}"
    return Thumbnail(uri=uri, width=image.width, height=image.height, pixelated=tiny)


class Album:
    """The pictures of a page, read when first asked for."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._room = most
        self._open: dict[Path, Pictures | str] = {}
        self._found: dict[str, Print | str] = {}

    def find(self, benchmarks: Path | None, task: str, name: str) -> Print | str:
        """The picture that a task calls `name`, or why it cannot be shown."""
        if benchmarks is None:
            return "the benchmark's folder is not known; name it with --benchmarks"
        pictures = self._pictures(benchmarks)
        if isinstance(pictures, str):
            return pictures
        try:
            folder = _folder(benchmarks, task)
            where = pictures.where(name, folder)
            if where not in self._found:
                self._found[where] = self._drawn(pictures, name, folder)
            return self._found[where]
        except (DataError, OSError) as error:
            return str(error)

    @property
    def prints(self) -> list[Print]:
        """Every picture that was found, once."""
        return [one for one in self._found.values() if isinstance(one, Print)]

    def close(self) -> None:
        """Let go of the archives."""
        for pictures in self._open.values():
            if isinstance(pictures, Pictures):
                pictures.close()

    def _pictures(self, benchmarks: Path) -> Pictures | str:
        if benchmarks not in self._open:
            try:
                self._open[benchmarks] = Pictures(benchmarks)
            except (DataError, OSError) as error:
                self._open[benchmarks] = str(error)
        return self._open[benchmarks]

    def _drawn(self, pictures: Pictures, name: str, folder: str) -> Print | str:
        try:
            shown = thumbnail(pictures.read(name, folder))
        except (DataError, OSError) as error:
            return str(error)
        if len(shown.uri) > self._room:
            return f"the page holds {MOST_BYTES // 1_000_000} MB of pictures already; ask for fewer rows or one task"
        self._room -= len(shown.uri)
        return Print(key=f"picture-{len(self._found)}", shown=shown)


def _folder(benchmarks: Path, task: str) -> str:
    """The task's folder of files; a name that is no folder's name has none."""
    known = TASKS.get(task)
    if known is not None:
        return known.home(benchmarks).name
    return task if _PLAIN.fullmatch(task) else ""
