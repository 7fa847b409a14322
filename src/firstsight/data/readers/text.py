"""Text documents: JSON, tables, and tars of texts or of token ids that the publisher made (open_lm, DCLM)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from firstsight.data.file_types import is_documentation
from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.readers.json_files import Position, decode_utf8, json_records
from firstsight.data.readers.tables import table_records
from firstsight.data.readers.tars import DOTS_ADVICE, TarMember, check_member, extension_filter, read_tar_members
from firstsight.data.records import Record, RecordError, RejectedRecord, parse_document, parse_token_ids
from firstsight.errors import LimitExceeded
from firstsight.limits import current_limits, describe_excess, parse_json

_EXTENSIONS = ("json", "json.gz", "txt")
_TOKEN_ID_LIST = re.compile(r"\s*\[[\s\d,.eE+-]*\]?\s*")
"""A list of ids, complete or truncated; no text matches this."""


def read_documents_json(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Documents of JSON: "text" or the column that the location names, "id" and "loss" if present."""

    def parse(row: Mapping[str, Any], position: Position) -> Record:
        return parse_document(_with_text(context, row), default_id=context.default_id(position.number))

    return json_records(context, parse)


def _with_text(context: ReadContext, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its text under "text"; RecordError with the names of its fields if it has none."""
    column = context.location.columns.get("text", "text")
    if column not in row:
        names = ", ".join(row) or "no fields"
        raise RecordError("field missing", f"no {column} among {names}. Say columns = {{text = ...}} in the site file")
    return row if column == "text" else {**row, "text": row[column]}


def read_documents_table(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Documents of a table's text column."""
    return table_records(context, lambda row: parse_document({"text": row["text"]}, default_id=row.id), ("text",))


def read_documents_tar(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Members *.json, *.json.gz, *.txt of a tar: a JSON list of token ids, a JSON text, {"text"}, or the text itself.

    All members must contain what the first valid one does, ids or text: a broken list of ids is never read as text.
    """
    keys, expects_ids, needs_content = set[str](), None, extension_filter(_EXTENSIONS)
    with context.folder.open_stream(context.shard.name, context.digest) as stream:
        for member, content in read_tar_members(
            stream, context.path, needs_content=needs_content, notices=context.notices
        ):
            if reason := _passed_over(member):
                context.notices.add(f"tar member: {reason}", f"{context.shard.name}, {member.name}")
                continue
            try:
                check_member(member)
                if member.key in keys:
                    raise RecordError("duplicate key", member.name)
                keys.add(member.key)
                record, has_ids = _parse_member(context, member, content)
                if expects_ids not in (None, has_ids):
                    kind = "ids" if expects_ids else "text"
                    raise RecordError("not JSON", f"wanted {kind} like the members before it")
                expects_ids = has_ids
                yield record
            except RecordError as error:
                yield context.rejected(error, member.name)


def _passed_over(member: TarMember) -> str:
    """Why a member is no document: it has no ending, as webdataset ignores, or is a README at the top of the tar."""
    is_top_level = member.key == PurePosixPath(member.key).name
    if is_top_level and is_documentation(member.name):
        return "documentation"
    return "" if member.extension else "no ending"


def _parse_member(context: ReadContext, member: TarMember, content: bytes) -> tuple[Record, bool]:
    if member.extension not in _EXTENSIONS:
        if member.extension.endswith(tuple(f".{extension}" for extension in _EXTENSIONS)):
            raise RecordError("dots in key", f"{member.name}: {DOTS_ADVICE}")
        raise RecordError("field missing", f"{member.name} is none of {', '.join(_EXTENSIONS)}")
    if not content:
        raise RecordError("zero bytes", member.name)
    record_id = context.default_id(member.key)
    text = decode_utf8(_gunzip(content) if member.extension.endswith(".gz") else content)
    value: Any = text
    if member.extension != "txt":
        with suppress(ValueError, LimitExceeded):
            value = parse_json(text, member.name)
    if isinstance(value, list) or _TOKEN_ID_LIST.fullmatch(text):
        return parse_token_ids(value, record_id=record_id), True
    if isinstance(value, dict):
        value = _with_text(context, value)["text"]
    elif not isinstance(value, str):
        value = text
    return parse_document({"text": value}, default_id=record_id), False


def _gunzip(content: bytes) -> bytes:
    """A small gzip member, decompressed; RecordError if it is broken or its content too large."""
    decompressor, limit = zlib.decompressobj(wbits=31), current_limits().record
    try:
        data = decompressor.decompress(content, limit)
    except zlib.error as error:
        raise RecordError("not JSON", f"not gzip data ({error})") from None
    if not decompressor.eof and len(data) == limit:
        raise RecordError("too many bytes", describe_excess("record"))
    if not decompressor.eof:
        raise RecordError("not JSON", "a truncated gzip member")
    return data
