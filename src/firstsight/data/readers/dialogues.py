"""Instructions, one dialogue per record: LLaVA's JSON lists, JSON lines and tables.

{"id", "image"?, "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}, ...]}      LLaVA
{"messages": [{"role": "user", "content"}, ...]}   {"texts": [{"user", "assistant"}, ...]}
{"instruction", "input"?, "output"}   {"prompt", "response"}   {"question", "answer"}               one turn
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.readers.json_files import json_list_items, jsonl_records, parse_json_object
from firstsight.data.readers.tables import QUESTION_ANSWER_COLUMNS, TURN_COLUMNS, TableRow, single_image, table_records
from firstsight.data.records import (
    IMAGE_PLACEHOLDER,
    Dialogue,
    ImageLocation,
    Record,
    RecordError,
    RejectedRecord,
    parse_llava_dialogue,
)


def read_dialogues_json(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Dialogues of a JSON list, or of a byte range of one, with one item at a time in memory."""
    shard = context.shard
    with context.folder.open_stream(shard.name, context.digest, start=shard.start, stop=shard.stop) as stream:
        list_continues = shard.stop < shard.size
        for offset, data in json_list_items(stream, context.path, start=shard.start, list_continues=list_continues):
            try:
                yield _make_dialogue(context, parse_json_object(data), offset)
            except RecordError as error:
                yield context.rejected(error, f"byte {offset}")


def read_dialogues_jsonl(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Dialogues of a JSON-lines shard."""
    return jsonl_records(context, partial(_make_dialogue, context))


def read_dialogues_table(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Dialogues of a table: turns, or a question and its answer; with an image if there is a column for it."""

    def parse(row: TableRow) -> Record:
        image = row.image_location() if "picture" in row.columns else None
        return parse_dialogue(row.cells, row.columns, default_id=row.id, image=image)

    return table_records(context, parse, ("turns",), ("question", "answer"), optional_fields=("picture",))


def _make_dialogue(context: ReadContext, row: Mapping[str, Any], position: int) -> Dialogue:
    columns = context.location.columns
    name = single_image(row.get(columns.get("picture", "image")))
    image = None if name is None or name == "" else context.find_image(str(name))
    return parse_dialogue(row, columns, default_id=context.default_id(position), image=image)


def parse_dialogue(
    row: Mapping[str, Any], columns: Mapping[str, str], *, default_id: str, image: ImageLocation | None
) -> Dialogue:
    """A dialogue from any of the known forms; `columns` has the file's names for turns, question and answer."""
    turns = [turn for raw_turn in _find_turns(row, columns) for turn in _normalize_turn(raw_turn)]
    record_id = default_id if row.get("id") is None else row["id"]
    return parse_llava_dialogue({"conversations": turns, "id": record_id}, default_id=default_id, image=image)


def _find_turns(row: Mapping[str, Any], columns: Mapping[str, str]) -> Sequence[object]:
    for column in [columns["turns"]] if "turns" in columns else TURN_COLUMNS:
        turns = row.get(column)
        if isinstance(turns, Sequence) and not isinstance(turns, str):
            return turns
        if isinstance(turns, Mapping):
            return _transpose_turns(turns)
    configured = (columns.get("question", ""), columns.get("answer", ""))
    for question, answer in [configured] if any(configured) else QUESTION_ANSWER_COLUMNS:
        if question in row and answer in row:
            extra = row.get("input") if question == "instruction" else None
            prompt = f"{row[question]}\n{extra}" if extra else row[question]
            return [{"from": "human", "value": prompt}, {"from": "gpt", "value": row[answer]}]
    raise RecordError("field missing", f"wanted conversations, or a question and its answer. Got {', '.join(row)}")


def _transpose_turns(columns: Mapping[str, Sequence[object]]) -> list[object]:
    lists = [column if isinstance(column, Sequence) else [] for column in columns.values()]
    if len(set(map(len, lists))) != 1:
        raise RecordError("field missing", "turns whose fields have different lengths")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _normalize_turn(turn: object) -> list[dict[str, object]]:
    if not isinstance(turn, Mapping):
        raise RecordError("field missing", f"wanted a turn, got {type(turn).__name__}")
    if "user" in turn and "assistant" in turn:
        return [{"from": "human", "value": turn["user"]}, {"from": "gpt", "value": turn["assistant"]}]
    role, value = (turn.get("role"), turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
    role = {"user": "human", "assistant": "gpt"}.get(role, role) if isinstance(role, str) else role
    return [{"from": role, "value": _join_content(value)}]


def _join_content(value: object) -> object:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    parts = [part if isinstance(part, Mapping) else {} for part in value]
    texts = [IMAGE_PLACEHOLDER if part.get("type") == "image" else part.get("text") for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise RecordError("field missing", "a turn with content that is neither text nor image")
    return "".join(str(text) for text in texts)
