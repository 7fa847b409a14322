"""Where a source's files lie: listed, stamped and opened through fsspec, so that a path may also be a URL."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import fsspec
from fsspec.implementations.local import LocalFileSystem

from firstsight.data.records import ImageLocation, RecordError, RejectedRecord
from firstsight.errors import DataError, MissingPackage, RequestError
from firstsight.site import Location

_READ_SIZE = 1 << 20
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "checksum", "Content-MD5", "Digest", "sha256", "blob_id", "oid")
_TIMESTAMP_KEYS = ("LastModified", "last_modified", "updated", "mtime", "created")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


@runtime_checkable
class BinaryStream(Protocol):
    """An open file of bytes, local or remote."""

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def seekable(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, error_type: Any, error: Any, traceback: Any, /) -> Any: ...


class ReadDigest:
    """sha256 of what one pass reads: of the shard alone, or of its digest and those of all that was joined to it."""

    def __init__(self) -> None:
        self.shard_hash = hashlib.sha256()
        self._joined_digests = list[str]()

    def join(self, digest: str) -> None:
        """Count in the digest of something else that the pass read: captions or a picture from another file."""
        self._joined_digests.append(digest)

    def hexdigest(self) -> str:
        shard_digest = self.shard_hash.hexdigest()
        return (
            shard_digest
            if not self._joined_digests
            else hashlib.sha256("".join([shard_digest, *self._joined_digests]).encode()).hexdigest()
        )


class _HashingStream(io.RawIOBase):
    """A stream that is read once from front to back, up to `left` bytes, and hashed on the way."""

    def __init__(self, stream: BinaryStream, digest: ReadDigest, bytes_left: int) -> None:
        self._stream, self._digest, self._bytes_left = stream, digest, bytes_left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(min(len(buffer), self._bytes_left)) if self._bytes_left else b""
        buffer[: len(data)] = data
        self._bytes_left -= len(data)
        self._digest.shard_hash.update(data)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """A file below a folder: its name, bytes, and a stamp that changes when it does (empty: the remote has none)."""

    name: str
    size: int
    stamp: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFolder:
    """What a path names: the folder that names are relative to, and which files below it are meant."""

    original_path: str
    """The path as the user wrote it."""
    filesystem: fsspec.AbstractFileSystem
    base_path: str
    selected_names: tuple[str, ...] | None
    """Names below `base` where the path was a file or a pattern; None: all."""

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    def path(self, name: str) -> str:
        """The full path of a file, as its filesystem knows it."""
        return f"{self.base_path.rstrip('/')}/{name}"

    def names(self, *extensions: str) -> list[str]:
        """Sorted names of the files meant, hidden ones left out, that end in one of `endings`, large or small."""
        candidates = self._all_names() if self.selected_names is None else self.selected_names
        return sorted(name for name in candidates if name.lower().endswith(extensions) and not _is_hidden(name))

    def _all_names(self) -> Iterator[str]:
        if self.is_local:
            yield from _walk_local(self.base_path)
            return
        self.filesystem.invalidate_cache()
        start = len(self.base_path.rstrip("/")) + 1
        # A listing over http may name the folder itself, or what lies above it.
        paths = (
            str(path)
            for path in self.filesystem.find(self.base_path)
            if str(path).startswith(self.base_path.rstrip("/") + "/")
        )
        yield from (path[start:] for path in paths if path[start:])

    def file_info(self, name: str) -> FileInfo:
        """Size and stamp of a file; raises DataError when it is not there."""
        try:
            info: Mapping[str, Any] = self.filesystem.info(self.path(name))
            if self.is_local:
                return FileInfo(name=name, size=info["size"], stamp=str(Path(self.path(name)).stat().st_mtime_ns))
            return FileInfo(name=name, size=int(info["size"]), stamp=_file_stamp(info))
        except (OSError, TypeError) as error:
            raise DataError(f"{self.path(name)}: wanted a file of known size. Got {error}. Check the path.") from None

    def has_file(self, name: str) -> bool:
        return self.filesystem.isfile(self.path(name))

    def open(self, name: str) -> BinaryStream:
        """The file's bytes; raises DataError when it cannot be opened."""
        try:
            if self.is_local:
                return Path(self.path(name)).open("rb")
            return self.filesystem.open(self.path(name), "rb")  # type: ignore[return-value]
        except OSError as error:
            raise DataError(f"{self.path(name)}: cannot be opened ({error}). Check the path and its rights.") from None

    def read(self, name: str) -> bytes:
        """All bytes of a small file."""
        with self.open(name) as data:
            return data.read()

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset` on; fewer where it is shorter."""
        if self.is_local:
            with self.open(name) as data:
                data.seek(offset)
                return data.read(size)
        try:
            content: Any = self.filesystem.cat_file(self.path(name), start=offset, end=offset + size)
        except OSError as error:
            raise DataError(f"{self.path(name)}: cannot be read ({error}). Check the path and its rights.") from None
        # A plain web server knows no ranges and sends the whole file.
        return content if len(content) <= size else content[offset : offset + size]

    @contextmanager
    def open_stream(
        self, name: str, digest: ReadDigest, *, start: int = 0, stop: int | None = None
    ) -> Iterator[io.BufferedIOBase]:
        """Bytes from `start` to `stop`, in one pass that `digest` follows to the end, also past what was asked for."""
        with self.open(name) as raw:
            _skip_bytes(raw, start)
            bytes_left = (1 << 62) if stop is None else stop - start
            with io.BufferedReader(_HashingStream(raw, digest, bytes_left), _READ_SIZE) as stream:
                yield stream
                while stream.read(_READ_SIZE):
                    pass

    @contextmanager
    def local_copy(self, name: str, digest: ReadDigest) -> Iterator[Path]:
        """The whole file on this machine, for readers that jump about in it; a remote one is copied for as long."""
        with self.open_stream(name, digest) as stream:
            if self.is_local:
                while stream.read(_READ_SIZE):
                    pass
                yield Path(self.path(name))
                return
            with tempfile.NamedTemporaryFile(suffix=PurePosixPath(name).suffix) as copy:
                while data := stream.read(_READ_SIZE):
                    copy.write(data)
                copy.flush()
                yield Path(copy.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A file, or a stretch of one, that is read on its own."""

    name: str
    """Below the location's place, unique, posix."""
    split: str
    """train, validation or test; empty where names tell nothing."""
    size: int
    """Bytes of the file."""
    stamp: str
    """Changes when the file does: mtime in ns, or the remote's etag, checksum or time; empty where it has none."""
    start: int
    stop: int
    """The stretch in bytes; 0 and size for a whole file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadContext:
    """One reading of one shard, as the reader of a format sees it."""

    shard: Shard
    folder: SourceFolder
    location: Location
    digest: ReadDigest
    find_image: Callable[[str], ImageLocation]
    """A picture by its name; raises Refused when there is none or it is broken."""
    choose_caption: Callable[[str], tuple[bool, int]] | None
    """For a key: whether a synthetic caption tells it, and a number that picks one of several; None: the real one."""

    @property
    def path(self) -> str:
        return self.folder.path(self.shard.name)

    def bad_record(self, refused: RecordError, record_position: str) -> RejectedRecord:
        return RejectedRecord(
            reason=refused.reason, detail=refused.detail, shard=self.shard.name, where=record_position
        )


def open_folder(path: str) -> SourceFolder:
    """What `path` names: a folder (over http it ends in /), a file, or a pattern with * ? {a,b} {0000..0009}."""
    filesystem, root = _open_filesystem(path)
    if re.search(r"[*?{]", path) and not (isinstance(filesystem, LocalFileSystem) and filesystem.exists(root)):
        return _match_pattern(path, filesystem, root)
    is_http = path.startswith(("http://", "https://"))
    if path.endswith("/") if is_http else filesystem.isdir(root):
        return SourceFolder(original_path=path, filesystem=filesystem, base_path=root, selected_names=None)
    if not filesystem.exists(root):
        raise DataError(f"{path}: wanted a folder, a file or a pattern. Got nothing there. Check the source's path.")
    base_path, _, name = root.rpartition("/")
    return SourceFolder(original_path=path, filesystem=filesystem, base_path=base_path, selected_names=(name,))


def _open_filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise MissingPackage(f"{path}: {error}. Install what this kind of path needs, or copy the data.") from None
    except ValueError as error:
        raise RequestError(f"{path}: wanted a path or a URL that fsspec knows. Got {error}.") from None
    return filesystem, root if root == "/" else str(root).rstrip("/")


def _match_pattern(path: str, filesystem: fsspec.AbstractFileSystem, root: str) -> SourceFolder:
    wildcard = re.search(r"[*?{]", root)
    base_path = root[: wildcard.start() if wildcard else None].rpartition("/")[0]
    names: dict[str, None] = {}
    for expanded in expand_braces(root):
        glob_match = re.search(r"[*?]", expanded)
        matches = [str(name) for name in filesystem.glob(expanded)] if glob_match else [expanded]
        if not glob_match and not filesystem.exists(expanded):
            raise DataError(f"{path}: names {expanded}, which is not there. Copy it, or make the range shorter.")
        names |= dict.fromkeys(
            name[len(base_path) + 1 :] for name in matches if glob_match is None or filesystem.isfile(name)
        )
    if not names:
        raise DataError(f"{path}: wanted files that match. Got none. Check the pattern.")
    return SourceFolder(original_path=path, filesystem=filesystem, base_path=base_path, selected_names=tuple(names))


def expand_braces(pattern: str) -> list[str]:
    """A pattern without its braces: {0000..0009} counts with leading zeros, {a,b} lists."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    range_start, range_end, alternatives = match.groups()
    if alternatives is None:
        choices = [str(number).zfill(len(range_start)) for number in range(int(range_start), int(range_end) + 1)]
    else:
        choices = alternatives.split(",")
    return [
        expanded
        for choice in choices
        for expanded in expand_braces(pattern[: match.start()] + choice + pattern[match.end() :])
    ]


def _walk_local(base_path: str) -> Iterator[str]:
    """Names of all files below a local folder; links to folders are followed, each folder is seen once."""
    visited = set[str]()
    for root, subfolders, files in os.walk(base_path, followlinks=True):
        subfolders[:] = [subfolder for subfolder in subfolders if not subfolder.startswith(".")]
        real_path = os.path.realpath(root)
        if real_path in visited:
            subfolders.clear()
            continue
        visited.add(real_path)
        prefix = Path(root).relative_to(base_path).as_posix()
        yield from (name if prefix == "." else f"{prefix}/{name}" for name in files)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _file_stamp(info: Mapping[str, Any]) -> str:
    for key in (*_VERSION_KEYS, *_TIMESTAMP_KEYS):
        if info.get(key):
            value = info[key]
            return str(value.timestamp() if isinstance(value, datetime) else value)
    return ""


def _skip_bytes(stream: BinaryStream, count: int) -> None:
    """Go on by `count` bytes, by reading where a server cannot jump."""
    if count and stream.seekable():
        stream.seek(count)
        return
    while count and (data := stream.read(min(count, _READ_SIZE))):
        count -= len(data)
