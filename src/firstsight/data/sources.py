"""Readers of source folders in the formats that people have: records out, with the place of every picture.

    text       *.jsonl, *.jsonl.zst, *.jsonl.gz      one {"id", "text", "loss"?} a line
    captions   *.tar                                 WebDataset: key.png|jpg|jpeg|webp + key.txt + key.json
    dialogues  *.json                                LLaVA lists; pictures in *.tar, loose, or in images/

Files are read in the order of their names, so a folder has one record order on every machine.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import zstandard

from firstsight.data.pictures import MOST_BYTES, checked
from firstsight.data.records import (
    Bad,
    Dialogue,
    Document,
    ImageText,
    Place,
    Record,
    Refused,
    clean,
    dialogue,
    document,
)
from firstsight.errors import DataError
from firstsight.recipe.mix import Form

PICTURES = ("png", "jpg", "jpeg", "webp")
_CHUNK = 1 << 20


def read(folder: Path, form: Form) -> Iterator[Record | Bad]:
    """Every record of a source folder in file order, and a Bad in the place of each that is refused."""
    readers: dict[Form, tuple[Callable[[Path], Iterator[Record | Bad]], tuple[str, ...]]] = {
        "text": (documents, (".jsonl", ".jsonl.zst", ".jsonl.gz")),
        "captions": (captions, (".tar",)),
        "dialogues": (dialogues, (".json",)),
    }
    if form not in readers:
        raise DataError(f"{folder}: no reader for a source of form {form!r}. Known: {', '.join(readers)}.")
    reader, endings = readers[form]
    files = sorted(file for file in folder.iterdir() if file.name.endswith(endings))
    if not files:
        raise DataError(
            f"{folder}: wanted {form} as {', '.join(endings)}. Got no such file. Check the source's folder."
        )
    for file in files:
        yield from reader(file)


def documents(file: Path) -> Iterator[Document | Bad]:
    """Text records of one JSON-lines file; raises DataError when a compressed file ends too early."""
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            yield document(_object(line), name=f"{file.name}:{number}")
        except Refused as refused:
            yield Bad(reason=refused.reason, detail=refused.detail, shard=file.name, where=f"line {number}")


def _object(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", f"byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Refused("not JSON", str(error)) from None
    if not isinstance(value, dict):
        raise Refused("not JSON", f"wanted an object, got {type(value).__name__}")
    return value


def _lines(file: Path) -> Iterator[bytes]:
    if file.suffix == ".zst":
        yield from _split(_unpacked(file))
        return
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            yield from stream
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: a gzip file that breaks off ({error}). Copy it again from its origin.") from None


def _unpacked(file: Path) -> Iterator[bytes]:
    """Decompressed chunks; the library's own stream reader says nothing when the last frame is cut off, this does."""
    frame = None
    with file.open("rb") as stream:
        data = stream.read(_CHUNK)
        while data:
            frame = zstandard.ZstdDecompressor().decompressobj() if frame is None else frame
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as error:
                raise DataError(f"{file}: not zstandard data ({error}). Copy it again from its origin.") from None
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
            data = data or stream.read(_CHUNK)
    if frame is not None:
        raise DataError(f"{file}: a zstandard file that breaks off. Copy it again from its origin.")


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def captions(file: Path) -> Iterator[ImageText | Bad]:
    """Captioned pictures of one WebDataset tar: neighbours with the same key are one sample."""
    with file.open("rb") as data:
        for key, members in _samples(file):
            try:
                yield _captioned(data, file.name, key, members)
            except Refused as refused:
                yield Bad(reason=refused.reason, detail=refused.detail, shard=file.name, where=key)


def _samples(file: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    current, members = "", dict[str, tarfile.TarInfo]()
    for member in plain_members(file):
        path = PurePosixPath(member.name)
        stem, _, ending = path.name.partition(".")
        key = str(path.parent / stem)
        if key != current and members:
            yield current, members
            members = {}
        current = key
        members[ending.lower()] = member
    if members:
        yield current, members


def _captioned(data: BinaryIO, shard: str, key: str, members: dict[str, tarfile.TarInfo]) -> ImageText:
    for member in members.values():
        _trusted(member)
    kind = next((ending for ending in PICTURES if ending in members), None)
    if kind is None:
        raise Refused("no picture", f"has {', '.join(members)}, none of {', '.join(PICTURES)}")
    if "txt" not in members:
        raise Refused("no caption", f"has {', '.join(members)}, no txt")
    try:
        caption = clean(_content(data, members["txt"]).decode().strip(), empty="empty caption")
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", f"caption, byte {error.start}") from None
    found = checked(_content(data, members[kind]))
    place = Place(shard=shard, offset=members[kind].offset_data, size=members[kind].size, hash=found)
    return ImageText(id=key, image=place, caption=caption)


def _trusted(member: tarfile.TarInfo) -> None:
    """Refuse members that point elsewhere; nothing is ever unpacked, but such a tar is not what it claims to be."""
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        raise Refused("unsafe path", member.name)
    if not member.isreg() or member.issparse():
        raise Refused("not a plain file", f"{member.name} is a link, device or sparse file")


def _content(data: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > MOST_BYTES:
        raise Refused("too many bytes", f"{member.name} has {member.size:,} bytes, at most {MOST_BYTES:,}")
    data.seek(member.offset_data)
    return data.read(member.size)


def plain_members(file: Path) -> Iterator[tarfile.TarInfo]:
    """Members of an uncompressed tar without its folders; raises DataError when the tar is cut off or is none."""
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if not member.isdir():
                    yield member
            end = tar.offset
    except tarfile.TarError as error:
        raise DataError(f"{file}: a tar that breaks off or is none ({error}). Copy it again from its origin.") from None
    with file.open("rb") as data:
        data.seek(end)
        if data.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError(
                f"{file}: a tar without its closing block, cut at byte {end}. Copy it again from its origin."
            )


def dialogues(file: Path) -> Iterator[Dialogue | Bad]:
    """Dialogues of one LLaVA JSON list; a picture that many share is checked once."""
    try:
        rows = json.loads(file.read_bytes().decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: wanted a JSON list of LLaVA records. Got {error}.") from None
    if not isinstance(rows, list):
        raise DataError(f"{file}: wanted a JSON list of LLaVA records. Got {type(rows).__name__}.")
    find = _finder(file.parent)
    for number, row in enumerate(rows):
        try:
            yield _told(row, f"{file.name}:{number}", find)
        except Refused as refused:
            yield Bad(reason=refused.reason, detail=refused.detail, shard=file.name, where=f"item {number}")


def _told(row: object, name: str, find: Callable[[str], Place | Refused]) -> Dialogue:
    if not isinstance(row, dict):
        raise Refused("not JSON", f"wanted an object, got {type(row).__name__}")
    place = find(str(row["image"])) if "image" in row else None
    if isinstance(place, Refused):
        raise place
    return dialogue(row, name=name, image=place)


def _finder(folder: Path) -> Callable[[str], Place | Refused]:
    """A function from a picture's name to its checked place, in the folder's tars first, then among loose files."""
    packed = {
        str(PurePosixPath(member.name)): (tar, member)
        for tar in sorted(folder.glob("*.tar"))
        for member in plain_members(tar)
    }

    @cache
    def find(name: str) -> Place | Refused:
        try:
            return _checked(folder, name, packed.get(str(PurePosixPath(name))))
        except Refused as refused:
            return refused

    return find


def _checked(folder: Path, name: str, packed: tuple[Path, tarfile.TarInfo] | None) -> Place:
    if packed is not None:
        tar, member = packed
        _trusted(member)
        with tar.open("rb") as data:
            found = checked(_content(data, member))
        return Place(shard=tar.name, offset=member.offset_data, size=member.size, hash=found)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Refused("unsafe path", name)
    found = next((file for file in (folder / path, folder / "images" / path) if file.is_file()), None)
    if found is None:
        raise Refused("no picture", f"{name} is in no tar of the folder, nor in it, nor in images/")
    size = found.stat().st_size
    if size > MOST_BYTES:
        raise Refused("too many bytes", f"{name} has {size:,} bytes, at most {MOST_BYTES:,}")
    seen = checked(found.read_bytes())
    return Place(shard=found.relative_to(folder).as_posix(), offset=0, size=size, hash=seen)
