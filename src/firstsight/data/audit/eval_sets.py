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

from firstsight.data.images import perceptual_hash
from firstsight.data.records import RecordError
from firstsight.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_MIN_BASE64_CHARS = 512
"""Characters that base64 of a picture has at least."""
_MAX_CSV_FIELD = 1 << 27
_READ_ERRORS = (
    ValueError,
    OSError,
    EOFError,
    zlib.error,
    zstandard.ZstdError,
    csv.Error,
    RecursionError,
    pa.ArrowException,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalItem:
    """Where in an evaluation set something stands."""

    file: str
    item: str

    def __str__(self) -> str:
        return f"{self.file}: {self.item}" if self.item else self.file


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSets:
    """What evaluation sets hold that training data should not."""

    hashes: UInt64[np.ndarray, "hashed"]
    """Of every picture; none where they were not asked for."""
    images: tuple[EvalItem, ...]
    texts: dict[str, EvalItem]
    """Distinct texts in order, each with the place where it stands first."""
    unread: dict[str, int]
    """Files of no known ending, by ending."""
    refused: tuple[str, ...]
    """What could not be read, each with its reason."""


@dataclass(kw_only=True, slots=True)
class _EvalCollector:
    with_hashes: bool
    hashes: list[int] = field(default_factory=list)
    images: list[EvalItem] = field(default_factory=list)
    texts: dict[str, EvalItem] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)

    def add_image(self, data: bytes, item: EvalItem) -> None:
        try:
            if self.with_hashes:
                self.hashes.append(perceptual_hash(data))
            self.images.append(item)
        except RecordError as error:
            self.refused.append(f"{item}: {error}")

    def add_value(self, value: object, location: EvalItem) -> None:
        """Strings and pictures of a decoded value, at any depth."""
        match value:
            case str():
                self._add_text(value, location)
            case bytes():
                self.add_image(value, location)
            case dict():
                for name, child in value.items():
                    self.add_value(
                        child,
                        EvalItem(file=location.file, item=f"{location.item}.{name}" if location.item else str(name)),
                    )
            case list():
                for number, child in enumerate(value):
                    self.add_value(child, EvalItem(file=location.file, item=f"{location.item}[{number}]"))
            case _:
                pass

    def _add_text(self, text: str, location: EvalItem) -> None:
        if not text.isascii() or len(text.split(None, 1)) > 1:
            self.texts.setdefault(text, location)
        elif len(text) >= _MIN_BASE64_CHARS and (data := _decode_base64(text)) is not None:
            self.add_image(data, location)


def _decode_base64(text: str) -> bytes | None:
    """Bytes behind base64, where a text is that."""
    try:
        return b64decode(text.rpartition(",")[2], validate=True)
    except binascii.Error:
        return None


def collect_eval_sets(paths: Sequence[Path], *, with_hashes: bool = True) -> EvalSets:
    """All pictures and texts of evaluation sets; raises DataError when a place is missing or holds neither.

    Without `hashing` pictures are only counted, for training data that has none.
    """
    collector = _EvalCollector(with_hashes=with_hashes)
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: wanted an evaluation set. Got nothing there. Check its path.")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                name = str(file.relative_to(path.parent))
                try:
                    _collect_file(file, name, collector)
                except (*_READ_ERRORS, tarfile.TarError) as error:
                    collector.refused.append(f"{name}: {error}")
    if not collector.images and not collector.texts:
        listed = ", ".join(map(str, paths))
        reasons = "; ".join(
            [*collector.refused[:3], *(f"{count} x {suffix}" for suffix, count in collector.unread.items())]
        )
        raise DataError(f"{listed}: wanted pictures or texts of an evaluation set. Got none ({reasons or 'no file'}).")
    return EvalSets(
        hashes=np.array(collector.hashes, dtype=np.uint64),
        images=tuple(collector.images),
        texts=collector.texts,
        unread=dict(collector.unread),
        refused=tuple(collector.refused),
    )


def _collect_file(file: Path, name: str, collector: _EvalCollector) -> None:
    if name.lower().endswith(_TAR_SUFFIXES):
        with tarfile.open(file, "r|*") as tar:
            for member in tar:
                if member.isreg() and (data := tar.extractfile(member)) is not None:
                    _collect_member(data.read(), f"{name}/{member.name}", collector)
    elif name.lower().endswith(".parquet"):
        for number, row in enumerate(_parquet_rows(file)):
            collector.add_value(row, EvalItem(file=name, item=f"[{number}]"))
    else:
        _collect_bytes(file.read_bytes, name, collector)


def _collect_member(data: bytes, name: str, collector: _EvalCollector) -> None:
    """One member of a tar; a broken one is noted and the next ones are read."""
    try:
        _collect_bytes(lambda: data, name, collector)
    except _READ_ERRORS as error:
        collector.refused.append(f"{name}: {error}")


def _collect_bytes(read_content: Callable[[], bytes], name: str, collector: _EvalCollector) -> None:
    """One file by its ending."""
    base_name, suffix = name.lower(), PurePosixPath(name.lower()).suffix
    decompress = _DECOMPRESSORS.get(suffix)
    if decompress is not None:
        base_name = base_name.removesuffix(suffix)
    suffix = PurePosixPath(base_name).suffix
    if decompress is None and suffix in IMAGE_SUFFIXES:
        collector.add_image(read_content(), EvalItem(file=name, item=""))
    elif suffix in _TEXT_PARSERS:
        text = (decompress(read_content()) if decompress else read_content()).decode("utf-8-sig")
        for item, value in _TEXT_PARSERS[suffix](text):
            collector.add_value(value, EvalItem(file=name, item=item))
    else:
        collector.unread[suffix or "no ending"] += 1


def _parquet_rows(file: Path) -> Iterator[object]:
    for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
        yield from batch.to_pylist()


def _parse_json(text: str) -> Iterator[tuple[str, object]]:
    """A JSON value; or one a line, which some publishers call .json too."""
    try:
        yield "", json.loads(text)
    except json.JSONDecodeError:
        yield from _parse_json_lines(text)


def _parse_json_lines(text: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", json.loads(line)


def _parse_csv(text: str, delimiter: str) -> Iterator[tuple[str, object]]:
    csv.field_size_limit(_MAX_CSV_FIELD)
    for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), start=1):
        for column, value in enumerate(row, start=1):
            yield f"row {number}, column {column}", value


def _parse_lines(text: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(text.split("\n"), start=1):
        yield f"line {number}", line.strip()


_TEXT_PARSERS: dict[str, Callable[[str], Iterator[tuple[str, object]]]] = {
    ".json": _parse_json,
    ".jsonl": _parse_json_lines,
    ".csv": partial(_parse_csv, delimiter=","),
    ".tsv": partial(_parse_csv, delimiter="\t"),
    ".txt": _parse_lines,
}
_DECOMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().stream_reader(data).read(),
}
