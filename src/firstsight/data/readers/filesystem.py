"""The files of a source: listed, stamped and opened through fsspec, so that a path may also be a URL."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

import fsspec
from braceexpand import braceexpand
from fsspec.implementations.local import LocalFileSystem

from firstsight.data.records import ImageLocation, Notices, RecordError, RejectedRecord
from firstsight.errors import DataError, MissingPackage, RequestError
from firstsight.limits import read_all
from firstsight.site import Location

_READ_SIZE = 1 << 20
_STAMP_KEYS = (
    *("ETag", "etag", "md5Hash", "checksum", "Content-MD5", "Digest", "sha256", "blob_id", "oid"),
    *("LastModified", "last_modified", "updated", "mtime", "created"),
)
"""What remote file systems report of a file's version, else of its time."""


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
        self._joined = list[str]()

    def join(self, digest: str) -> None:
        """Add the digest of something else that the pass read: captions or an image from another file."""
        self._joined.append(digest)

    def hexdigest(self) -> str:
        digest = self.shard_hash.hexdigest()
        return hashlib.sha256("".join([digest, *self._joined]).encode()).hexdigest() if self._joined else digest


class _HashingStream(io.RawIOBase):
    """A stream of at most `bytes_left` bytes that is hashed while it is read once from front to back."""

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


class FileInfo(NamedTuple):
    """A file's size in bytes, and a stamp that changes when the file does (empty: the remote has none)."""

    size: int
    stamp: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFolder:
    """A folder, and which files below it a path selects."""

    original_path: str
    filesystem: fsspec.AbstractFileSystem
    base_path: str
    selected_names: tuple[str, ...] | None
    """Names below `base_path` if the path was a file or a pattern; None: all."""

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    def path(self, name: str) -> str:
        """The full path of a file in `filesystem`."""
        return f"{self.base_path.rstrip('/')}/{name}"

    def names(self) -> list[str]:
        """Sorted names of the selected files; a hidden folder of a local source is one name that ends in a slash."""
        return sorted(self._all_names() if self.selected_names is None else self.selected_names)

    def _all_names(self) -> Iterator[str]:
        if self.is_local:
            yield from _walk_local(self.base_path)
            return
        self.filesystem.invalidate_cache()
        prefix = self.base_path.rstrip("/") + "/"
        for path in map(str, self.filesystem.find(self.base_path)):
            if path.startswith(prefix) and path != prefix:  # an http listing may contain the folder and its parents
                yield path.removeprefix(prefix)

    def file_info(self, name: str) -> FileInfo:
        """Size and stamp of a file; DataError when it does not exist."""
        path = self.path(name)
        try:
            info: Mapping[str, Any] = self.filesystem.info(path)
            if self.is_local:
                stamp = Path(path).stat().st_mtime_ns
            else:
                stamp = next((info[key] for key in _STAMP_KEYS if info.get(key)), "")
            stamp = stamp.timestamp() if isinstance(stamp, datetime) else stamp
            return FileInfo(size=int(info["size"]), stamp=str(stamp))
        except (OSError, TypeError) as error:
            raise DataError(f"{path}: wanted a file of known size. Got {error}. Check the path.") from None

    def has_file(self, name: str) -> bool:
        return self.filesystem.isfile(self.path(name))

    def files_in(self, folder: str) -> list[str]:
        """Sorted names of the files in one folder; none if it does not exist."""
        try:
            entries = self.filesystem.ls(self.path(folder), detail=False)
        except (OSError, ValueError):
            return []
        return sorted(f"{folder}/{str(path).rstrip('/').rpartition('/')[2]}".lstrip("/") for path in entries)

    def open(self, name: str) -> BinaryStream:
        """The file's bytes; DataError when it cannot be opened."""
        path = self.path(name)
        try:
            return Path(path).open("rb") if self.is_local else self.filesystem.open(path, "rb")  # type: ignore[return-value]
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error}). Check the path and its permissions.") from None

    def read(self, name: str, limit_name: str) -> bytes:
        """All bytes of a file; LimitExceeded for more than the limit."""
        with self.open(name) as data:
            return read_all(data, self.path(name), limit_name)

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file, fewer if it is shorter; OSError when they cannot be read."""
        data: Any = self.filesystem.cat_file(self.path(name), start=start, end=stop)
        return data if len(data) <= stop - start else data[start:stop]  # a web server without ranges sends all

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset`, fewer if it is shorter; DataError when they cannot be read."""
        try:
            return self.fetch(name, offset, offset + size)
        except OSError as error:
            raise DataError(f"{self.path(name)}: cannot be read ({error}). Check its permissions.") from None

    @contextmanager
    def open_stream(
        self, name: str, digest: ReadDigest, *, start: int = 0, stop: int | None = None, drain: bool = True
    ) -> Iterator[io.BufferedIOBase]:
        """Bytes from `start` to `stop`, hashed in `digest`; on exit what is left is hashed too, unless not `drain`."""
        with self.open(name) as raw:
            skip_bytes(raw, start)
            size = (1 << 62) if stop is None else stop - start
            with io.BufferedReader(_HashingStream(raw, digest, size), _READ_SIZE) as stream:
                yield stream
                while drain and stream.read(_READ_SIZE):
                    pass

    @contextmanager
    def local_copy(self, name: str, digest: ReadDigest) -> Iterator[Path]:
        """The whole file on this machine, for readers that seek; a remote file is copied for the `with` block."""
        with self.open_stream(name, digest) as stream:
            if self.is_local:
                yield Path(self.path(name))
                return
            with tempfile.NamedTemporaryFile(suffix=PurePosixPath(name).suffix) as copy:
                shutil.copyfileobj(stream, copy, _READ_SIZE)
                copy.flush()
                yield Path(copy.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A file, or a byte range of one, that is read on its own."""

    name: str
    """Relative to the location's folder, unique, with forward slashes."""
    split: str
    """train, validation or test; empty if no name contains one."""
    size: int
    stamp: str
    """Changes when the file does: mtime in ns, or the remote's etag, checksum or time; empty if it has none."""
    start: int
    stop: int
    """The byte range; 0 and size for a whole file."""

    @property
    def label(self) -> str:
        """Name and byte range, unique in a source."""
        return f"{self.name}:{self.start}-{self.stop}"

    @property
    def byte_count(self) -> int:
        """The size of the byte range."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadContext:
    """The arguments of a format's reader: one shard, and where its files, images and captions come from."""

    shard: Shard
    folder: SourceFolder
    location: Location
    digest: ReadDigest
    notices: Notices
    find_image: Callable[[str], ImageLocation]
    """An image by its name; RecordError if it is missing or broken."""
    choose_caption: Callable[[str], tuple[bool, int]] | None
    """From a key to whether its caption is synthetic, and a number that selects one of several; None: never."""

    @property
    def path(self) -> str:
        return self.folder.path(self.shard.name)

    def default_id(self, position: int | str) -> str:
        """The id of a record without one."""
        return f"{self.shard.name}:{position}"

    def caption_choice(self, key: str) -> tuple[bool, int]:
        return (False, 0) if self.choose_caption is None else self.choose_caption(key)

    def rejected(self, error: RecordError, position: str) -> RejectedRecord:
        return RejectedRecord(reason=error.reason, detail=error.detail, shard=self.shard.name, where=position)


def open_folder(path: str) -> SourceFolder:
    """The folder of a path: a folder (over http it ends in /), a file, or a pattern with * ? {a,b} {0000..0009}."""
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise MissingPackage(f"{path}: {error}. Install what this kind of path needs, or copy the data.") from None
    except ValueError as error:
        raise RequestError(f"{path}: wanted a path or a URL that fsspec supports. Got {error}.") from None
    root = root if root == "/" else str(root).rstrip("/")
    if re.search(r"[*?{]", path) and not (isinstance(filesystem, LocalFileSystem) and filesystem.exists(root)):
        return _match_pattern(path, filesystem, root)
    is_http = path.startswith(("http://", "https://"))
    if isinstance(filesystem, LocalFileSystem):
        _check_readable(Path(root))
    if path.endswith("/") if is_http else filesystem.isdir(root):
        return SourceFolder(original_path=path, filesystem=filesystem, base_path=root, selected_names=None)
    if not filesystem.exists(root):
        raise DataError(f"{path}: wanted a folder, a file or a pattern. Got no such path. Check the source's path.")
    base_path, _, name = root.rpartition("/")
    return SourceFolder(original_path=path, filesystem=filesystem, base_path=base_path, selected_names=(name,))


def _check_readable(path: Path) -> None:
    """DataError for a local folder or file that this user may not read, which would otherwise look empty or absent."""
    needed = os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK  # noqa: PTH112 - Path's raises PermissionError
    places = [*((folder, os.X_OK) for folder in reversed(path.parents)), (path, needed)]
    for place, mode in places:
        if os.path.exists(place) and not os.access(place, mode):  # noqa: PTH110
            advice = "Give this user access to it, or name a copy."
            raise DataError(f"{path}: wanted a source that this user may read. Got no permission for {place}. {advice}")


def _match_pattern(path: str, filesystem: fsspec.AbstractFileSystem, root: str) -> SourceFolder:
    base_path = re.split(r"[*?{]", root)[0].rpartition("/")[0]
    names: dict[str, None] = {}
    for pattern in expand_braces(root):
        if re.search(r"[*?]", pattern):
            matches = [match for match in map(str, filesystem.glob(pattern)) if filesystem.isfile(match)]
        elif filesystem.exists(pattern):
            matches = [pattern]
        else:
            raise DataError(f"{path}: names {pattern}, which does not exist. Copy it, or make the range shorter.")
        names |= dict.fromkeys(match[len(base_path) + 1 :] for match in matches)
    if not names:
        raise DataError(f"{path}: wanted files that match. Got none. Check the pattern.")
    return SourceFolder(original_path=path, filesystem=filesystem, base_path=base_path, selected_names=tuple(names))


def expand_braces(pattern: str) -> list[str]:
    """All names of a pattern like webdataset's: {0000..0009} counts with leading zeros, {a,b} lists."""
    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError:  # unbalanced braces
        return [pattern]


def _walk_local(base_path: str) -> Iterator[str]:
    """Names of all files below a local folder; links to folders are followed, each folder is visited once.

    Hidden folders are not visited: one is a name that ends in a slash.
    """
    visited = set[str]()
    for root, folders, files in os.walk(base_path, followlinks=True):
        real_path = os.path.realpath(root)
        if real_path in visited:
            folders.clear()
            continue
        visited.add(real_path)
        prefix = Path(root).relative_to(base_path).as_posix()
        hidden = [f"{folder}/" for folder in folders if folder.startswith(".")]
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        yield from (name if prefix == "." else f"{prefix}/{name}" for name in (*files, *hidden))


def skip_bytes(stream: BinaryStream, count: int) -> int:
    """Advance by `count` bytes, by reading them if the stream cannot seek; the number of bytes that were skipped."""
    if stream.seekable():
        stream.seek(count, os.SEEK_CUR)
        return count
    remaining = count
    while remaining and (data := stream.read(min(remaining, _READ_SIZE))):
        remaining -= len(data)
    return count - remaining
