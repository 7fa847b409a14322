"""`pack`: an index to its rows, a chunk of samples at a time, kept in a cache where one is given.

Legend: P pieces of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from firstsight.data.index import Index
from firstsight.data.pack import kept
from firstsight.data.pack.fit import placed
from firstsight.data.pack.kept import Packed, Shape, Totals
from firstsight.data.pack.pieces import Chunk, pieces
from firstsight.data.pack.sane import check
from firstsight.data.pack.table import Pieces, RowTable
from firstsight.data.pack.targets import targets
from firstsight.errors import QuantityError
from firstsight.recipe.mix import Packing

CHUNK = 1 << 20
"""Samples that are packed at a time; rows never mix records of two chunks."""


def pack(index: Index, *, length: int, image_tokens: int, packing: Packing, cache: Path | None = None) -> RowTable:
    """Rows of `length` for every record of an index, the same on every run; what has no picture is always fitted.

    Texts and interleaved documents longer than a row go on in the next, captions are cut, dialogues end after their
    last whole turn that fits. With a `cache` the table is made once and memory-mapped from there.
    Raises QuantityError when a picture leaves no room for a word, DataError when the index contradicts itself.
    """
    if image_tokens >= length and len(index.images):
        raise QuantityError(f"a row of {length} tokens has no room for a picture of {image_tokens}. Lengthen the rows.")
    shape = Shape(length, image_tokens, packing)
    parts = _packed(index, shape)
    return kept.gathered(index, shape, parts) if cache is None else kept.opened(cache, index, shape, parts=parts)


def _packed(index: Index, shape: Shape) -> Iterator[Packed]:
    """The rows of chunk after chunk."""
    for low in range(0, len(index.samples), CHUNK):
        high = min(low + CHUNK, len(index.samples))
        check(index, low, high)
        yield _chunk(Chunk.of(index, (low, high), shape[:2], packing=shape.packing), shape.packing)


def _chunk(chunk: Chunk, packing: Packing) -> Packed:
    """Everything that follows from which pieces a chunk has; rows are numbered from 0."""
    held, lost = pieces(chunk)
    begin = held.start + ~chunk.headed(held)
    carried = targets(chunk.index.loss, begin, held.start + held.count + held.goes_on)
    size = held.count + held.shown_count * chunk.image_tokens
    row, rows = placed(size.astype(np.int32), held.shown_count > 0, chunk.length, packing=packing)
    filled, always, before = (
        np.bincount(row, weights=each, minlength=rows).astype(np.int32) for each in (size, *carried)
    )
    order = np.argsort(row, kind="stable")
    ends, size = np.searchsorted(row[order], np.arange(1, rows + 1)), size[order]
    begins = np.cumsum(size, dtype=np.int64) - size
    column = begins - np.repeat(np.cumsum(filled, dtype=np.int64) - filled, np.diff(ends, prepend=0))
    ordered = held.taken(order)
    arrays = {name: getattr(ordered, name) for name in Pieces.__dataclass_fields__}
    arrays |= {"ends": ends, "column": column.astype(np.int32), "filled": filled, "always": always, "before": before}
    totals = Totals(
        documents=len(chunk.samples),
        rows=rows,
        filled=int(filled.sum(dtype=np.int64)),
        images=int(held.shown_count.sum(dtype=np.int64)),
        targets=int(carried[0].sum() + carried[1].sum()),
        **{f"{name}": value for name, value in lost._asdict().items()},
    )
    return Packed(arrays, totals)
