"""Documents of texts and pictures in reading order, in the two published layouts.

    OBELICS   {"images": [name, null, ...], "texts": [null, text, ...]}      one of the two at every place
    MMC4      {"text_list": [...], "image_info": [{"image_name", "raw_url", "matched_text_index"}, ...]}

In MMC4 a picture stands before the text that it is matched to. A picture that is missing or broken is left out and set
aside as a bad record of its own; a document that has no picture left is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.data.readers import tables, text
from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.records import ImageLocation, Record, RecordError, RejectedRecord, join_interleaved


@dataclass(frozen=True, kw_only=True, slots=True)
class _ImageNames:
    """A picture by the names that it may be found under."""

    names: tuple[str, ...]


def read_interleaved_jsonl(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Documents of a JSON-lines shard."""
    for number, row in text.read_jsonl_rows(context):
        yield from _read_document(context, row, f"line {number}", f"{context.shard.name}:{number}")


def read_interleaved_table(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Documents of a table."""
    for number, row, columns in tables.read_table_rows(
        context, ("images", "texts"), ("text_list", "image_info"), optional_fields=("id",)
    ):
        document_row = {field_name: row[column] for field_name, column in columns.items()}
        yield from _read_document(context, document_row, f"row {number}", f"{context.shard.name}:{number}")


def _read_document(
    context: ReadContext, row: Mapping[str, Any] | RecordError, record_position: str, name: str
) -> Iterator[Record | RejectedRecord]:
    try:
        if isinstance(row, RecordError):
            raise row
        parts, separator = (_parse_mmc4(row), " ") if "text_list" in row else (_parse_obelics(row), "\n\n")
        resolved_parts: list[str | ImageLocation] = []
        for part_number, part in enumerate(parts, start=1):
            try:
                resolved_parts.append(_find_image(context, part) if isinstance(part, _ImageNames) else part)
            except RecordError as refused:
                yield context.bad_record(refused, f"{record_position}, part {part_number}")
        record_id = row.get("id")
        yield join_interleaved(
            resolved_parts, record_id=name if record_id is None else str(record_id), separator=separator
        )
    except RecordError as refused:
        yield context.bad_record(refused, record_position)


def _find_image(context: ReadContext, image_names: _ImageNames) -> ImageLocation:
    """The picture under the first of its names that is known."""
    first_refusal: RecordError | None = None
    for name in image_names.names:
        try:
            return context.find_image(name)
        except RecordError as refused:
            if refused.reason != "no picture":
                raise
            first_refusal = first_refusal or refused
    raise first_refusal or RecordError("no picture", "a picture without a name")


def _parse_obelics(row: Mapping[str, Any]) -> list[str | _ImageNames]:
    images, texts = _list_field(row, "images"), _list_field(row, "texts")
    if len(images) != len(texts):
        raise RecordError("bad layout", f"{len(images)} images beside {len(texts)} texts")
    parts: list[str | _ImageNames] = []
    for position, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            present = "neither" if text is None else "both"
            raise RecordError("bad layout", f"at place {position} wanted a picture or a text, got {present}")
        for value in (image, text):
            if value is not None and not isinstance(value, str):
                raise RecordError(
                    "bad layout", f"at place {position} wanted a name or a text, got {type(value).__name__}"
                )
        parts.append(text if image is None else _ImageNames(names=(image,)))
    return parts


def _parse_mmc4(row: Mapping[str, Any]) -> list[str | _ImageNames]:
    texts, image_infos = _list_field(row, "text_list"), _list_field(row, "image_info")
    if not all(isinstance(value, str) for value in texts):
        raise RecordError("bad layout", "text_list holds more than texts")
    images_before: dict[int, list[_ImageNames]] = {}
    for info in image_infos:
        text_index = info.get("matched_text_index") if isinstance(info, Mapping) else None
        if type(text_index) is not int or not 0 <= text_index < len(texts):
            raise RecordError("bad layout", f"wanted a matched_text_index below {len(texts)}, got {text_index!r}")
        names = tuple(str(info[key]) for key in ("image_name", "raw_url") if info.get(key))
        images_before.setdefault(text_index, []).append(_ImageNames(names=names))
    return [part for text_index, text in enumerate(texts) for part in (*images_before.get(text_index, ()), text)]


def _list_field(row: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = row.get(name)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RecordError("field missing", f"wanted lists images and texts, or text_list and image_info. Got no {name}")
    return value
