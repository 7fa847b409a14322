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
from firstsight.data.pack.table import Numbers, Pieces, RowTable
from firstsight.errors import DataError
from firstsight.recipe.mix import Packing

FORMAT = 1
"""Raised by hand whenever equal indexes get other rows."""
DTYPES: Mapping[str, str] = {
    "sample": "<i4", "start": "<i8", "count": "<i4", "shown_from": "<i8", "shown_count": "<i4", "goes_on": "|b1",
    "column": "<i4", "first": "<i8", "filled": "<i4", "always": "<i4", "before": "<i4",
}  # fmt: skip
_BY_ROW = ("filled", "always", "before")


class Shape(NamedTuple):
    """What rows an index is packed into."""

    length: int
    image_tokens: int
    packing: Packing


class Totals(NamedTuple):
    """Sums that the numbers of a table are made of."""

    documents: int = 0
    rows: int = 0
    filled: int = 0
    images: int = 0
    targets: int = 0
    tokens: int = 0
    """Lost ones."""
    cut: int = 0
    skipped: int = 0
    split: int = 0

    def plus(self, more: Totals) -> Totals:
        return Totals(*(one + other for one, other in zip(self, more, strict=True)))

    def numbers(self, length: int) -> Numbers:
        room = max(1, self.rows * length)
        return Numbers(
            documents=self.documents,
            rows=self.rows,
            padding=1 - self.filled / room,
            tokens_lost=self.tokens,
            cut=self.cut,
            skipped=self.skipped,
            split=self.split,
            images_per_row=self.images / max(1, self.rows),
            loss_share=self.targets / room,
        )


class Packed(NamedTuple):
    """One chunk's arrays, where `ends` counts pieces up to each row's end, and its sums."""

    arrays: dict[str, np.ndarray]
    totals: Totals


def gathered(index: Index, shape: Shape, parts: Iterable[Packed]) -> RowTable:
    """A table in memory."""
    held: dict[str, list[np.ndarray]] = {name: [np.zeros(0, dtype=kind)] for name, kind in DTYPES.items()}
    totals = Totals()
    for arrays, so_far in _summed(parts):
        totals = so_far
        for name, array in arrays.items():
            held[name].append(array)
    return _table(index, shape, {name: np.concatenate(some) for name, some in held.items()}, totals)


def opened(cache: Path, index: Index, shape: Shape, *, parts: Iterable[Packed]) -> RowTable:
    """A table mapped from the cache; `parts` are asked for only where it is not there or damaged."""
    identity = json.dumps([index.digest, *shape, FORMAT])
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if folder.exists():
        try:
            return _mapped(folder, index, shape)
        except DataError:
            shutil.rmtree(folder)
    cache.mkdir(parents=True, exist_ok=True)
    made = Path(mkdtemp(prefix=".packing-", dir=cache))
    try:
        _write(made, parts)
        if not folder.exists():  # another process may have been faster, with the same bytes
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return _mapped(folder, index, shape)


def _summed(parts: Iterable[Packed]) -> Iterator[tuple[dict[str, np.ndarray], Totals]]:
    """Each chunk's arrays with `first` counted through all of them, and the sums up to there."""
    totals, pieces = Totals(), 0
    yield {"first": np.zeros(1, dtype=np.int64)}, totals
    for arrays, more in parts:
        rest = {name: array for name, array in arrays.items() if name != "ends"}
        totals = totals.plus(more)
        yield rest | {"first": arrays["ends"] + pieces}, totals
        pieces += len(arrays["column"])


def _write(folder: Path, parts: Iterable[Packed]) -> None:
    totals, counts = Totals(), dict.fromkeys(DTYPES, 0)
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in DTYPES}
        for name, file in files.items():
            _head(file, name, 0)
        for arrays, so_far in _summed(parts):
            totals = so_far
            for name, array in arrays.items():
                files[name].write(np.ascontiguousarray(array, dtype=DTYPES[name]).tobytes())
                counts[name] += len(array)
        for name, file in files.items():
            file.seek(0)
            _head(file, name, counts[name])
    sizes = {name: (folder / f"{name}.npy").stat().st_size for name in DTYPES}
    (folder / "table.json").write_text(json.dumps({"totals": totals._asdict(), "sizes": sizes}, indent=1) + "\n")


def _head(file: BinaryIO, name: str, count: int) -> None:
    """A header whose length does not depend on the count."""
    np.lib.format.write_array_header_1_0(file, {"descr": DTYPES[name], "fortran_order": False, "shape": (count,)})


def _mapped(folder: Path, index: Index, shape: Shape) -> RowTable:
    """The table in a folder; raises DataError where a file is missing, cut short or of another length than told."""
    try:
        told = json.loads((folder / "table.json").read_text())
        totals, arrays = Totals(**told["totals"]), dict[str, np.ndarray]()
        for name, kind in DTYPES.items():
            file = folder / f"{name}.npy"
            if file.stat().st_size != told["sizes"][name]:
                raise DataError(f"{file}: wanted {told['sizes'][name]} bytes. Got {file.stat().st_size}. Pack again.")
            array = np.load(file, mmap_mode="r") if file.stat().st_size > 128 else np.load(file)
            arrays[name] = array.view(np.ndarray)
            if array.dtype != np.dtype(kind):
                raise DataError(f"{file}: wanted {kind}. Got {array.dtype}. Pack again.")
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        raise DataError(f"{folder}: wanted a packed table. Got {wrong!r}. Pack again.") from wrong
    _check(folder, arrays, totals)
    return _table(index, shape, arrays, totals)


def _check(folder: Path, arrays: Mapping[str, np.ndarray], totals: Totals) -> None:
    pieces = int(arrays["first"][-1]) if len(arrays["first"]) else -1
    lengths = {name: len(array) for name, array in arrays.items()}
    wanted = dict.fromkeys(DTYPES, pieces) | dict.fromkeys(_BY_ROW, totals.rows) | {"first": totals.rows + 1}
    if lengths != wanted:
        raise DataError(f"{folder}: wanted arrays of {wanted} entries. Got {lengths}. Pack again.")


def _table(index: Index, shape: Shape, arrays: dict[str, np.ndarray], totals: Totals) -> RowTable:
    return RowTable(
        length=shape.length,
        image_tokens=shape.image_tokens,
        pieces=Pieces(**{name: arrays[name] for name in Pieces.__dataclass_fields__}),
        numbers=totals.numbers(shape.length),
        loss=index.loss,
        **{name: arrays[name] for name in ("first", "column", *_BY_ROW)},
    )
