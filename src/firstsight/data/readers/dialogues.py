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

from firstsight.data.readers.filesystem import ReadContext, ReadDigest, SourceFolder
from firstsight.data.readers.text import parse_json_object, read_jsonl_rows
from firstsight.data.records import (
    IMAGE_PLACEHOLDER,
    Dialogue,
    ImageLocation,
    Record,
    RecordError,
    RejectedRecord,
    parse_llava_dialogue,
)
from firstsight.errors import DataError

RANGE_ITEMS, RANGE_BYTES = 10_000, 16 << 20
"""What a JSON list is cut into, so that several processes can read it."""
MAX_ITEM_BYTES = 16 << 20
"""Bytes of one item; a list that shows no whole item in so many is broken."""
TURN_COLUMNS = ("conversations", "messages", "texts", "turns")
QUESTION_ANSWER_COLUMNS = (("instruction", "output"), ("prompt", "response"), ("question", "answer"))
_READ_SIZE = 1 << 20
_ROLES = {"user": "human", "assistant": "gpt"}
_WHITESPACE, _SEPARATOR = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
_BYTE_ORDER_MARK = "\xef\xbb\xbf"


def read_dialogues_json(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Dialogues of a JSON list, or of a stretch of one, in memory for one item at a time."""
    shard = context.shard
    with context.folder.open_stream(shard.name, context.digest, start=shard.start, stop=shard.stop) as stream:
        for byte_offset, data in json_list_items(
            stream, context.path, start=shard.start, list_continues=shard.stop < shard.size
        ):
            try:
                yield _make_dialogue(context, parse_json_object(data), f"{shard.name}:{byte_offset}")
            except RecordError as refused:
                yield context.bad_record(refused, f"byte {byte_offset}")


def read_dialogues_jsonl(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Dialogues of a JSON-lines shard."""
    for number, row in read_jsonl_rows(context):
        try:
            if isinstance(row, RecordError):
                raise row
            yield _make_dialogue(context, row, f"{context.shard.name}:{number}")
        except RecordError as refused:
            yield context.bad_record(refused, f"line {number}")


def _make_dialogue(context: ReadContext, row: Mapping[str, Any], name: str) -> Dialogue:
    columns = context.location.columns
    image_name = single_image(row.get(columns.get("picture", "image")))
    image_location = None if image_name is None or image_name == "" else context.find_image(str(image_name))
    return parse_dialogue(row, columns, name=name, image=image_location)


def single_image(images: object) -> object:
    """The one picture of a record that may list several; None when there is none."""
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        return images
    if len(images) > 1:
        raise RecordError("several pictures", f"{len(images)} in one record")
    return images[0] if images else None


def parse_dialogue(
    row: Mapping[str, Any], columns: Mapping[str, str], *, name: str, image: ImageLocation | None
) -> Dialogue:
    """A dialogue from any of the known forms; `columns` names turns, question and answer where they are unusual."""
    turns = [turn for raw_turn in _find_turns(row, columns) for turn in _normalize_turn(raw_turn)]
    record_id = row.get("id")
    normalized_row = {"conversations": turns} | ({} if record_id is None else {"id": record_id})
    return parse_llava_dialogue(normalized_row, default_id=name, image=image)


def _find_turns(row: Mapping[str, Any], columns: Mapping[str, str]) -> Sequence[object]:
    """The turns of a record as it has them."""
    for column in [columns["turns"]] if "turns" in columns else TURN_COLUMNS:
        if isinstance(row.get(column), Sequence) and not isinstance(row[column], str):
            return row[column]
        if isinstance(row.get(column), Mapping):
            return _transpose_turns(row[column])
    configured_pair = (columns.get("question", ""), columns.get("answer", ""))
    for question, answer in [configured_pair] if any(configured_pair) else QUESTION_ANSWER_COLUMNS:
        if question in row and answer in row:
            extra_input = row.get("input") if question == "instruction" else None
            prompt = f"{row[question]}\n{extra_input}" if extra_input else row[question]
            return [{"from": "human", "value": prompt}, {"from": "gpt", "value": row[answer]}]
    raise RecordError("field missing", f"no conversations, nor a question with its answer, among {', '.join(row)}")


def _transpose_turns(columns: Mapping[str, Sequence[object]]) -> list[object]:
    """Turns that a table keeps as one list a field."""
    lists = [column if isinstance(column, Sequence) else [] for column in columns.values()]
    if len({len(column) for column in lists}) != 1:
        raise RecordError("field missing", "turns whose fields are not equally many")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _normalize_turn(turn: object) -> list[dict[str, object]]:
    """A turn as LLaVA tells it; a pair of user and assistant is two."""
    if not isinstance(turn, Mapping):
        raise RecordError("field missing", f"wanted a turn, got {type(turn).__name__}")
    if "user" in turn and "assistant" in turn:
        return [{"from": "human", "value": turn["user"]}, {"from": "gpt", "value": turn["assistant"]}]
    role, value = (turn.get("role"), turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
    return [{"from": _ROLES.get(role, role) if isinstance(role, str) else role, "value": _join_content(value)}]


def _join_content(value: object) -> object:
    """What is said, where it comes in pieces of text and pictures."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    pieces = [piece if isinstance(piece, Mapping) else {} for piece in value]
    texts = [IMAGE_PLACEHOLDER if piece.get("type") == "image" else piece.get("text") for piece in pieces]
    if not all(isinstance(piece, str) for piece in texts):
        raise RecordError("field missing", "a turn in pieces that are neither text nor picture")
    return "".join(str(piece) for piece in texts)


def json_list_ranges(source_folder: SourceFolder, name: str, size: int) -> list[tuple[int, int]]:
    """Where a JSON list is cut: [start, stop) in bytes, each beginning with a whole item, together the whole file.

    Raises DataError when the file is no JSON list.
    """
    starts, count = [0], 0
    with source_folder.open_stream(name, ReadDigest()) as stream:
        for begin, _ in json_list_items(stream, source_folder.path(name), start=0, list_continues=False):
            if count >= RANGE_ITEMS or begin - starts[-1] >= RANGE_BYTES:
                starts.append(begin)
                count = 0
            count += 1
    return list(zip(starts, [*starts[1:], size], strict=True))


def json_list_items(
    stream: io.BufferedIOBase, path: str, *, start: int, list_continues: bool
) -> Iterator[tuple[int, bytes]]:
    """Items of a JSON list with the byte at which each begins; a stretch starts behind a comma and may end with one.

    Raises DataError when the bytes are no such list. Every byte is looked at as one character, because nothing that
    holds JSON together is more than that: an item that is not UTF-8 harms nothing but itself.
    """
    parser = _JsonListParser(stream, path, start)
    if start == 0:
        parser.read_opening()
    elif not parser.fill_buffer(0):
        raise parser.format_error("an empty stretch")
    while True:
        begin, data = parser.read_item()
        if data is None:
            break
        yield begin, data
        is_closed = parser.read_separator(list_continues=list_continues)
        if is_closed:
            break
    parser.check_end()


class _JsonListParser:
    """The part of a stream in which the next item is looked for."""

    def __init__(self, stream: io.BufferedIOBase, path: str, start: int) -> None:
        self._stream, self._path = stream, path
        self._buffer, self._position, self._buffer_offset = "", 0, start
        self._is_eof = self._is_first = False
        self._decode_json = json.JSONDecoder(strict=False).raw_decode

    def format_error(self, problem: str) -> DataError:
        byte_offset = self._buffer_offset + self._position
        return DataError(
            f"{self._path}: wanted a JSON list of records. Got {problem} at byte {byte_offset}. Repair the file."
        )

    def fill_buffer(self, min_characters: int) -> bool:
        """Hold more of the stream than `least` characters from here on; False at its end."""
        while not self._is_eof and len(self._buffer) - self._position <= min_characters:
            data = self._stream.read(max(_READ_SIZE, len(self._buffer) - self._position))
            self._buffer_offset += self._position
            self._buffer, self._position = self._buffer[self._position :] + data.decode("latin-1"), 0
            self._is_eof = not data
        return len(self._buffer) - self._position > min_characters

    def _skip_whitespace(self) -> None:
        while (
            self.fill_buffer(0)
            and (match := _WHITESPACE.match(self._buffer, self._position))
            and match.end() > self._position
        ):
            self._position = match.end()

    def read_opening(self) -> None:
        if self.fill_buffer(2) and self._buffer.startswith(_BYTE_ORDER_MARK):
            self._position = len(_BYTE_ORDER_MARK)
        self._skip_whitespace()
        if not self.fill_buffer(0) or self._buffer[self._position] != "[":
            raise self.format_error(repr(self._buffer[self._position : self._position + 20]))
        self._position += 1
        self._is_first = True

    def read_item(self) -> tuple[int, bytes | None]:
        """The next item; None where an empty list closes."""
        self._skip_whitespace()
        if self._is_first and self.fill_buffer(0) and self._buffer[self._position] == "]":
            self._position += 1
            return self._buffer_offset + self._position, None
        self._is_first = False
        begin, end = self._buffer_offset + self._position, self._find_item_end()
        data = self._buffer[self._position : end].encode("latin-1")
        self._position = end
        return begin, data

    def _find_item_end(self) -> int:
        """Where the item that begins here ends; the stream is read on until it is whole."""
        while True:
            try:
                _, end = self._decode_json(self._buffer, self._position)
                if end < len(self._buffer) or self._is_eof:
                    return end
            except (ValueError, RecursionError) as error:
                if self._is_eof or len(self._buffer) - self._position > MAX_ITEM_BYTES:
                    raise self.format_error(f"an item that cannot be read ({error})") from None
            self.fill_buffer(len(self._buffer) - self._position)

    def read_separator(self, *, list_continues: bool) -> bool:
        """Go behind the comma or bracket that follows an item; True when the list, or the stretch, ends there."""
        while True:
            match = _SEPARATOR.match(self._buffer, self._position)
            if self._is_eof or (match is not None and match.end() < len(self._buffer)):
                break
            self.fill_buffer(len(self._buffer) - self._position)
        if match is None or (
            match[1] == "," and self._is_eof and match.end() == len(self._buffer) and not list_continues
        ):
            raise self.format_error("an item without a comma or the closing bracket behind it")
        self._position = match.end()
        return match[1] == "]" or (self._is_eof and self._position == len(self._buffer))

    def check_end(self) -> None:
        self._skip_whitespace()
        if self.fill_buffer(0):
            raise self.format_error(
                f"more behind the list's end: {self._buffer[self._position : self._position + 20]!r}"
            )
