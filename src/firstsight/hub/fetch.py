"""Files of a public data set, copied through fsspec up to a limit of bytes; a stopped copy continues where it was.

Nothing that is copied is opened or executed. `fetch.json` in the folder records each file's size and SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import fsspec.core

from firstsight.errors import RequestError
from firstsight.files import read_json, write_json
from firstsight.site import Progress, ProgressCallback
from firstsight.units import format_bytes

RECORD_FILENAME = "fetch.json"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file of a data set before it is copied."""

    name: str
    """Relative to the folder of the data set."""
    path: str
    size: int
    sha256: str
    """As the hub states it; empty where the file system states none."""
    version: str
    """Changes when the file does, so that a part of another version is never continued."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What a copy has: the files in the folder, and those of the data set that the limit left out."""

    files: int
    size: int
    files_left_out: int

    def lines(self, out: Path) -> Iterator[str]:
        yield f"{out}: {self.files:,} files, {self.size:,} bytes; SHA-256 of each in {RECORD_FILENAME}"
        if self.files_left_out:
            yield f"left out by the limit: {self.files_left_out:,} files of the data set"


def fetch_files(url: str, out: Path, *, limit: int, pattern: str, on_progress: ProgressCallback) -> Fetched:
    """Copy the first files of `url`, sorted by name, whose sizes together are at most `limit` bytes, into `out`.

    Only names that match `pattern` are copied, each whole; the first that exceeds the limit ends the copy. Raises
    RequestError where nothing matches, the first file is above the limit, the source cannot be read, or a digest is
    not the one that the hub states.
    """
    with _as_request_error(url):
        filesystem, root = fsspec.core.url_to_fs(url)
        available = _list_files(filesystem, root, pattern)
    if not available:
        raise RequestError(f"{url}: wanted files named {pattern}. Got none. Nothing was copied.")
    chosen, total = _within_limit(available, limit)
    if not chosen:
        size = f"{available[0].name}, with {format_bytes(available[0].size)}"
        raise RequestError(f"{url}: wanted files within {format_bytes(limit)}. Got first {size}. Raise --limit.")
    out.mkdir(parents=True, exist_ok=True)
    copied = _read_record(out, url)
    done = 0
    for file in chosen:
        if not _is_complete(file, out, copied):
            digest = _copy(filesystem, file, out / file.name, done=done, total=total, on_progress=on_progress)
            copied[file.name] = {"bytes": file.size, "sha256": digest, "version": file.version}
            write_json(out / RECORD_FILENAME, {"url": url, "files": copied})
        done += file.size
        on_progress(Progress(done=done, total=total, unit="bytes"))
    return Fetched(files=len(chosen), size=total, files_left_out=len(available) - len(chosen))


def _list_files(filesystem: Any, root: str, pattern: str) -> list[RemoteFile]:
    files = list[RemoteFile]()
    prefix = root.rstrip("/") + "/"
    for path, info in sorted(filesystem.find(root, detail=True).items()):
        name = path.removeprefix(prefix)
        parts = PurePosixPath(name).parts
        if not fnmatch(name, pattern) or name.startswith("/") or ".." in parts or "\\" in name:
            continue
        lfs = info.get("lfs") or {}
        sha256 = str(lfs.get("sha256", "")) if hasattr(lfs, "get") else str(getattr(lfs, "sha256", ""))
        state = [str(info.get(key, "")) for key in ("size", "blob_id", "ETag", "mtime")]
        version = hashlib.sha256(" ".join([*state, sha256]).encode()).hexdigest()[:12]
        files.append(RemoteFile(name=name, path=path, size=int(info["size"]), sha256=sha256, version=version))
    return files


def _read_record(out: Path, url: str) -> dict[str, Any]:
    """The files that earlier runs copied into `out`, by name; RequestError where they are of another data set."""
    path = out / RECORD_FILENAME
    if not path.exists():
        return {}
    advice = "Name a new folder for --out."
    record = read_json(path, "a record of copied files", advice=advice, keys=("url", "files"), error=RequestError)
    if record["url"] != url:
        raise RequestError(f"{out}: wanted files of {url}. Got a copy of {record['url']}. {advice}")
    return record["files"]


def _within_limit(files: list[RemoteFile], limit: int) -> tuple[list[RemoteFile], int]:
    total = 0
    for number, file in enumerate(files):
        if total + file.size > limit:
            return files[:number], total
        total += file.size
    return files, total


def _is_complete(file: RemoteFile, out: Path, copied: dict[str, Any]) -> bool:
    path, entry = out / file.name, copied.get(file.name, {})
    return entry.get("version") == file.version and path.is_file() and path.stat().st_size == file.size


def _copy(
    filesystem: Any, file: RemoteFile, target: Path, *, done: int, total: int, on_progress: ProgressCallback
) -> str:
    """Copy a file, after the part of it that an earlier run copied; its SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part, digest = target.with_name(f"{target.name}.{file.version}.part"), hashlib.sha256()
    with part.open("a+b") as local:
        local.seek(0)
        while chunk := local.read(CHUNK_BYTES):
            digest.update(chunk)
        position = local.tell()
        for chunk in _remote_chunks(filesystem, file, position):
            local.write(chunk)
            digest.update(chunk)
            position += len(chunk)
            on_progress(Progress(done=done + position, total=total, unit="bytes"))
        local.flush()
        os.fsync(local.fileno())
    if position != file.size or (file.sha256 and digest.hexdigest() != file.sha256):
        part.unlink()
        wanted = f"{file.size:,} bytes" + (f" with SHA-256 {file.sha256}" if file.sha256 else "")
        advice = "The part was removed: run the same command again."
        raise RequestError(f"{file.path}: wanted {wanted}. Got {position:,} with {digest.hexdigest()}. {advice}")
    part.replace(target)
    return digest.hexdigest()


def _remote_chunks(filesystem: Any, file: RemoteFile, position: int) -> Iterator[bytes]:
    """The bytes of a file from `position` up to its size."""
    if position >= file.size:
        return
    with _as_request_error(file.path):
        remote = filesystem.open(file.path, "rb")
    with remote:
        remote.seek(position)
        while position < file.size:
            with _as_request_error(file.path):
                chunk = remote.read(min(CHUNK_BYTES, file.size - position))
            if not chunk:
                return
            position += len(chunk)
            yield chunk


@contextmanager
def _as_request_error(location: str) -> Iterator[None]:
    """RequestError in place of what file systems and the hub raise."""
    from huggingface_hub import errors  # with a network client, which other commands do not need

    try:
        yield
    except (OSError, ValueError, ImportError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RequestError(
            f"{location}: wanted to read it. Got: {reason}. Check the network, and for sets with conditions log in "
            "(hf auth login); then run the same command again: it continues."
        ) from error
