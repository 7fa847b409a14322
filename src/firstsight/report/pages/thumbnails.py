"""Pictures for a page: drawn anew and small, each once however many questions ask about it."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from firstsight.data.images import decode_rgb
from firstsight.errors import DataError
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.tasks import TASKS

THUMBNAIL_SIDE = 384
"""Pixels of a picture's longer side on a page."""
LOSSLESS_SIDE = 128
"""Pictures of at most this many pixels a side stay lossless, and their pixels visible."""
MAX_PAGE_IMAGE_BYTES = 64_000_000
"""All pictures of a page together, as text; what comes behind is named."""

_FOLDER_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A picture as it stands in a page: never the bytes that it came from."""

    uri: str
    width: int
    height: int
    pixelated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PageImage:
    """A picture of the album, under the name that the page refers to."""

    key: str
    thumbnail: Thumbnail


def make_thumbnail(data: bytes) -> Thumbnail:
    """`data` decoded, shrunk to SIDE and encoded again as PNG or JPEG; Refused for what is no whole picture."""
    image = decode_rgb(data)
    is_lossless = max(image.size) <= LOSSLESS_SIDE
    buffer = io.BytesIO()
    if is_lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
        image.save(buffer, "JPEG", quality=82)
    uri = f"data:image/{'png' if is_lossless else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Thumbnail(uri=uri, width=image.width, height=image.height, pixelated=is_lossless)


class Thumbnails:
    """The pictures of a page, read when first asked for."""

    def __init__(self, max_bytes: int = MAX_PAGE_IMAGE_BYTES) -> None:
        self._bytes_left = max_bytes
        self._benchmark_images: dict[Path, BenchmarkImages | str] = {}
        self._page_images: dict[str, PageImage | str] = {}

    def find(self, benchmarks: Path | None, task: str, name: str) -> PageImage | str:
        """The picture that a task calls `name`, or why it cannot be shown."""
        if benchmarks is None:
            return "the benchmark's folder is not known; name it with --benchmarks"
        images = self._open_images(benchmarks)
        if isinstance(images, str):
            return images
        try:
            folder = _task_folder(benchmarks, task)
            location = images.location(name, folder)
            if location not in self._page_images:
                self._page_images[location] = self._make_page_image(images, name, folder)
            return self._page_images[location]
        except (DataError, OSError) as error:
            return str(error)

    @property
    def page_images(self) -> list[PageImage]:
        """Every picture that was found, once."""
        return [page_image for page_image in self._page_images.values() if isinstance(page_image, PageImage)]

    def close(self) -> None:
        """Let go of the archives."""
        for images in self._benchmark_images.values():
            if isinstance(images, BenchmarkImages):
                images.close()

    def _open_images(self, benchmarks: Path) -> BenchmarkImages | str:
        if benchmarks not in self._benchmark_images:
            try:
                self._benchmark_images[benchmarks] = BenchmarkImages(benchmarks)
            except (DataError, OSError) as error:
                self._benchmark_images[benchmarks] = str(error)
        return self._benchmark_images[benchmarks]

    def _make_page_image(self, images: BenchmarkImages, name: str, folder: str) -> PageImage | str:
        try:
            thumbnail = make_thumbnail(images.read(name, folder))
        except (DataError, OSError) as error:
            return str(error)
        if len(thumbnail.uri) > self._bytes_left:
            return f"the page holds {MAX_PAGE_IMAGE_BYTES // 1_000_000} MB of pictures already; ask for fewer rows or one task"
        self._bytes_left -= len(thumbnail.uri)
        return PageImage(key=f"picture-{len(self._page_images)}", thumbnail=thumbnail)


def _task_folder(benchmarks: Path, task: str) -> str:
    """The task's folder of files; a name that is no folder's name has none."""
    definition = TASKS.get(task)
    if definition is not None:
        return definition.folder(benchmarks).name
    return task if _FOLDER_NAME.fullmatch(task) else ""
