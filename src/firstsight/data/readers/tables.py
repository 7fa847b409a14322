"""Rows of tables: parquet as on the Hugging Face hub, and the arrow files of `datasets.Dataset.save_to_disk`.

A picture is a struct of bytes and path, bare bytes, or the name of a file; its place is `<shard>#<column>` and the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from firstsight.data.images import perceptual_hash
from firstsight.data.readers.captions import select_caption
from firstsight.data.readers.dialogues import QUESTION_ANSWER_COLUMNS, TURN_COLUMNS, parse_dialogue, single_image
from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.records import (
    ImageLocation,
    ImageText,
    Record,
    RecordError,
    RejectedRecord,
    parse_caption,
    parse_document,
)
from firstsight.errors import DataError

TABLE_EXTENSIONS = (".parquet", ".arrow")
_BATCH_ROWS = 64
"""Rows in memory together; each may hold a picture of some megabytes."""
_DEFAULT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "text": ("text",),
    "picture": ("image", "images", "picture", "jpg", "png"),
    "caption": ("caption", "text", "txt"),
    "synthetic": ("syn_text",),
    "turns": TURN_COLUMNS,
    "question": tuple(question for question, _ in QUESTION_ANSWER_COLUMNS),
    "answer": tuple(answer for _, answer in QUESTION_ANSWER_COLUMNS),
}
"""Names that columns have where the location does not say."""
TableRow = Mapping[str, Any]


def read_table_rows(
    context: ReadContext, *layouts: Sequence[str], optional_fields: Sequence[str] = ()
) -> Iterator[tuple[int, TableRow, Mapping[str, str]]]:
    """Rows with their numbers from 0 on, and the columns read: the first of `layouts` that is there, and of `also`.

    Raises DataError when the file is no table, breaks off, or fits no layout.
    """
    with context.folder.local_copy(context.shard.name, context.digest) as path:
        try:
            if context.shard.name.endswith(".parquet"):
                with pq.ParquetFile(path) as table:
                    columns = _resolve_columns(context, table.schema_arrow.names, layouts, optional_fields)
                    yield from _number_rows(
                        table.iter_batches(batch_size=_BATCH_ROWS, columns=_unique_columns(columns)), columns
                    )
            else:
                with pa.memory_map(str(path)) as data, pa.ipc.open_stream(data) as table:
                    columns = _resolve_columns(context, table.schema.names, layouts, optional_fields)
                    yield from _number_rows((batch.select(_unique_columns(columns)) for batch in table), columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{context.path}: a table that breaks off or is none ({error}). Copy it again.") from None


def _unique_columns(columns: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(columns.values()))


def _number_rows(
    batches: Iterable[pa.RecordBatch], columns: Mapping[str, str]
) -> Iterator[tuple[int, TableRow, Mapping[str, str]]]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                yield number, row, columns
                number += 1


def _resolve_columns(
    context: ReadContext, table_columns: Sequence[str], layouts: Sequence[Sequence[str]], optional_fields: Sequence[str]
) -> dict[str, str]:
    """Which column tells what."""
    configured_columns = context.location.columns
    for field_name, column in configured_columns.items():
        if column not in table_columns:
            raise DataError(
                f"{context.path}: wanted a column {column!r} ({field_name}). Got {', '.join(table_columns)}. Name another."
            )

    def find_column(field_name: str) -> str | None:
        if field_name in configured_columns:
            return configured_columns[field_name]
        return next((name for name in _DEFAULT_COLUMNS.get(field_name, (field_name,)) if name in table_columns), None)

    for layout in layouts:
        columns = {
            field_name: name
            for field_name in (*layout, *optional_fields)
            if (name := find_column(field_name)) is not None
        }
        if all(field_name in columns for field_name in layout):
            return columns
    expected = " or ".join(" and ".join(layout) for layout in layouts)
    raise DataError(
        f"{context.path}: wanted columns for {expected}. Got {', '.join(table_columns)}. "
        f"Say in the site file which they are: columns = {{{layouts[0][0]} = ...}}."
    )


def _record_id(context: ReadContext, number: int, row: TableRow, columns: Mapping[str, str]) -> str:
    """A row's own id, or its place."""
    record_id = row.get(columns.get("id", ""))
    return f"{context.shard.name}:{number}" if record_id is None else str(record_id)


def read_documents_table(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Documents of a table's text column."""
    for number, row, columns in read_table_rows(context, ("text",), optional_fields=("id",)):
        try:
            yield parse_document({"text": row[columns["text"]]}, default_id=_record_id(context, number, row, columns))
        except RecordError as refused:
            yield context.bad_record(refused, f"row {number}")


def read_captions_table(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Captioned pictures of a table; a column of lists may hold synthetic captions."""
    optional_fields = ("id",) if context.choose_caption is None else ("id", "synthetic")
    for number, row, columns in read_table_rows(context, ("picture", "caption"), optional_fields=optional_fields):
        try:
            key = _record_id(context, number, row, columns)
            synthetic, choice = context.choose_caption(key) if context.choose_caption is not None else (False, 0)
            raw_caption = (
                select_caption(row.get(columns.get("synthetic", "")), choice) if synthetic else row[columns["caption"]]
            )
            if raw_caption is None:
                raise RecordError("no caption", "an empty cell")
            text, image = parse_caption(raw_caption), _image_location(context, number, row, columns)
            if image is None:
                raise RecordError("no picture", "an empty cell")
            yield ImageText(id=key, image=image, caption=text, synthetic=synthetic)
        except RecordError as refused:
            yield context.bad_record(refused, f"row {number}")


def read_dialogues_table(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Dialogues of a table: turns, or a question and its answer; with a picture where there is one."""
    for number, row, columns in read_table_rows(
        context, ("turns",), ("question", "answer"), optional_fields=("id", "picture")
    ):
        try:
            image = _image_location(context, number, row, columns) if "picture" in columns else None
            yield parse_dialogue(row, columns, name=_record_id(context, number, row, columns), image=image)
        except RecordError as refused:
            yield context.bad_record(refused, f"row {number}")


def _image_location(
    context: ReadContext, number: int, row: TableRow, columns: Mapping[str, str]
) -> ImageLocation | None:
    """The checked place of a row's picture; None for an empty cell."""
    cell = single_image(row[columns["picture"]])
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") if cell.get("bytes") is not None else cell.get("path")
    if cell is None or cell == "":
        return None
    if isinstance(cell, str):
        return context.find_image(cell)
    if not isinstance(cell, bytes):
        raise RecordError("not a picture", f"wanted bytes or a name, got {type(cell).__name__}")
    shard = f"{context.shard.name}#{columns['picture']}"
    return ImageLocation(shard=shard, offset=number, size=len(cell), hash=perceptual_hash(cell))
