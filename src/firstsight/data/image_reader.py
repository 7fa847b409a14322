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

from firstsight.data.images import has_image_signature
from firstsight.data.index import Index
from firstsight.data.readers.filesystem import FileInfo, SourceFolder, open_folder
from firstsight.errors import DataError
from firstsight.site import Location

BLOCK_BYTES = 8 << 20
"""Bytes that are asked of a remote at a time."""
MAX_CACHED_BYTES = 8 << 30
"""Bytes of remote blocks that stay on disk; the longest unused go first."""
MAX_DECODED_BYTES = 256 << 20
"""Bytes of tables' pictures that stay in memory."""
MAX_OPEN_FILES = 64
_IMAGE_PREFIX = "pictures:"
_LOCK_COUNT = 64
_Value = TypeVar("_Value")


class ImageReader:
    """Reads pictures of an index by their numbers; raises DataError where the source is not what it was."""

    def __init__(self, index: Index, location: Location, cache: Path | None) -> None:
        self._index = index
        blocks = None if cache is None else cache / "blocks"
        self._files_by_prefix = {"": _open_files(location.path, blocks)}
        if location.pictures:
            self._files_by_prefix[_IMAGE_PREFIX] = _open_files(location.pictures, blocks)
        self._table_cache = LRUCache[Any](MAX_OPEN_FILES)
        self._column_cache = LRUCache[Any](MAX_DECODED_BYTES, weight_of=lambda column: column.nbytes)

    def read_images(self, image_numbers: Int64[np.ndarray, "N"]) -> list[bytes]:
        """The encoded pictures `numbers`, in that order; read in the order in which they lie, each once."""
        unique_numbers = np.unique(image_numbers)
        locations = self._index.images[unique_numbers]
        order = np.lexsort((locations["offset"], locations["shard"]))
        sorted_entries = ((int(unique_numbers[position]), *locations[position].item()) for position in order.tolist())
        images: dict[int, bytes] = {}
        for shard, shard_entries in groupby(sorted_entries, key=lambda entry: entry[4]):
            if not 0 <= shard < len(self._index.image_shards):
                file, shard_count = self._index.path / "images.npy", len(self._index.image_shards)
                raise DataError(f"{file}: wanted one of {shard_count} shards. Got number {shard}. Prepare it again.")
            images.update(
                self._read_shard(
                    self._index.image_shards[shard],
                    [(number, position, size) for number, position, size, *_ in shard_entries],
                )
            )
        return [images[number] for number in image_numbers.tolist()]

    def _read_shard(self, shard_name: str, entries: list[tuple[int, int, int]]) -> Iterator[tuple[int, bytes]]:
        """(number, bytes) of pictures of one place: wanted as (number, offset or row, size) in rising order."""
        path, _, column = shard_name.removeprefix(_IMAGE_PREFIX).partition("#")
        files = self._files_by_prefix.get(_IMAGE_PREFIX if shard_name.startswith(_IMAGE_PREFIX) else "")
        if files is None:
            raise DataError(
                f"{shard_name}: wanted the place of the pictures. Got none. Name `pictures` in the site file."
            )
        for number, position, size in entries:
            try:
                data = self._read_cell(files, path, column, position) if column else files.read(path, position, size)
            except (OSError, LookupError, ValueError) as error:
                raise _source_changed_error(files, shard_name, f"picture {number} at {position}", str(error)) from error
            if len(data) != size:
                raise _source_changed_error(files, shard_name, f"{size} bytes at {position}", str(len(data)))
            if not has_image_signature(data):
                raise _source_changed_error(files, shard_name, f"a picture at {position}", repr(data[:8]))
            yield number, data

    def _read_cell(self, files: LocalFiles | RemoteFiles, path: str, column: str, row: int) -> bytes:
        """The picture in a row of a table: bytes, a struct that holds `bytes`, or a list of one of these."""
        full_path = files.folder.path(path)
        table = self._table_cache.get(full_path, lambda: open_image_table(files.open_arrow(path), path))
        group = table.group_of(row)
        cells = self._column_cache.get(f"{full_path}#{column}#{group}", lambda: table.column(group, column))
        value = cells[row - table.starts[group]].as_py()
        value = value[0] if isinstance(value, list) else value
        return value["bytes"] if isinstance(value, dict) else value


def _source_changed_error(files: LocalFiles | RemoteFiles, shard_name: str, expected: str, actual: str) -> DataError:
    """The source is no longer what was prepared."""
    path = files.folder.path(shard_name.removeprefix(_IMAGE_PREFIX))
    return DataError(
        f"{path}: wanted {expected}. Got {actual}. It changed or is gone: put it back, or prepare it again."
    )


class LRUCache(Generic[_Value]):
    """Things that are costly to make, by name; the longest unused go when their weights pass `most`. Thread-safe."""

    def __init__(self, max_weight: int, *, weight_of: Callable[[_Value], int] = lambda value: 1) -> None:
        self._max_weight, self._weight_of, self._total_weight, self._lock = max_weight, weight_of, 0, Lock()
        self._entries = OrderedDict[str, tuple[_Value, int]]()

    def get(self, key: str, factory: Callable[[], _Value]) -> _Value:
        """What is kept under `name`, or what `make` gives, kept from now on."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][0]
        value = factory()
        with self._lock:
            if key not in self._entries:
                self._entries[key] = value, self._weight_of(value)
                self._total_weight += self._entries[key][1]
            while self._total_weight > self._max_weight and len(self._entries) > 1:
                self._total_weight -= self._entries.popitem(last=False)[1][1]
        return value


class FileHandle:
    """An open file that closes when nobody uses it any more, also when it was dropped while another thread read."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # when Python ends, `os` goes first
        if "number" in self.__dict__:
            close(self.number)


class LocalFiles:
    """Files below a folder."""

    def __init__(self, folder: SourceFolder) -> None:
        self.folder, self._handles = folder, LRUCache[FileHandle](MAX_OPEN_FILES)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """At most `size` bytes: fewer where the file ends."""
        handle = self._handles.get(path, lambda: FileHandle(Path(self.folder.path(path))))
        data = os.pread(handle.number, size, offset)
        while len(data) < size and (chunk := os.pread(handle.number, size - len(data), offset + len(data))):
            data += chunk
        return data

    def open_arrow(self, path: str) -> Any:
        """The file as pyarrow reads it."""
        import pyarrow

        return pyarrow.memory_map(self.folder.path(path))


class RemoteFiles:
    """Files below a URL, through fsspec: in aligned blocks that `cache` keeps, or, without one, range by range."""

    def __init__(
        self,
        folder: SourceFolder,
        cache: Path | None,
        *,
        block_size: int = BLOCK_BYTES,
        max_bytes: int = MAX_CACHED_BYTES,
    ) -> None:
        self.folder, self._cache, self._block_size, self._max_bytes = folder, cache, block_size, max_bytes
        self._info_cache = LRUCache[FileInfo](1 << 16)
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """At most `size` bytes: fewer where the file ends."""
        stop = min(offset + size, self.size(path))
        if offset >= stop:
            return b""
        if self._cache is None:
            return self._fetch_range(path, offset, stop)
        block_numbers = range(offset // self._block_size, -(-stop // self._block_size))
        parts = [self._read_block(path, block_number, offset, stop) for block_number in block_numbers]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self, path: str) -> int:
        return self._file_info(path).size

    def _file_info(self, path: str) -> FileInfo:
        return self._info_cache.get(path, lambda: self.folder.file_info(path))

    def _fetch_range(self, path: str, begin: int, end: int) -> bytes:
        data: Any = self.folder.filesystem.cat_file(self.folder.path(path), start=begin, end=end)
        data = data if len(data) <= end - begin else data[begin:end]  # a plain web server sends the whole file
        if len(data) != end - begin:
            raise OSError(f"{len(data)} of {end - begin} bytes from the server")
        return data

    def open_arrow(self, path: str) -> Any:
        """The file as pyarrow reads it."""
        import pyarrow

        return pyarrow.PythonFile(io.BufferedReader(_RemoteStream(self, path), 1 << 16), mode="r")

    def _read_block(self, path: str, block_number: int, offset: int, stop: int) -> bytes:
        """What block `number` holds of the bytes offset to stop; a block that was cleared away comes again."""
        block_start = block_number * self._block_size
        first_byte, last_byte = max(0, offset - block_start), min(stop - block_start, self._block_size)
        while True:
            file = self._cached_block(path, block_number)
            try:
                with file.open("rb", buffering=0) as stream:
                    os.utime(stream.fileno())
                    data = os.pread(stream.fileno(), last_byte - first_byte, first_byte)
            except FileNotFoundError:
                continue
            if len(data) == last_byte - first_byte:
                return data
            file.unlink(missing_ok=True)

    def _cached_block(self, path: str, block_number: int) -> Path:
        """The file of a block, fetched by whichever thread or process comes first."""
        assert self._cache is not None
        info = self._file_info(path)
        identity = f"{self.folder.original_path}|{path}|{info.size}|{info.stamp}|{self._block_size}|{block_number}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:40]
        file = self._cache / name
        if file.is_file():
            return file
        with (self._cache / f"{int(name[:8], 16) % _LOCK_COUNT:02}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.is_file():
                data = self._fetch_range(
                    path, block_number * self._block_size, min(info.size, (block_number + 1) * self._block_size)
                )
                self._evict_blocks(len(data))
                temporary_path = file.with_suffix(".half")
                temporary_path.write_bytes(data)
                temporary_path.replace(file)
        return file

    def _evict_blocks(self, incoming_bytes: int) -> None:
        """Make room for `coming` bytes: the longest unused blocks go."""
        assert self._cache is not None
        blocks: list[tuple[float, int, str]] = []
        for entry in os.scandir(self._cache):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            if not entry.name.endswith((".lock", ".half")):
                blocks.append((status.st_mtime, status.st_size, entry.path))
        excess_bytes = sum(size for _, size, _ in blocks) + incoming_bytes - self._max_bytes
        for _, size, path in sorted(blocks):
            if excess_bytes <= 0:
                return
            Path(path).unlink(missing_ok=True)
            excess_bytes -= size


class _RemoteStream(io.RawIOBase):
    """A remote file to be read and sought in, for the readers of tables."""

    def __init__(self, files: RemoteFiles, path: str) -> None:
        self._files, self._path, self._position = files, path, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._files.size(self._path)}
        self._position = origins[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._files.read(self._path, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class ImageTable:
    """A parquet or arrow file as groups of rows: `starts` are the first rows of the groups, and the end."""

    def __init__(self, row_counts: list[int], read_column: Callable[[int, str], Any]) -> None:
        self.starts = [0, *np.cumsum(row_counts).tolist()]
        self._read_column, self._lock = read_column, Lock()

    def group_of(self, row: int) -> int:
        """The group that holds `row`; IndexError beyond the end."""
        if not 0 <= row < self.starts[-1]:
            raise IndexError(f"a table of {self.starts[-1]} rows")
        return bisect_right(self.starts, row) - 1

    def column(self, group: int, name: str) -> Any:
        """A column's cells in one group, as pyarrow holds them; KeyError where there is no such column."""
        with self._lock:
            return self._read_column(group, name)


def open_image_table(source: Any, name: str) -> ImageTable:
    """The table in `source`: parquet, or an arrow file or stream, by its first bytes; ValueError for neither."""
    import pyarrow
    from pyarrow import ipc, parquet

    magic = source.read(6)
    source.seek(0)
    try:
        if magic.startswith(b"PAR1"):
            parquet_file = parquet.ParquetFile(source)
            row_counts = [
                parquet_file.metadata.row_group(group).num_rows for group in range(parquet_file.num_row_groups)
            ]
            return ImageTable(
                row_counts, lambda group, column: parquet_file.read_row_group(group, columns=[column])[column]
            )
        if magic == b"ARROW1":
            arrow_file = ipc.open_file(source)
            record_batches = [arrow_file.get_batch(number) for number in range(arrow_file.num_record_batches)]
        else:
            record_batches = list(ipc.open_stream(source))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{name} is neither parquet nor arrow ({error})") from None
    return ImageTable([batch.num_rows for batch in record_batches], lambda group, column: record_batches[group][column])


def _open_files(path: str, blocks: Path | None) -> LocalFiles | RemoteFiles:
    source_folder = open_folder(path)
    return LocalFiles(source_folder) if source_folder.is_local else RemoteFiles(source_folder, blocks)
