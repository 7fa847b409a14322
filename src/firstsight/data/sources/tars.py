"""Tars in one pass over a stream: every member with the place of its bytes; nothing is ever extracted.

The header blocks are decoded by the standard library, their order is checked here: a tar that breaks off, that goes on
behind its end, or whose headers contradict each other about where a member ends, is refused as a whole.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from firstsight.data.pictures import MOST_BYTES
from firstsight.data.records import Refused
from firstsight.data.sources.places import Stream
from firstsight.errors import DataError

PICTURES = ("png", "jpg", "jpeg", "webp")
_BLOCK = tarfile.BLOCKSIZE
_MOST_HEADER = 1 << 20
"""Bytes of an extended header; a name is never longer."""
_NAMES, _EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK), (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file inside a tar, not a folder: where its bytes lie."""

    name: str
    offset_data: int
    size: int
    plain: bool
    """Not a link, device, pipe or sparse file."""

    @property
    def key(self) -> str:
        """WebDataset's key of the sample: the path up to the first dot of the file's name."""
        path = PurePosixPath(self.name)
        return str(path.parent / path.name.partition(".")[0])

    @property
    def ending(self) -> str:
        """Behind the first dot, in small letters: jpg, syn.json."""
        return PurePosixPath(self.name).name.partition(".")[2].lower()


def trusted(member: Member) -> None:
    """Refuse a member that points elsewhere, is no plain file or is too large: such a tar is not what it claims."""
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        raise Refused("unsafe path", member.name)
    if not member.plain:
        raise Refused("not a plain file", f"{member.name} is a link, device or sparse file")
    if member.size > MOST_BYTES:
        raise Refused("too many bytes", f"{member.name} has {member.size:,} bytes, at most {MOST_BYTES:,}")


def plain_members(file: Path) -> Iterator[Member]:
    """Members of an uncompressed local tar without its folders; raises DataError when it is cut off or is none."""
    with file.open("rb") as data:
        yield from (member for member, _ in members(data, str(file), wanted=lambda member: False))


def members(data: Stream, where: str, *, wanted: Callable[[Member], bool]) -> Iterator[tuple[Member, bytes]]:
    """Members in file order, with the bytes of those that are `wanted`, of others none.

    Raises DataError (`where` names the tar) when it breaks off, has no closing block, holds something behind it, or
    when a member has two sizes: readers that believe different ones would see different files.
    """
    tar = _Tar(data, where)
    while (member := tar.next()) is not None:
        content = tar.take(member.size) if wanted(member) else tar.skip(member.size)
        tar.pad(member.size)
        yield member, content
    tar.end()


class _Tar:
    """A stream of blocks with its position."""

    def __init__(self, data: Stream, where: str) -> None:
        self._data, self._where, self._at = data, where, 0
        self._jumps = data.seekable()

    def _broken(self, what: str) -> DataError:
        return DataError(f"{self._where}: {what} at byte {self._at}. Copy it again from its origin.")

    def take(self, count: int) -> bytes:
        data = self._data.read(count)
        if len(data) != count:
            raise self._broken("a tar that breaks off")
        self._at += count
        return data

    def skip(self, count: int) -> bytes:
        if self._jumps:
            self._data.seek(count, 1)
            self._at += count
            return b""
        while count:
            count -= len(self.take(min(count, 1 << 20)))
        return b""

    def pad(self, size: int) -> None:
        self.skip(-size % _BLOCK)

    def _header(self) -> tarfile.TarInfo | None:
        """The next header block; None at the closing block."""
        block = self._data.read(_BLOCK)
        if not block:
            raise self._broken("a tar without its closing block, cut" if self._at else "an empty file, not a tar,")
        try:
            found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            self._at += _BLOCK
            return None
        except (tarfile.HeaderError, ValueError) as error:
            raise self._broken(f"a tar that breaks off or is none ({error})") from None
        self._at += _BLOCK
        if found.size < 0:
            raise self._broken(f"a member of {found.size} bytes")
        if found.type == tarfile.GNUTYPE_SPARSE:
            goes_on = block[482]
            while goes_on:
                goes_on = self.take(_BLOCK)[504]
        return found

    def next(self) -> Member | None:
        """The next member that is no folder; the stream then stands before its bytes."""
        name, sparse, size = None, False, None
        while (found := self._header()) is not None:
            if found.type in _NAMES:
                said = self._extra(found.size).rstrip(b"\0")
                name = said.decode("utf-8", "surrogateescape") if found.type == tarfile.GNUTYPE_LONGNAME else name
            elif found.type in (*_EXTENDED, tarfile.XGLTYPE):
                said = self._said(found.size)
                if found.type == tarfile.XGLTYPE:
                    self._harmless(said)
                    continue
                name, size = said.get("path", name), said.get("size", size)
                sparse = sparse or any(key.startswith("GNU.sparse") for key in said)
            else:
                member = self._member(found, name, sparse=sparse, size=size)
                if member is not None:
                    return member
                name, sparse, size = None, False, None
        return None

    def _member(self, found: tarfile.TarInfo, name: str | None, *, sparse: bool, size: str | None) -> Member | None:
        # As in every reader: types that are no file have no bytes, whatever their header says of a size.
        held = found.size if found.isreg() or found.type not in tarfile.SUPPORTED_TYPES else 0
        if size is not None and size != str(held):
            raise self._broken(f"a member with two sizes, {held} and {size},")
        if found.isdir() or (name is not None and name.endswith("/")):
            self.skip(held)
            self.pad(held)
            return None
        plain = found.isreg() and found.type != tarfile.GNUTYPE_SPARSE and not sparse
        return Member(name=found.name if name is None else name, offset_data=self._at, size=held, plain=plain)

    def _extra(self, size: int) -> bytes:
        if size > _MOST_HEADER:
            raise self._broken(f"an extended header of {size} bytes")
        data = self.take(size)
        self.pad(size)
        return data

    def _said(self, size: int) -> dict[str, str]:
        """Key and value of every line `length key=value` of a pax header."""
        data, said = self._extra(size), dict[str, str]()
        while data.strip(b"\0"):
            line = re.match(rb"(\d{1,20}) ([^=]+)=", data)
            length = int(line[1]) if line else 0
            if line is None or not line.end() < length <= len(data) or data[length - 1 : length] != b"\n":
                raise self._broken("an extended header that cannot be read")
            said[line[2].decode("utf-8", "replace")] = data[line.end() : length - 1].decode("utf-8", "surrogateescape")
            data = data[length:]
        return said

    def _harmless(self, said: dict[str, str]) -> None:
        if wrong := [key for key in said if key in ("path", "size", "linkpath") or key.startswith("GNU.sparse")]:
            raise self._broken(f"a header that sets {', '.join(wrong)} for all members")

    def end(self) -> None:
        """Read on to the end of the file, which holds nothing but zeros."""
        while data := self._data.read(1 << 20):
            if data.count(0) != len(data):
                raise DataError(
                    f"{self._where}: a tar that goes on behind its closing block at byte {self._at}; two tars in one "
                    "file? Take them apart."
                )
            self._at += len(data)
