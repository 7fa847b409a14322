"""Exact mixing: by rows as arithmetic, by tokens or loss tokens in the order in which rows would be finished.

Merging: row k of source i, which brings the source's units to U, has the key U / share: the moment at which a source
that flows at its share's speed is done with it. Rows come in the order of their keys, ties by source.

Law: after any number of rows, each source's units differ from its share of all units by less than the sum over the
sources of one largest row. Proof: let K be the last key taken. Every row taken has a key of at most K, every row
waiting one of at least K. So source i holds share * K - e units with 0 <= e <= its largest row, all sources together
K - E with E the sum of all e, and share * (K - E) differs from share * K - e by |share * E - e|, which is below E's
bound unless it is 0. Rows of no units have the key of the row before: they come with it, and hold nobody up.

Legend: n rows asked for at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from firstsight.data.sampling import Indices, sources_at
from firstsight.errors import MixError

UnitCounter = Callable[[Indices], Indices]
"""Units of a source's rows, by their places in the source's own order."""
RowSpans = Sequence[tuple[int, Fraction]]
"""(rows, image share) of each stretch of a stage."""
_MARK_INTERVAL = 1024
_CHUNK = 1 << 16
_MAX_DENOMINATOR = 1 << 26
"""Up to here two different fractions differ as float64, and equal ones are equal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSequence:
    """Which part every row of a merged stream comes from: a byte a row, and counts so far at every 1024th."""

    source_ids: UInt8[np.ndarray, "rows"]
    counts_at_marks: Int64[np.ndarray, "marks parts"]

    @classmethod
    def from_source_ids(cls, source_ids: UInt8[np.ndarray, "rows"], source_count: int) -> SourceSequence:
        """With the counts that `at` starts from."""
        mark_starts = np.arange(0, len(source_ids), _MARK_INTERVAL)
        counts_at_marks = np.zeros((len(mark_starts) + 1, source_count), dtype=np.int64)
        for source_id in range(source_count):
            if len(mark_starts):
                np.cumsum(
                    np.add.reduceat(source_ids == source_id, mark_starts, dtype=np.int64),
                    out=counts_at_marks[1:, source_id],
                )
        return cls(source_ids=source_ids, counts_at_marks=counts_at_marks)

    def source_draws(self, positions: Indices) -> tuple[Indices, Indices]:
        """(part, place in that part's order) of the nth rows; quick where these lie near each other."""
        if not len(positions):
            return positions, positions
        mark = int(positions.min()) // _MARK_INTERVAL
        window = self.source_ids[mark * _MARK_INTERVAL : int(positions.max()) + 1]
        offsets = positions - mark * _MARK_INTERVAL
        source_ids, draws = window[offsets].astype(np.int64), np.empty_like(positions)
        for source_id in range(self.counts_at_marks.shape[1]):
            mask = source_ids == source_id
            draws[mask] = self.counts_at_marks[mark, source_id] + np.cumsum(window == source_id)[offsets[mask]] - 1
        return source_ids, draws

    def draw_counts(self, rows: int) -> list[int]:
        """How many of the first `rows` rows come from each part."""
        mark = rows // _MARK_INTERVAL
        remainder = np.bincount(self.source_ids[mark * _MARK_INTERVAL : rows], minlength=self.counts_at_marks.shape[1])
        return (self.counts_at_marks[mark] + remainder).tolist()


class RowMixing:
    """Shares of rows: every prefix of n rows of a span holds floor(n * share) image rows. Arithmetic alone."""

    def __init__(self, spans: RowSpans) -> None:
        self.spans = tuple(spans)
        self.span_starts = np.array(list(accumulate((rows for rows, _ in spans), initial=0))[:-1], dtype=np.int64)
        image_counts = accumulate((_floor_share(rows, share) for rows, share in spans), initial=0)
        self.images_before_span = list(image_counts)[:-1]

    def draws_at(self, positions: Indices) -> tuple[Bool[np.ndarray, "n"], Indices]:
        """(is it an image row, which of its kind) for each position."""
        span_ids = np.searchsorted(self.span_starts, positions, side="right") - 1
        is_image, draws = np.zeros(len(positions), dtype=bool), np.empty_like(positions)
        for span_id in np.unique(span_ids).tolist():
            mask, start, images_before = (
                span_ids == span_id,
                int(self.span_starts[span_id]),
                self.images_before_span[span_id],
            )
            span_is_image, span_draws = sources_at(positions[mask] - start, self.spans[span_id][1])
            is_image[mask], draws[mask] = (
                span_is_image,
                span_draws + np.where(span_is_image, images_before, start - images_before),
            )
        return is_image, draws

    def text_image_counts(self, rows: int) -> tuple[int, int]:
        """(text rows, image rows) among the first `rows`."""
        remaining, image_count = rows, 0
        for count, share in self.spans:
            span_rows = min(remaining, count)
            image_count, remaining = image_count + _floor_share(span_rows, share), remaining - span_rows
        return rows - image_count, image_count


class TokenMixing:
    """Shares of tokens or loss tokens: the two blends merged span by span; what a span owes ends with it."""

    def __init__(self, spans: RowSpans, text_units: UnitCounter, image_units: UnitCounter) -> None:
        starts, merged_spans = [0, 0], list[np.ndarray]()
        for rows, share in spans:
            span_units = [
                _shift_units(units, start) for units, start in zip((text_units, image_units), starts, strict=True)
            ]
            merged_spans.append(merge_by_units(span_units, (1 - share, share), rows))
            image_rows = int(merged_spans[-1].sum(dtype=np.int64))
            starts = [starts[0] + rows - image_rows, starts[1] + image_rows]
        self.source_order = SourceSequence.from_source_ids(np.concatenate(merged_spans), source_count=2)

    def draws_at(self, positions: Indices) -> tuple[Bool[np.ndarray, "n"], Indices]:
        """(is it an image row, which of its kind) for each position."""
        source_ids, draws = self.source_order.source_draws(positions)
        return source_ids == 1, draws

    def text_image_counts(self, rows: int) -> tuple[int, int]:
        """(text rows, image rows) among the first `rows`."""
        text, images = self.source_order.draw_counts(rows)
        return text, images


def merge_by_units(units: Sequence[UnitCounter], shares: Sequence[Fraction], rows: int) -> UInt8[np.ndarray, "rows"]:
    """Which part each of the first `rows` rows comes from, so that every prefix holds the shares in units."""
    if max(share.denominator for share in shares) > _MAX_DENOMINATOR:
        raise MixError(
            f"shares need denominators of at most {_MAX_DENOMINATOR:,}. Got {', '.join(map(str, shares))}. Round them."
        )
    queues = [
        _KeyQueue(merged_ids, share, source_id)
        for source_id, (merged_ids, share) in enumerate(zip(units, shares, strict=True))
    ]
    queues = [queue for queue in queues if queue.share]
    if len(queues) == 1:
        return np.full(rows, queues[0].source_id, dtype=np.uint8)
    source_ids, filled = np.empty(rows, dtype=np.uint8), 0
    while filled < rows:
        for queue in queues:
            queue.fill(rows)
        key_limit = min(queue.last_key for queue in queues)
        merged_ids = _sort_by_key([(queue.source_id, *queue.pop_until(key_limit)) for queue in queues])[: rows - filled]
        source_ids[filled : filled + len(merged_ids)] = merged_ids
        filled += len(merged_ids)
    return source_ids


def _sort_by_key(
    queue_keys: Sequence[tuple[int, Int64[np.ndarray, "_"], Float64[np.ndarray, "_"]]],
) -> UInt8[np.ndarray, "n"]:
    """The numbers of the queues in the order of their keys; the sort is stable, so that ties go by number."""
    source_ids = np.repeat(
        [source_id for source_id, _, _ in queue_keys], [len(quotients) for _, quotients, _ in queue_keys]
    ).astype(np.uint8)
    quotients = np.concatenate([quotients for _, quotients, _ in queue_keys])
    remainders = np.concatenate([remainders for _, _, remainders in queue_keys])
    return source_ids[np.lexsort((remainders, quotients))]


class _KeyQueue:
    """Keys of one source's next rows, as whole part and rest of units / share: exact up to 9e18."""

    def __init__(self, units: UnitCounter, share: Fraction, source_id: int) -> None:
        self.units, self.share, self.source_id = units, share, source_id
        self.drawn_rows, self.total_units = 0, 0
        self.quotients, self.remainders = np.zeros(0, dtype=np.int64), np.zeros(0)

    @property
    def last_key(self) -> tuple[int, float, int]:
        return int(self.quotients[-1]), float(self.remainders[-1]), self.source_id

    def fill(self, max_rows: int) -> None:
        """Have keys at hand; no source ever gives more than all `most` rows."""
        if len(self.quotients):
            return
        stop = min(max_rows, self.drawn_rows + _CHUNK)
        cumulative_units = self.total_units + np.cumsum(self.units(np.arange(self.drawn_rows, stop)), dtype=np.int64)
        self.drawn_rows, self.total_units = stop, int(cumulative_units[-1])
        if self.total_units * self.share.denominator // self.share.numerator >= 1 << 62:
            raise MixError(f"wanted fewer than 4e18 units. Got {self.total_units:,} at a share of {self.share}.")
        numerator, denominator = self.share.numerator, self.share.denominator
        quotients, remainders = np.divmod(cumulative_units, numerator)
        self.quotients = quotients * denominator + remainders * denominator // numerator
        self.remainders = (remainders * denominator % numerator) / numerator

    def pop_until(self, key_limit: tuple[int, float, int]) -> tuple[Int64[np.ndarray, "_"], Float64[np.ndarray, "_"]]:
        """Take out the keys up to the key `until`, of which no source can have a smaller one still to come."""
        quotient, remainder, source_id = key_limit
        low, high = (int(np.searchsorted(self.quotients, quotient, side=side)) for side in ("left", "right"))
        stop = low + int(
            np.searchsorted(
                self.remainders[low:high], remainder, side="right" if self.source_id <= source_id else "left"
            )
        )
        keys = self.quotients[:stop], self.remainders[:stop]
        self.quotients, self.remainders = self.quotients[stop:], self.remainders[stop:]
        return keys


def _shift_units(units: UnitCounter, start: int) -> UnitCounter:
    return lambda indices: units(indices + start)


def _floor_share(rows: int, share: Fraction) -> int:
    return rows * share.numerator // share.denominator
