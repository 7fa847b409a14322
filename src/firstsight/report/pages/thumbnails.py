"""Images for a page: decoded, shrunk and encoded again, each once even if several questions refer to it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from PIL import Image

from firstsight.data.images import decode_rgb
from firstsight.errors import DataError
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.tasks import TASKS
from firstsight.units import format_bytes

THUMBNAIL_SIDE = 384
"""Maximum length of an image's longer side on a page, in pixels."""
LOSSLESS_SIDE = 128
"""Images of at most this many pixels per side are encoded without loss and displayed with visible pixels."""
MAX_PAGE_IMAGE_BYTES = 64_000_000
"""Maximum size of all images of a page together, as base64; further images are replaced by a message."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """An image as a data URI, never with the bytes of its file."""

    uri: str
    width: int
    height: int
    pixelated: bool
    """Encoded without loss, to be displayed with visible pixels."""
    key: str = ""
    """The id by which a page refers to it; empty if it is not one of `Thumbnails`."""


def make_thumbnail(image: Image.Image) -> Thumbnail:
    """`image` as PNG if it is small, else shrunk to THUMBNAIL_SIDE as JPEG."""
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
    """The images of a page, read when they are first needed."""

    def __init__(self, max_bytes: int = MAX_PAGE_IMAGE_BYTES) -> None:
        self._max_bytes = self._bytes_left = max_bytes
        self._benchmark_images: dict[Path, BenchmarkImages | str] = {}
        self._page_images: dict[str, Thumbnail | str] = {}

    def find(self, benchmarks: Path | None, task: str, name: str) -> Thumbnail | str:
        """The image with that name in a task, or the reason why it cannot be shown."""
        if benchmarks is None:
            return "the benchmark's folder is not known; name it with --benchmarks"
        if benchmarks not in self._benchmark_images:
            self._benchmark_images[benchmarks] = _value_or_error(lambda: BenchmarkImages(benchmarks))
        images = self._benchmark_images[benchmarks]
        if isinstance(images, str):
            return images
        folder = _task_folder(benchmarks, task)
        return _value_or_error(lambda: self._page_image(images, name, folder))

    @property
    def page_images(self) -> list[Thumbnail]:
        """Every image that was found, once."""
        return [page_image for page_image in self._page_images.values() if isinstance(page_image, Thumbnail)]

    def close(self) -> None:
        for images in self._benchmark_images.values():
            if isinstance(images, BenchmarkImages):
                images.close()

    def _page_image(self, images: BenchmarkImages, name: str, folder: str) -> Thumbnail | str:
        location = images.location(name, folder)
        if location not in self._page_images:
            self._page_images[location] = _value_or_error(lambda: self._encoded_image(images.read(name, folder)))
        return self._page_images[location]

    def _encoded_image(self, data: bytes) -> Thumbnail | str:
        thumbnail = make_thumbnail(decode_rgb(data))
        if len(thumbnail.uri) > self._bytes_left:
            size, limit = format_bytes(self._max_bytes - self._bytes_left), format_bytes(self._max_bytes)
            return f"the page already contains {size} of images, of at most {limit}; ask for fewer rows or one task"
        self._bytes_left -= len(thumbnail.uri)
        return replace(thumbnail, key=f"image-{len(self._page_images)}")


def _value_or_error(load: Callable[[], T]) -> T | str:
    try:
        return load()
    except (DataError, OSError) as error:
        return str(error)


def _task_folder(benchmarks: Path, task: str) -> str:
    """Name of the task's folder of files; empty for a task name that cannot be a folder's name."""
    if task in TASKS:
        return TASKS[task].folder(benchmarks).name
    return task if re.fullmatch(r"\w[\w.-]*", task) else ""
