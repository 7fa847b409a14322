"""Limits on what others wrote: how large, deep and many; read as a stream, and refused by name before it is in memory.

`Limits` are part of the site (`[limits]` in the site file) and apply to a whole process, like those of csv and Pillow:
`apply_limits` sets them where a process gets its site. Standard library only.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

from firstsight.errors import LimitExceeded, QuantityError
from firstsight.units import format_bytes

KB, MB, GB = 10**3, 10**6, 10**9
MAX_DEPTH = 500
"""Python parses JSON recursively, and cannot go deeper than about twice this."""
_CHUNK = 1 << 20
_MAX_TOML_INT = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The largest legal sizes. Each default is above the largest known published case, which is named."""

    record: int = 16 * MB
    """Bytes of a line of JSON lines, an item of a JSON list, a text in a tar, after unpacking (whole books: 10 MB).

    The tokenizer needs up to 200 bytes of memory for each.
    """
    unpacked: int = 100 * GB
    """Bytes of a compressed file of records after unpacking; it is read as a stream (shards: up to 10 GB)."""
    file: int = GB
    """Bytes of a JSON or text file that is read as a whole, after unpacking: benchmarks, answers (VQAv2: 380 MB)."""
    settings: int = 64 * MB
    """Bytes of config.json, spec.json, an index of shards, the header of a safetensors file (DeepSeek-V3: 9 MB)."""
    depth: int = 100
    """Nested lists and objects of JSON (published files: below 20)."""
    picture: int = 20 * MB
    """Encoded bytes of an image (camera originals: 15 MB)."""
    pixels: int = 50_000_000
    """Pixels of an image, from its header (camera originals: 45 million)."""
    row_group: int = 8 * GB
    """Bytes of the columns that are read of a row group of a Parquet table, after unpacking (images: up to 2 GB)."""
    tokenizer: int = 128 * MB
    """Bytes of tokenizer.json (Gemma 3: 33 MB)."""
    vocabulary: int = 2_000_000
    """Tokens of a tokenizer, its largest id, and rows of an embedding (XLM-V: 902,000)."""
    layers: int = 2_000
    """Layers of a model, those of all its parts together (DeepNet: 1,000)."""
    width: int = 1_000_000
    """Every other size in a model's configuration: widths, heads, experts (Llama 3 405B: 53,248)."""
    prompt: int = 1_000_000
    """Characters of a prompt that a chat template makes of a question (128,000 tokens of context: 500,000)."""
    image_side: int = 4_096
    """Side of an encoder's images in pixels (published encoders: up to 1,540)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise QuantityError(f"{field.name}: a limit is 1 or more. Got {getattr(self, field.name)}.")
        if self.depth > MAX_DEPTH:
            raise QuantityError(f"depth: Python reads at most {MAX_DEPTH} levels of JSON. Got {self.depth}.")

    def changed(self) -> dict[str, int]:
        """The limits that differ from their defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(DEFAULT_LIMITS, name)}

    def changed_for_records(self) -> dict[str, int]:
        """`changed` without the limits that cannot change which records of a source are valid."""
        return {name: value for name, value in self.changed().items() if name in RECORD_LIMITS}


DEFAULT_LIMITS = Limits()
BYTE_LIMITS = ("record", "unpacked", "file", "settings", "picture", "row_group", "tokenizer")
"""Limits in bytes, which a site file may write as "64 MB"."""
RECORD_LIMITS = ("record", "depth", "picture", "pixels")
"""Limits by which single records are rejected: other values of these make another index of the same files."""
_NOUNS: Mapping[str, str] = {
    "record": "a record of at most {}",
    "unpacked": "at most {} after unpacking",
    "file": "a file of at most {} after unpacking",
    "settings": "settings of at most {}",
    "depth": "JSON of at most {} levels",
    "picture": "an image of at most {}",
    "pixels": "an image of at most {} pixels",
    "row_group": "row groups of at most {}",
    "tokenizer": "a tokenizer of at most {}",
    "vocabulary": "a vocabulary of at most {} tokens",
    "layers": "at most {} layers",
    "width": "sizes of at most {}",
    "prompt": "a prompt of at most {} characters",
    "image_side": "images of at most {} pixels a side",
}
_applied = [DEFAULT_LIMITS]


def apply_limits(limits: Limits) -> None:
    """Make these the limits of this process."""
    _applied[0] = limits


def current_limits() -> Limits:
    """The limits of this process."""
    return _applied[0]


def describe_excess(name: str, actual: int | float | None = None, *, detail: str = "") -> str:
    """`wanted ... got ...` and how to raise the limit `name`; `actual` is the value that is too large, if known."""
    limit = getattr(current_limits(), name)
    got = ("more" if actual is None or actual > _MAX_TOML_INT else _format(name, actual)) + detail
    needed = max(2 * limit, math.ceil(min(actual or 0, _MAX_TOML_INT)))
    needed = min(needed, MAX_DEPTH) if name == "depth" else needed
    value = f'"{math.ceil(needed / MB)} MB"' if name in BYTE_LIMITS else str(needed)
    wanted = _NOUNS[name].format(_format(name, limit))
    return f"wanted {wanted}. Got {got}. If that is right, set {name} = {value} under [limits] in the site file"


def _format(name: str, value: int | float) -> str:
    return format_bytes(int(value)) if name in BYTE_LIMITS else f"{value:,.12g}"


def limit_exceeded(place: object, name: str, actual: int | float | None = None, *, detail: str = "") -> LimitExceeded:
    """The error for something at `place` (file, line, member) that exceeds the limit `name`."""
    return LimitExceeded(f"{place}: {describe_excess(name, actual, detail=detail)}.")


def check_limit(place: object, name: str, actual: int | float, *, detail: str = "") -> None:
    """LimitExceeded if `actual` is above the limit `name`."""
    if actual > getattr(current_limits(), name):
        raise limit_exceeded(place, name, actual, detail=detail)


def check_file_size(path: Path, name: str) -> None:
    """LimitExceeded if a file, which a library will read, has more bytes than the limit `name`."""
    if path.is_file():
        check_limit(path, name, path.stat().st_size)


def check_tensor_header(path: Path) -> None:
    """LimitExceeded for a safetensors file with a header above `settings`; not for one that is longer than the file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size < path.stat().st_size:
        check_limit(path, "settings", size, detail=" for its header")


def read_all(stream: Any, place: object, name: str) -> bytes:
    """The rest of a stream; LimitExceeded as soon as it is longer than the limit `name`."""
    limit, chunks, size = getattr(current_limits(), name), list[bytes](), 0
    while chunk := stream.read(_CHUNK):
        size += len(chunk)
        if size > limit:
            raise limit_exceeded(place, name)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def read_file(path: Path, name: str) -> bytes:
    """The bytes of a file; LimitExceeded for more than the limit `name`."""
    check_file_size(path, name)
    with path.open("rb") as file:
        return read_all(file, path, name)


class UnpackedStream(io.RawIOBase):
    """A stream that a codec unpacks; LimitExceeded after `unpacked` bytes."""

    def __init__(self, stream: Any, place: object) -> None:
        self._stream, self._place, self._bytes_left = stream, place, current_limits().unpacked

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._stream.readinto(buffer)
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise limit_exceeded(self._place, "unpacked")
        return count


def iter_lines(stream: Any) -> Iterator[bytes | None]:
    """Lines with their line breaks; None in place of a line that is longer than `record`, whose rest is skipped."""
    limit, readline = current_limits().record, stream.readline
    for line in iter(partial(readline, limit + 1), b""):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
            continue
        while (rest := readline(_CHUNK)) and not rest.endswith(b"\n"):
            pass
        yield None


def parse_json(text: str | bytes, place: object) -> Any:
    """The value of JSON; LimitExceeded where it is nested deeper than `depth`, ValueError where it is not JSON."""
    limit = current_limits().depth
    try:
        value: Any = json.loads(text)
    except RecursionError:
        raise limit_exceeded(place, "depth") from None
    opening: Any = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if _opens_more(text, opening, limit) and _is_deeper(value, limit, sum(map(cast(Any, text).count, opening))):
        raise limit_exceeded(place, "depth")
    return value


def _opens_more(text: Any, opening: Any, limit: int) -> bool:
    """Whether text opens more than `limit` lists and objects; if not, it is not deeper, and needs no walk.

    `find` is ten times as fast as `count` where brackets are rare.
    """
    count = 0
    for bracket in opening:
        position = text.find(bracket)
        while position >= 0:
            count += 1
            if count > limit:
                return True
            position = text.find(bracket, position + 1)
    return False


def _is_deeper(value: Any, limit: int, brackets: int) -> bool:
    """Whether a value has more than `limit` levels; its text has so many opening `brackets`, or some are in strings."""
    level: list[Any] = [value]
    seen = 1
    for _ in range(limit):
        if seen == brackets:  # all lists and objects are seen: what is left are numbers and texts, most of all values
            return False
        children = chain.from_iterable(map(_children, level))
        level = [child for child in children if isinstance(child, (dict, list))]
        seen += len(level)
        if not level:
            return False
    return True


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return cast(dict[str, Any], node).values()
    return cast(list[Any], node) if isinstance(node, list) else ()


def read_settings(path: Path) -> dict[str, Any]:
    """The object in a file of a model's settings (config.json, spec.json), whose sizes are within the limits.

    Raises LimitExceeded before anything of these sizes is built; ValueError where it is not a JSON object, or OSError.
    """
    settings = parse_json(read_file(path, "settings"), path)
    if not isinstance(settings, dict):
        raise ValueError(f"{type(settings).__name__} instead of a JSON object")  # as json raises for other mistakes
    content = cast(dict[str, Any], settings)
    check_model_sizes(content, path)
    return content


_SIZE_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "layers": re.compile(r"(layers?|depths?|blocks?)$"),
    "vocabulary": re.compile(r"vocab_size$"),
    "image_side": re.compile(r"(image|grid)_size$"),
    "width": re.compile(
        r"(size|width|dim|heads|experts|rank|channels|registers|register_tokens|ratio|embd)$|^d_model$"
    ),
}
"""Names of settings that are sizes, by limit; the first that matches counts."""


def check_model_sizes(settings: object, place: object) -> None:
    """LimitExceeded for a size in the settings of a model, at any depth, that is above its limit.

    Layers of all parts are added; a list under such a name has numbers of layers, except `depths`, which has counts.
    """
    layers, pending = 0, [("", settings, False)]
    while pending:
        name, value, is_listed = pending.pop()
        if isinstance(value, dict):
            pending += [(str(key), child, False) for key, child in cast(dict[Any, Any], value).items()]
        elif isinstance(value, list):
            pending += [(name, child, not name.endswith("depths")) for child in cast(list[Any], value)]
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            limit = next((limit for limit, pattern in _SIZE_PATTERNS.items() if pattern.search(name)), None)
            if limit == "layers" and not is_listed:
                layers += max(0, value)
                value = layers
            if limit is not None:
                check_limit(place, limit, value, detail=f" in {name}")
