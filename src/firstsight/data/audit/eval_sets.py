"""Reads evaluation sets in any layout: the hash of every image and every text, each with its location.

    images     .png .jpg .jpeg .webp .gif .bmp .tif .tiff, loose or in a tar; inside a field of a table or of JSON
               as base64, inside Parquet as bytes
    texts      .json .jsonl .csv .tsv .txt, also .gz, .zst, .zstd, loose or in a tar; .parquet: all strings at any depth

Files with other suffixes are counted by suffix, so that the report lists everything that was not read.
"""

from __future__ import annotations

import binascii
import csv
import gzip
import io
import json
import zlib
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from firstsight.data.compression import unpacked
from firstsight.data.file_types import codec_of, is_image_name, no_data_reason
from firstsight.data.images import perceptual_hash
from firstsight.data.readers.tables import check_row_groups
from firstsight.data.readers.tars import TarMember, read_tar_members
from firstsight.data.records import Notices, RecordError
from firstsight.errors import DataError
from firstsight.limits import check_limit, current_limits, parse_json, read_all

_MIN_BASE64_CHARS = 512
"""Shorter strings are never read as base64 of an image."""
_READ_ERRORS = (
    ValueError, OSError, EOFError, zlib.error, csv.Error, pa.ArrowException, DataError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalItem:
    """A location in an evaluation set: a file, and the item inside it."""

    file: str
    item: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.item}" if self.item else self.file


@dataclass(kw_only=True, slots=True)
class EvalSets:
    """The images and texts of evaluation sets; without `with_hashes` images are only counted."""

    with_hashes: bool
    hashes: list[int] = field(default_factory=list)
    images: list[EvalItem] = field(default_factory=list)
    texts: dict[str, EvalItem] = field(default_factory=dict)
    """Distinct texts in order, each with its first location."""
    unread: Counter[str] = field(default_factory=Counter)
    broken_items: list[str] = field(default_factory=list)

    def add_image(self, data: bytes, item: EvalItem) -> None:
        """Count and hash an encoded image; a broken one goes to `broken_items`."""
        try:
            if self.with_hashes:
                self.hashes.append(perceptual_hash(data))
            self.images.append(item)
        except RecordError as error:
            self.broken_items.append(f"{item}: {error}")

    def add_value(self, value: object, location: EvalItem) -> None:
        """Add the strings and images of a decoded value, at any depth."""
        file, item = location.file, location.item
        match value:
            case str() if not value.isascii() or len(value.split(None, 1)) > 1:
                self.texts.setdefault(value, location)
            case str() if len(value) >= _MIN_BASE64_CHARS:
                with suppress(binascii.Error):  # raised for long words and URLs
                    self.add_image(b64decode(value.rpartition(",")[2], validate=True), location)
            case bytes():
                self.add_image(value, location)
            case dict():
                for name, child in value.items():
                    self.add_value(child, EvalItem(file=file, item=f"{item}.{name}" if item else str(name)))
            case list():
                for number, child in enumerate(value):
                    self.add_value(child, EvalItem(file=file, item=f"{item}[{number}]"))
            case _:
                pass


def collect_eval_sets(paths: Sequence[Path], *, with_hashes: bool = True) -> EvalSets:
    """All images and texts of evaluation sets; raises DataError if a path is missing or nothing was read."""
    sets = EvalSets(with_hashes=with_hashes)
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: wanted an evaluation set. Got nothing there. Check its path.")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                name = str(file.relative_to(path.parent))
                if reason := no_data_reason(str(file.relative_to(path)) if path.is_dir() else file.name):
                    sets.unread[reason] += 1
                    continue
                try:
                    _collect_file(file, name, sets)
                except _READ_ERRORS as error:
                    sets.broken_items.append(f"{name}: {error}")
    if not sets.images and not sets.texts:
        unread = [f"{count} x {suffix}" for suffix, count in sets.unread.items()]
        reasons, names = "; ".join([*sets.broken_items[:3], *unread]) or "no file", ", ".join(map(str, paths))
        raise DataError(f"{names}: wanted images or texts of an evaluation set. Got none ({reasons}).")
    return sets


def _collect_file(file: Path, name: str, sets: EvalSets) -> None:
    if name.lower().endswith((".tar", ".tar.gz", ".tgz")):
        _collect_tar(file, name, sets)
    elif name.lower().endswith(".parquet"):
        table = pq.ParquetFile(file)
        check_row_groups(table, name, table.schema_arrow.names)
        rows = (row for batch in table.iter_batches(batch_size=64) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            sets.add_value(row, EvalItem(file=name, item=f"[{number}]"))
    else:
        with file.open("rb") as data:
            _collect_stream(data, name, sets)


def _collect_tar(file: Path, name: str, sets: EvalSets) -> None:
    def is_needed(member: TarMember) -> bool:
        return member.is_regular and member.size <= current_limits().file

    with file.open("rb") as raw:
        is_gzip = raw.peek(2)[:2] == b"\x1f\x8b"
        stream: Any = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        notices = Notices()
        for member, content in read_tar_members(stream, name, needs_content=is_needed, notices=notices):
            if member.is_regular:
                member_name = f"{name}/{member.name}"
                try:
                    check_limit(member_name, "file", member.size)
                    _collect_stream(io.BytesIO(content), member_name, sets)
                except _READ_ERRORS as error:  # the members after it are still read
                    sets.broken_items.append(f"{member_name}: {error}")
        sets.unread.update({reason: count for reason, (count, _) in notices.entries.items()})


def _collect_stream(stream: Any, name: str, sets: EvalSets) -> None:
    path, codec = PurePosixPath(name.lower()), codec_of(name)
    suffix = path.with_suffix("").suffix if codec else path.suffix
    if not codec and is_image_name(name):
        sets.add_image(read_all(stream, name, "picture"), EvalItem(file=name))
    elif suffix in _TEXT_PARSERS:
        content = read_all(unpacked(stream, name), name, "file")
        for item, value in _TEXT_PARSERS[suffix](content.decode("utf-8-sig")):
            sets.add_value(value, EvalItem(file=name, item=item))
    else:
        sets.unread[suffix or "no ending"] += 1


def _parse_json(text: str) -> Iterator[tuple[str, object]]:
    try:
        yield "", parse_json(text, "JSON")
    except json.JSONDecodeError:
        yield from _parse_json_lines(text)


def _parse_json_lines(text: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", parse_json(line, f"line {number}")


def _parse_csv(text: str, delimiter: str) -> Iterator[tuple[str, object]]:
    csv.field_size_limit(1 << 27)
    for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), start=1):
        for column, value in enumerate(row, start=1):
            yield f"row {number}, column {column}", value


_TEXT_PARSERS: dict[str, Callable[[str], Iterator[tuple[str, object]]]] = {
    ".json": _parse_json,
    ".jsonl": _parse_json_lines,
    ".csv": partial(_parse_csv, delimiter=","),
    ".tsv": partial(_parse_csv, delimiter="\t"),
    ".txt": lambda text: ((f"line {number}", line.strip()) for number, line in enumerate(text.split("\n"), start=1)),
}
