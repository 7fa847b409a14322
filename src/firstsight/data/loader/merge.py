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

from firstsight.data.order import Places, picks
from firstsight.errors import MixError

Units = Callable[[Places], Places]
"""Units of a source's rows, by their places in the source's own order."""
Spans = Sequence[tuple[int, Fraction]]
"""(rows, image share) of each stretch of a stage."""
_MARK = 1024
_CHUNK = 1 << 16
_MOST = 1 << 26
"""Up to here two different fractions differ as float64, and equal ones are equal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kinds:
    """Which part every row of a merged stream comes from: a byte a row, and counts so far at every 1024th."""

    kinds: UInt8[np.ndarray, "rows"]
    before: Int64[np.ndarray, "marks parts"]

    @classmethod
    def of(cls, kinds: UInt8[np.ndarray, "rows"], parts: int) -> Kinds:
        """With the counts that `at` starts from."""
        starts = np.arange(0, len(kinds), _MARK)
        before = np.zeros((len(starts) + 1, parts), dtype=np.int64)
        for part in range(parts):
            if len(starts):
                np.cumsum(np.add.reduceat(kinds == part, starts, dtype=np.int64), out=before[1:, part])
        return cls(kinds=kinds, before=before)

    def at(self, nth: Places) -> tuple[Places, Places]:
        """(part, place in that part's order) of the nth rows; quick where these lie near each other."""
        if not len(nth):
            return nth, nth
        mark = int(nth.min()) // _MARK
        window = self.kinds[mark * _MARK : int(nth.max()) + 1]
        near = nth - mark * _MARK
        part, place = window[near].astype(np.int64), np.empty_like(nth)
        for number in range(self.before.shape[1]):
            mine = part == number
            place[mine] = self.before[mark, number] + np.cumsum(window == number)[near[mine]] - 1
        return part, place

    def counts(self, rows: int) -> list[int]:
        """How many of the first `rows` rows come from each part."""
        mark = rows // _MARK
        rest = np.bincount(self.kinds[mark * _MARK : rows], minlength=self.before.shape[1])
        return (self.before[mark] + rest).tolist()


class ByRows:
    """Shares of rows: every prefix of n rows of a span holds floor(n * share) image rows. Arithmetic alone."""

    def __init__(self, spans: Spans) -> None:
        self.spans = tuple(spans)
        self.starts = np.array(list(accumulate((rows for rows, _ in spans), initial=0))[:-1], dtype=np.int64)
        images = accumulate((_floor(rows, share) for rows, share in spans), initial=0)
        self.images = list(images)[:-1]

    def at(self, positions: Places) -> tuple[Bool[np.ndarray, "n"], Places]:
        """(is it an image row, which of its kind) for each position."""
        span = np.searchsorted(self.starts, positions, side="right") - 1
        pictured, nth = np.zeros(len(positions), dtype=bool), np.empty_like(positions)
        for number in np.unique(span).tolist():
            mine, start, before = span == number, int(self.starts[number]), self.images[number]
            chosen, place = picks(positions[mine] - start, self.spans[number][1])
            pictured[mine], nth[mine] = chosen, place + np.where(chosen, before, start - before)
        return pictured, nth

    def counts(self, rows: int) -> tuple[int, int]:
        """(text rows, image rows) among the first `rows`."""
        left, images = rows, 0
        for count, share in self.spans:
            held = min(left, count)
            images, left = images + _floor(held, share), left - held
        return rows - images, images


class ByUnits:
    """Shares of tokens or loss tokens: the two blends merged span by span; what a span owes ends with it."""

    def __init__(self, spans: Spans, text: Units, images: Units) -> None:
        starts, found = [0, 0], list[np.ndarray]()
        for rows, share in spans:
            held = [_later(units, start) for units, start in zip((text, images), starts, strict=True)]
            found.append(merged(held, (1 - share, share), rows))
            pictured = int(found[-1].sum(dtype=np.int64))
            starts = [starts[0] + rows - pictured, starts[1] + pictured]
        self.kinds = Kinds.of(np.concatenate(found), parts=2)

    def at(self, positions: Places) -> tuple[Bool[np.ndarray, "n"], Places]:
        """(is it an image row, which of its kind) for each position."""
        part, nth = self.kinds.at(positions)
        return part == 1, nth

    def counts(self, rows: int) -> tuple[int, int]:
        """(text rows, image rows) among the first `rows`."""
        text, images = self.kinds.counts(rows)
        return text, images


def merged(units: Sequence[Units], shares: Sequence[Fraction], rows: int) -> UInt8[np.ndarray, "rows"]:
    """Which part each of the first `rows` rows comes from, so that every prefix holds the shares in units."""
    if max(share.denominator for share in shares) > _MOST:
        raise MixError(f"shares need denominators of at most {_MOST:,}. Got {', '.join(map(str, shares))}. Round them.")
    queues = [_Queue(found, share, number) for number, (found, share) in enumerate(zip(units, shares, strict=True))]
    queues = [queue for queue in queues if queue.share]
    if len(queues) == 1:
        return np.full(rows, queues[0].number, dtype=np.uint8)
    kinds, done = np.empty(rows, dtype=np.uint8), 0
    while done < rows:
        for queue in queues:
            queue.fill(rows)
        until = min(queue.last for queue in queues)
        found = _sorted([(queue.number, *queue.take(until)) for queue in queues])[: rows - done]
        kinds[done : done + len(found)] = found
        done += len(found)
    return kinds


def _sorted(
    taken: Sequence[tuple[int, Int64[np.ndarray, "_"], Float64[np.ndarray, "_"]]],
) -> UInt8[np.ndarray, "n"]:
    """The numbers of the queues in the order of their keys; the sort is stable, so that ties go by number."""
    number = np.repeat([part for part, _, _ in taken], [len(whole) for _, whole, _ in taken]).astype(np.uint8)
    whole = np.concatenate([whole for _, whole, _ in taken])
    rest = np.concatenate([rest for _, _, rest in taken])
    return number[np.lexsort((rest, whole))]


class _Queue:
    """Keys of one source's next rows, as whole part and rest of units / share: exact up to 9e18."""

    def __init__(self, units: Units, share: Fraction, number: int) -> None:
        self.units, self.share, self.number = units, share, number
        self.drawn, self.total = 0, 0
        self.whole, self.rest = np.zeros(0, dtype=np.int64), np.zeros(0)

    @property
    def last(self) -> tuple[int, float, int]:
        return int(self.whole[-1]), float(self.rest[-1]), self.number

    def fill(self, most: int) -> None:
        """Have keys at hand; no source ever gives more than all `most` rows."""
        if len(self.whole):
            return
        stop = min(most, self.drawn + _CHUNK)
        so_far = self.total + np.cumsum(self.units(np.arange(self.drawn, stop)), dtype=np.int64)
        self.drawn, self.total = stop, int(so_far[-1])
        if self.total * self.share.denominator // self.share.numerator >= 1 << 62:
            raise MixError(f"wanted fewer than 4e18 units. Got {self.total:,} at a share of {self.share}.")
        each, many = self.share.numerator, self.share.denominator
        parts, left = np.divmod(so_far, each)
        self.whole = parts * many + left * many // each
        self.rest = (left * many % each) / each

    def take(self, until: tuple[int, float, int]) -> tuple[Int64[np.ndarray, "_"], Float64[np.ndarray, "_"]]:
        """Take out the keys up to the key `until`, of which no source can have a smaller one still to come."""
        whole, rest, number = until
        low, high = (int(np.searchsorted(self.whole, whole, side=side)) for side in ("left", "right"))
        stop = low + int(np.searchsorted(self.rest[low:high], rest, side="right" if self.number <= number else "left"))
        taken = self.whole[:stop], self.rest[:stop]
        self.whole, self.rest = self.whole[stop:], self.rest[stop:]
        return taken


def _later(units: Units, start: int) -> Units:
    return lambda nth: units(nth + start)


def _floor(rows: int, share: Fraction) -> int:
    return rows * share.numerator // share.denominator
