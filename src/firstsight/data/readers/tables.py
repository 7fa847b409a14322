"""Rows of tables: parquet as on the Hugging Face hub, and the arrow files of `datasets.Dataset.save_to_disk`.

An image is a struct of bytes and path, bare bytes, or the name of a file; its location is
`<shard>#<column>` and the row.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from firstsight.data.images import perceptual_hash
from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.records import ImageLocation, Record, RecordError, RejectedRecord
from firstsight.errors import DataError
from firstsight.limits import check_limit

TABLE_EXTENSIONS = (".parquet", ".arrow")
TURN_COLUMNS = ("conversations", "messages", "texts", "turns")
QUESTION_ANSWER_COLUMNS = (("instruction", "output"), ("prompt", "response"), ("question", "answer"))
_BATCH_ROWS = 64
"""Rows in memory together; each may contain an image of some megabytes."""
_DEFAULT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "picture": ("image", "images", "picture", "jpg", "png"),
    "caption": ("caption", "text", "txt"),
    "synthetic": ("syn_text",),
    "turns": TURN_COLUMNS,
    "question": tuple(question for question, _ in QUESTION_ANSWER_COLUMNS),
    "answer": tuple(answer for _, answer in QUESTION_ANSWER_COLUMNS),
}
"""Columns that are tried for a field that the location does not map; any other field is a column of its own name."""


@dataclass(slots=True)
class TableRow:
    """A row, counted from 0, and the columns of its fields."""

    context: ReadContext
    number: int
    cells: Mapping[str, Any]
    columns: Mapping[str, str]

    def __getitem__(self, field: str) -> Any:
        return self.cells[self.columns[field]]

    def get(self, field: str) -> Any:
        """The cell of a field; None if the table has no column for it."""
        return self.cells.get(self.columns.get(field, ""))

    @property
    def id(self) -> str:
        """The cell of the id column, or the row's default id."""
        record_id = self.get("id")
        return self.context.default_id(self.number) if record_id is None else str(record_id)

    def image_location(self) -> ImageLocation | None:
        """The checked location of the row's image; None for an empty cell."""
        cell = single_image(self["picture"])
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") if cell.get("bytes") is not None else cell.get("path")
        if cell is None or cell == "":
            return None
        if isinstance(cell, str):
            return self.context.find_image(cell)
        if not isinstance(cell, bytes):
            raise RecordError("not an image", f"wanted bytes or a name, got {type(cell).__name__}")
        shard = f"{self.context.shard.name}#{self.columns['picture']}"
        return ImageLocation(shard=shard, offset=self.number, size=len(cell), hash=perceptual_hash(cell))


def single_image(images: object) -> object:
    """The image of a record that may list several; None if there is none."""
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        return images
    if len(images) > 1:
        raise RecordError("several images", f"{len(images)} in one record")
    return images[0] if images else None


def table_records(
    context: ReadContext,
    parse: Callable[[TableRow], Record],
    *layouts: Sequence[str],
    optional_fields: Sequence[str] = (),
) -> Iterator[Record | RejectedRecord]:
    """The record that `parse` makes of each row; it may raise RecordError.

    Reads the columns of the first of `layouts` that the table has completely, `id`, and `optional_fields`.
    Raises DataError when the file is not a table, is truncated, or fits no layout.
    """
    for row in _read_rows(context, layouts, optional_fields):
        try:
            yield parse(row)
        except RecordError as error:
            yield context.rejected(error, f"row {row.number}")


def _read_rows(context: ReadContext, layouts: Sequence[Sequence[str]], optional: Sequence[str]) -> Iterator[TableRow]:
    with context.folder.local_copy(context.shard.name, context.digest) as path, ExitStack() as stack:
        try:
            if context.shard.name.endswith(".parquet"):
                table = stack.enter_context(pq.ParquetFile(path))
                schema, batches = table.schema_arrow, partial(table.iter_batches, _BATCH_ROWS)
            else:
                table = stack.enter_context(pa.ipc.open_stream(stack.enter_context(pa.memory_map(str(path)))))
                schema, batches = table.schema, lambda columns: (batch.select(columns) for batch in table)
            columns = _resolve_columns(context, schema.names, layouts, optional)
            names, number = list(dict.fromkeys(columns.values())), 0
            if isinstance(table, pq.ParquetFile):
                check_row_groups(table, context.path, names)
            for batch in batches(columns=names):
                check_limit(f"{context.path}, row {number}", "row_group", batch.nbytes)
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    for cells in batch.slice(start, _BATCH_ROWS).to_pylist():
                        yield TableRow(context, number, cells, columns)
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{context.path}: not a table, or truncated ({error}). Copy it again.") from None


def check_row_groups(table: pq.ParquetFile, place: object, columns: Container[str]) -> None:
    """LimitExceeded for a row group whose `columns` unpack to more bytes than the limit, as its metadata states."""
    metadata = table.metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = map(group.column, range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in columns)
        check_limit(f"{place}, row group {number}", "row_group", size)


def _resolve_columns(
    context: ReadContext, names: Sequence[str], layouts: Sequence[Sequence[str]], optional_fields: Sequence[str]
) -> dict[str, str]:
    configured, got = context.location.columns, ", ".join(names)
    for field, column in configured.items():
        if column not in names:
            raise DataError(f"{context.path}: wanted a column {column!r} ({field}). Got {got}. Name another.")
    for layout in layouts:
        columns = dict[str, str]()
        for field in (*layout, "id", *optional_fields):
            candidates = [configured[field]] if field in configured else _DEFAULT_COLUMNS.get(field, (field,))
            if name := next(filter(names.__contains__, candidates), None):
                columns[field] = name
        if all(field in columns for field in layout):
            return columns
    expected = " or ".join(" and ".join(layout) for layout in layouts)
    raise DataError(
        f"{context.path}: wanted columns for {expected}. Got {got}. "
        f"Name them in the site file: columns = {{{layouts[0][0]} = ...}}."
    )
