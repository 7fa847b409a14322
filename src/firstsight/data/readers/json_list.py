"""Large JSON lists, read item by item in bounded memory, and their division into byte ranges for several processes.

By hand because json and ijson do not report the byte offsets of items.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator

from firstsight.data.readers.filesystem import ReadDigest, SourceFolder
from firstsight.errors import DataError

RANGE_ITEMS, RANGE_BYTES = 10_000, 16 << 20
"""A range ends at the first item after so many items or bytes."""
MAX_ITEM_BYTES = 16 << 20
"""Bytes of one item; a list without a complete item in so many bytes is refused."""
_READ_SIZE = 1 << 20
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_BYTE_ORDER_MARK = "\xef\xbb\xbf"


def json_list_ranges(folder: SourceFolder, name: str, size: int) -> list[tuple[int, int]]:
    """[start, stop) in bytes of ranges that begin with an item and together cover the file.

    Raises DataError when the file is no JSON list.
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
    if start == 0:
        parser.skip_opening()
    elif not parser.next_character():
        raise parser.error("an empty range")
    if start == 0 and parser.next_character() == "]":
        parser.position += 1
    else:
        yield from _items(parser, list_continues=list_continues)
    if parser.next_character():
        raise parser.error(f"more after the list's end: {parser.excerpt()!r}")


def _items(parser: _JsonListParser, *, list_continues: bool) -> Iterator[tuple[int, bytes]]:
    """Items up to the closing bracket, or to the end of the range after a comma."""
    while True:
        yield parser.read_item()
        separator = parser.next_character()
        if separator not in (",", "]"):
            raise parser.error("an item without a comma or the closing bracket after it")
        parser.position += 1
        is_end = not parser.next_character()
        if separator == "," and is_end and not list_continues:
            raise parser.error("a list without a closing bracket")
        if separator == "]" or is_end:
            return


class _JsonListParser:
    """A window of the stream and the position of the next character in it."""

    def __init__(self, stream: io.BufferedIOBase, path: str, start: int) -> None:
        self._stream, self._path = stream, path
        self._buffer, self.position, self._buffer_offset = "", 0, start
        self._is_eof = False
        self._decode = json.JSONDecoder(strict=False).raw_decode

    def error(self, problem: str) -> DataError:
        offset = self._buffer_offset + self.position
        return DataError(
            f"{self._path}: wanted a JSON list of records. Got {problem} at byte {offset}. Repair the file."
        )

    def excerpt(self) -> str:
        return self._buffer[self.position : self.position + 20]

    def _read(self, count: int) -> bool:
        """Read until the window has more than `count` characters after the position; False at the end of the stream."""
        while not self._is_eof and len(self._buffer) - self.position <= count:
            data = self._stream.read(max(_READ_SIZE, len(self._buffer) - self.position))
            self._buffer_offset += self.position
            self._buffer, self.position = self._buffer[self.position :] + data.decode("latin-1"), 0
            self._is_eof = not data
        return len(self._buffer) - self.position > count

    def next_character(self) -> str:
        """Skip whitespace and return the character after it, which is not skipped; empty at the end of the stream."""
        while self._read(0):
            match = _WHITESPACE.match(self._buffer, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self._buffer):
                return self._buffer[self.position]
        return ""

    def skip_opening(self) -> None:
        if self._read(2) and self._buffer.startswith(_BYTE_ORDER_MARK):
            self.position = len(_BYTE_ORDER_MARK)
        if self.next_character() != "[":
            raise self.error(repr(self.excerpt()))
        self.position += 1

    def read_item(self) -> tuple[int, bytes]:
        """The item at the next character, with its byte offset; reads until the item is complete."""
        self.next_character()
        while True:
            try:
                _, end = self._decode(self._buffer, self.position)
                if end < len(self._buffer) or self._is_eof:
                    break
            except (ValueError, RecursionError) as error:
                if self._is_eof or len(self._buffer) - self.position > MAX_ITEM_BYTES:
                    raise self.error(f"an item that cannot be read ({error})") from None
            self._read(len(self._buffer) - self.position)
        offset, data = self._buffer_offset + self.position, self._buffer[self.position : end].encode("latin-1")
        self.position = end
        return offset, data
