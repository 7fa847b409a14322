"""Exact mixing: by rows as arithmetic, by tokens or loss tokens by merging the rows of all sources.

Merging: each source emits `share` units (tokens or loss tokens) per unit of time, and rows come in the order in which
they are complete, ties by source. Row k is complete at the time U / share, where U is the sum of the source's units up
to and including row k.

Guarantee: after any number of rows, the units of each source differ from its share of all units by less than the sum of
the largest rows of all sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from firstsight.data.sampling import Indices, sources_at
from firstsight.errors import MixError
from firstsight.recipe.mixture import MAX_SHARE_DENOMINATOR

UnitCounter = Callable[[Indices], Indices]
"""Units of a source's rows, by their numbers in the source's own order."""
RowSpans = Sequence[tuple[int, Fraction]]
"""(rows, image share) of each span of a stage."""
_MARK_INTERVAL = 1024
_CHUNK = 1 << 16


class SourceSequence:
    """The source of every row of a merged stream, a byte per row, and counts so far at every 1024th row."""

    def __init__(self, source_ids: UInt8[np.ndarray, "rows"], source_count: int) -> None:
        marks = np.arange(0, len(source_ids), _MARK_INTERVAL)
        self.source_ids, self.counts_at_marks = source_ids, np.zeros((len(marks) + 1, source_count), dtype=np.int64)
        for source_id in range(source_count if len(marks) else 0):
            counts = np.add.reduceat(source_ids == source_id, marks, dtype=np.int64)
            np.cumsum(counts, out=self.counts_at_marks[1:, source_id])

    def source_draws(self, positions: Indices) -> tuple[Indices, Indices]:
        """(source, number among the rows of that source) of each position; fast if positions are close together."""
        if not len(positions):
            return positions, positions
        mark = int(positions.min()) // _MARK_INTERVAL
        window = self.source_ids[mark * _MARK_INTERVAL : int(positions.max()) + 1]
        offsets = positions - mark * _MARK_INTERVAL
        source_ids, draws = window[offsets].astype(np.int64), np.empty_like(positions)
        for source_id, count in enumerate(self.counts_at_marks[mark]):
            mask = source_ids == source_id
            draws[mask] = count + np.cumsum(window == source_id)[offsets[mask]] - 1
        return source_ids, draws

    def draw_counts(self, rows: int) -> list[int]:
        """How many of the first `rows` rows come from each source."""
        mark = rows // _MARK_INTERVAL
        rest = self.source_ids[mark * _MARK_INTERVAL : rows]
        return (self.counts_at_marks[mark] + np.bincount(rest, minlength=self.counts_at_marks.shape[1])).tolist()


class RowMixing:
    """Shares of rows, as text (0) and images (1): the first n rows of a span have floor(n * share) images."""

    def __init__(self, spans: RowSpans) -> None:
        self.spans = tuple(spans)
        self.starts = np.array([0, *accumulate(rows for rows, _ in spans)], dtype=np.int64)[:-1]
        self.images_before = [0, *accumulate(int(rows * share) for rows, share in spans)]

    def source_draws(self, positions: Indices) -> tuple[Indices, Indices]:
        """(0 or 1, number among the rows of that kind) of each position."""
        span_ids = np.searchsorted(self.starts, positions, side="right") - 1
        kinds, draws = np.empty_like(positions), np.empty_like(positions)
        for span_id in np.unique(span_ids).tolist():
            mask, start, images = span_ids == span_id, int(self.starts[span_id]), self.images_before[span_id]
            kinds[mask], numbers = sources_at(positions[mask] - start, self.spans[span_id][1])
            draws[mask] = numbers + np.where(kinds[mask], images, start - images)
        return kinds, draws

    def draw_counts(self, rows: int) -> list[int]:
        """[text rows, image rows] among the first `rows`."""
        images, rest = 0, rows
        for count, share in self.spans:
            images, rest = images + int(min(rest, count) * share), rest - min(rest, count)
        return [rows - images, images]


def merge_spans(spans: RowSpans, text_units: UnitCounter, image_units: UnitCounter) -> SourceSequence:
    """Text (0) and images (1) with shares of their units, span by span. A deficit is not carried over spans."""
    texts, images, merged = 0, 0, list[np.ndarray]()
    for rows, share in spans:
        counters = (lambda n, first=texts: text_units(n + first), lambda n, first=images: image_units(n + first))
        merged.append(merge_by_units(counters, (1 - share, share), rows))
        image_rows = int(merged[-1].sum(dtype=np.int64))
        texts, images = texts + rows - image_rows, images + image_rows
    return SourceSequence(np.concatenate(merged), source_count=2)


def merge_by_units(units: Sequence[UnitCounter], shares: Sequence[Fraction], rows: int) -> UInt8[np.ndarray, "rows"]:
    """The source of each of the first `rows` rows, so that their units have the shares on every prefix."""
    if max(share.denominator for share in shares) > MAX_SHARE_DENOMINATOR:
        got = ", ".join(map(str, shares))
        raise MixError(f"shares need denominators of at most {MAX_SHARE_DENOMINATOR:,}. Got {got}. Round them.")
    queues = [_KeyQueue(*queue) for queue in zip(units, shares, range(len(shares)), strict=True) if queue[1]]
    if len(queues) == 1:
        return np.full(rows, queues[0].source_id, dtype=np.uint8)
    source_ids, filled = np.empty(rows, dtype=np.uint8), 0
    while filled < rows:
        for queue in queues:
            queue.fill(rows)
        limit = min(queue.last_key for queue in queues)
        quotients, remainders = zip(*(queue.pop_until(limit) for queue in queues), strict=True)
        merged = np.repeat([queue.source_id for queue in queues], [len(array) for array in quotients])
        order = np.lexsort((np.concatenate(remainders), np.concatenate(quotients)))  # stable: ties by source
        merged = merged[order[: rows - filled]]
        source_ids[filled : filled + len(merged)] = merged
        filled += len(merged)
    return source_ids


class _KeyQueue:
    """Keys of a source's next rows, as whole part and remainder of units / share: exact up to 9e18."""

    def __init__(self, units: UnitCounter, share: Fraction, source_id: int) -> None:
        self.units, self.share, self.source_id = units, share, source_id
        self.drawn_rows, self.total_units = 0, 0
        self.quotients, self.remainders = np.zeros(0, dtype=np.int64), np.zeros(0)

    @property
    def last_key(self) -> tuple[int, float, int]:
        return int(self.quotients[-1]), float(self.remainders[-1]), self.source_id

    def fill(self, max_rows: int) -> None:
        """Compute the next keys if none are left; no source emits more than all `max_rows` rows."""
        if len(self.quotients):
            return
        stop = min(max_rows, self.drawn_rows + _CHUNK)
        units = self.total_units + np.cumsum(self.units(np.arange(self.drawn_rows, stop)), dtype=np.int64)
        self.drawn_rows, self.total_units = stop, int(units[-1])
        numerator, denominator = self.share.numerator, self.share.denominator
        if self.total_units * denominator // numerator >= 1 << 62:
            raise MixError(f"wanted fewer than 4e18 units. Got {self.total_units:,} at a share of {self.share}.")
        quotients, remainders = np.divmod(units, numerator)
        self.quotients = quotients * denominator + remainders * denominator // numerator
        self.remainders = (remainders * denominator % numerator) / numerator

    def pop_until(self, limit: tuple[int, float, int]) -> tuple[Int64[np.ndarray, "_"], Float64[np.ndarray, "_"]]:
        """Remove and return the keys up to `limit`; no source can still get a smaller one."""
        quotient, remainder, source_id = limit
        low, high = (int(np.searchsorted(self.quotients, quotient, side=side)) for side in ("left", "right"))
        side = "right" if self.source_id <= source_id else "left"
        stop = low + int(np.searchsorted(self.remainders[low:high], remainder, side=side))
        keys = self.quotients[:stop], self.remainders[:stop]
        self.quotients, self.remainders = self.quotients[stop:], self.remainders[stop:]
        return keys
