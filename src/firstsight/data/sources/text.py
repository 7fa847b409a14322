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

from firstsight.data.pictures import MOST_BYTES
from firstsight.data.records import Bad, Record, Refused, document, tokenized
from firstsight.data.sources.places import Pass
from firstsight.data.sources.tars import Member, members, trusted
from firstsight.errors import DataError

LINES = (".jsonl", ".jsonl.zst", ".jsonl.gz")
_CHUNK = 1 << 20
_HELD = ("json", "json.gz", "txt")
_NUMBERS = re.compile(r"\s*\[[\s\d,.eE+-]*\]?\s*")
"""What was to be a list of ids, whole or broken off: no text looks like this."""


def rows(run: Pass) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    """The objects of a JSON-lines shard with their line numbers from 1 on; blank lines are nothing.

    Raises DataError when a packed file breaks off.
    """
    with run.folder.stream(run.shard.name, run.digest) as stream:
        for number, line in enumerate(_lines(stream, run.where), start=1):
            if line.strip():
                try:
                    yield number, loaded(line)
                except Refused as refused:
                    yield number, refused


def loaded(data: bytes) -> dict[str, Any]:
    """A JSON object; raises Refused for anything else."""
    value = parsed(data)
    if not isinstance(value, dict):
        raise Refused("not JSON", f"wanted an object, got {type(value).__name__}")
    return value


def parsed(data: bytes) -> Any:
    """A JSON value; raises Refused for what is none."""
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", f"byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise Refused("not JSON", str(error)) from None


def _lines(stream: io.BufferedIOBase, where: str) -> Iterator[bytes]:
    if where.endswith(".zst"):
        yield from _split(_unpacked(stream, where))
        return
    try:
        yield from gzip.GzipFile(fileobj=stream) if where.endswith(".gz") else stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{where}: a gzip file that breaks off ({error}). Copy it again from its origin.") from None


def _unpacked(stream: io.BufferedIOBase, where: str) -> Iterator[bytes]:
    """Decompressed chunks; the library's own stream reader says nothing when the last frame is cut off, this does."""
    frame = None
    data = stream.read(_CHUNK)
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj() if frame is None else frame
        try:
            yield frame.decompress(data)
        except zstandard.ZstdError as error:
            raise DataError(f"{where}: not zstandard data ({error}). Copy it again from its origin.") from None
        data = frame.unused_data if frame.eof else b""
        frame = None if frame.eof else frame
        data = data or stream.read(_CHUNK)
    if frame is not None:
        raise DataError(f"{where}: a zstandard file that breaks off. Copy it again from its origin.")


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def documents(run: Pass) -> Iterator[Record | Bad]:
    """Documents of a JSON-lines shard: {"text"} or the column that the location names, "id" and "loss" where given."""
    column = run.location.columns.get("text", "text")
    for number, row in rows(run):
        try:
            if isinstance(row, Refused):
                raise row
            if column != "text":
                row = row | {"text": row.get(column)}
            yield document(row, name=f"{run.shard.name}:{number}")
        except Refused as refused:
            yield run.bad(refused, f"line {number}")


def packed(run: Pass) -> Iterator[Record | Bad]:
    """Members *.json, *.json.gz, *.txt of a tar: a JSON list of token ids, a JSON text, {"text"}, or the text itself.

    What the first good member holds, ids or text, all must hold: a broken list of ids never passes for text.
    """
    seen, tokens = set[str](), None
    with run.folder.stream(run.shard.name, run.digest) as stream:
        for member, content in members(stream, run.where, wanted=_wanted):
            try:
                trusted(member)
                if member.key in seen:
                    raise Refused("duplicate key", member.name)
                seen.add(member.key)
                record, lists = _held(run, member, content)
                if tokens is not None and lists != tokens:
                    raise Refused("not JSON", f"wanted {'ids' if tokens else 'text'} like the members before it")
                tokens = lists
                yield record
            except Refused as refused:
                yield run.bad(refused, member.name)


def _wanted(member: Member) -> bool:
    return member.plain and member.ending in _HELD and member.size <= MOST_BYTES


def _held(run: Pass, member: Member, content: bytes) -> tuple[Record, bool]:
    """The record of a member, and whether it is a list of ids."""
    if member.ending not in _HELD:
        raise Refused("field missing", f"{member.name} is none of {', '.join(_HELD)}")
    if not content:
        raise Refused("zero bytes", member.name)
    name = f"{run.shard.name}:{member.key}"
    text = _text(_gunzipped(content) if member.ending.endswith(".gz") else content)
    value: Any = text
    if member.ending != "txt":
        with suppress(ValueError, RecursionError):
            value = json.loads(text)
    if isinstance(value, list) or _NUMBERS.fullmatch(text):
        return tokenized(value, name=name), True
    if isinstance(value, dict):
        return document({"text": value.get(run.location.columns.get("text", "text"))}, name=name), False
    return document({"text": value if isinstance(value, str) else text}, name=name), False


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", f"byte {error.start}") from None


def _gunzipped(content: bytes) -> bytes:
    """The whole of a small gzip member; raises Refused when it is broken or a bomb."""
    data = zlib.decompressobj(wbits=31)
    try:
        found = data.decompress(content, MOST_BYTES)
    except zlib.error as error:
        raise Refused("not JSON", f"not gzip data ({error})") from None
    if not data.eof:
        raise Refused("too many bytes" if len(found) == MOST_BYTES else "not JSON", "a gzip member that breaks off")
    return found
