"""JSON in untrusted files: JSON lines and large JSON lists, plain or compressed, both in bounded memory.

The parser of lists is our own because json and ijson do not report the byte offsets of items.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from firstsight.data.compression import unpacked
from firstsight.data.file_types import codec_of, is_plain_json
from firstsight.data.readers.filesystem import ReadContext, ReadDigest, SourceFolder
from firstsight.data.records import Record, RecordError, RejectedRecord
from firstsight.errors import DataError, LimitExceeded
from firstsight.limits import current_limits, describe_excess, iter_lines, limit_exceeded, parse_json

RANGE_ITEMS, RANGE_BYTES = 10_000, 16 << 20
"""A byte range of a list ends at the first item after this many items or bytes."""
_READ_SIZE = 1 << 20
_NOT_WHITESPACE = re.compile(r"[^ \t\r\n]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
JsonLayout = Literal["list", "lines", "other"]


class Position(NamedTuple):
    """Where a record begins: the number of a line, counted from 1, or of a byte of a list."""

    unit: Literal["line", "byte"]
    number: int

    def __str__(self) -> str:
        return f"{self.unit} {self.number}"


def json_records(
    context: ReadContext, parse: Callable[[Mapping[str, Any], Position], Record]
) -> Iterator[Record | RejectedRecord]:
    """The record that `parse` makes of each line or item and its position; blank lines are skipped.

    `parse` may raise RecordError; a line above the limit is skipped. DataError when a compressed file is truncated, or
    a list is not JSON.
    """
    shard, path = context.shard, context.path
    layout = json_layout(context.folder, shard.name)
    with context.folder.open_stream(shard.name, context.digest, start=shard.start, stop=shard.stop) as raw:
        stream = unpacked(raw, path)
        rows: Iterator[tuple[int, bytes | None]] = enumerate(iter_lines(stream), start=1)
        if layout != "lines":
            continues = not codec_of(path) and shard.stop < shard.size
            rows = json_list_items(stream, path, start=shard.start, list_continues=continues)
        unit: Literal["line", "byte"] = "line" if layout == "lines" else "byte"
        for number, line in rows:
            if line is None or line.strip():
                try:
                    if line is None:
                        raise RecordError("too many bytes", describe_excess("record"))
                    yield parse(parse_json_object(line), Position(unit, number))
                except RecordError as error:
                    yield context.rejected(error, f"{unit} {number}")


def json_layout(folder: SourceFolder, name: str) -> JsonLayout:
    """Whether a file is a list or lines of JSON: by its ending, for .json by its beginning; "other": neither.

    A single object in a plain .json is "other": settings and statistics are such files.
    """
    if not is_plain_json(name):
        return "lines"
    with folder.open_stream(name, ReadDigest(), drain=False) as raw:
        stream, limit = unpacked(raw, folder.path(name)), current_limits().record
        first = _next_text(stream)
        if first.startswith(b"["):
            return "list"
        try:
            first += b"" if first.endswith(b"\n") else stream.readline(limit)
            is_object = isinstance(parse_json(first, name), dict)
        except (ValueError, LimitExceeded):
            is_object = False
        return "lines" if is_object and (codec_of(name) or _next_text(stream)) else "other"


def _next_text(stream: Any) -> bytes:
    """The beginning of the next line that is not blank, without white space before it; empty at the end."""
    while line := stream.readline(1 << 12):
        if text := without_byte_order_mark(line).lstrip():
            return text
    return b""


def parse_json_object(data: bytes) -> dict[str, Any]:
    """A JSON object; RecordError for anything else."""
    try:
        value = parse_json(decode_utf8(data), "JSON")
    except LimitExceeded:
        raise RecordError("too deep", describe_excess("depth")) from None
    except ValueError as error:
        raise RecordError("not JSON", str(error)) from None
    if not isinstance(value, dict):
        raise RecordError("not JSON", f"wanted an object, got {type(value).__name__}")
    return value


def parse_optional_object(data: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one if the bytes are anything else."""
    try:
        value = parse_json(without_byte_order_mark(data), "JSON")
    except (ValueError, LimitExceeded):
        return {}
    return value if isinstance(value, dict) else {}


def decode_utf8(data: bytes, prefix: str = "") -> str:
    """The text without a byte order mark; RecordError names the first byte that is not UTF-8, after `prefix`."""
    try:
        return without_byte_order_mark(data).decode()
    except UnicodeDecodeError as error:
        hint = ": the file is UTF-16, convert it" if data.startswith(_UTF16_MARKS) else ""
        start = error.start + len(data) - len(without_byte_order_mark(data))
        raise RecordError("not UTF-8", f"{prefix}byte {start}{hint}") from None


def without_byte_order_mark(data: bytes) -> bytes:
    """UTF-8 without a mark at its beginning; files that were joined have marks at the beginnings of lines too."""
    return data.removeprefix(_BYTE_ORDER_MARK)


def json_list_ranges(folder: SourceFolder, name: str, size: int) -> list[tuple[int, int]]:
    """[start, stop) in bytes of ranges that begin with an item and together cover the file of `size` bytes.

    Raises DataError when the file is not a JSON list.
    """
    starts, count = [0], 0
    with folder.open_stream(name, ReadDigest()) as stream:
        for begin, _ in json_list_items(stream, folder.path(name), start=0, list_continues=False):
            if count >= RANGE_ITEMS or begin - starts[-1] >= RANGE_BYTES:
                starts.append(begin)
                count = 0
            count += 1
    return list(zip(starts, [*starts[1:], size], strict=True))


def json_list_items(
    stream: io.BufferedIOBase, path: str, *, start: int, list_continues: bool
) -> Iterator[tuple[int, bytes]]:
    """(byte offset, bytes) of each item from `start` on; unless it is 0, `start` is the first byte of an item.

    `list_continues`: the stream ends after a comma, with more items in the next range. Raises DataError for anything
    but a JSON list. Bytes are decoded as Latin-1, one character each: JSON's own syntax is ASCII, so an item that is
    not UTF-8 does not affect the others.
    """
    parser = _JsonListParser(stream, path, start)
    is_open = start > 0 or parser.skip_opening()
    while is_open:
        yield parser.read_item()
        separator = parser.next_character()
        if separator not in (",", "]"):
            raise parser.error("an item without a comma or the closing bracket after it")
        parser.position += 1
        is_open = separator == "," and parser.next_character() != ""
        if separator == "," and not is_open and not list_continues:
            raise parser.error("a list without a closing bracket")
    if parser.next_character():
        raise parser.error(f"more after the list's end: {parser.excerpt()!r}")


class _JsonListParser:
    """A window of the stream and the position of the next character in it."""

    def __init__(self, stream: io.BufferedIOBase, path: str, start: int) -> None:
        self._stream, self._path, self._is_eof = stream, path, False
        self._buffer, self.position, self._buffer_offset = "", 0, start
        self._decode = json.JSONDecoder(strict=False).raw_decode

    def error(self, problem: str) -> DataError:
        offset = self._buffer_offset + self.position
        return DataError(f"{self._path}: wanted a JSON list of records. Got {problem} at byte {offset}. Repair it.")

    def excerpt(self) -> str:
        return self._buffer[self.position : self.position + 20]

    def _read_more(self) -> bool:
        data = self._stream.read(max(_READ_SIZE, len(self._buffer) - self.position))
        self._buffer_offset += self.position
        self._buffer, self.position = self._buffer[self.position :] + data.decode("latin-1"), 0
        self._is_eof = not data
        return not self._is_eof

    def next_character(self) -> str:
        """Skip whitespace and return the character after it, which is not skipped; empty at the end of the stream."""
        while not (match := _NOT_WHITESPACE.search(self._buffer, self.position)):
            self.position = len(self._buffer)
            if not self._read_more():
                return ""
        self.position = match.start()
        return match[0]

    def skip_opening(self) -> bool:
        """Skip the opening bracket, and the closing one of an empty list; whether there are items."""
        if self._read_more() and self._buffer.startswith(_BYTE_ORDER_MARK.decode("latin-1")):
            self.position = len(_BYTE_ORDER_MARK)
        if self.next_character() != "[":
            raise self.error(repr(self.excerpt()))
        self.position += 1
        is_empty = self.next_character() == "]"
        self.position += is_empty
        return not is_empty

    def read_item(self) -> tuple[int, bytes]:
        """The item at the next character, with its byte offset; reads until the item is complete."""
        self.next_character()
        place, limit = f"{self._path}, byte {self._buffer_offset + self.position}", current_limits().record
        while True:
            try:
                _, end = self._decode(self._buffer, self.position)
                if end < len(self._buffer) or self._is_eof:
                    break
            except RecursionError:
                raise limit_exceeded(place, "depth") from None
            except ValueError as error:
                if self._is_eof:
                    raise self.error(f"an item that cannot be read ({error})") from None
                if len(self._buffer) - self.position > limit:
                    raise limit_exceeded(place, "record", detail=f", or a broken item ({error})") from None
            self._read_more()
        if end - self.position > limit:
            raise limit_exceeded(place, "record", end - self.position)
        offset, data = self._buffer_offset + self.position, self._buffer[self.position : end].encode("latin-1")
        self.position = end
        return offset, data
