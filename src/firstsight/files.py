"""Atomic writes of files and folders, JSON lines, shard indices and digests. Standard library only, for planning."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from firstsight.errors import DataError, FirstsightError, ModelError, StoreError
from firstsight.limits import iter_lines, limit_exceeded, parse_json, read_file

_TEMPORARY_SUFFIX = re.compile(r"\.[0-9a-f]{8}\.tmp")


@contextmanager
def atomic_file(path: Path, *, sync: bool = False) -> Generator[Path, None, None]:
    """The path of a temporary file in the folder of `path`, which the block writes and which then replaces `path`.

    So readers get the old or the new content, never a part. Makes the folder. After an error `path` is unchanged and
    the temporary file removed; that of a killed process is removed when another process writes into the folder for
    the first time, or by a caller of `is_temporary`. `sync`: file and name are on the disk at the end of the block, so
    that a power loss undoes neither.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_temporaries(path.parent)
    temporary, file = _open_temporary(path)
    try:
        with file:
            yield temporary
            if sync:
                fsync_path(temporary)
            temporary.replace(path)
            if sync:
                fsync_path(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # of a full disk, when bytes are written
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A new temporary file for `path`, locked: while this process lives, others do not remove it."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        with suppress(OSError):  # of a file system without locks, where it stays if its process is killed
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(temporary, file.fileno()):
            return temporary, file
        file.close()  # removed by another process before it was locked


def is_temporary(path: Path) -> bool:
    """Whether a name is that of an unfinished `atomic_file`."""
    name, suffix = path.name[:-13], path.name[-13:]
    return name.startswith(".") and name != "." and _TEMPORARY_SUFFIX.fullmatch(suffix) is not None


@lru_cache(maxsize=1000)  # once per folder and process: a cache has many files
def _remove_abandoned_temporaries(folder: Path) -> None:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(".tmp")]
    for file in filter(is_temporary, map(folder.joinpath, names)):
        remove_if_unlocked(file)


def remove_if_unlocked(file: Path) -> bool:
    """Remove a temporary file or a lock that no living process holds; whether it was removed."""
    with suppress(OSError), file.open("rb") as stream:  # BlockingIOError: its process lives
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file, stream.fileno()):
            file.unlink()
            return True
    return False


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at `path`, and was not removed or replaced before it was locked."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


@contextmanager
def open_atomic(path: Path, *, sync: bool = False) -> Generator[BinaryIO, None, None]:
    """An `atomic_file` that is open for writing."""
    with atomic_file(path, sync=sync) as temporary, temporary.open("wb") as file:
        yield file


def write_atomic(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a file through `atomic_file`; text as UTF-8, line ends as they are."""
    with atomic_file(path, sync=sync) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def cached_bytes(path: Path, compute: Callable[[], bytes]) -> bytes:
    """What `compute` returns, read from the file `path` where it is there; the file ends with the content's sha256.

    A file that is damaged is written again; one that cannot be written is left out.
    """
    with suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data[:-32]).digest() == data[-32:]:
            return data[:-32]
    content = compute()
    with suppress(OSError):
        write_atomic(path, content + hashlib.sha256(content).digest())
    return content


def write_json(path: Path, content: object, *, indent: int = 1, sync: bool = False) -> None:
    """Write JSON through `atomic_file`: indented, with sorted keys and a line feed, so equal content has equal bytes.

    ValueError for numbers that are not finite, which JSON does not have.
    """
    text = json.dumps(content, indent=indent, sort_keys=True, allow_nan=False)
    write_atomic(path, text + "\n", sync=sync)


def fsync_path(path: Path) -> None:
    """Wait until the content of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def file_lock(path: Path, *, is_blocking: bool) -> Generator[bool, None, None]:
    """An exclusive lock on `path`, which is created if missing; yields whether this process has the lock.

    If another process has it, False at once without `is_blocking`. The kernel frees it when a process dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if is_blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if _is_at(path, file.fileno()):
                yield True
                return


def file_sha256(path: Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name_part(text: str) -> str:
    """A text as part of a file's name: what is not a letter, a digit or `._-` becomes a hyphen; may be empty."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """A hard link where the file system has them, else a copy of content and times; of the file that a link names."""
    path = Path(source).resolve()
    try:
        os.link(path, target)
    except OSError:
        with atomic_file(Path(target)) as temporary:
            shutil.copy2(path, temporary)


def read_json(
    path: Path,
    content: str = "JSON",
    *,
    advice: str,
    wanted: type = dict,
    keys: Collection[str] = (),
    error: type[FirstsightError] = DataError,
) -> Any:
    """The value of a JSON file that firstsight wrote; `error` with the path and the `advice` for one that is damaged.

    `content` is what a message calls it; `wanted` is the class of the value (dict, list, str), which has the `keys`.
    """
    try:
        value: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as damage:
        reason = damage.strerror if isinstance(damage, OSError) and damage.strerror else damage
        raise error(f"{path}: wanted {content}. Got {reason}. {advice}") from damage
    if not isinstance(value, wanted):
        raise error(f"{path}: wanted {content}, a {wanted.__name__}. Got {str(value)[:80]}. {advice}")
    if missing := [key for key in keys if key not in cast("dict[str, Any]", value)]:
        raise error(f"{path}: wanted {content} with {', '.join(missing)}. Got none. {advice}")
    return cast(Any, value)


def read_cached_json(path: Path, *, wanted: type = dict) -> Any:
    """The value of a JSON file in a cache; None, so that it is computed again, where there is none or it is damaged."""
    with suppress(DataError):
        return read_json(path, advice="", wanted=wanted)
    return None


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of each line that is not blank; DataError names the file and the line of bad JSON."""
    with path.open("rb") as file:
        for number, line in enumerate(iter_lines(file), 1):
            location = f"{path}, line {number}"
            if line is None:
                raise limit_exceeded(location, "record")
            if not line.strip():
                continue
            try:
                yield number, parse_json(line, location)
            except ValueError as error:
                raise DataError(f"{location}: wanted JSON. Got {error}. Repair or remove that line.") from error


class FileDigests:
    """sha256 of files, cached in digests.json by name, size and stamp (of a local file its path and modification time).

    A damaged digests.json counts as empty.
    """

    def __init__(self, cache: Path) -> None:
        self._file = cache / "digests.json"
        self._entries: dict[str, list[Any]] = read_cached_json(self._file) or {}
        self._is_modified = False

    def recorded(self, name: str, size: int, stamp: int | str) -> str | None:
        """The digest that was recorded of a file with this size and stamp."""
        match self._entries.get(name):
            case [recorded_size, recorded_stamp, str(digest)] if [recorded_size, recorded_stamp] == [size, stamp]:
                return digest
            case _:
                return None

    def record(self, name: str, size: int, stamp: int | str, *, digest: str) -> None:
        self._entries[name], self._is_modified = [size, stamp, digest], True

    def digest(self, file: Path) -> str:
        """The digest of a local file's bytes, computed only if the file is new or has changed."""
        stat, name = file.stat(), str(file.absolute())
        digest = self.recorded(name, stat.st_size, stat.st_mtime_ns)
        if digest is None:
            digest = file_sha256(file)
            self.record(name, stat.st_size, stat.st_mtime_ns, digest=digest)
        return digest

    def combined_digest(self, folder: Path, files: Iterable[Path]) -> str:
        """A single digest of several files: their paths below `folder` and their bytes."""
        entries = [[file.relative_to(folder).as_posix(), self.digest(file)] for file in sorted(files)]
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()

    def save(self) -> None:
        """Write new digests to the cache."""
        if self._is_modified:
            write_atomic(self._file, json.dumps(self._entries, sort_keys=True) + "\n")
            self._is_modified = False


def read_weight_map(index: Path) -> dict[str, str]:
    """{tensor name: shard's file name} of a model.safetensors.index.json; ModelError for another file."""
    try:
        content = parse_json(read_file(index, "settings"), index)
        return {str(name): str(shard) for name, shard in content["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: wanted an index with a weight_map. Got: {error!r}. Copy it again.") from error


@contextmanager
def staged_folder(out: Path, *, errors: tuple[type[Exception], ...] = ()) -> Generator[Path, None, None]:
    """An empty folder next to `out` that replaces it at the end of the block; after an error `out` is unchanged.

    What a killed process left there is removed first; if it was killed between the two renames, the old folder is put
    back. StoreError for OSError and `errors`, for example a full disk.
    """
    out = out.absolute()
    staging, previous = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    try:
        if previous.exists() and not out.exists():
            previous.rename(out)
        for leftover in (staging, previous):
            shutil.rmtree(leftover, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        if out.exists():
            out.rename(previous)
        staging.rename(out)
        shutil.rmtree(previous, ignore_errors=True)
    except (OSError, *errors) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise StoreError(
            f"{out}: wanted a folder that can be written completely. Got: {reason.rstrip('.')}. Nothing was "
            "left there. Free disk space, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
