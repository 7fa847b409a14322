"""Tars read in one pass over a stream: each member with the offset of its bytes; nothing is ever extracted.

Header blocks are decoded by tarfile, their sequence is checked here (tarfile's stream mode does not): a tar that is
truncated, that continues after its end, or whose headers give a member two sizes, is refused as a whole.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from firstsight.data.file_types import IMAGE_EXTENSIONS, no_data_reason
from firstsight.data.readers.filesystem import BinaryStream, skip_bytes
from firstsight.data.records import Notices, RecordError
from firstsight.errors import DataError
from firstsight.limits import current_limits, describe_excess

DOTS_ADVICE = "a key ends at the first dot of a name, so members of several samples have one key; rename them"
_BLOCK_SIZE = tarfile.BLOCKSIZE
_MAX_HEADER_BYTES = 1 << 20
"""Bytes of an extended header; a name is never longer."""
_MEMBER_KEYS = re.compile(r"(path|size|linkpath)\Z|GNU\.sparse")
"""Keys of pax headers that belong to a single member."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """A file in a tar, not a folder."""

    name: str
    offset_data: int
    size: int
    is_regular: bool
    """Not a link, device, pipe or sparse file."""

    @property
    def key(self) -> str:
        """WebDataset's key of the sample: the path up to the first dot of the file's name."""
        path = PurePosixPath(self.name)
        return str(path.parent / path.name.partition(".")[0])

    @property
    def extension(self) -> str:
        """The file's name after the first dot, in lower case: jpg, syn.json."""
        return PurePosixPath(self.name).name.partition(".")[2].lower()

    @property
    def limit_name(self) -> str:
        """The limit for its size."""
        return "picture" if self.extension in IMAGE_EXTENSIONS else "record"

    @property
    def is_within_limit(self) -> bool:
        """Whether its size is legal."""
        return self.size <= getattr(current_limits(), self.limit_name)


def check_member(member: TarMember) -> None:
    """RecordError for a member with an unsafe name, that is not a regular file, or that is too large."""
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        raise RecordError("unsafe path", member.name)
    if not member.is_regular:
        raise RecordError("not a plain file", f"{member.name} is a link, device or sparse file")
    if not member.is_within_limit:
        raise RecordError("too many bytes", f"{member.name}: {describe_excess(member.limit_name, member.size)}")


def extension_filter(extensions: Container[str]) -> Callable[[TarMember], bool]:
    """A condition for `read_tar_members`: regular members of these extensions that are not too large."""
    return lambda member: member.is_regular and member.extension in extensions and member.is_within_limit


def list_tar_members(file: Path, *, notices: Notices | None = None) -> Iterator[TarMember]:
    """Members of an uncompressed local tar without its folders; DataError when it is truncated or not a tar."""
    with file.open("rb") as data:
        members = read_tar_members(data, str(file), needs_content=lambda member: False, notices=notices)
        yield from (member for member, _ in members)


def read_tar_members(
    data: BinaryStream, path: str, *, needs_content: Callable[[TarMember], bool], notices: Notices | None = None
) -> Iterator[tuple[TarMember, bytes]]:
    """Members in file order, with their bytes where `needs_content`, else with none.

    Members that are no data by their names (macOS, hidden) are passed over, and counted in `notices`.

    Raises DataError (`path` names the tar) when it is truncated, has no closing block, continues after it, or when a
    member has two sizes, because two tar readers could then disagree on the files in it.
    """
    tar = _TarReader(data, path)
    while (member := tar.next_member()) is not None:
        if reason := no_data_reason(member.name):
            tar.skip_padded(member.size)
            if notices is not None:
                notices.add(f"tar member: {reason}", f"{path.rpartition('/')[2]}, {member.name}")
            continue
        yield member, tar.read_padded(member.size) if needs_content(member) else tar.skip_padded(member.size)
    tar.check_end()


class _TarReader:
    """A stream of blocks with its position."""

    def __init__(self, stream: BinaryStream, path: str) -> None:
        self._stream, self._path, self._position = stream, path, 0

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self._path}: {problem} at byte {self._position}. Copy it again from its origin.")

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise self._error("a truncated tar")
        self._position += count
        return data

    def read_padded(self, size: int) -> bytes:
        """`size` bytes; the stream is then at the next block."""
        data = self._read(size)
        self._read(-size % _BLOCK_SIZE)
        return data

    def skip_padded(self, size: int) -> bytes:
        """Skip `size` bytes and the rest of their last block; returns no bytes."""
        count = size + -size % _BLOCK_SIZE
        if skip_bytes(self._stream, count) != count:
            raise self._error("a truncated tar")
        self._position += count
        return b""

    def _read_header(self) -> tarfile.TarInfo | None:
        block = self._stream.read(_BLOCK_SIZE)
        if not block:
            raise self._error("a tar without its closing block, cut" if self._position else "an empty file, not a tar,")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            self._position += _BLOCK_SIZE
            return None
        except (tarfile.HeaderError, ValueError) as error:
            raise self._error(f"a truncated tar, or none ({error})") from None
        self._position += _BLOCK_SIZE
        if header.size < 0:
            raise self._error(f"a member of {header.size} bytes")
        if header.type == tarfile.GNUTYPE_SPARSE:
            is_extended = block[482]
            while is_extended:
                is_extended = self._read(_BLOCK_SIZE)[504]
        return header

    def next_member(self) -> TarMember | None:
        """The next member that is not a folder; the stream is then at its first byte."""
        name, is_sparse, size = None, False, None
        while (header := self._read_header()) is not None:
            if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                data = self._read_extended(header.size).rstrip(b"\0")
                name = data.decode("utf-8", "surrogateescape") if header.type == tarfile.GNUTYPE_LONGNAME else name
            elif header.type == tarfile.XGLTYPE:
                if forbidden := list(filter(_MEMBER_KEYS.match, self._read_pax_fields(header.size))):
                    raise self._error(f"a header that sets {', '.join(forbidden)} for all members")
            elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                fields = self._read_pax_fields(header.size)
                name, size = fields.get("path", name), fields.get("size", size)
                is_sparse = is_sparse or any(key.startswith("GNU.sparse") for key in fields)
            elif member := self._make_member(header, name, is_sparse=is_sparse, size=size):
                return member
            else:
                name, is_sparse, size = None, False, None
        return None

    def _make_member(
        self, header: tarfile.TarInfo, name: str | None, *, is_sparse: bool, size: str | None
    ) -> TarMember | None:
        # As in all tar readers: entries that are not files have no bytes, whatever size their header gives.
        data_size = header.size if header.isreg() or header.type not in tarfile.SUPPORTED_TYPES else 0
        if size is not None and size != str(data_size):
            raise self._error(f"a member with two sizes, {data_size} and {size},")
        if header.isdir() or (name is not None and name.endswith("/")):
            self.skip_padded(data_size)
            return None
        is_regular = header.isreg() and header.type != tarfile.GNUTYPE_SPARSE and not is_sparse
        name = header.name if name is None else name
        return TarMember(name=name, offset_data=self._position, size=data_size, is_regular=is_regular)

    def _read_extended(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise self._error(f"an extended header of {size} bytes")
        return self.read_padded(size)

    def _read_pax_fields(self, size: int) -> dict[str, str]:
        data, fields = self._read_extended(size), dict[str, str]()
        while data.strip(b"\0"):
            line = re.match(rb"(\d{1,20}) ([^=]+)=", data)
            stop = int(line[1]) if line else 0
            if line is None or not line.end() < stop <= len(data) or data[stop - 1 : stop] != b"\n":
                raise self._error("an extended header that cannot be read")
            fields[line[2].decode("utf-8", "replace")] = data[line.end() : stop - 1].decode("utf-8", "surrogateescape")
            data = data[stop:]
        return fields

    def check_end(self) -> None:
        """Read to the end of the file, which may contain only zeros."""
        while data := self._stream.read(1 << 20):
            if data.count(0) != len(data):
                raise DataError(
                    f"{self._path}: a tar that continues after its closing block at byte {self._position}; two tars in "
                    "one file? Split them."
                )
            self._position += len(data)
