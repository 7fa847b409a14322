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
_WHITESPACE, _SEPARATOR = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
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
        parser.read_opening()
    elif not parser.fill(0):
        raise parser.error("an empty range")
    while (item := parser.read_item()) is not None:
        yield item
        if parser.read_separator(list_continues=list_continues):
            break
    parser.check_end()


class _JsonListParser:
    """A window of the stream and the position of the next item in it."""

    def __init__(self, stream: io.BufferedIOBase, path: str, start: int) -> None:
        self._stream, self._path = stream, path
        self._buffer, self._position, self._buffer_offset = "", 0, start
        self._is_eof = self._is_first = False
        self._decode = json.JSONDecoder(strict=False).raw_decode

    def error(self, problem: str) -> DataError:
        offset = self._buffer_offset + self._position
        return DataError(
            f"{self._path}: wanted a JSON list of records. Got {problem} at byte {offset}. Repair the file."
        )

    def fill(self, count: int) -> bool:
        """Read until the window has more than `count` characters after the position; False at the end of the stream."""
        while not self._is_eof and len(self._buffer) - self._position <= count:
            data = self._stream.read(max(_READ_SIZE, len(self._buffer) - self._position))
            self._buffer_offset += self._position
            self._buffer, self._position = self._buffer[self._position :] + data.decode("latin-1"), 0
            self._is_eof = not data
        return len(self._buffer) - self._position > count

    def _fill_more(self) -> None:
        self.fill(len(self._buffer) - self._position)

    def _skip_whitespace(self) -> None:
        while self.fill(0):
            match = _WHITESPACE.match(self._buffer, self._position)
            if match is None or match.end() == self._position:
                return
            self._position = match.end()

    def read_opening(self) -> None:
        if self.fill(2) and self._buffer.startswith(_BYTE_ORDER_MARK):
            self._position = len(_BYTE_ORDER_MARK)
        self._skip_whitespace()
        if not self.fill(0) or self._buffer[self._position] != "[":
            raise self.error(repr(self._buffer[self._position : self._position + 20]))
        self._position += 1
        self._is_first = True

    def read_item(self) -> tuple[int, bytes] | None:
        """The next item with its byte offset; None at the bracket that closes an empty list."""
        self._skip_whitespace()
        if self._is_first and self.fill(0) and self._buffer[self._position] == "]":
            self._position += 1
            return None
        self._is_first = False
        begin, end = self._buffer_offset + self._position, self._item_end()
        data = self._buffer[self._position : end].encode("latin-1")
        self._position = end
        return begin, data

    def _item_end(self) -> int:
        """The end of the item that begins at the position; reads on until the item is complete."""
        while True:
            try:
                _, end = self._decode(self._buffer, self._position)
                if end < len(self._buffer) or self._is_eof:
                    return end
            except (ValueError, RecursionError) as error:
                if self._is_eof or len(self._buffer) - self._position > MAX_ITEM_BYTES:
                    raise self.error(f"an item that cannot be read ({error})") from None
            self._fill_more()

    def read_separator(self, *, list_continues: bool) -> bool:
        """Skip the comma or bracket after an item; True if the list, or its range, ends there."""
        while True:
            match = _SEPARATOR.match(self._buffer, self._position)
            if self._is_eof or (match is not None and match.end() < len(self._buffer)):
                break
            self._fill_more()
        is_last = self._is_eof and match is not None and match.end() == len(self._buffer)
        if match is None or (match[1] == "," and is_last and not list_continues):
            raise self.error("an item without a comma or the closing bracket after it")
        self._position = match.end()
        return match[1] == "]" or is_last

    def check_end(self) -> None:
        self._skip_whitespace()
        if self.fill(0):
            raise self.error(f"more after the list's end: {self._buffer[self._position : self._position + 20]!r}")
