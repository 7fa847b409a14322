"""Encoded bytes of an index's images, read from the source that the index was made of.

    local tars and loose files   positioned reads on a few open handles
    tables (`name#column`)       whole row groups or record batches, the last ones stay decoded in memory
    remote (a URL for fsspec)    aligned blocks, each fetched once into a folder of limited size that processes share

All of it is thread-safe.
"""

from __future__ import annotations

import hashlib
import io
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow
from jaxtyping import Int64
from pyarrow import ipc, parquet

from firstsight.data.images import has_image_signature
from firstsight.data.index import Index
from firstsight.data.readers.fields import single_image
from firstsight.data.readers.filesystem import FileInfo, SourceFolder, open_folder
from firstsight.errors import DataError
from firstsight.files import file_lock, write_atomic
from firstsight.resume_folder import remove_path
from firstsight.site import Location

BLOCK_BYTES = 8 << 20
"""Bytes of one request to a remote."""
MAX_CACHE_BYTES = 8 << 30
"""Bytes of remote blocks that stay on disk; the least recently used are removed first."""
MAX_DECODED_BYTES = 256 << 20
"""Bytes of tables' images that stay in memory."""
MAX_OPEN_FILES = 64
CHUNK_BYTES = 1 << 16
"""Bytes of a cached block that share a digest, so that an image is checked without reading its whole block."""
_DIGEST_BYTES = 32
_IMAGE_PREFIX = "pictures:"
_Value = TypeVar("_Value")


class ImageReader:
    """Reads images of an index by their numbers; DataError if the source has changed since it was prepared."""

    def __init__(self, index: Index, location: Location, cache: Path | None) -> None:
        self._index = index
        blocks = None if cache is None else cache / "blocks"
        self._files = {"": _open_files(location.path, blocks)}
        if location.pictures:
            self._files[_IMAGE_PREFIX] = _open_files(location.pictures, blocks)
        self._tables = LRUCache[Any](MAX_OPEN_FILES)
        self._columns = LRUCache[Any](MAX_DECODED_BYTES, weight_of=lambda column: column.nbytes)

    def read_images(self, image_numbers: Int64[np.ndarray, "N"]) -> list[bytes]:
        """The encoded images in the order of `image_numbers`; each is read once, in the order of the files."""
        numbers = np.unique(image_numbers)
        locations = self._index.images[numbers]
        order = np.lexsort((locations["offset"], locations["shard"])).tolist()
        entries = ((int(numbers[index]), *locations[index].item()) for index in order)
        images, names = dict[int, bytes](), self._index.image_shards
        for shard, group in groupby(entries, key=lambda entry: entry[4]):
            if not 0 <= shard < len(names):
                file = self._index.path / "images.npy"
                raise DataError(f"{file}: wanted one of {len(names)} shards. Got number {shard}. Prepare it again.")
            images.update(self._read_shard(names[shard], group))
        return [images[number] for number in image_numbers.tolist()]

    def _read_shard(self, shard: str, entries: Iterable[tuple[int, ...]]) -> Iterator[tuple[int, bytes]]:
        """(number, bytes) of images in one file, from (number, offset or row, size, ...) in rising order."""
        path, _, column = shard.removeprefix(_IMAGE_PREFIX).partition("#")
        files = self._files.get(_IMAGE_PREFIX if shard.startswith(_IMAGE_PREFIX) else "")
        if files is None:
            raise DataError(f"{shard}: wanted the folder of the images. Got none. Name `pictures` in the site file.")
        full_path = files.folder.path(shard.removeprefix(_IMAGE_PREFIX))
        advice = "It changed or is gone: put it back, or prepare it again."
        for number, position, size, *_ in entries:
            try:
                data = self._read_cell(files, path, column, position) if column else files.read(path, position, size)
            except (OSError, LookupError, ValueError) as error:
                raise DataError(f"{full_path}: wanted image {number} at {position}. Got {error}. {advice}") from error
            if len(data) != size:
                raise DataError(f"{full_path}: wanted {size} bytes at {position}. Got {len(data)}. {advice}")
            if not has_image_signature(data):
                raise DataError(f"{full_path}: wanted an image at {position}. Got {data[:8]!r}. {advice}")
            yield number, data

    def _read_cell(self, files: LocalFiles | RemoteFiles, path: str, column: str, row: int) -> bytes:
        """The image in a row of a table, in any of the forms that preparing accepts; ValueError if it is gone."""
        full_path = files.folder.path(path)
        table = self._tables.get(full_path, lambda: open_image_table(files.open_arrow(path), path))
        group = table.group_of(row)
        cells = self._columns.get(f"{full_path}#{column}#{group}", lambda: table.column(group, column))
        value = single_image(cells[row - table.starts[group]].as_py())
        if not isinstance(value, bytes):
            raise ValueError(f"{type(value).__name__} instead of bytes")
        return value


class LRUCache(Generic[_Value]):
    """Values by key; the least recently used are dropped while all together weigh more than `max_weight`. Thread-safe.

    Not cachetools.LRUCache, which does not store a value heavier than the limit; this one always stores the last.
    """

    def __init__(self, max_weight: int, *, weight_of: Callable[[_Value], int] = lambda value: 1) -> None:
        self._max_weight, self._weight_of, self._weight, self._lock = max_weight, weight_of, 0, Lock()
        self._entries = OrderedDict[str, tuple[_Value, int]]()

    def get(self, key: str, factory: Callable[[], _Value]) -> _Value:
        """The value of `key`, made by `factory` if it is not stored."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][0]
        value = factory()
        with self._lock:
            if key not in self._entries:
                self._entries[key] = value, self._weight_of(value)
                self._weight += self._entries[key][1]
            while self._weight > self._max_weight and len(self._entries) > 1:
                self._weight -= self._entries.popitem(last=False)[1][1]
        return value


class FileDescriptor:
    """An open file that is closed with the last reference to it, so that a thread can finish its read."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when Python exits
        if "number" in self.__dict__:
            close(self.number)


class LocalFiles:
    """Files in a local folder."""

    def __init__(self, folder: SourceFolder) -> None:
        self.folder, self._descriptors = folder, LRUCache[FileDescriptor](MAX_OPEN_FILES)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes, fewer at the end of the file."""
        descriptor = self._descriptors.get(path, lambda: FileDescriptor(Path(self.folder.path(path))))
        data = os.pread(descriptor.number, size, offset)
        while len(data) < size and (chunk := os.pread(descriptor.number, size - len(data), offset + len(data))):
            data += chunk
        return data

    def open_arrow(self, path: str) -> Any:
        """The file as a stream for pyarrow."""
        return pyarrow.memory_map(self.folder.path(path))


class RemoteFiles:
    """Files below a URL: in aligned blocks that are stored in `cache`, or, without one, range by range.

    Not fsspec's block cache, which has neither a limit on its size nor a lock between processes.
    """

    def __init__(
        self,
        folder: SourceFolder,
        cache: Path | None,
        *,
        block_size: int = BLOCK_BYTES,
        max_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        self.folder, self._cache, self._block_size, self._max_bytes = folder, cache, block_size, max_bytes
        self._infos = LRUCache[FileInfo](1 << 16)
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes, fewer at the end of the file."""
        stop = min(offset + size, self.info(path).size)
        if offset >= stop:
            return b""
        if self._cache is None:
            return self._fetch(path, offset, stop)
        blocks = range(offset // self._block_size, -(-stop // self._block_size))
        parts = [self._read_block(self._cache, path, block, offset, stop) for block in blocks]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def info(self, path: str) -> FileInfo:
        return self._infos.get(path, lambda: self.folder.file_info(path))

    def _fetch(self, path: str, start: int, stop: int) -> bytes:
        data = self.folder.fetch(path, start, stop)
        if len(data) != stop - start:
            raise OSError(f"{len(data)} of {stop - start} bytes from the server")
        return data

    def open_arrow(self, path: str) -> Any:
        """The file as a stream for pyarrow."""
        return io.BufferedReader(_RemoteStream(self, path), 1 << 16)

    def _read_block(self, cache: Path, path: str, block: int, offset: int, stop: int) -> bytes:
        """The bytes `offset` to `stop` that are in a block; one that was removed or is damaged is fetched again."""
        start = block * self._block_size
        first, last = max(0, offset - start), min(stop - start, self._block_size)
        while True:
            file = self._cached_block(cache, path, block)
            try:
                with file.open("rb", buffering=0) as stream:
                    os.utime(stream.fileno())
                    data = _read_chunks(stream.fileno(), first, last)
            except FileNotFoundError:
                continue
            if data is not None:
                return data
            file.unlink(missing_ok=True)

    def _cached_block(self, cache: Path, path: str, block: int) -> Path:
        info = self.info(path)
        identity = f"{self.folder.original_path}|{path}|{info.size}|{info.stamp}|{self._block_size}|{block}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:40]
        file = cache / name
        if file.is_file():
            return file
        with file_lock(cache / f"{int(name[:8], 16) % 64:02}.lock", is_blocking=True):
            if not file.is_file():
                remove_path(file)
                start = block * self._block_size
                data = _add_digests(self._fetch(path, start, min(info.size, start + self._block_size)))
                self._evict_blocks(cache, len(data))
                write_atomic(file, data)
        return file

    def _evict_blocks(self, cache: Path, new_bytes: int) -> None:
        blocks: list[tuple[float, int, str]] = []
        for entry in os.scandir(cache):
            with suppress(FileNotFoundError):
                if not entry.name.endswith(".lock"):
                    blocks.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        excess = sum(size for _, size, _ in blocks) + new_bytes - self._max_bytes
        for _, size, path in sorted(blocks):
            if excess <= 0:
                return
            Path(path).unlink(missing_ok=True)
            excess -= size


def _add_digests(data: bytes) -> bytes:
    """`data` in chunks of CHUNK_BYTES, each followed by its sha256."""
    chunks = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
    return b"".join(chunk + hashlib.sha256(chunk).digest() for chunk in chunks)


def _read_chunks(descriptor: int, first: int, last: int) -> bytes | None:
    """The bytes `first` to `last` of what `_add_digests` got; None where a chunk of them is missing or has changed."""
    start, step = first // CHUNK_BYTES, CHUNK_BYTES + _DIGEST_BYTES
    stored = os.pread(descriptor, (-(-last // CHUNK_BYTES) - start) * step, start * step)
    pieces = [stored[position : position + step] for position in range(0, len(stored), step)]
    parts = [(piece[:-_DIGEST_BYTES], piece[-_DIGEST_BYTES:]) for piece in pieces]
    intact = [chunk for chunk, digest in parts if hashlib.sha256(chunk).digest() == digest]
    data = b"".join(intact)[first - start * CHUNK_BYTES : last - start * CHUNK_BYTES]
    return data if len(intact) == len(parts) and len(data) == last - first else None


class _RemoteStream(io.RawIOBase):
    """A remote file with a position, for pyarrow."""

    def __init__(self, files: RemoteFiles, path: str) -> None:
        self._files, self._path, self._position = files, path, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._files.info(self._path).size}
        self._position = origins[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._files.read(self._path, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class ImageTable:
    """A parquet or arrow file as groups of rows; `starts`: the first row of each group, and the number of rows."""

    def __init__(self, row_counts: list[int], read_column: Callable[[int, str], Any]) -> None:
        self.starts = [0, *np.cumsum(row_counts).tolist()]
        self._read_column, self._lock = read_column, Lock()

    def group_of(self, row: int) -> int:
        """The group that contains `row`; IndexError after the last row."""
        if not 0 <= row < self.starts[-1]:
            raise IndexError(f"a table of {self.starts[-1]} rows")
        return bisect_right(self.starts, row) - 1

    def column(self, group: int, name: str) -> Any:
        """A column's cells in one group as a pyarrow array; KeyError for a column that does not exist."""
        with self._lock:
            return self._read_column(group, name)


def open_image_table(source: Any, name: str) -> ImageTable:
    """The table in `source`: parquet, or an arrow file or stream, by its first bytes; ValueError for neither."""
    magic = source.read(6)
    source.seek(0)
    try:
        if magic.startswith(b"PAR1"):
            table = parquet.ParquetFile(source)
            counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            return ImageTable(counts, lambda group, column: table.read_row_group(group, columns=[column])[column])
        if magic == b"ARROW1":
            file = ipc.open_file(source)
            batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        else:
            batches = list(ipc.open_stream(source))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{name} is neither parquet nor arrow ({error})") from None
    return ImageTable([batch.num_rows for batch in batches], lambda group, column: batches[group][column])


def _open_files(path: str, blocks: Path | None) -> LocalFiles | RemoteFiles:
    folder = open_folder(path)
    return LocalFiles(folder) if folder.is_local else RemoteFiles(folder, blocks)
