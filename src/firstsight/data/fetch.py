"""Encoded bytes of an index's pictures, out of the source that it was made from, wherever that lies.

    local tars and loose files   positioned reads on a few kept handles
    tables (`name#column`)       whole row groups or record batches, the last ones kept decoded
    remote (a URL for fsspec)    aligned blocks, each fetched once into a bounded folder that processes share

All of it may be called from several threads at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Int64

from firstsight.data.index import Index
from firstsight.data.pictures import signed
from firstsight.data.sources.places import File, Folder, folder
from firstsight.errors import DataError
from firstsight.site import Location

BLOCK = 8 << 20
"""Bytes that are asked of a remote at a time."""
MOST_CACHED = 8 << 30
"""Bytes of remote blocks that stay on disk; the longest unused go first."""
MOST_DECODED = 256 << 20
"""Bytes of tables' pictures that stay in memory."""
MOST_HANDLES = 64
_PICTURES = "pictures:"
_LOCKS = 64
_Kept = TypeVar("_Kept")


class Fetch:
    """Reads pictures of an index by their numbers; raises DataError where the source is not what it was."""

    def __init__(self, index: Index, location: Location, cache: Path | None) -> None:
        self._index = index
        blocks = None if cache is None else cache / "blocks"
        self._shelves = {"": _shelf(location.path, blocks)}
        if location.pictures:
            self._shelves[_PICTURES] = _shelf(location.pictures, blocks)
        self._tables = Recent[Any](MOST_HANDLES)
        self._columns = Recent[Any](MOST_DECODED, weigh=lambda column: column.nbytes)

    def take(self, numbers: Int64[np.ndarray, "N"]) -> list[bytes]:
        """The encoded pictures `numbers`, in that order; read in the order in which they lie, each once."""
        wanted = np.unique(numbers)
        places = self._index.images[wanted]
        order = np.lexsort((places["offset"], places["shard"]))
        lying = ((int(wanted[at]), *places[at].item()) for at in order.tolist())
        found: dict[int, bytes] = {}
        for shard, held in groupby(lying, key=lambda one: one[4]):
            if not 0 <= shard < len(self._index.shards):
                file, shards = self._index.path / "images.npy", len(self._index.shards)
                raise DataError(f"{file}: wanted one of {shards} shards. Got number {shard}. Prepare it again.")
            found.update(self._read(self._index.shards[shard], [(number, at, size) for number, at, size, *_ in held]))
        return [found[number] for number in numbers.tolist()]

    def _read(self, place: str, wanted: list[tuple[int, int, int]]) -> Iterator[tuple[int, bytes]]:
        """(number, bytes) of pictures of one place: wanted as (number, offset or row, size) in rising order."""
        path, _, column = place.removeprefix(_PICTURES).partition("#")
        shelf = self._shelves.get(_PICTURES if place.startswith(_PICTURES) else "")
        if shelf is None:
            raise DataError(f"{place}: wanted the place of the pictures. Got none. Name `pictures` in the site file.")
        for number, at, size in wanted:
            try:
                data = self._cell(shelf, path, column, at) if column else shelf.read(path, at, size)
            except (OSError, LookupError, ValueError) as error:
                raise _other(shelf, place, f"picture {number} at {at}", str(error)) from error
            if len(data) != size:
                raise _other(shelf, place, f"{size} bytes at {at}", str(len(data)))
            if not signed(data):
                raise _other(shelf, place, f"a picture at {at}", repr(data[:8]))
            yield number, data

    def _cell(self, shelf: Local | Remote, path: str, column: str, row: int) -> bytes:
        """The picture in a row of a table: bytes, a struct that holds `bytes`, or a list of one of these."""
        name = shelf.folder.path(path)
        table = self._tables.get(name, lambda: opened_table(shelf.stream(path), path))
        group = table.group_of(row)
        cells = self._columns.get(f"{name}#{column}#{group}", lambda: table.column(group, column))
        value = cells[row - table.starts[group]].as_py()
        value = value[0] if isinstance(value, list) else value
        return value["bytes"] if isinstance(value, dict) else value


def _other(shelf: Local | Remote, place: str, wanted: str, got: str) -> DataError:
    """The source is no longer what was prepared."""
    where = shelf.folder.path(place.removeprefix(_PICTURES))
    return DataError(f"{where}: wanted {wanted}. Got {got}. It changed or is gone: put it back, or prepare it again.")


class Recent(Generic[_Kept]):
    """Things that are costly to make, by name; the longest unused go when their weights pass `most`. Thread-safe."""

    def __init__(self, most: int, *, weigh: Callable[[_Kept], int] = lambda kept: 1) -> None:
        self._most, self._weigh, self._held, self._lock = most, weigh, 0, Lock()
        self._kept = OrderedDict[str, tuple[_Kept, int]]()

    def get(self, name: str, make: Callable[[], _Kept]) -> _Kept:
        """What is kept under `name`, or what `make` gives, kept from now on."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name][0]
        made = make()
        with self._lock:
            if name not in self._kept:
                self._kept[name] = made, self._weigh(made)
                self._held += self._kept[name][1]
            while self._held > self._most and len(self._kept) > 1:
                self._held -= self._kept.popitem(last=False)[1][1]
        return made


class Handle:
    """An open file that closes when nobody uses it any more, also when it was dropped while another thread read."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # when Python ends, `os` goes first
        if "number" in self.__dict__:
            close(self.number)


class Local:
    """Files below a folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self._handles = folder, Recent[Handle](MOST_HANDLES)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """At most `size` bytes: fewer where the file ends."""
        handle = self._handles.get(path, lambda: Handle(Path(self.folder.path(path))))
        found = os.pread(handle.number, size, offset)
        while len(found) < size and (more := os.pread(handle.number, size - len(found), offset + len(found))):
            found += more
        return found

    def stream(self, path: str) -> Any:
        """The file as pyarrow reads it."""
        import pyarrow

        return pyarrow.memory_map(self.folder.path(path))


class Remote:
    """Files below a URL, through fsspec: in aligned blocks that `cache` keeps, or, without one, range by range."""

    def __init__(self, folder: Folder, cache: Path | None, *, block: int = BLOCK, most: int = MOST_CACHED) -> None:
        self.folder, self._cache, self._block, self._most = folder, cache, block, most
        self._known = Recent[File](1 << 16)
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """At most `size` bytes: fewer where the file ends."""
        stop = min(offset + size, self.size(path))
        if offset >= stop:
            return b""
        if self._cache is None:
            return self._range(path, offset, stop)
        numbers = range(offset // self._block, -(-stop // self._block))
        parts = [self._part(path, number, offset, stop) for number in numbers]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self, path: str) -> int:
        return self._file(path).size

    def _file(self, path: str) -> File:
        return self._known.get(path, lambda: self.folder.file(path))

    def _range(self, path: str, begin: int, end: int) -> bytes:
        data: Any = self.folder.system.cat_file(self.folder.path(path), start=begin, end=end)
        data = data if len(data) <= end - begin else data[begin:end]  # a plain web server sends the whole file
        if len(data) != end - begin:
            raise OSError(f"{len(data)} of {end - begin} bytes from the server")
        return data

    def stream(self, path: str) -> Any:
        """The file as pyarrow reads it."""
        import pyarrow

        return pyarrow.PythonFile(io.BufferedReader(_Stream(self, path), 1 << 16), mode="r")

    def _part(self, path: str, number: int, offset: int, stop: int) -> bytes:
        """What block `number` holds of the bytes offset to stop; a block that was cleared away comes again."""
        begin = number * self._block
        first, last = max(0, offset - begin), min(stop - begin, self._block)
        while True:
            file = self._fetched(path, number)
            try:
                with file.open("rb", buffering=0) as data:
                    os.utime(data.fileno())
                    found = os.pread(data.fileno(), last - first, first)
            except FileNotFoundError:
                continue
            if len(found) == last - first:
                return found
            file.unlink(missing_ok=True)

    def _fetched(self, path: str, number: int) -> Path:
        """The file of a block, fetched by whichever thread or process comes first."""
        assert self._cache is not None
        told = self._file(path)
        mark = f"{self.folder.said}|{path}|{told.size}|{told.stamp}|{self._block}|{number}"
        name = hashlib.sha256(mark.encode()).hexdigest()[:40]
        file = self._cache / name
        if file.is_file():
            return file
        with (self._cache / f"{int(name[:8], 16) % _LOCKS:02}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.is_file():
                data = self._range(path, number * self._block, min(told.size, (number + 1) * self._block))
                self._clear(len(data))
                half = file.with_suffix(".half")
                half.write_bytes(data)
                half.replace(file)
        return file

    def _clear(self, coming: int) -> None:
        """Make room for `coming` bytes: the longest unused blocks go."""
        assert self._cache is not None
        held: list[tuple[float, int, str]] = []
        for one in os.scandir(self._cache):
            try:
                state = one.stat()
            except FileNotFoundError:
                continue
            if not one.name.endswith((".lock", ".half")):
                held.append((state.st_mtime, state.st_size, one.path))
        over = sum(size for _, size, _ in held) + coming - self._most
        for _, size, path in sorted(held):
            if over <= 0:
                return
            Path(path).unlink(missing_ok=True)
            over -= size


class _Stream(io.RawIOBase):
    """A remote file to be read and sought in, for the readers of tables."""

    def __init__(self, shelf: Remote, path: str) -> None:
        self._shelf, self._path, self._at = shelf, path, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        before = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._shelf.size(self._path)}
        self._at = before[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        found = self._shelf.read(self._path, self._at, len(buffer))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


class Table:
    """A parquet or arrow file as groups of rows: `starts` are the first rows of the groups, and the end."""

    def __init__(self, counts: list[int], read: Callable[[int, str], Any]) -> None:
        self.starts = [0, *np.cumsum(counts).tolist()]
        self._read, self._lock = read, Lock()

    def group_of(self, row: int) -> int:
        """The group that holds `row`; IndexError beyond the end."""
        if not 0 <= row < self.starts[-1]:
            raise IndexError(f"a table of {self.starts[-1]} rows")
        return bisect_right(self.starts, row) - 1

    def column(self, group: int, name: str) -> Any:
        """A column's cells in one group, as pyarrow holds them; KeyError where there is no such column."""
        with self._lock:
            return self._read(group, name)


def opened_table(source: Any, name: str) -> Table:
    """The table in `source`: parquet, or an arrow file or stream, by its first bytes; ValueError for neither."""
    import pyarrow
    from pyarrow import ipc, parquet

    head = source.read(6)
    source.seek(0)
    try:
        if head.startswith(b"PAR1"):
            file = parquet.ParquetFile(source)
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            return Table(counts, lambda group, column: file.read_row_group(group, columns=[column])[column])
        if head == b"ARROW1":
            batches = ipc.open_file(source)
            held = [batches.get_batch(number) for number in range(batches.num_record_batches)]
        else:
            held = list(ipc.open_stream(source))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{name} is neither parquet nor arrow ({error})") from None
    return Table([batch.num_rows for batch in held], lambda group, column: held[group][column])


def _shelf(place: str, blocks: Path | None) -> Local | Remote:
    found = folder(place)
    return Local(found) if found.is_local else Remote(found, blocks)
