"""Which rows a step reads: `Stream.batch(step)` is a pure function of the step, so resuming is one integer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import NoReturn

import numpy as np

from firstsight.data.loader.achieved_mix import MIX_UNITS, AchievedMix, SourceCounts, span_stats
from firstsight.data.loader.collate import Batch, BatchBuilder
from firstsight.data.loader.mixing import RowMixing, TokenMixing
from firstsight.data.loader.mixture import LoaderMixture, MixtureSampler, check_countable, largest_row_units, row_units
from firstsight.data.loader.sources import LoaderSource
from firstsight.data.sampling import Indices
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.stages import RowShape

_CHUNK = 1 << 20
_DRAW_BLOCK = 4096
"""Positions that are drawn together: drawing a few costs as much as drawing these."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchStream:
    """All batches of one training step: text beside image rows, exactly mixed, each source in its own seeded order.

    Construction raises MixError when a source holds too few rows or when sources do not fit together.
    """

    text_mixture: LoaderMixture
    image_mixture: LoaderMixture | None
    spans: tuple[tuple[int, Fraction], ...]
    """(rows, image share) of each stretch, in order; together all rows of the run."""
    counted_in: ShareUnit
    """What the image share counts."""
    row_shape: RowShape
    seed: int
    """Of the order of the image sources."""
    text_seed: int
    """Of the order of the text: a branch keeps its trunk's, whatever its own seed."""
    text_row_offset: int
    """Rows of the text blend that came before this stream: its own go on from there."""
    steps: int

    def __post_init__(self) -> None:
        _check_compatible(self)
        _check_supply(self)

    @cached_property
    def sources(self) -> tuple[LoaderSource, ...]:
        """Text first, then the image sources: the order of `Batch.kinds`."""
        return self.text_mixture.sources + (self.image_mixture.sources if self.image_mixture else ())

    @property
    def source_names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.sources)

    @property
    def total_rows(self) -> int:
        """Rows of the whole run."""
        return self.steps * self.row_shape.batch_size

    @cached_property
    def _mixing(self) -> RowMixing | TokenMixing:
        """Which positions hold image rows."""
        if self.image_mixture is None or not self.is_weighted:
            return RowMixing(self.spans)
        image_sampler, offset, unit = (
            _make_image_sampler(self.image_mixture, self.seed, self.total_rows),
            self.text_row_offset,
            self.counted_in,
        )
        return TokenMixing(
            self.spans,
            text_units=lambda draws: self._text_sampler.units_at(draws + offset, unit),
            image_units=lambda draws: image_sampler.units_at(draws, unit),
        )

    @property
    def is_weighted(self) -> bool:
        """Whether the place of image rows hangs on what rows hold."""
        return self.counted_in != "rows" and any(0 < share < 1 for _, share in self.spans)

    @cached_property
    def _text_sampler(self) -> MixtureSampler:
        rows = self.total_rows if self.is_weighted else RowMixing(self.spans).text_image_counts(self.total_rows)[0]
        seeds = [self.text_seed * 1_000_003 - source_id for source_id in range(len(self.text_mixture.sources))]
        return MixtureSampler(self.text_mixture, seeds=seeds, rows=self.text_row_offset + rows)

    @cached_property
    def _image_sampler(self) -> MixtureSampler | None:
        return (
            None
            if self.image_mixture is None
            else _make_image_sampler(self.image_mixture, self.seed, self._mixing.text_image_counts(self.total_rows)[1])
        )

    def batch(self, step: int, replica: tuple[int, int] = (0, 1)) -> Batch:
        """The rows of step `step`, from 0, that process `part[0]` of `part[1]` trains on; the same for any history.

        Raises MixError where the step's rows cannot be shared out evenly.
        """
        positions = self._step_positions(step, replica)
        source_ids, rows = self._draw_rows(positions)
        builder = BatchBuilder(
            len(positions), self.row_shape.length, self.text_mixture.sources[0].index.special_ids.pad
        )
        for source_id, source in enumerate(self.sources):
            batch_rows = np.flatnonzero(source_ids == source_id)
            if len(batch_rows):
                builder.add_rows(source, source_id, batch_rows=batch_rows, rows=rows[batch_rows])
        return builder.build(None if self.image_mixture is None else self.image_mixture.sources[0].images)

    def step_records(self, step: int) -> list[list[tuple[int, int]]]:
        """The records of a step: for each row the (kind, record of its index) that it holds."""
        row_records: list[list[tuple[int, int]]] = [[] for _ in range(self.row_shape.batch_size)]
        for source_id, (positions, rows) in enumerate(self.source_rows(self._step_positions(step, (0, 1)))):
            packed_rows = self.sources[source_id].packed_rows
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                records = packed_rows.segments.sample[
                    packed_rows.segment_offsets[row] : packed_rows.segment_offsets[row + 1]
                ]
                row_records[position] = [(source_id, record) for record in records.tolist()]
        return row_records

    def _step_positions(self, step: int, replica: tuple[int, int]) -> Indices:
        (rank, num_replicas), batch_size = replica, self.row_shape.batch_size
        if batch_size % num_replicas:
            raise MixError(
                f"wanted {batch_size} rows a step in {num_replicas} equal parts. Got {batch_size % num_replicas} over. Change either."
            )
        if not (0 <= step < self.steps and 0 <= rank < num_replicas):
            raise MixError(f"wanted a step below {self.steps} and a rank below {num_replicas}. Got {step} and {rank}.")
        replica_rows = batch_size // num_replicas
        return np.arange(step * batch_size + rank * replica_rows, step * batch_size + (rank + 1) * replica_rows)

    def _draw_rows(self, positions: Indices) -> tuple[Indices, Indices]:
        """Which feed fills each of some neighbouring positions, and with which of its table's rows."""
        first, last = int(positions[0]), int(positions[-1])
        blocks = [self._draw_block(block) for block in range(first // _DRAW_BLOCK, last // _DRAW_BLOCK + 1)]
        source_ids, rows = (np.concatenate(block_values) for block_values in zip(*blocks, strict=True))
        window = slice(first % _DRAW_BLOCK, first % _DRAW_BLOCK + len(positions))
        return source_ids[window], rows[window]

    @cached_property
    def _draw_block(self) -> Callable[[int], tuple[Indices, Indices]]:
        """The draws of the nth _AHEAD positions; the last few answers are kept, and none is ever another."""

        @lru_cache(maxsize=4)
        def draw_block(block: int) -> tuple[Indices, Indices]:
            positions = np.arange(block * _DRAW_BLOCK, min((block + 1) * _DRAW_BLOCK, self.total_rows))
            source_ids, rows = np.zeros_like(positions), np.zeros_like(positions)
            for source_id, (indices, row_ids) in enumerate(self.source_rows(positions)):
                source_ids[indices], rows[indices] = source_id, row_ids
            return source_ids, rows

        return draw_block

    def source_rows(self, positions: Indices) -> Iterator[tuple[Indices, Indices]]:
        """For each feed which of `positions` it fills (as places among them) and with which of its table's rows."""
        is_image, draws = self._mixing.draws_at(positions)
        for sampler, mask, offset in (
            (self._text_sampler, ~is_image, self.text_row_offset),
            (self._image_sampler, is_image, 0),
        ):
            if sampler is None:
                continue
            indices = np.flatnonzero(mask)
            source_ids, rows = sampler.rows_at(draws[indices] + offset)
            for source_id in range(len(sampler.mixture.sources)):
                is_source = source_ids == source_id
                yield indices[is_source], rows[is_source]

    def draw_counts(self, rows: int) -> tuple[int, ...]:
        """How often each feed has been drawn from when the first `rows` rows are read; text since its beginning."""
        text_rows, image_rows = self._mixing.text_image_counts(rows)
        image_draws = [] if self._image_sampler is None else self._image_sampler.draw_counts(image_rows)
        return (*self._text_sampler.draw_counts(self.text_row_offset + text_rows), *image_draws)

    def achieved_mix(self, steps: int) -> AchievedMix:
        """What the first `steps` steps hold by source; raises MixError where a share is off."""
        total_rows, span_counts = steps * self.row_shape.batch_size, list[SourceCounts]()
        span_ends = [min(total_rows, end) for end in accumulate((rows for rows, _ in self.spans), initial=0)]
        for start, stop in pairwise(span_ends):
            span_counts.append(self._count_span(start, stop))
        _check_shares(self, span_counts)
        totals, text_source_count = (
            sum(span_counts, np.zeros((len(self.sources), 3), dtype=np.int64)),
            len(self.text_mixture.sources),
        )
        rows, tokens, loss_tokens = (
            dict(zip(self.source_names, totals[:, unit].tolist(), strict=True)) for unit in range(3)
        )
        return AchievedMix(
            rows=rows,
            tokens=tokens,
            loss_tokens=loss_tokens,
            epochs={source.name: rows[source.name] / max(1, source.packed_rows.row_count) for source in self.sources},
            text_sources=self.source_names[:text_source_count],
            text_rows_read=self.text_row_offset + self._mixing.text_image_counts(total_rows)[0],
            text_row_length=self.row_shape.length,
            text_group_size=self.text_mixture.group_size,
            text_seed=self.text_seed,
            counted_in=self.counted_in,
            spans=tuple(
                span_stats(source_counts, text_source_count, share)
                for source_counts, (_, share) in zip(span_counts, self.spans, strict=True)
            ),
            padding=1 - int(totals[:, 1].sum()) / max(1, total_rows * self.row_shape.length),
        )

    def _count_span(self, start: int, stop: int) -> SourceCounts:
        counts = np.zeros((len(self.sources), 3), dtype=np.int64)
        for first in range(start, stop, _CHUNK):
            for source_id, (_, rows) in enumerate(self.source_rows(np.arange(first, min(stop, first + _CHUNK)))):
                counts[source_id] += [int(row_units(self.sources[source_id], rows, unit).sum()) for unit in MIX_UNITS]
        return counts


def _make_image_sampler(image_mixture: LoaderMixture, seed: int, rows: int) -> MixtureSampler:
    return MixtureSampler(
        image_mixture,
        seeds=[seed * 1_000_003 + 1 + source_id for source_id in range(len(image_mixture.sources))],
        rows=rows,
    )


def _check_compatible(stream: BatchStream) -> None:
    """Same row length, tokenizer and picture shape everywhere, and names that tell the feeds apart."""
    text_source, source_names, image_mixture = stream.text_mixture.sources[0], stream.source_names, stream.image_mixture
    if sum(rows for rows, _ in stream.spans) != stream.total_rows:
        raise MixError(f"wanted spans over {stream.total_rows} rows. Got {stream.spans}. Report this as a bug.")
    if image_mixture is None and any(share for _, share in stream.spans):
        share = max(share for _, share in stream.spans)
        raise MixError(
            f"{text_source.name}: wanted {share} image rows. Got no image source. Add one, or make the share 0."
        )
    if len(set(source_names)) < len(source_names):
        raise MixError(f"sources need names of their own. Got {', '.join(source_names)}.")
    for source in stream.sources:
        if source.packed_rows.length != stream.row_shape.length:
            raise MixError(
                f"{source.name}: wanted rows of {stream.row_shape.length}. Got {source.packed_rows.length}. Pack it again."
            )
        if source.index.tokenizer_digest != text_source.index.tokenizer_digest:
            raise MixError(
                f"{source.name}: wanted the tokenizer of {text_source.name}. Got another tokenizer. Prepare it again."
            )
    shapes = {
        None if source.images is None else source.images.shape
        for source in (image_mixture.sources if image_mixture else ())
    }
    if len(shapes) > 1 or None in shapes:
        raise MixError(
            f"{', '.join(source_names[1:])}: wanted pictures of one shape. Got {', '.join(map(str, shapes))}."
        )
    for mixture in (stream.text_mixture, image_mixture) if stream.is_weighted and image_mixture else ():
        if not any(largest_row_units(source, stream.counted_in, group_size=1) for source in mixture.sources):
            check_countable(mixture.sources[0], Fraction(1), stream.counted_in)


def _check_supply(stream: BatchStream) -> None:
    """Every source holds its rows of the whole run, and of the runs before, in as many passes as it may take."""
    epochs = stream.text_mixture.epochs + (stream.image_mixture.epochs if stream.image_mixture else ())
    initial_draw_counts = stream.draw_counts(0)
    for source, required_rows, max_epochs, initial_draws in zip(
        stream.sources, stream.draw_counts(stream.total_rows), epochs, initial_draw_counts, strict=True
    ):
        available_rows = source.packed_rows.row_count
        if required_rows > max(initial_draws, available_rows * max_epochs):
            epochs_advice = f"allow epochs={-(-required_rows // available_rows)}, " if available_rows else ""
            raise MixError(
                f"{source.name}: wants {required_rows:,} rows, but {source.index.path} holds {available_rows:,} and may be gone through "
                f"{max_epochs} times. Train for fewer tokens, {epochs_advice}or add a source."
            )


def _check_shares(stream: BatchStream, counts: list[SourceCounts]) -> None:
    """What was counted keeps the law of its unit: in rows the floor, in tokens less than a largest row of each side."""
    text_source_count, unit = len(stream.text_mixture.sources), MIX_UNITS.index(stream.counted_in)
    slack = 0
    if stream.is_weighted:
        sides = (stream.sources[:text_source_count], stream.sources[text_source_count:])
        slack = sum(
            max(largest_row_units(source, stream.counted_in, group_size=1) for source in side) for side in sides
        )
    for source_counts, (_, share) in zip(counts, stream.spans, strict=True):
        text_units, image_units = (
            int(source_counts[:text_source_count, unit].sum()),
            int(source_counts[text_source_count:, unit].sum()),
        )
        expected = (text_units + image_units) * share
        if image_units != int(expected) if stream.counted_in == "rows" else abs(image_units - expected) > slack:
            _raise_share_error(stream.source_names, (share, stream.counted_in), (image_units, text_units + image_units))
    totals = sum(counts, np.zeros((len(stream.sources), 3), dtype=np.int64))
    for mixture, source_counts in (
        (stream.text_mixture, totals[:text_source_count]),
        (stream.image_mixture, totals[text_source_count:]),
    ):
        if mixture is not None:
            _check_mixture_shares(mixture, source_counts)


def _check_mixture_shares(mixture: LoaderMixture, counts: SourceCounts) -> None:
    """A stretch of a blend is the difference of two prefixes: each of these may be off by what is drawn together."""
    unit_counts, source_names = (
        counts[:, MIX_UNITS.index(mixture.counted_in)].tolist(),
        tuple(source.name for source in mixture.sources),
    )
    slack = 2 * sum(
        largest_row_units(source, mixture.counted_in, group_size=mixture.group_size) for source in mixture.sources
    )
    for count, share in zip(unit_counts, mixture.shares, strict=True):
        if abs(count - sum(unit_counts) * share) > slack:
            _raise_share_error(source_names, (share, mixture.counted_in), (count, sum(unit_counts)))


def _raise_share_error(
    source_names: tuple[str, ...], expected: tuple[Fraction, ShareUnit], actual: tuple[int, int]
) -> NoReturn:
    share, unit = expected
    raise MixError(
        f"{', '.join(source_names)}: wanted {share} of the {unit}. Got {actual[0]} of {actual[1]}. Report this as a bug."
    )
