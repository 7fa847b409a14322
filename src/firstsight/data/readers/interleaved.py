"""Documents of texts and images in reading order, in the two published layouts.

    OBELICS   {"images": [name, null, ...], "texts": [null, text, ...]}      one of the two at each index
    MMC4      {"text_list": [...], "image_info": [{"image_name", "raw_url", "matched_text_index"}, ...]}

In MMC4 an image precedes the text that it is matched to. An image that is missing or broken is left out and rejected
as a record of its own; a document without any image left is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.readers.json_files import Position, json_records
from firstsight.data.readers.tables import TableRow, table_records
from firstsight.data.records import ImageLocation, Record, RecordError, RejectedRecord, join_interleaved

_Part = str | tuple[str, ...]
"""A text, or the names under which an image may be found."""
_Rejected = list[RejectedRecord]


def read_interleaved_json(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Documents of lines or a list of JSON."""
    rejected: _Rejected = []

    def parse(row: Mapping[str, Any], position: Position) -> Record:
        return _convert(context, rejected, position.unit, row, position.number)

    return _insert(json_records(context, parse), rejected)


def read_interleaved_table(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Documents of a table."""
    rejected: _Rejected = []

    def parse(row: TableRow) -> Record:
        return _convert(context, rejected, "row", {field: row[field] for field in row.columns}, row.number)

    return _insert(table_records(context, parse, ("images", "texts"), ("text_list", "image_info")), rejected)


def _insert(records: Iterator[Record | RejectedRecord], rejected: _Rejected) -> Iterator[Record | RejectedRecord]:
    """`records`, each after the images of its document that were rejected."""
    for record in records:
        yield from rejected
        rejected.clear()
        yield record


def _convert(context: ReadContext, rejected: _Rejected, unit: str, row: Mapping[str, Any], number: int) -> Record:
    """The document of a row, which is a `unit` (line, byte, row) and its number; rejected images go into `rejected`."""
    parts, separator = (_parse_mmc4(row), " ") if "text_list" in row else (_parse_obelics(row), "\n\n")
    resolved: list[str | ImageLocation] = []
    for part_number, part in enumerate(parts, start=1):
        try:
            resolved.append(part if isinstance(part, str) else _find_image(context, part))
        except RecordError as error:
            rejected.append(context.rejected(error, f"{unit} {number}, part {part_number}"))
    record_id = context.default_id(number) if row.get("id") is None else str(row["id"])
    return join_interleaved(resolved, record_id=record_id, separator=separator)


def _find_image(context: ReadContext, names: tuple[str, ...]) -> ImageLocation:
    first_error: RecordError | None = None
    for name in names:
        try:
            return context.find_image(name)
        except RecordError as error:
            if error.reason != "no image":
                raise
            first_error = first_error or error
    raise first_error or RecordError("no image", "an image without a name")


def _parse_obelics(row: Mapping[str, Any]) -> list[_Part]:
    images, texts = _list_field(row, "images"), _list_field(row, "texts")
    if len(images) != len(texts):
        raise RecordError("bad layout", f"{len(images)} images and {len(texts)} texts")
    parts: list[_Part] = []
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            present = "neither" if text is None else "both"
            raise RecordError("bad layout", f"at index {index} wanted an image or a text, got {present}")
        value = text if image is None else image
        if not isinstance(value, str):
            raise RecordError("bad layout", f"at index {index} wanted a name or a text, got {type(value).__name__}")
        parts.append(text if image is None else (image,))
    return parts


def _parse_mmc4(row: Mapping[str, Any]) -> list[_Part]:
    texts, images = _list_field(row, "text_list"), _list_field(row, "image_info")
    if not all(isinstance(text, str) for text in texts):
        raise RecordError("bad layout", "text_list contains more than texts")
    images_before: dict[int, list[_Part]] = {}
    for image in images:
        index = image.get("matched_text_index") if isinstance(image, Mapping) else None
        if type(index) is not int or not 0 <= index < len(texts):
            raise RecordError("bad layout", f"wanted a matched_text_index below {len(texts)}, got {index!r}")
        keys = ("image_name", "raw_url", "image_base64")  # OpenFlamingo's copies have the last, which is refused
        names = tuple(str(image[key]) for key in keys if image.get(key))
        images_before.setdefault(index, []).append(names)
    return [part for index, text in enumerate(texts) for part in (*images_before.get(index, ()), text)]


def _list_field(row: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = row.get(name)
    if not isinstance(value, Sequence) or isinstance(value, str):
        wanted, got = "wanted lists images and texts, or text_list and image_info", ", ".join(row)
        raise RecordError("field missing", f"{wanted}. Got no list {name} among {got}")
    return value
