"""The names of a record's fields in what others publish: one table for JSON and for tables; and images in a field.

A name is first looked for as it is written here, then in any case.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from firstsight.data.file_types import is_image_name
from firstsight.data.records import RecordError

TURN_KEYS = ("conversations", "messages", "texts", "turns", "conversation", "dialogue", "dialog")
QUESTION_ANSWER_KEYS = (("instruction", "output"), ("prompt", "response"), ("question", "answer"))
IMAGE_KEYS = (
    *("image", "images", "picture", "pictures", "img", "imgs", "photo", "photos", "jpg", "jpeg", "png", "webp"),
    *(f"{noun}_{part}" for noun in ("image", "img", "picture", "photo")
      for part in ("path", "paths", "file", "files", "name", "names", "filename", "file_name", "url", "urls", "bytes",
                   "base64", "base64_str", "list")),
    *("images_path", "images_paths", "file_name"),
)  # fmt: skip
FIELD_KEYS: Mapping[str, tuple[str, ...]] = {
    "picture": IMAGE_KEYS,
    "caption": ("caption", "text", "txt"),
    "synthetic": ("syn_text",),
    "turns": TURN_KEYS,
    "question": tuple(question for question, _ in QUESTION_ANSWER_KEYS),
    "answer": tuple(answer for _, answer in QUESTION_ANSWER_KEYS),
}
"""Names that are tried for a field that the location does not map; any other field is called by its own name."""
_MEDIA = re.compile(r"(?i)(video|audio|speech|sound|music|voice)s?([_-]?(path|file|name|filename|url|id|list)s?)?")
_IMAGE_LIKE = re.compile(r"(?i)image|img|pic(ture)?s?(_|$)|photo")
_MEDIA_PLACEHOLDER = re.compile(r"\A\s*<(video|audio|speech)>|<(video|audio|speech)>\s*\Z")


@lru_cache(maxsize=4096)
def find_keys(field: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a row's or table's `names` that a field may have, the likeliest first."""
    lower: dict[str, list[str]] = {}
    for name in names:
        lower.setdefault(name.lower(), []).append(name)
    candidates = FIELD_KEYS.get(field, (field,))
    return (*filter(names.__contains__, candidates),
            *(name for key in candidates for name in lower.get(key, ()) if name != key))  # fmt: skip


@lru_cache(maxsize=4096)
def media_keys(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of videos and audio."""
    return tuple(filter(_MEDIA.fullmatch, names))


def check_media(row: Mapping[str, object]) -> None:
    """RecordError for a record with a video or audio, which is not read."""
    for key in media_keys(tuple(row)):
        if row[key] not in (None, "", [], False):
            raise RecordError("video or audio", f"{key}: videos and audio are not read. Leave such records out")


def check_media_placeholders(questions: Collection[str]) -> None:
    """RecordError for a question that begins or ends with <video> or <audio>."""
    if match := next(filter(None, map(_MEDIA_PLACEHOLDER.search, questions)), None):
        raise RecordError("video or audio", f"{match[0].strip()}: videos and audio are not read")


def flatten_images(value: object) -> Iterator[object]:
    """The images in a field: names, bytes; from lists, from structs of bytes and path, from bytes as numbers."""
    if isinstance(value, Mapping):
        present = (value.get(key) for key in ("bytes", "path", "url", "image", "file_name"))
        value = next((part for part in present if part is not None), None)
        if isinstance(value, Mapping):  # {"image_url": {"url": ...}} is nested once
            value = next((part for part in value.values() if part is not None), None)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if value and all(type(item) is int for item in value):
            yield _bytes_of_numbers(value)
        else:
            for item in value:
                yield from flatten_images(item)
    elif value is not None and value != "":
        yield value


def _bytes_of_numbers(numbers: Sequence[int]) -> bytes | str:
    try:
        return bytes(number & 0xFF if -128 <= number < 0 else number for number in numbers)
    except ValueError:
        return str(numbers[0]) if len(numbers) == 1 else repr(numbers)


def single_image(value: object) -> object:
    """The image in a field: a name or bytes; None if there is none. RecordError for several."""
    images = list(flatten_images(value))
    if len(images) > 1:
        raise RecordError("several images", f"{len(images)} in one record")
    return images[0] if images else None


def image_names(row: Mapping[str, object], key: str | None) -> list[object]:
    """The images that a row names: under `key`, or under all known keys; one that two keys name is listed once.

    A key that names none of the known ones, but an image, is a RecordError that asks for it to be named.
    """
    if key is not None:
        return list(flatten_images(row.get(key)))
    first: list[object] = []
    for name in find_keys("picture", tuple(row)):
        images = list(flatten_images(row[name]))
        if not first:
            first = images
        elif any(isinstance(image, str) and is_image_name(image) and not _is_listed(image, first) for image in images):
            raise RecordError("several images", f"{name} names {images[0]!r}, another image than {first[0]!r}")
    return first


def _is_listed(image: str, images: Sequence[object]) -> bool:
    name = PurePosixPath(image).name
    return any(not isinstance(other, str) or PurePosixPath(other).name == name for other in images)


def check_unread_images(row: Mapping[str, object], used: Collection[str]) -> None:
    """RecordError for a key of a record without image that is not read but seems to name one."""
    for key, value in row.items():
        if key not in used and key != "id":
            images = flatten_images(value) if isinstance(value, str | Mapping | Sequence) else ()
            image = next(images, None) if not isinstance(images, tuple) else None
            if (isinstance(image, str) and len(image) < 4096 and is_image_name(image)) or (
                _IMAGE_LIKE.search(key) and isinstance(image, bytes)
            ):
                shown = image if isinstance(image, str) else "bytes"
                raise RecordError(
                    "no image", f"{key} names {shown}, but is not read. Say columns = {{picture = {key!r}}}"
                )


def looks_like_image_column(name: str) -> bool:
    """Whether a column's name says that it has images."""
    return _IMAGE_LIKE.search(name) is not None
