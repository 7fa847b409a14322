"""Evaluation sets in whatever layout: every picture's hash and every text, each with where it was found.

    pictures   .png .jpg .jpeg .webp .gif .bmp .tif .tiff, loose or in a tar; inside a field of a table or of JSON
               as base64, inside Parquet as bytes
    texts      .json .jsonl .csv .tsv .txt, also .gz or .zst, loose or in a tar; .parquet: every string at any depth

Files with other endings are counted by their ending, so that nothing is passed over in silence.
"""

from __future__ import annotations

import binascii
import csv
import gzip
import io
import json
import tarfile
import zlib
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from jaxtyping import UInt64

from firstsight.data.pictures import checked
from firstsight.data.records import Refused
from firstsight.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_TARS = (".tar", ".tar.gz", ".tgz")
_SHORTEST = 512
"""Characters that base64 of a picture has at least."""
_FIELD = 1 << 27
_BROKEN = (ValueError, OSError, EOFError, zlib.error, zstandard.ZstdError, csv.Error, RecursionError, pa.ArrowException)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Where in an evaluation set something stands."""

    file: str
    item: str

    def __str__(self) -> str:
        return f"{self.file}: {self.item}" if self.item else self.file


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What evaluation sets hold that training data should not."""

    hashes: UInt64[np.ndarray, "hashed"]
    """Of every picture; none where they were not asked for."""
    pictures: tuple[Item, ...]
    texts: dict[str, Item]
    """Distinct texts in order, each with the place where it stands first."""
    unread: dict[str, int]
    """Files of no known ending, by ending."""
    refused: tuple[str, ...]
    """What could not be read, each with its reason."""


@dataclass(kw_only=True, slots=True)
class _Found:
    hashing: bool
    hashes: list[int] = field(default_factory=list)
    pictures: list[Item] = field(default_factory=list)
    texts: dict[str, Item] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)

    def picture(self, data: bytes, at: Item) -> None:
        try:
            if self.hashing:
                self.hashes.append(checked(data))
            self.pictures.append(at)
        except Refused as refused:
            self.refused.append(f"{at}: {refused}")

    def value(self, value: object, at: Item) -> None:
        """Strings and pictures of a decoded value, at any depth."""
        match value:
            case str():
                self._text(value, at)
            case bytes():
                self.picture(value, at)
            case dict():
                for name, inner in value.items():
                    self.value(inner, Item(file=at.file, item=f"{at.item}.{name}" if at.item else str(name)))
            case list():
                for number, inner in enumerate(value):
                    self.value(inner, Item(file=at.file, item=f"{at.item}[{number}]"))
            case _:
                pass

    def _text(self, text: str, at: Item) -> None:
        if not text.isascii() or len(text.split(None, 1)) > 1:
            self.texts.setdefault(text, at)
        elif len(text) >= _SHORTEST and (data := _unwrapped(text)) is not None:
            self.picture(data, at)


def _unwrapped(text: str) -> bytes | None:
    """Bytes behind base64, where a text is that."""
    try:
        return b64decode(text.rpartition(",")[2], validate=True)
    except binascii.Error:
        return None


def collect(places: Sequence[Path], *, hashing: bool = True) -> Evaluation:
    """All pictures and texts of evaluation sets; raises DataError when a place is missing or holds neither.

    Without `hashing` pictures are only counted, for training data that has none.
    """
    found = _Found(hashing=hashing)
    for place in places:
        if not place.exists():
            raise DataError(f"{place}: wanted an evaluation set. Got nothing there. Check its path.")
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                name = str(file.relative_to(place.parent))
                try:
                    _file(file, name, found)
                except (*_BROKEN, tarfile.TarError) as error:
                    found.refused.append(f"{name}: {error}")
    if not found.pictures and not found.texts:
        listed = ", ".join(map(str, places))
        reasons = "; ".join([*found.refused[:3], *(f"{count} x {ending}" for ending, count in found.unread.items())])
        raise DataError(f"{listed}: wanted pictures or texts of an evaluation set. Got none ({reasons or 'no file'}).")
    return Evaluation(
        hashes=np.array(found.hashes, dtype=np.uint64),
        pictures=tuple(found.pictures),
        texts=found.texts,
        unread=dict(found.unread),
        refused=tuple(found.refused),
    )


def _file(file: Path, name: str, found: _Found) -> None:
    if name.lower().endswith(_TARS):
        with tarfile.open(file, "r|*") as tar:
            for member in tar:
                if member.isreg() and (data := tar.extractfile(member)) is not None:
                    _inside(data.read(), f"{name}/{member.name}", found)
    elif name.lower().endswith(".parquet"):
        for number, row in enumerate(_rows(file)):
            found.value(row, Item(file=name, item=f"[{number}]"))
    else:
        _loose(file.read_bytes, name, found)


def _inside(data: bytes, name: str, found: _Found) -> None:
    """One member of a tar; a broken one is noted and the next ones are read."""
    try:
        _loose(lambda: data, name, found)
    except _BROKEN as error:
        found.refused.append(f"{name}: {error}")


def _loose(read: Callable[[], bytes], name: str, found: _Found) -> None:
    """One file by its ending."""
    plain, ending = name.lower(), PurePosixPath(name.lower()).suffix
    unpack = _UNPACK.get(ending)
    if unpack is not None:
        plain = plain.removesuffix(ending)
    ending = PurePosixPath(plain).suffix
    if unpack is None and ending in PICTURES:
        found.picture(read(), Item(file=name, item=""))
    elif ending in _TEXTS:
        text = (unpack(read()) if unpack else read()).decode("utf-8-sig")
        for item, value in _TEXTS[ending](text):
            found.value(value, Item(file=name, item=item))
    else:
        found.unread[ending or "no ending"] += 1


def _rows(file: Path) -> Iterator[object]:
    for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
        yield from batch.to_pylist()


def _json(text: str) -> Iterator[tuple[str, object]]:
    """A JSON value; or one a line, which some publishers call .json too."""
    try:
        yield "", json.loads(text)
    except json.JSONDecodeError:
        yield from _jsonl(text)


def _jsonl(text: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", json.loads(line)


def _table(text: str, delimiter: str) -> Iterator[tuple[str, object]]:
    csv.field_size_limit(_FIELD)
    for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), start=1):
        for column, value in enumerate(row, start=1):
            yield f"row {number}, column {column}", value


def _lines(text: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(text.split("\n"), start=1):
        yield f"line {number}", line.strip()


_TEXTS: dict[str, Callable[[str], Iterator[tuple[str, object]]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
    ".txt": _lines,
}
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().stream_reader(data).read(),
}
