"""Instructions, one dialogue per record: LLaVA's JSON lists, JSON lines and tables.

{"id", "image"?, "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}, ...]}      LLaVA
{"messages": [{"role": "user", "content"}, ...]}   {"texts": [{"user", "assistant"}, ...]}
{"instruction", "input"?, "output"}   {"prompt", "response"}   {"question", "answer"}               one turn

The image is under any of `fields.IMAGE_KEYS`, or in a part of a turn's content ({"type": "image", "image": name}).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from firstsight.data.readers.fields import (
    QUESTION_ANSWER_KEYS,
    TURN_KEYS,
    check_media,
    check_media_placeholders,
    check_unread_images,
    find_keys,
    flatten_images,
    image_names,
    media_keys,
)
from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.readers.json_files import Position, json_records
from firstsight.data.readers.tables import TableRow, table_records
from firstsight.data.records import (
    IMAGE_PLACEHOLDER,
    Dialogue,
    ImageLocation,
    Record,
    RecordError,
    RejectedRecord,
    parse_llava_dialogue,
)

_TEXT_PARTS, _IMAGE_PARTS = ("text", "input_text", "output_text"), ("image", "image_url", "input_image", "image_path")


def read_dialogues_json(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Dialogues of lines or a list of JSON, or of a byte range of a list; one record at a time in memory."""

    def parse(row: Mapping[str, Any], position: Position) -> Record:
        reader = _DialogueReader(row, context.location.columns, context.find_image)
        record = reader.read(default_id=context.default_id(position.number), image=None)
        for key in reader.unread_keys():
            context.notices.add(f"key {key}", f"{context.shard.name}, {position}")
        return record

    return json_records(context, parse)


def read_dialogues_table(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Dialogues of a table: turns, or a question and its answer; with an image if there is a column for it."""

    def parse(row: TableRow) -> Record:
        image = row.image_location() if "picture" in row.columns else None
        columns = {field: column for field, column in row.columns.items() if field != "picture"}
        image_columns = (row.columns.get("picture"), *row.other_images)
        cells = {name: cell for name, cell in row.cells.items() if name not in image_columns}
        return _DialogueReader(cells, columns, context.find_image).read(default_id=row.id, image=image)

    return table_records(context, parse, ("turns",), ("question", "answer"), optional_fields=("picture",))


class _DialogueReader:
    """One row; `columns` has the file's names for picture, turns, question and answer where the location maps them."""

    def __init__(
        self, row: Mapping[str, Any], columns: Mapping[str, str], find_image: Callable[[str], ImageLocation]
    ) -> None:
        self._row, self._columns, self._find_image = row, columns, find_image
        self._part_images: list[object] = []
        self._used = {"id", *columns.values()}

    def read(self, *, default_id: str, image: ImageLocation | None) -> Dialogue:
        """The dialogue, with `image` or the one that the row names; RecordError if it has a video or several images."""
        row = self._row
        check_media(row)
        turns = [turn for raw_turn in self._find_turns() for turn in self._normalize_turn(raw_turn)]
        check_media_placeholders([str(turn["value"]) for turn in turns[::2]])
        image = image or self._named_image()
        record_id = default_id if row.get("id") is None else row["id"]
        return parse_llava_dialogue({"conversations": turns, "id": record_id}, default_id=default_id, image=image)

    def unread_keys(self) -> list[str]:
        """The keys of the row that `read` did not use."""
        return [key for key in self._row if key not in self._used]

    def _named_image(self) -> ImageLocation | None:
        key = self._columns.get("picture")
        names = image_names(self._row, key)
        self._used.update(find_keys("picture", tuple(self._row)), media_keys(tuple(self._row)))
        names = list(dict.fromkeys((*names, *self._part_images)))
        if len(names) > 1:
            raise RecordError("several images", f"{len(names)} in one record")
        if not names:
            if key is None:
                check_unread_images(self._row, self._used)
            return None
        if isinstance(names[0], bytes):
            raise RecordError(
                "not an image", "bytes inside JSON or a turn are not read; make a column or files of them"
            )
        return self._find_image(str(names[0]))

    def _find_turns(self) -> Sequence[object]:
        row, columns = self._row, self._columns
        for column in [columns["turns"]] if "turns" in columns else TURN_KEYS:
            turns = row.get(column)
            if isinstance(turns, Sequence) and not isinstance(turns, str):
                self._used.add(column)
                return turns
            if isinstance(turns, Mapping):
                self._used.add(column)
                return _transpose_turns(turns)
        configured = (columns.get("question", ""), columns.get("answer", ""))
        for question, answer in [configured] if any(configured) else QUESTION_ANSWER_KEYS:
            if question in row and answer in row:
                extra = row.get("input") if question == "instruction" else None
                self._used.update((question, answer, *(["input"] if question == "instruction" else [])))
                prompt = f"{row[question]}\n{extra}" if extra else row[question]
                return [{"from": "human", "value": prompt}, {"from": "gpt", "value": row[answer]}]
        names = ", ".join(row)
        raise RecordError("field missing", f"wanted conversations, or a question and its answer. Got {names}")

    def _normalize_turn(self, turn: object) -> list[dict[str, object]]:
        if not isinstance(turn, Mapping):
            raise RecordError("field missing", f"wanted a turn, got {type(turn).__name__}")
        if "user" in turn and "assistant" in turn:
            return [{"from": "human", "value": turn["user"]}, {"from": "gpt", "value": turn["assistant"]}]
        keys = ("role", "content") if "role" in turn else ("from", "value")
        role, value = map(turn.get, keys)
        role = {"user": "human", "assistant": "gpt"}.get(role, role) if isinstance(role, str) else role
        check_media(turn)
        self._part_images += image_names({key: turn[key] for key in turn if key not in keys}, None)
        return [{"from": role, "value": self._join_content(value)}]

    def _join_content(self, value: object) -> object:
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, Sequence) or isinstance(value, str):
            return value
        return "".join(self._part_text(part) for part in value)

    def _part_text(self, part: object) -> str:
        """The text of a part of a turn's content, the placeholder for an image, whose name is noted."""
        if isinstance(part, str):
            return part
        if not isinstance(part, Mapping):
            raise RecordError("field missing", f"a turn with {type(part).__name__} among its content")
        kind = part.get("type")
        present = {key: value for key, value in part.items() if value is not None and key != "type"}
        check_media(present)
        if kind in _IMAGE_PARTS or (kind is None and find_keys("picture", tuple(present)) and "text" not in present):
            self._part_images += image_names(present, None) or flatten_images(present)
            return IMAGE_PLACEHOLDER
        text = present.get("text", present.get("content"))
        if kind not in (None, *_TEXT_PARTS) or not isinstance(text, str):
            is_media = media_keys((str(kind).removeprefix("input_"),))
            detail = f"a turn with content of type {kind!r}, neither text nor image"
            raise RecordError("video or audio" if is_media else "field missing", detail)
        return text


def _transpose_turns(columns: Mapping[str, Sequence[object]]) -> list[object]:
    lists = [column if isinstance(column, Sequence) else [] for column in columns.values()]
    if len(set(map(len, lists))) != 1:
        raise RecordError("field missing", "turns whose fields have different lengths")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
