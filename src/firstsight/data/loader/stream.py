"""Which rows a step reads: `BatchStream.batch(step)` is a pure function of the step, so that no state is saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np

from firstsight.data.loader.collate import Batch, BatchBuilder
from firstsight.data.loader.mixture import (
    LoaderMixture,
    LoaderSource,
    MixtureSampler,
    RowMixing,
    SourceSequence,
    merge_spans,
)
from firstsight.data.sampling import Indices
from firstsight.errors import DataError, MixError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.stages import RowShape

_DRAW_BLOCK = 4096
"""Positions that are drawn together: drawing a few takes as long as drawing these."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchStream:
    """All batches of a training step: text and image rows, exactly mixed, each source in its own seeded order.

    Construction raises MixError if a source has too few rows or if sources do not match.
    """

    text_mixture: LoaderMixture
    image_mixture: LoaderMixture | None
    spans: tuple[tuple[int, Fraction], ...]
    """(rows, image share) of each span, in order; together all rows of the run."""
    counted_in: ShareUnit
    row_shape: RowShape
    seed: int
    """Of the order of the image sources."""
    text_seed: int
    """Of the order of the text: a branch has its trunk's, whatever its own seed."""
    text_row_offset: int
    """Rows of the text mixture that earlier stages have read."""
    steps: int

    def __post_init__(self) -> None:
        _check_compatible(self)
        _check_supply(self)

    @cached_property
    def sources(self) -> tuple[LoaderSource, ...]:
        """Text first, then the image sources: the order of `Batch.source_ids`."""
        return self.text_mixture.sources + (self.image_mixture.sources if self.image_mixture else ())

    @property
    def source_names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.sources)

    @property
    def total_rows(self) -> int:
        """Rows of the whole run."""
        return self.steps * self.row_shape.batch_size

    @property
    def is_weighted(self) -> bool:
        """Whether the positions of image rows depend on the contents of rows."""
        return self.counted_in != "rows" and any(0 < share < 1 for _, share in self.spans)

    @cached_property
    def _mixing(self) -> RowMixing | SourceSequence:
        if self.image_mixture is None or not self.is_weighted:
            return RowMixing(self.spans)
        images, offset, unit = self._make_image_sampler(self.total_rows), self.text_row_offset, self.counted_in
        return merge_spans(
            self.spans,
            text_units=lambda draws: self._text_sampler.units_at(draws + offset, unit),
            image_units=lambda draws: images.units_at(draws, unit),
        )

    @cached_property
    def _text_sampler(self) -> MixtureSampler:
        rows = self.total_rows if self.is_weighted else RowMixing(self.spans).draw_counts(self.total_rows)[0]
        seeds = [self.text_seed * 1_000_003 - source_id for source_id in range(len(self.text_mixture.sources))]
        return MixtureSampler(self.text_mixture, seeds=seeds, rows=self.text_row_offset + rows)

    @cached_property
    def _image_sampler(self) -> MixtureSampler | None:
        rows = self._mixing.draw_counts(self.total_rows)[1]
        return None if self.image_mixture is None else self._make_image_sampler(rows)

    def _make_image_sampler(self, rows: int) -> MixtureSampler:
        assert self.image_mixture is not None
        seeds = [self.seed * 1_000_003 + 1 + source_id for source_id in range(len(self.image_mixture.sources))]
        return MixtureSampler(self.image_mixture, seeds=seeds, rows=rows)

    def batch(self, step: int, replica: tuple[int, int] = (0, 1)) -> Batch:
        """The rows of step `step`, from 0, for replica (rank, number of replicas).

        Raises MixError if the rows of a step cannot be divided evenly.
        """
        places = self._step_positions(step, replica)
        source_ids, rows = self._draw_rows(places)
        builder = BatchBuilder(len(places), self.row_shape.length, self.text_mixture.sources[0].index.special_ids.pad)
        for source_id, source in enumerate(self.sources):
            batch_rows = np.flatnonzero(source_ids == source_id)
            builder.add_rows(source, source_id, batch_rows=batch_rows, rows=rows[batch_rows])
        return builder.build(None if self.image_mixture is None else self.image_mixture.sources[0].images)

    def step_records(self, step: int) -> list[list[tuple[int, int]]]:
        """For each row of a step its (source id, record of the source's index) pairs."""
        records: list[list[tuple[int, int]]] = [[] for _ in range(self.row_shape.batch_size)]
        for source_id, (positions, rows) in enumerate(self.source_rows(self._step_positions(step, (0, 1)))):
            packed = self.sources[source_id].packed_rows
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                samples = packed.segments.sample[packed.segment_offsets[row] : packed.segment_offsets[row + 1]]
                records[position] = [(source_id, record) for record in samples.tolist()]
        return records

    def _step_positions(self, step: int, replica: tuple[int, int]) -> Indices:
        (rank, replicas), size = replica, self.row_shape.batch_size
        if rest := size % replicas:
            raise MixError(f"wanted {size} rows per step in {replicas} equal parts. Got {rest} over. Change either.")
        if not (0 <= step < self.steps and 0 <= rank < replicas):
            raise MixError(f"wanted a step below {self.steps} and a rank below {replicas}. Got {step} and {rank}.")
        start = step * size + rank * (size // replicas)
        return np.arange(start, start + size // replicas)

    def _draw_rows(self, positions: Indices) -> tuple[Indices, Indices]:
        """(source id, row of the source) at each of some consecutive positions."""
        first, last = int(positions[0]), int(positions[-1])
        blocks = [self._draw_block(block) for block in range(first // _DRAW_BLOCK, last // _DRAW_BLOCK + 1)]
        source_ids, rows = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
        window = slice(first % _DRAW_BLOCK, first % _DRAW_BLOCK + len(positions))
        return source_ids[window], rows[window]

    @cached_property
    def _draw_block(self) -> Callable[[int], tuple[Indices, Indices]]:
        """The draws of the nth _DRAW_BLOCK positions; the last few blocks are cached."""

        @lru_cache(maxsize=4)
        def draw_block(block: int) -> tuple[Indices, Indices]:
            positions = np.arange(block * _DRAW_BLOCK, min((block + 1) * _DRAW_BLOCK, self.total_rows))
            source_ids, rows = np.zeros_like(positions), np.zeros_like(positions)
            for source_id, (indices, source_rows) in enumerate(self.source_rows(positions)):
                source_ids[indices], rows[indices] = source_id, source_rows
            return source_ids, rows

        return draw_block

    def source_rows(self, positions: Indices) -> Iterator[tuple[Indices, Indices]]:
        """For each source (indices into `positions` of its rows, rows of the source)."""
        kinds, draws = self._mixing.source_draws(positions)
        for kind, (sampler, start) in enumerate(((self._text_sampler, self.text_row_offset), (self._image_sampler, 0))):
            if sampler is None:
                continue
            indices = np.flatnonzero(kinds == kind)
            source_ids, rows = sampler.rows_at(draws[indices] + start)
            for source_id in range(len(sampler.mixture.sources)):
                is_source = source_ids == source_id
                yield indices[is_source], rows[is_source]

    def draw_counts(self, rows: int) -> tuple[int, ...]:
        """How often each source has been drawn from after `rows` rows; text including earlier stages."""
        text_rows, image_rows = self._mixing.draw_counts(rows)
        images = [] if self._image_sampler is None else self._image_sampler.draw_counts(image_rows)
        return (*self._text_sampler.draw_counts(self.text_row_offset + text_rows), *images)


def prefetch_batches(
    stream: BatchStream,
    first_step: int,
    *,
    num_workers: int,
    depth: int = 4,
    replicas: Sequence[tuple[int, int]] = ((0, 1),),
) -> Generator[tuple[Batch, ...]]:
    """The batches of each step from `first_step` to the end, one for each of `replicas` (see `BatchStream.batch`).

    `num_workers` threads prepare at most `depth` steps ahead (decoding and copying release Python's lock); with 0
    each step is prepared when it is requested. An error is raised at its step, with the step in its message. The
    threads end with the iterator: when it is exhausted, closed or collected.
    """
    steps = range(first_step, stream.steps)
    if not num_workers:
        yield from (_load_step(stream, step, replicas) for step in steps)
        return
    pool, pending = ThreadPoolExecutor(num_workers, thread_name_prefix="reader"), deque[Future[tuple[Batch, ...]]]()
    try:
        for step in steps:
            pending.append(pool.submit(_load_step, stream, step, replicas))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load_step(stream: BatchStream, step: int, replicas: Sequence[tuple[int, int]]) -> tuple[Batch, ...]:
    try:
        return tuple(stream.batch(step, replica) for replica in replicas)
    except DataError as error:
        raise type(error)(f"step {step}: {error}") from error
    except OSError as error:
        error.add_note(f"while the batch of step {step} was made")
        raise


def _check_compatible(stream: BatchStream) -> None:
    """Spans that cover the run; sources of equal row length, tokenizer and image shape, with distinct names."""
    text, names, images = stream.text_mixture.sources[0], stream.source_names, stream.image_mixture
    if sum(rows for rows, _ in stream.spans) != stream.total_rows:
        raise MixError(f"wanted spans over {stream.total_rows} rows. Got {stream.spans}. Report this as a bug.")
    if images is None and (share := max(share for _, share in stream.spans)):
        raise MixError(f"{text.name}: wanted {share} image rows. Got no image source. Add one, or make the share 0.")
    if len(set(names)) < len(names):
        raise MixError(f"sources need distinct names. Got {', '.join(names)}.")
    for source in stream.sources:
        length, expected = source.packed_rows.length, stream.row_shape.length
        if length != expected:
            raise MixError(f"{source.name}: wanted rows of {expected}. Got {length}. Pack it again.")
        if source.index.tokenizer_digest != text.index.tokenizer_digest:
            raise MixError(f"{source.name}: wanted the tokenizer of {text.name}. Got another. Prepare it again.")
    if images is None:
        return
    shapes = {None if source.images is None else source.images.shape for source in images.sources}
    if len(shapes) > 1 or None in shapes:
        raise MixError(f"{', '.join(names[1:])}: wanted images of one shape. Got {', '.join(map(str, shapes))}.")
    for mixture in (stream.text_mixture, images) if stream.is_weighted else ():
        if not any(source.max_units(stream.counted_in) for source in mixture.sources):
            mixture.sources[0].check_countable(Fraction(1), stream.counted_in)


def _check_supply(stream: BatchStream) -> None:
    """Every source has enough rows for the whole run and the runs before, in as many passes as are allowed."""
    epochs = stream.text_mixture.epochs + (stream.image_mixture.epochs if stream.image_mixture else ())
    counts = zip(stream.draw_counts(0), stream.draw_counts(stream.total_rows), strict=True)
    for source, (start, required), passes in zip(stream.sources, counts, epochs, strict=True):
        rows = source.packed_rows.row_count
        if required > max(start, rows * passes):
            advice = f"allow epochs={-(-required // rows)}, " if rows else ""
            raise MixError(
                f"{source.name}: wants {required:,} rows, but {source.index.path} has {rows:,} and may be read "
                f"{passes} times. Train for fewer tokens, {advice}or add a source."
            )
