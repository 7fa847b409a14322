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

from firstsight.data.records import Bad, Place, Refused
from firstsight.errors import DataError, MissingPackage, RequestError
from firstsight.site import Location

_CHUNK = 1 << 20
_STAMPS = ("ETag", "etag", "md5Hash", "checksum", "Content-MD5", "Digest", "sha256", "blob_id", "oid")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


@runtime_checkable
class Stream(Protocol):
    """An open file of bytes, local or remote."""

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def seekable(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> Any: ...


class Digest:
    """sha256 of what one pass reads: of the shard alone, or of its digest and those of all that was joined to it."""

    def __init__(self) -> None:
        self.shard = hashlib.sha256()
        self._joined = list[str]()

    def join(self, digest: str) -> None:
        """Count in the digest of something else that the pass read: captions or a picture from another file."""
        self._joined.append(digest)

    def hexdigest(self) -> str:
        own = self.shard.hexdigest()
        return own if not self._joined else hashlib.sha256("".join([own, *self._joined]).encode()).hexdigest()


class _Tap(io.RawIOBase):
    """A stream that is read once from front to back, up to `left` bytes, and hashed on the way."""

    def __init__(self, raw: Stream, digest: Digest, left: int) -> None:
        self._raw, self._digest, self._left = raw, digest, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(min(len(buffer), self._left)) if self._left else b""
        buffer[: len(data)] = data
        self._left -= len(data)
        self._digest.shard.update(data)
        return len(data)

    def close(self) -> None:
        self._raw.close()
        super().close()


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file below a folder: its name, bytes, and a stamp that changes when it does (empty: the remote has none)."""

    name: str
    size: int
    stamp: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """What a path names: the folder that names are relative to, and which files below it are meant."""

    said: str
    """The path as the user wrote it."""
    system: fsspec.AbstractFileSystem
    base: str
    only: tuple[str, ...] | None
    """Names below `base` where the path was a file or a pattern; None: all."""

    @property
    def is_local(self) -> bool:
        return isinstance(self.system, LocalFileSystem)

    def path(self, name: str) -> str:
        """The full path of a file, as its filesystem knows it."""
        return f"{self.base.rstrip('/')}/{name}"

    def names(self, *endings: str) -> list[str]:
        """Sorted names of the files meant, hidden ones left out, that end in one of `endings`, large or small."""
        found = self._below() if self.only is None else self.only
        return sorted(name for name in found if name.lower().endswith(endings) and not _hidden(name))

    def _below(self) -> Iterator[str]:
        if self.is_local:
            yield from _walked(self.base)
            return
        self.system.invalidate_cache()
        start = len(self.base.rstrip("/")) + 1
        # A listing over http may name the folder itself, or what lies above it.
        below = (str(path) for path in self.system.find(self.base) if str(path).startswith(self.base.rstrip("/") + "/"))
        yield from (path[start:] for path in below if path[start:])

    def file(self, name: str) -> File:
        """Size and stamp of a file; raises DataError when it is not there."""
        try:
            info: Mapping[str, Any] = self.system.info(self.path(name))
            if self.is_local:
                return File(name=name, size=info["size"], stamp=str(Path(self.path(name)).stat().st_mtime_ns))
            return File(name=name, size=int(info["size"]), stamp=_stamp(info))
        except (OSError, TypeError) as error:
            raise DataError(f"{self.path(name)}: wanted a file of known size. Got {error}. Check the path.") from None

    def holds(self, name: str) -> bool:
        return self.system.isfile(self.path(name))

    def open(self, name: str) -> Stream:
        """The file's bytes; raises DataError when it cannot be opened."""
        try:
            if self.is_local:
                return Path(self.path(name)).open("rb")
            return self.system.open(self.path(name), "rb")  # type: ignore[return-value]
        except OSError as error:
            raise DataError(f"{self.path(name)}: cannot be opened ({error}). Check the path and its rights.") from None

    def read(self, name: str) -> bytes:
        """All bytes of a small file."""
        with self.open(name) as data:
            return data.read()

    def part(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset` on; fewer where it is shorter."""
        if self.is_local:
            with self.open(name) as data:
                data.seek(offset)
                return data.read(size)
        try:
            found: Any = self.system.cat_file(self.path(name), start=offset, end=offset + size)
        except OSError as error:
            raise DataError(f"{self.path(name)}: cannot be read ({error}). Check the path and its rights.") from None
        # A plain web server knows no ranges and sends the whole file.
        return found if len(found) <= size else found[offset : offset + size]

    @contextmanager
    def stream(
        self, name: str, digest: Digest, *, start: int = 0, stop: int | None = None
    ) -> Iterator[io.BufferedIOBase]:
        """Bytes from `start` to `stop`, in one pass that `digest` follows to the end, also past what was asked for."""
        with self.open(name) as raw:
            _skip(raw, start)
            left = (1 << 62) if stop is None else stop - start
            with io.BufferedReader(_Tap(raw, digest, left), _CHUNK) as stream:
                yield stream
                while stream.read(_CHUNK):
                    pass

    @contextmanager
    def at_hand(self, name: str, digest: Digest) -> Iterator[Path]:
        """The whole file on this machine, for readers that jump about in it; a remote one is copied for as long."""
        with self.stream(name, digest) as stream:
            if self.is_local:
                while stream.read(_CHUNK):
                    pass
                yield Path(self.path(name))
                return
            with tempfile.NamedTemporaryFile(suffix=PurePosixPath(name).suffix) as copy:
                while data := stream.read(_CHUNK):
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
class Pass:
    """One reading of one shard, as the reader of a format sees it."""

    shard: Shard
    folder: Folder
    location: Location
    digest: Digest
    find: Callable[[str], Place]
    """A picture by its name; raises Refused when there is none or it is broken."""
    share: Callable[[str], tuple[bool, int]] | None
    """For a key: whether a synthetic caption tells it, and a number that picks one of several; None: the real one."""

    @property
    def where(self) -> str:
        return self.folder.path(self.shard.name)

    def bad(self, refused: Refused, where: str) -> Bad:
        return Bad(reason=refused.reason, detail=refused.detail, shard=self.shard.name, where=where)


def folder(path: str) -> Folder:
    """What `path` names: a folder (over http it ends in /), a file, or a pattern with * ? {a,b} {0000..0009}."""
    system, root = _system(path)
    if re.search(r"[*?{]", path) and not (isinstance(system, LocalFileSystem) and system.exists(root)):
        return _matching(path, system, root)
    over_http = path.startswith(("http://", "https://"))
    if path.endswith("/") if over_http else system.isdir(root):
        return Folder(said=path, system=system, base=root, only=None)
    if not system.exists(root):
        raise DataError(f"{path}: wanted a folder, a file or a pattern. Got nothing there. Check the source's path.")
    base, _, name = root.rpartition("/")
    return Folder(said=path, system=system, base=base, only=(name,))


def _system(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        system, root = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise MissingPackage(f"{path}: {error}. Install what this kind of path needs, or copy the data.") from None
    except ValueError as error:
        raise RequestError(f"{path}: wanted a path or a URL that fsspec knows. Got {error}.") from None
    return system, root if root == "/" else str(root).rstrip("/")


def _matching(path: str, system: fsspec.AbstractFileSystem, root: str) -> Folder:
    magic = re.search(r"[*?{]", root)
    base = root[: magic.start() if magic else None].rpartition("/")[0]
    names: dict[str, None] = {}
    for one in spread(root):
        star = re.search(r"[*?]", one)
        found = [str(name) for name in system.glob(one)] if star else [one]
        if not star and not system.exists(one):
            raise DataError(f"{path}: names {one}, which is not there. Copy it, or make the range shorter.")
        names |= dict.fromkeys(name[len(base) + 1 :] for name in found if star is None or system.isfile(name))
    if not names:
        raise DataError(f"{path}: wanted files that match. Got none. Check the pattern.")
    return Folder(said=path, system=system, base=base, only=tuple(names))


def spread(pattern: str) -> list[str]:
    """A pattern without its braces: {0000..0009} counts with leading zeros, {a,b} lists."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last, listed = found.groups()
    if listed is None:
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        choices = listed.split(",")
    return [one for choice in choices for one in spread(pattern[: found.start()] + choice + pattern[found.end() :])]


def _walked(base: str) -> Iterator[str]:
    """Names of all files below a local folder; links to folders are followed, each folder is seen once."""
    seen = set[str]()
    for root, inside, files in os.walk(base, followlinks=True):
        inside[:] = [one for one in inside if not one.startswith(".")]
        real = os.path.realpath(root)
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        prefix = Path(root).relative_to(base).as_posix()
        yield from (name if prefix == "." else f"{prefix}/{name}" for name in files)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _stamp(info: Mapping[str, Any]) -> str:
    for key in (*_STAMPS, *_TIMES):
        if info.get(key):
            value = info[key]
            return str(value.timestamp() if isinstance(value, datetime) else value)
    return ""


def _skip(raw: Stream, count: int) -> None:
    """Go on by `count` bytes, by reading where a server cannot jump."""
    if count and raw.seekable():
        raw.seek(count)
        return
    while count and (data := raw.read(min(count, _CHUNK))):
        count -= len(data)
