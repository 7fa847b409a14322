"""Documents: JSON lines, plain or packed; and tars of text or of a publisher's token ids (open_lm, DCLM)."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import zstandard

from firstsight.data.images import MAX_IMAGE_BYTES
from firstsight.data.readers.filesystem import ReadContext
from firstsight.data.readers.tars import TarMember, check_member, read_tar_members
from firstsight.data.records import Record, RecordError, RejectedRecord, parse_document, parse_token_ids
from firstsight.errors import DataError

JSONL_EXTENSIONS = (".jsonl", ".jsonl.zst", ".jsonl.gz")
_READ_SIZE = 1 << 20
_TEXT_EXTENSIONS = ("json", "json.gz", "txt")
_TOKEN_ID_LIST = re.compile(r"\s*\[[\s\d,.eE+-]*\]?\s*")
"""What was to be a list of ids, whole or broken off: no text looks like this."""


def read_jsonl_rows(context: ReadContext) -> Iterator[tuple[int, dict[str, Any] | RecordError]]:
    """The objects of a JSON-lines shard with their line numbers from 1 on; blank lines are nothing.

    Raises DataError when a packed file breaks off.
    """
    with context.folder.open_stream(context.shard.name, context.digest) as stream:
        for number, line in enumerate(_decompressed_lines(stream, context.path), start=1):
            if line.strip():
                try:
                    yield number, parse_json_object(line)
                except RecordError as refused:
                    yield number, refused


def parse_json_object(data: bytes) -> dict[str, Any]:
    """A JSON object; raises Refused for anything else."""
    value = parse_json_value(data)
    if not isinstance(value, dict):
        raise RecordError("not JSON", f"wanted an object, got {type(value).__name__}")
    return value


def parse_json_value(data: bytes) -> Any:
    """A JSON value; raises Refused for what is none."""
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise RecordError("not UTF-8", f"byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError("not JSON", str(error)) from None


def _decompressed_lines(stream: io.BufferedIOBase, path: str) -> Iterator[bytes]:
    if path.endswith(".zst"):
        yield from _split_lines(_decompress_zstd(stream, path))
        return
    try:
        yield from gzip.GzipFile(fileobj=stream) if path.endswith(".gz") else stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: a gzip file that breaks off ({error}). Copy it again from its origin.") from None


def _decompress_zstd(stream: io.BufferedIOBase, path: str) -> Iterator[bytes]:
    """Decompressed chunks; the library's own stream reader says nothing when the last frame is cut off, this does."""
    decompressor = None
    data = stream.read(_READ_SIZE)
    while data:
        decompressor = zstandard.ZstdDecompressor().decompressobj() if decompressor is None else decompressor
        try:
            yield decompressor.decompress(data)
        except zstandard.ZstdError as error:
            raise DataError(f"{path}: not zstandard data ({error}). Copy it again from its origin.") from None
        data = decompressor.unused_data if decompressor.eof else b""
        decompressor = None if decompressor.eof else decompressor
        data = data or stream.read(_READ_SIZE)
    if decompressor is not None:
        raise DataError(f"{path}: a zstandard file that breaks off. Copy it again from its origin.")


def _split_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    remainder = b""
    for chunk in chunks:
        *complete_lines, remainder = (remainder + chunk).split(b"\n")
        yield from complete_lines
    if remainder:
        yield remainder


def read_documents_jsonl(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Documents of a JSON-lines shard: {"text"} or the column that the location names, "id" and "loss" where given."""
    column = context.location.columns.get("text", "text")
    for number, row in read_jsonl_rows(context):
        try:
            if isinstance(row, RecordError):
                raise row
            if column != "text":
                row = row | {"text": row.get(column)}
            yield parse_document(row, default_id=f"{context.shard.name}:{number}")
        except RecordError as refused:
            yield context.bad_record(refused, f"line {number}")


def read_documents_tar(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Members *.json, *.json.gz, *.txt of a tar: a JSON list of token ids, a JSON text, {"text"}, or the text itself.

    What the first good member holds, ids or text, all must hold: a broken list of ids never passes for text.
    """
    seen_keys, expects_token_ids = set[str](), None
    with context.folder.open_stream(context.shard.name, context.digest) as stream:
        for member, content in read_tar_members(stream, context.path, needs_content=_needs_content):
            try:
                check_member(member)
                if member.key in seen_keys:
                    raise RecordError("duplicate key", member.name)
                seen_keys.add(member.key)
                record, is_token_ids = _parse_member(context, member, content)
                if expects_token_ids is not None and is_token_ids != expects_token_ids:
                    raise RecordError(
                        "not JSON", f"wanted {'ids' if expects_token_ids else 'text'} like the members before it"
                    )
                expects_token_ids = is_token_ids
                yield record
            except RecordError as refused:
                yield context.bad_record(refused, member.name)


def _needs_content(member: TarMember) -> bool:
    return member.is_regular and member.extension in _TEXT_EXTENSIONS and member.size <= MAX_IMAGE_BYTES


def _parse_member(context: ReadContext, member: TarMember, content: bytes) -> tuple[Record, bool]:
    """The record of a member, and whether it is a list of ids."""
    if member.extension not in _TEXT_EXTENSIONS:
        raise RecordError("field missing", f"{member.name} is none of {', '.join(_TEXT_EXTENSIONS)}")
    if not content:
        raise RecordError("zero bytes", member.name)
    name = f"{context.shard.name}:{member.key}"
    text = _decode_utf8(_gunzip(content) if member.extension.endswith(".gz") else content)
    value: Any = text
    if member.extension != "txt":
        with suppress(ValueError, RecursionError):
            value = json.loads(text)
    if isinstance(value, list) or _TOKEN_ID_LIST.fullmatch(text):
        return parse_token_ids(value, record_id=name), True
    if isinstance(value, dict):
        return parse_document({"text": value.get(context.location.columns.get("text", "text"))}, default_id=name), False
    return parse_document({"text": value if isinstance(value, str) else text}, default_id=name), False


def _decode_utf8(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RecordError("not UTF-8", f"byte {error.start}") from None


def _gunzip(content: bytes) -> bytes:
    """The whole of a small gzip member; raises Refused when it is broken or a bomb."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        decompressed = decompressor.decompress(content, MAX_IMAGE_BYTES)
    except zlib.error as error:
        raise RecordError("not JSON", f"not gzip data ({error})") from None
    if not decompressor.eof:
        raise RecordError(
            "too many bytes" if len(decompressed) == MAX_IMAGE_BYTES else "not JSON", "a gzip member that breaks off"
        )
    return decompressed
