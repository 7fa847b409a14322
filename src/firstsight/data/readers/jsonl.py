"""JSON values in untrusted files: JSON-lines shards, plain or compressed, read as one stream."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.records import Record, RecordError, RejectedRecord
from firstsight.errors import DataError

JSONL_EXTENSIONS = (".jsonl", ".jsonl.zst", ".jsonl.gz")
_READ_SIZE = 1 << 20


def jsonl_records(
    context: ReadContext, parse: Callable[[Mapping[str, Any], int], Record]
) -> Iterator[Record | RejectedRecord]:
    """The record that `parse` makes of each row and its number, counted from 1; blank lines are skipped.

    `parse` may raise RecordError. Raises DataError when a compressed file is truncated.
    """
    with context.folder.open_stream(context.shard.name, context.digest) as stream:
        for number, line in enumerate(_read_lines(stream, context.path), start=1):
            if line.strip():
                try:
                    yield parse(parse_json_object(line), number)
                except RecordError as error:
                    yield context.rejected(error, f"line {number}")


def parse_json_object(data: bytes) -> dict[str, Any]:
    """A JSON object; RecordError for anything else."""
    try:
        value = json.loads(decode_utf8(data))
    except (ValueError, RecursionError) as error:
        raise RecordError("not JSON", str(error)) from None
    if not isinstance(value, dict):
        raise RecordError("not JSON", f"wanted an object, got {type(value).__name__}")
    return value


def parse_optional_object(data: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one if the bytes are anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def decode_utf8(data: bytes, prefix: str = "") -> str:
    """The text; RecordError names the first byte that is not UTF-8, after `prefix`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RecordError("not UTF-8", f"{prefix}byte {error.start}") from None


def _read_lines(stream: io.BufferedIOBase, path: str) -> Iterator[bytes]:
    """Lines of a plain or compressed stream; DataError when a compressed one is truncated.

    pyarrow reports truncated zstandard frames, which zstandard's reader does not; Python's gzip accepts zero bytes
    after the last member (tape padding), which pyarrow does not.
    """
    if path.endswith(".gz"):
        lines: Any = gzip.GzipFile(fileobj=stream)
    elif path.endswith(".zst"):
        unclosed = SimpleNamespace(read=stream.read, close=lambda: None, closed=False)  # pyarrow closes what it reads
        lines = pa.CompressedInputStream(pa.PythonFile(unclosed, "r"), "zstd")
    else:
        yield from stream
        return
    try:
        yield from io.BufferedReader(lines, _READ_SIZE)
    except (EOFError, OSError, zlib.error) as error:
        codec = "gzip" if path.endswith(".gz") else "zstd"
        raise DataError(f"{path}: not a complete {codec} file ({error}). Copy it again from its origin.") from None
