"""A table from its chunks: in memory, or in files of a cache that later runs map instead of packing again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO, NamedTuple

import numpy as np

from firstsight.data.index import Index
from firstsight.data.packing.packed_rows import PackedRows, PackingStats, Segments
from firstsight.errors import DataError
from firstsight.recipe.mixture import PackingMode

PACKED_FORMAT = 2
"""Raised by hand whenever equal indexes get other rows."""
PACKED_DTYPES: Mapping[str, str] = {
    "sample": "<i4", "start": "<i8", "count": "<i4", "image_start": "<i8", "image_count": "<i4",
    "has_next_token": "|b1",
    "column": "<i4", "segment_offsets": "<i8", "filled": "<i4", "loss_always": "<i4", "loss_before_finetuning": "<i4",
}  # fmt: skip
_BY_ROW = ("filled", "loss_always", "loss_before_finetuning")


class PackingConfig(NamedTuple):
    """What rows an index is packed into."""

    length: int
    image_tokens: int
    packing: PackingMode


class PackingTotals(NamedTuple):
    """Sums that the numbers of a table are made of."""

    documents: int = 0
    rows: int = 0
    filled: int = 0
    images: int = 0
    loss_targets: int = 0
    dropped_tokens: int = 0
    """Lost ones."""
    truncated: int = 0
    skipped: int = 0
    split: int = 0

    def add(self, increment: PackingTotals) -> PackingTotals:
        return PackingTotals(*(left + right for left, right in zip(self, increment, strict=True)))

    def stats(self, length: int) -> PackingStats:
        position_count = max(1, self.rows * length)
        return PackingStats(
            documents=self.documents,
            rows=self.rows,
            padding=1 - self.filled / position_count,
            dropped_tokens=self.dropped_tokens,
            truncated=self.truncated,
            skipped=self.skipped,
            split=self.split,
            images_per_row=self.images / max(1, self.rows),
            loss_share=self.loss_targets / position_count,
        )


class PackedChunk(NamedTuple):
    """One chunk's arrays, where `ends` counts pieces up to each row's end, and its sums."""

    arrays: dict[str, np.ndarray]
    totals: PackingTotals


def collect_packed_rows(index: Index, config: PackingConfig, chunks: Iterable[PackedChunk]) -> PackedRows:
    """A table in memory."""
    arrays_by_name: dict[str, list[np.ndarray]] = {
        name: [np.zeros(0, dtype=dtype)] for name, dtype in PACKED_DTYPES.items()
    }
    totals = PackingTotals()
    for arrays, running_totals in _accumulate_chunks(chunks):
        totals = running_totals
        for name, array in arrays.items():
            arrays_by_name[name].append(array)
    return _build_packed_rows(
        index, config, {name: np.concatenate(chunk_arrays) for name, chunk_arrays in arrays_by_name.items()}, totals
    )


def open_packed_rows(cache: Path, index: Index, config: PackingConfig, *, chunks: Iterable[PackedChunk]) -> PackedRows:
    """A table mapped from the cache; `parts` are asked for only where it is not there or damaged."""
    cache_key = json.dumps([index.digest, *config, PACKED_FORMAT])
    folder = cache / hashlib.sha256(cache_key.encode()).hexdigest()[:32]
    if folder.exists():
        try:
            return _map_files(folder, index, config)
        except DataError:
            shutil.rmtree(folder)
    cache.mkdir(parents=True, exist_ok=True)
    temporary_folder = Path(mkdtemp(prefix=".packing-", dir=cache))
    try:
        _write_files(temporary_folder, chunks)
        if not folder.exists():  # another process may have been faster, with the same bytes
            temporary_folder.rename(folder)
    finally:
        shutil.rmtree(temporary_folder, ignore_errors=True)
    return _map_files(folder, index, config)


def _accumulate_chunks(chunks: Iterable[PackedChunk]) -> Iterator[tuple[dict[str, np.ndarray], PackingTotals]]:
    """Each chunk's arrays with `first` counted through all of them, and the sums up to there."""
    totals, segment_count = PackingTotals(), 0
    yield {"segment_offsets": np.zeros(1, dtype=np.int64)}, totals
    for arrays, chunk_totals in chunks:
        chunk_arrays = {name: array for name, array in arrays.items() if name != "ends"}
        totals = totals.add(chunk_totals)
        yield chunk_arrays | {"segment_offsets": arrays["ends"] + segment_count}, totals
        segment_count += len(arrays["column"])


def _write_files(folder: Path, chunks: Iterable[PackedChunk]) -> None:
    totals, counts = PackingTotals(), dict.fromkeys(PACKED_DTYPES, 0)
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in PACKED_DTYPES}
        for name, file in files.items():
            _write_header(file, name, 0)
        for arrays, running_totals in _accumulate_chunks(chunks):
            totals = running_totals
            for name, array in arrays.items():
                files[name].write(np.ascontiguousarray(array, dtype=PACKED_DTYPES[name]).tobytes())
                counts[name] += len(array)
        for name, file in files.items():
            file.seek(0)
            _write_header(file, name, counts[name])
    sizes = {name: (folder / f"{name}.npy").stat().st_size for name in PACKED_DTYPES}
    (folder / "table.json").write_text(json.dumps({"totals": totals._asdict(), "sizes": sizes}, indent=1) + "\n")


def _write_header(file: BinaryIO, name: str, count: int) -> None:
    """A header whose length does not depend on the count."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": PACKED_DTYPES[name], "fortran_order": False, "shape": (count,)}
    )


def _map_files(folder: Path, index: Index, config: PackingConfig) -> PackedRows:
    """The table in a folder; raises DataError where a file is missing, cut short or of another length than told."""
    try:
        metadata = json.loads((folder / "table.json").read_text())
        totals, arrays = PackingTotals(**metadata["totals"]), dict[str, np.ndarray]()
        for name, dtype in PACKED_DTYPES.items():
            file = folder / f"{name}.npy"
            if file.stat().st_size != metadata["sizes"][name]:
                raise DataError(
                    f"{file}: wanted {metadata['sizes'][name]} bytes. Got {file.stat().st_size}. Pack again."
                )
            array = np.load(file, mmap_mode="r") if file.stat().st_size > 128 else np.load(file)
            arrays[name] = array.view(np.ndarray)
            if array.dtype != np.dtype(dtype):
                raise DataError(f"{file}: wanted {dtype}. Got {array.dtype}. Pack again.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: wanted a packed table. Got {error!r}. Pack again.") from error
    _check_lengths(folder, arrays, totals)
    return _build_packed_rows(index, config, arrays, totals)


def _check_lengths(folder: Path, arrays: Mapping[str, np.ndarray], totals: PackingTotals) -> None:
    segment_count = int(arrays["segment_offsets"][-1]) if len(arrays["segment_offsets"]) else -1
    lengths = {name: len(array) for name, array in arrays.items()}
    expected = (
        dict.fromkeys(PACKED_DTYPES, segment_count)
        | dict.fromkeys(_BY_ROW, totals.rows)
        | {"segment_offsets": totals.rows + 1}
    )
    if lengths != expected:
        raise DataError(f"{folder}: wanted arrays of {expected} entries. Got {lengths}. Pack again.")


def _build_packed_rows(
    index: Index, config: PackingConfig, arrays: dict[str, np.ndarray], totals: PackingTotals
) -> PackedRows:
    return PackedRows(
        length=config.length,
        image_tokens=config.image_tokens,
        segments=Segments(**{name: arrays[name] for name in Segments.__dataclass_fields__}),
        stats=totals.stats(config.length),
        loss=index.loss,
        **{name: arrays[name] for name in ("segment_offsets", "column", *_BY_ROW)},
    )
