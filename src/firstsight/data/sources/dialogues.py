"""Instructions: LLaVA's JSON lists, streamed item by item, and JSON lines; one record is one dialogue.

{"id", "image"?, "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}, ...]}      LLaVA
{"messages": [{"role": "user", "content"}, ...]}   {"texts": [{"user", "assistant"}, ...]}
{"instruction", "input"?, "output"}   {"prompt", "response"}   {"question", "answer"}               one turn
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from firstsight.data.records import PLACEHOLDER, Bad, Dialogue, Place, Record, Refused, dialogue
from firstsight.data.sources.places import Digest, Folder, Pass
from firstsight.data.sources.text import loaded, rows
from firstsight.errors import DataError

STRETCH_ITEMS, STRETCH_BYTES = 10_000, 16 << 20
"""What a JSON list is cut into, so that several processes can read it."""
MOST_ITEM = 16 << 20
"""Bytes of one item; a list that shows no whole item in so many is broken."""
TURNS = ("conversations", "messages", "texts", "turns")
PAIRS = (("instruction", "output"), ("prompt", "response"), ("question", "answer"))
_CHUNK = 1 << 20
_ROLES = {"user": "human", "assistant": "gpt"}
_SPACE, _NEXT = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
_MARK = "\xef\xbb\xbf"


def listed(run: Pass) -> Iterator[Record | Bad]:
    """Dialogues of a JSON list, or of a stretch of one, in memory for one item at a time."""
    shard = run.shard
    with run.folder.stream(shard.name, run.digest, start=shard.start, stop=shard.stop) as stream:
        for at, data in items(stream, run.where, start=shard.start, goes_on=shard.stop < shard.size):
            try:
                yield _told(run, loaded(data), f"{shard.name}:{at}")
            except Refused as refused:
                yield run.bad(refused, f"byte {at}")


def lines(run: Pass) -> Iterator[Record | Bad]:
    """Dialogues of a JSON-lines shard."""
    for number, row in rows(run):
        try:
            if isinstance(row, Refused):
                raise row
            yield _told(run, row, f"{run.shard.name}:{number}")
        except Refused as refused:
            yield run.bad(refused, f"line {number}")


def _told(run: Pass, row: Mapping[str, Any], name: str) -> Dialogue:
    columns = run.location.columns
    shown = alone(row.get(columns.get("picture", "image")))
    place = None if shown is None or shown == "" else run.find(str(shown))
    return dialogue_of(row, columns, name=name, image=place)


def alone(shown: object) -> object:
    """The one picture of a record that may list several; None when there is none."""
    if not isinstance(shown, Sequence) or isinstance(shown, str | bytes):
        return shown
    if len(shown) > 1:
        raise Refused("several pictures", f"{len(shown)} in one record")
    return shown[0] if shown else None


def dialogue_of(row: Mapping[str, Any], columns: Mapping[str, str], *, name: str, image: Place | None) -> Dialogue:
    """A dialogue from any of the known forms; `columns` names turns, question and answer where they are unusual."""
    said = [turn for one in _said(row, columns) for turn in _turn(one)]
    named = row.get("id")
    told = {"conversations": said} | ({} if named is None else {"id": named})
    return dialogue(told, name=name, image=image)


def _said(row: Mapping[str, Any], columns: Mapping[str, str]) -> Sequence[object]:
    """The turns of a record as it has them."""
    for column in [columns["turns"]] if "turns" in columns else TURNS:
        if isinstance(row.get(column), Sequence) and not isinstance(row[column], str):
            return row[column]
        if isinstance(row.get(column), Mapping):
            return _rows(row[column])
    own = (columns.get("question", ""), columns.get("answer", ""))
    for question, answer in [own] if any(own) else PAIRS:
        if question in row and answer in row:
            more = row.get("input") if question == "instruction" else None
            asked = f"{row[question]}\n{more}" if more else row[question]
            return [{"from": "human", "value": asked}, {"from": "gpt", "value": row[answer]}]
    raise Refused("field missing", f"no conversations, nor a question with its answer, among {', '.join(row)}")


def _rows(columns: Mapping[str, Sequence[object]]) -> list[object]:
    """Turns that a table keeps as one list a field."""
    lists = [column if isinstance(column, Sequence) else [] for column in columns.values()]
    if len({len(column) for column in lists}) != 1:
        raise Refused("field missing", "turns whose fields are not equally many")
    return [dict(zip(columns, one, strict=True)) for one in zip(*lists, strict=True)]


def _turn(turn: object) -> list[dict[str, object]]:
    """A turn as LLaVA tells it; a pair of user and assistant is two."""
    if not isinstance(turn, Mapping):
        raise Refused("field missing", f"wanted a turn, got {type(turn).__name__}")
    if "user" in turn and "assistant" in turn:
        return [{"from": "human", "value": turn["user"]}, {"from": "gpt", "value": turn["assistant"]}]
    role, value = (turn.get("role"), turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
    return [{"from": _ROLES.get(role, role) if isinstance(role, str) else role, "value": _content(value)}]


def _content(value: object) -> object:
    """What is said, where it comes in pieces of text and pictures."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    pieces = [one if isinstance(one, Mapping) else {} for one in value]
    told = [PLACEHOLDER if one.get("type") == "image" else one.get("text") for one in pieces]
    if not all(isinstance(one, str) for one in told):
        raise Refused("field missing", "a turn in pieces that are neither text nor picture")
    return "".join(str(one) for one in told)


def stretches(at: Folder, name: str, size: int) -> list[tuple[int, int]]:
    """Where a JSON list is cut: [start, stop) in bytes, each beginning with a whole item, together the whole file.

    Raises DataError when the file is no JSON list.
    """
    starts, count = [0], 0
    with at.stream(name, Digest()) as stream:
        for begin, _ in items(stream, at.path(name), start=0, goes_on=False):
            if count >= STRETCH_ITEMS or begin - starts[-1] >= STRETCH_BYTES:
                starts.append(begin)
                count = 0
            count += 1
    return list(zip(starts, [*starts[1:], size], strict=True))


def items(stream: io.BufferedIOBase, where: str, *, start: int, goes_on: bool) -> Iterator[tuple[int, bytes]]:
    """Items of a JSON list with the byte at which each begins; a stretch starts behind a comma and may end with one.

    Raises DataError when the bytes are no such list. Every byte is looked at as one character, because nothing that
    holds JSON together is more than that: an item that is not UTF-8 harms nothing but itself.
    """
    text = _Text(stream, where, start)
    if start == 0:
        text.open()
    elif not text.more(0):
        raise text.broken("an empty stretch")
    while True:
        begin, data = text.item()
        if data is None:
            break
        yield begin, data
        closed = text.separator(goes_on=goes_on)
        if closed:
            break
    text.close()


class _Text:
    """The part of a stream in which the next item is looked for."""

    def __init__(self, stream: io.BufferedIOBase, where: str, start: int) -> None:
        self._stream, self._where = stream, where
        self._held, self._at, self._base = "", 0, start
        self._ended = self._first = False
        self._decode = json.JSONDecoder(strict=False).raw_decode

    def broken(self, what: str) -> DataError:
        at = self._base + self._at
        return DataError(f"{self._where}: wanted a JSON list of records. Got {what} at byte {at}. Repair the file.")

    def more(self, least: int) -> bool:
        """Hold more of the stream than `least` characters from here on; False at its end."""
        while not self._ended and len(self._held) - self._at <= least:
            found = self._stream.read(max(_CHUNK, len(self._held) - self._at))
            self._base += self._at
            self._held, self._at = self._held[self._at :] + found.decode("latin-1"), 0
            self._ended = not found
        return len(self._held) - self._at > least

    def _skip(self) -> None:
        while self.more(0) and (found := _SPACE.match(self._held, self._at)) and found.end() > self._at:
            self._at = found.end()

    def open(self) -> None:
        if self.more(2) and self._held.startswith(_MARK):
            self._at = len(_MARK)
        self._skip()
        if not self.more(0) or self._held[self._at] != "[":
            raise self.broken(repr(self._held[self._at : self._at + 20]))
        self._at += 1
        self._first = True

    def item(self) -> tuple[int, bytes | None]:
        """The next item; None where an empty list closes."""
        self._skip()
        if self._first and self.more(0) and self._held[self._at] == "]":
            self._at += 1
            return self._base + self._at, None
        self._first = False
        begin, end = self._base + self._at, self._whole()
        data = self._held[self._at : end].encode("latin-1")
        self._at = end
        return begin, data

    def _whole(self) -> int:
        """Where the item that begins here ends; the stream is read on until it is whole."""
        while True:
            try:
                _, end = self._decode(self._held, self._at)
                if end < len(self._held) or self._ended:
                    return end
            except (ValueError, RecursionError) as error:
                if self._ended or len(self._held) - self._at > MOST_ITEM:
                    raise self.broken(f"an item that cannot be read ({error})") from None
            self.more(len(self._held) - self._at)

    def separator(self, *, goes_on: bool) -> bool:
        """Go behind the comma or bracket that follows an item; True when the list, or the stretch, ends there."""
        while True:
            found = _NEXT.match(self._held, self._at)
            if self._ended or (found is not None and found.end() < len(self._held)):
                break
            self.more(len(self._held) - self._at)
        if found is None or (found[1] == "," and self._ended and found.end() == len(self._held) and not goes_on):
            raise self.broken("an item without a comma or the closing bracket behind it")
        self._at = found.end()
        return found[1] == "]" or (self._ended and self._at == len(self._held))

    def close(self) -> None:
        self._skip()
        if self.more(0):
            raise self.broken(f"more behind the list's end: {self._held[self._at : self._at + 20]!r}")
