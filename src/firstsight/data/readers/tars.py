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

from firstsight.data.images import MAX_IMAGE_BYTES
from firstsight.data.readers.filesystem import BinaryStream
from firstsight.data.records import RecordError
from firstsight.errors import DataError

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
_BLOCK_SIZE = tarfile.BLOCKSIZE
_MAX_HEADER_BYTES = 1 << 20
"""Bytes of an extended header; a name is never longer."""
_GNU_LONG_TYPES, _PAX_TYPES = (
    (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """A file inside a tar, not a folder: where its bytes lie."""

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
        """Behind the first dot, in small letters: jpg, syn.json."""
        return PurePosixPath(self.name).name.partition(".")[2].lower()


def check_member(member: TarMember) -> None:
    """Refuse a member that points elsewhere, is no plain file or is too large: such a tar is not what it claims."""
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        raise RecordError("unsafe path", member.name)
    if not member.is_regular:
        raise RecordError("not a plain file", f"{member.name} is a link, device or sparse file")
    if member.size > MAX_IMAGE_BYTES:
        raise RecordError("too many bytes", f"{member.name} has {member.size:,} bytes, at most {MAX_IMAGE_BYTES:,}")


def list_tar_members(file: Path) -> Iterator[TarMember]:
    """Members of an uncompressed local tar without its folders; raises DataError when it is cut off or is none."""
    with file.open("rb") as data:
        yield from (member for member, _ in read_tar_members(data, str(file), needs_content=lambda member: False))


def read_tar_members(
    data: BinaryStream, path: str, *, needs_content: Callable[[TarMember], bool]
) -> Iterator[tuple[TarMember, bytes]]:
    """Members in file order, with the bytes of those that are `wanted`, of others none.

    Raises DataError (`where` names the tar) when it breaks off, has no closing block, holds something behind it, or
    when a member has two sizes: readers that believe different ones would see different files.
    """
    tar = _TarReader(data, path)
    while (member := tar.next_member()) is not None:
        content = tar.read_bytes(member.size) if needs_content(member) else tar.skip(member.size)
        tar.skip_padding(member.size)
        yield member, content
    tar.check_end()


class _TarReader:
    """A stream of blocks with its position."""

    def __init__(self, stream: BinaryStream, path: str) -> None:
        self._stream, self._path, self._position = stream, path, 0
        self._is_seekable = stream.seekable()

    def _format_error(self, problem: str) -> DataError:
        return DataError(f"{self._path}: {problem} at byte {self._position}. Copy it again from its origin.")

    def read_bytes(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise self._format_error("a tar that breaks off")
        self._position += count
        return data

    def skip(self, count: int) -> bytes:
        if self._is_seekable:
            self._stream.seek(count, 1)
            self._position += count
            return b""
        while count:
            count -= len(self.read_bytes(min(count, 1 << 20)))
        return b""

    def skip_padding(self, size: int) -> None:
        self.skip(-size % _BLOCK_SIZE)

    def _read_header(self) -> tarfile.TarInfo | None:
        """The next header block; None at the closing block."""
        block = self._stream.read(_BLOCK_SIZE)
        if not block:
            raise self._format_error(
                "a tar without its closing block, cut" if self._position else "an empty file, not a tar,"
            )
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            self._position += _BLOCK_SIZE
            return None
        except (tarfile.HeaderError, ValueError) as error:
            raise self._format_error(f"a tar that breaks off or is none ({error})") from None
        self._position += _BLOCK_SIZE
        if header.size < 0:
            raise self._format_error(f"a member of {header.size} bytes")
        if header.type == tarfile.GNUTYPE_SPARSE:
            is_extended = block[482]
            while is_extended:
                is_extended = self.read_bytes(_BLOCK_SIZE)[504]
        return header

    def next_member(self) -> TarMember | None:
        """The next member that is no folder; the stream then stands before its bytes."""
        name, is_sparse, size = None, False, None
        while (header := self._read_header()) is not None:
            if header.type in _GNU_LONG_TYPES:
                header_data = self._read_extended_header(header.size).rstrip(b"\0")
                name = (
                    header_data.decode("utf-8", "surrogateescape") if header.type == tarfile.GNUTYPE_LONGNAME else name
                )
            elif header.type in (*_PAX_TYPES, tarfile.XGLTYPE):
                header_data = self._read_pax_fields(header.size)
                if header.type == tarfile.XGLTYPE:
                    self._check_global_header(header_data)
                    continue
                name, size = header_data.get("path", name), header_data.get("size", size)
                is_sparse = is_sparse or any(key.startswith("GNU.sparse") for key in header_data)
            else:
                member = self._make_member(header, name, is_sparse=is_sparse, size=size)
                if member is not None:
                    return member
                name, is_sparse, size = None, False, None
        return None

    def _make_member(
        self, header: tarfile.TarInfo, name: str | None, *, is_sparse: bool, size: str | None
    ) -> TarMember | None:
        # As in every reader: types that are no file have no bytes, whatever their header says of a size.
        data_size = header.size if header.isreg() or header.type not in tarfile.SUPPORTED_TYPES else 0
        if size is not None and size != str(data_size):
            raise self._format_error(f"a member with two sizes, {data_size} and {size},")
        if header.isdir() or (name is not None and name.endswith("/")):
            self.skip(data_size)
            self.skip_padding(data_size)
            return None
        is_regular = header.isreg() and header.type != tarfile.GNUTYPE_SPARSE and not is_sparse
        return TarMember(
            name=header.name if name is None else name,
            offset_data=self._position,
            size=data_size,
            is_regular=is_regular,
        )

    def _read_extended_header(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise self._format_error(f"an extended header of {size} bytes")
        data = self.read_bytes(size)
        self.skip_padding(size)
        return data

    def _read_pax_fields(self, size: int) -> dict[str, str]:
        """Key and value of every line `length key=value` of a pax header."""
        data, fields = self._read_extended_header(size), dict[str, str]()
        while data.strip(b"\0"):
            line = re.match(rb"(\d{1,20}) ([^=]+)=", data)
            length = int(line[1]) if line else 0
            if line is None or not line.end() < length <= len(data) or data[length - 1 : length] != b"\n":
                raise self._format_error("an extended header that cannot be read")
            fields[line[2].decode("utf-8", "replace")] = data[line.end() : length - 1].decode(
                "utf-8", "surrogateescape"
            )
            data = data[length:]
        return fields

    def _check_global_header(self, fields: dict[str, str]) -> None:
        if forbidden_keys := [
            key for key in fields if key in ("path", "size", "linkpath") or key.startswith("GNU.sparse")
        ]:
            raise self._format_error(f"a header that sets {', '.join(forbidden_keys)} for all members")

    def check_end(self) -> None:
        """Read on to the end of the file, which holds nothing but zeros."""
        while data := self._stream.read(1 << 20):
            if data.count(0) != len(data):
                raise DataError(
                    f"{self._path}: a tar that goes on behind its closing block at byte {self._position}; two tars in one "
                    "file? Take them apart."
                )
            self._position += len(data)
