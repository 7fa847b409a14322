"""Rows of tables: parquet as on the Hugging Face hub, and Arrow's streams and files (datasets, feather).

An image is a struct of bytes and path, bare bytes, a list of numbers that are bytes, or the name of a file; its
location is `<shard>#<column>` and the row.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from firstsight.data.images import perceptual_hash
from firstsight.data.readers.fields import find_keys, looks_like_image_column, media_keys, single_image
from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.records import ImageLocation, Record, RecordError, RejectedRecord
from firstsight.errors import DataError
from firstsight.limits import check_limit

_BATCH_ROWS = 64
"""Rows in memory together; each may contain an image of some megabytes."""


@dataclass(slots=True)
class TableRow:
    """A row, counted from 0, and the columns of its fields."""

    context: ReadContext
    number: int
    cells: Mapping[str, Any]
    columns: Mapping[str, str]
    other_images: Sequence[str]
    """More columns with bytes of images, which are an error in a row that has two."""

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
        columns = (self.columns["picture"], *self.other_images)
        images = {column: image for column in columns if (image := single_image(self.cells[column])) is not None}
        if not images:
            return None
        (column, cell), *rest = images.items()
        if any(other != cell for _, other in rest):
            raise RecordError("several images", f"one in each of the columns {', '.join(images)}")
        if isinstance(cell, str):
            return self.context.find_image(cell)
        if not isinstance(cell, bytes):
            raise RecordError("not an image", f"wanted bytes or a name, got {type(cell).__name__}")
        shard = f"{self.context.shard.name}#{column}"
        return ImageLocation(shard=shard, offset=self.number, size=len(cell), hash=perceptual_hash(cell))


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
            schema, table, batches = open_table(path, stack)
            columns = _resolve_columns(context, schema.names, layouts, optional)
            others = _other_images(context, schema, columns)
            extra = _columns_to_check(context, schema, columns) if "turns" in layouts[0] else []
            names, number = list(dict.fromkeys((*columns.values(), *others, *extra))), 0
            for name in schema.names:
                if name not in names:
                    context.notices.add(f"column {name}", context.shard.name)
            if table is not None:
                check_row_groups(table, context.path, names)
            rows = 1 if any(_has_numbers(schema.field(name).type) for name in names) else _BATCH_ROWS
            for batch in batches(names):
                check_limit(f"{context.path}, row {number}", "row_group", batch.nbytes)
                for start in range(0, batch.num_rows, rows):
                    for cells in batch.slice(start, rows).to_pylist():
                        yield TableRow(context, number, cells, columns, others)
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{context.path}: not a table, or truncated ({error}). Copy it again.") from None


def open_table(path: Path, stack: ExitStack) -> tuple[Any, pq.ParquetFile | None, Callable[[list[str]], Any]]:
    """Schema, the table if it is Parquet, and a function from columns to batches; the format is by the first bytes."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"PAR1"):
        table = stack.enter_context(pq.ParquetFile(path))
        return table.schema_arrow, table, lambda names: table.iter_batches(_BATCH_ROWS, columns=names)
    memory = stack.enter_context(pa.memory_map(str(path)))
    if magic == b"ARROW1":
        file = stack.enter_context(pa.ipc.open_file(memory))
        return (
            file.schema,
            None,
            lambda names: (file.get_batch(number).select(names) for number in range(file.num_record_batches)),
        )
    stream = stack.enter_context(pa.ipc.open_stream(memory))
    return stream.schema, None, lambda names: (batch.select(names) for batch in stream)


def _has_numbers(kind: Any) -> bool:
    """Whether a type has lists of integers, which take much memory as objects: bytes of images are such in some."""
    if pa.types.is_struct(kind):
        return any(_has_numbers(kind.field(number).type) for number in range(kind.num_fields))
    return hasattr(kind, "value_type") and (pa.types.is_integer(kind.value_type) or _has_numbers(kind.value_type))


def _other_images(context: ReadContext, schema: pa.Schema, columns: Mapping[str, str]) -> list[str]:
    """Columns of bytes beside the image's that are called like images."""
    if "picture" not in columns or "picture" in context.location.columns:
        return []
    names = find_keys("picture", tuple(schema.names))
    return [name for name in names if name not in columns.values() and _has_bytes(schema.field(name).type)]


def _columns_to_check(context: ReadContext, schema: pa.Schema, columns: Mapping[str, str]) -> list[str]:
    """Columns of videos or audio, and of a table without images those that may name some: their cells must be empty.

    DataError if such a table has bytes in a column that is not known.
    """
    names = [name for name in schema.names if name not in columns.values()]
    media = list(media_keys(tuple(names)))
    if "picture" in columns:
        return media
    if unknown := [name for name in names if name not in media and _has_bytes(schema.field(name).type)]:
        raise DataError(
            f"{context.path}: wanted a column of images that is known. Got bytes in {', '.join(unknown)}, not read. "
            f"Name it in the site file: columns = {{picture = {unknown[0]!r}}}, or remove the column."
        )
    return media + [name for name in names if looks_like_image_column(name)]


def _has_bytes(kind: Any) -> bool:
    """Whether a column may have encoded images: bytes, or a struct or list with some."""
    if pa.types.is_struct(kind):
        return any(_has_bytes(kind.field(number).type) for number in range(kind.num_fields))
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return is_binary or (hasattr(kind, "value_type") and _has_bytes(kind.value_type))


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
            candidates = (configured[field],) if field in configured else find_keys(field, tuple(names))
            if candidates:
                columns[field] = candidates[0]
        if all(field in columns for field in layout):
            return columns
    expected = " or ".join(" and ".join(layout) for layout in layouts)
    raise DataError(
        f"{context.path}: wanted columns for {expected}. Got {got}. "
        f"Name them in the site file: columns = {{{layouts[0][0]} = ...}}."
    )
