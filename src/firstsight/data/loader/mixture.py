"""Sources of the loader (index, packed rows, images), and exact mixtures of them: which row comes nth.

Shares of rows are arithmetic; for shares of tokens or loss tokens the rows of all sources are merged: each source emits
`share` units (tokens or loss tokens) per unit of time, and rows come in the order in which they are complete, ties by
source. Row k is complete at the time U / share, where U is the sum of the source's units up to and including row k.

Guarantee: after any number of rows, the units of each source differ from its share of all units by less than the sum of
the largest rows of all sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float64, Int64, UInt8

from firstsight.data.image_reader import ImageReader
from firstsight.data.images import SIGLIP_PAD_COLOR, decode_image_fast
from firstsight.data.index import Index
from firstsight.data.packing import PackedRows
from firstsight.data.sampling import Indices, assign_sources, grouped_permutation, source_counts, sources_at
from firstsight.errors import MixError
from firstsight.recipe.mixture import MAX_SHARE_DENOMINATOR, ShareUnit
from firstsight.recipe.vision import ImageFit, RGBBytes

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


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecomputedFeatures:
    """The features that an external encoder computed of an index's images, in the order of the index."""

    arrays: tuple[Float16[np.ndarray, "_ I W"], ...]
    """Of equally many images each, but for the last one."""

    @classmethod
    def open(cls, folder: Path) -> PrecomputedFeatures:
        """The result of an encode step, memory-mapped."""
        files = sorted(folder.glob("features*.npy"))
        return cls(arrays=tuple(np.load(file, mmap_mode="r").view(np.ndarray) for file in files))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.arrays[0].shape[1:]

    def take(self, image_ids: Int64[np.ndarray, "N"]) -> Float16[np.ndarray, "N I W"]:
        numbers, rows = np.divmod(image_ids, max(len(self.arrays[0]), 1))
        features = np.empty((len(image_ids), *self.shape), dtype=np.float16)
        for number in np.unique(numbers).tolist():
            features[numbers == number] = self.arrays[number][rows[numbers == number]]
        return features


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImages:
    """Images that are read and decoded when they are needed, for a model without precomputed features."""

    reader: ImageReader
    size: int
    fit: ImageFit = "resize"
    pad_color: RGBBytes = SIGLIP_PAD_COLOR

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    def take(self, image_ids: Int64[np.ndarray, "N"]) -> UInt8[np.ndarray, "N S S 3"]:
        """Pixels of images of the index, decoded by `images.decode_image_fast`; thread-safe."""
        pixels = np.empty((len(image_ids), *self.shape), dtype=np.uint8)
        for position, data in enumerate(self.reader.read_images(image_ids)):
            pixels[position] = decode_image_fast(data, self.size, self.fit, pad_color=self.pad_color)
        return pixels


ImageInputs = PrecomputedFeatures | DecodedImages


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSource:
    """A source that rows are drawn from."""

    name: str
    index: Index
    packed_rows: PackedRows
    images: ImageInputs | None
    """None for text."""
    answers_only: bool
    """Fine-tuning: questions carry no loss."""
    group_size: int = 1
    """How many consecutive rows are drawn together: the parts of one longer row that the text was packed into."""

    def units(self, rows: Indices, unit: ShareUnit) -> Int64[np.ndarray, "n"]:
        """What each of `rows` counts for in `unit`."""
        packed = self.packed_rows
        match unit:
            case "rows":
                return np.ones_like(rows)
            case "tokens":
                return packed.filled[rows].astype(np.int64)
            case "loss_tokens":
                always = packed.loss_always[rows].astype(np.int64)
                return always if self.answers_only else always + packed.loss_before_finetuning[rows]

    def max_units(self, unit: ShareUnit, *, group_size: int = 1) -> int:
        """The most that `group_size` consecutive rows count for."""
        units = self.units(np.arange(self.packed_rows.row_count), unit)
        return int(units.reshape(-1, group_size).sum(axis=1).max(initial=0))

    def check_countable(self, share: Fraction, unit: ShareUnit) -> None:
        """Raise MixError if no row counts for anything in `unit`: a share of it could never be reached."""
        if share and unit != "rows" and not self.max_units(unit):
            raise MixError(
                f"{self.name}: wanted {share} of the {unit.replace('_', ' ')}. Got a source without any, "
                f"{self.index.path}. Count rows, or take the source out."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderMixture:
    """Sources with their shares, the unit of the shares, and the passes that are allowed through each source."""

    sources: tuple[LoaderSource, ...]
    shares: tuple[Fraction, ...]
    epochs: tuple[int, ...]
    counted_in: ShareUnit

    @property
    def group_size(self) -> int:
        """How many consecutive rows are drawn together, the same for all sources."""
        return self.sources[0].group_size

    @property
    def is_weighted(self) -> bool:
        """Whether the order of sources depends on the contents of their rows."""
        return self.counted_in != "rows" and sum(share > 0 for share in self.shares) > 1


class MixtureSampler:
    """The first `rows` rows of a mixture in order; rows that are drawn together are also counted together.

    Each source is shuffled by its seed in `seeds`. Raises MixError if a share cannot be counted.
    """

    def __init__(self, mixture: LoaderMixture, *, seeds: Sequence[int], rows: int) -> None:
        _check_mixture(mixture)
        self.mixture, self.seeds = mixture, tuple(seeds)
        self._sequence: SourceSequence | None = None
        if mixture.is_weighted:
            count = len(mixture.sources)
            counters = [lambda groups, number=number: self._group_units(number, groups) for number in range(count)]
            source_ids = merge_by_units(counters, mixture.shares, -(-rows // mixture.group_size))
            self._sequence = SourceSequence(source_ids, source_count=count)

    def rows_at(self, positions: Indices) -> tuple[Indices, Indices]:
        """(source, row of the source) at each position of the mixture."""
        source_ids, draws = self.source_draws(positions)
        rows = np.empty_like(draws)
        for source_id in range(len(self.seeds)):
            mask = source_ids == source_id
            if mask.any():
                rows[mask] = self._rows(source_id, draws[mask])
        return source_ids, rows

    def source_draws(self, positions: Indices) -> tuple[Indices, Indices]:
        """(source, number among the draws of that source) of each position of the mixture."""
        if len(self.seeds) == 1:
            return np.zeros_like(positions), positions
        groups, offsets = np.divmod(positions, self.mixture.group_size)
        if self._sequence is None:
            source_ids, draws = assign_sources(groups, self.mixture.shares)
        else:
            source_ids, draws = self._sequence.source_draws(groups)
        return source_ids, draws * self.mixture.group_size + offsets

    def draw_counts(self, rows: int) -> list[int]:
        """How many of the mixture's first `rows` rows are draws of each source."""
        groups, rest = divmod(rows, self.mixture.group_size)
        sequence = self._sequence
        counts = source_counts(groups, self.mixture.shares) if sequence is None else sequence.draw_counts(groups)
        counts = [count * self.mixture.group_size for count in counts]
        if rest:
            counts[int(self.source_draws(np.array([rows - 1]))[0][0])] += rest
        return counts

    def units_at(self, positions: Indices, unit: ShareUnit) -> Indices:
        """What the mixture's rows at `positions` count for in `unit`."""
        source_ids, rows = self.rows_at(positions)
        units = np.empty_like(rows)
        for source_id, source in enumerate(self.mixture.sources):
            mask = source_ids == source_id
            units[mask] = source.units(rows[mask], unit)
        return units

    def _rows(self, source_id: int, draws: Indices) -> Indices:
        source, seed = self.mixture.sources[source_id], self.seeds[source_id]
        return grouped_permutation(draws, count=source.packed_rows.row_count, group_size=source.group_size, seed=seed)

    def _group_units(self, source_id: int, groups: Indices) -> Indices:
        """Units of a source's nth groups of rows that are drawn together."""
        size, source = self.mixture.group_size, self.mixture.sources[source_id]
        first = self._rows(source_id, groups * size)
        units = (source.units(first + offset, self.mixture.counted_in) for offset in range(size))
        return sum(units, np.zeros_like(first))


def _check_mixture(mixture: LoaderMixture) -> None:
    names = ", ".join(source.name for source in mixture.sources)
    if sum(mixture.shares, Fraction(0)) != 1:
        raise MixError(f"{names}: shares of a mixture must sum to 1. Got {', '.join(map(str, mixture.shares))}.")
    group_sizes = [source.group_size for source in mixture.sources]
    if len(set(group_sizes)) > 1:
        raise MixError(f"{names}: rows of one mixture have the same group size. Got {group_sizes}.")
    for source, share in zip(mixture.sources, mixture.shares, strict=True):
        source.check_countable(share, mixture.counted_in if mixture.is_weighted else "rows")
