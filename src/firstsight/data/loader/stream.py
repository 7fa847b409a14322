"""Which rows a step reads: `Stream.batch(step)` is a pure function of the step, so resuming is one integer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import NoReturn

import numpy as np

from firstsight.data.loader.achieved import UNITS, Achieved, Counts, stretch
from firstsight.data.loader.blend import Blended, Drawing, check_countable, largest, units
from firstsight.data.loader.feeds import Feed
from firstsight.data.loader.merge import ByRows, ByUnits
from firstsight.data.loader.rows import Batch, Blank
from firstsight.data.order import Places
from firstsight.errors import MixError
from firstsight.recipe.mix import Unit
from firstsight.recipe.stages import Rows

_CHUNK = 1 << 20
_AHEAD = 4096
"""Positions that are drawn together: drawing a few costs as much as drawing these."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """All batches of one training step: text beside image rows, exactly mixed, each source in its own seeded order.

    Construction raises MixError when a source holds too few rows or when sources do not fit together.
    """

    text: Blended
    images: Blended | None
    spans: tuple[tuple[int, Fraction], ...]
    """(rows, image share) of each stretch, in order; together all rows of the run."""
    counted_in: Unit
    """What the image share counts."""
    rows: Rows
    seed: int
    """Of the order of the image sources."""
    text_seed: int
    """Of the order of the text: a branch keeps its trunk's, whatever its own seed."""
    text_rows_seen: int
    """Rows of the text blend that came before this stream: its own go on from there."""
    steps: int

    def __post_init__(self) -> None:
        _check_fit(self)
        _check_supply(self)

    @cached_property
    def feeds(self) -> tuple[Feed, ...]:
        """Text first, then the image sources: the order of `Batch.kinds`."""
        return self.text.feeds + (self.images.feeds if self.images else ())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feed.name for feed in self.feeds)

    @property
    def total(self) -> int:
        """Rows of the whole run."""
        return self.steps * self.rows.batch

    @cached_property
    def _course(self) -> ByRows | ByUnits:
        """Which positions hold image rows."""
        if self.images is None or not self.weighed:
            return ByRows(self.spans)
        pictured, seen, unit = _drawing(self.images, self.seed, self.total), self.text_rows_seen, self.counted_in
        return ByUnits(
            self.spans,
            text=lambda nth: self._text.units(nth + seen, unit),
            images=lambda nth: pictured.units(nth, unit),
        )

    @property
    def weighed(self) -> bool:
        """Whether the place of image rows hangs on what rows hold."""
        return self.counted_in != "rows" and any(0 < share < 1 for _, share in self.spans)

    @cached_property
    def _text(self) -> Drawing:
        rows = self.total if self.weighed else ByRows(self.spans).counts(self.total)[0]
        seeds = [self.text_seed * 1_000_003 - number for number in range(len(self.text.feeds))]
        return Drawing(self.text, seeds=seeds, rows=self.text_rows_seen + rows)

    @cached_property
    def _pictured(self) -> Drawing | None:
        return None if self.images is None else _drawing(self.images, self.seed, self._course.counts(self.total)[1])

    def batch(self, step: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """The rows of step `step`, from 0, that process `part[0]` of `part[1]` trains on; the same for any history.

        Raises MixError where the step's rows cannot be shared out evenly.
        """
        positions = self._positions(step, part)
        kinds, rows = self._draw(positions)
        blank = Blank(len(positions), self.rows.length, self.text.feeds[0].index.special.pad)
        for kind, feed in enumerate(self.feeds):
            places = np.flatnonzero(kinds == kind)
            if len(places):
                blank.put(feed, kind, places=places, rows=rows[places])
        return blank.finished(None if self.images is None else self.images.feeds[0].pictures)

    def samples(self, step: int) -> list[list[tuple[int, int]]]:
        """The records of a step: for each row the (kind, record of its index) that it holds."""
        held_by: list[list[tuple[int, int]]] = [[] for _ in range(self.rows.batch)]
        for kind, (places, rows) in enumerate(self.drawn(self._positions(step, (0, 1)))):
            table = self.feeds[kind].table
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                held = table.pieces.sample[table.first[row] : table.first[row + 1]]
                held_by[place] = [(kind, number) for number in held.tolist()]
        return held_by

    def _positions(self, step: int, part: tuple[int, int]) -> Places:
        (rank, of), batch = part, self.rows.batch
        if batch % of:
            raise MixError(f"wanted {batch} rows a step in {of} equal parts. Got {batch % of} over. Change either.")
        if not (0 <= step < self.steps and 0 <= rank < of):
            raise MixError(f"wanted a step below {self.steps} and a rank below {of}. Got {step} and {rank}.")
        size = batch // of
        return np.arange(step * batch + rank * size, step * batch + (rank + 1) * size)

    def _draw(self, positions: Places) -> tuple[Places, Places]:
        """Which feed fills each of some neighbouring positions, and with which of its table's rows."""
        first, last = int(positions[0]), int(positions[-1])
        kept = [self._drawn_at_once(number) for number in range(first // _AHEAD, last // _AHEAD + 1)]
        kinds, rows = (np.concatenate(found) for found in zip(*kept, strict=True))
        mine = slice(first % _AHEAD, first % _AHEAD + len(positions))
        return kinds[mine], rows[mine]

    @cached_property
    def _drawn_at_once(self) -> Callable[[int], tuple[Places, Places]]:
        """The draws of the nth _AHEAD positions; the last few answers are kept, and none is ever another."""

        @lru_cache(maxsize=4)
        def draw(number: int) -> tuple[Places, Places]:
            positions = np.arange(number * _AHEAD, min((number + 1) * _AHEAD, self.total))
            kinds, rows = np.zeros_like(positions), np.zeros_like(positions)
            for kind, (places, found) in enumerate(self.drawn(positions)):
                kinds[places], rows[places] = kind, found
            return kinds, rows

        return draw

    def drawn(self, positions: Places) -> Iterator[tuple[Places, Places]]:
        """For each feed which of `positions` it fills (as places among them) and with which of its table's rows."""
        pictured, nth = self._course.at(positions)
        for drawing, mine, seen in ((self._text, ~pictured, self.text_rows_seen), (self._pictured, pictured, 0)):
            if drawing is None:
                continue
            places = np.flatnonzero(mine)
            part, rows = drawing.at(nth[places] + seen)
            for number in range(len(drawing.blend.feeds)):
                of_it = part == number
                yield places[of_it], rows[of_it]

    def draws(self, rows: int) -> tuple[int, ...]:
        """How often each feed has been drawn from when the first `rows` rows are read; text since its beginning."""
        texts, images = self._course.counts(rows)
        pictured = [] if self._pictured is None else self._pictured.counts(images)
        return (*self._text.counts(self.text_rows_seen + texts), *pictured)

    def achieved(self, steps: int) -> Achieved:
        """What the first `steps` steps hold by source; raises MixError where a share is off."""
        total, counts = steps * self.rows.batch, list[Counts]()
        ends = [min(total, end) for end in accumulate((rows for rows, _ in self.spans), initial=0)]
        for start, stop in pairwise(ends):
            counts.append(self._count(start, stop))
        _check_shares(self, counts)
        whole, texts = sum(counts, np.zeros((len(self.feeds), 3), dtype=np.int64)), len(self.text.feeds)
        rows, tokens, loss = (dict(zip(self.names, whole[:, unit].tolist(), strict=True)) for unit in range(3))
        return Achieved(
            rows=rows,
            tokens=tokens,
            loss_tokens=loss,
            epochs={feed.name: rows[feed.name] / max(1, feed.table.rows) for feed in self.feeds},
            text=self.names[:texts],
            text_rows_seen=self.text_rows_seen + self._course.counts(total)[0],
            text_row_length=self.rows.length,
            text_cut=self.text.cut,
            text_seed=self.text_seed,
            counted_in=self.counted_in,
            spans=tuple(stretch(held, texts, share) for held, (_, share) in zip(counts, self.spans, strict=True)),
            padding=1 - int(whole[:, 1].sum()) / max(1, total * self.rows.length),
        )

    def _count(self, start: int, stop: int) -> Counts:
        found = np.zeros((len(self.feeds), 3), dtype=np.int64)
        for first in range(start, stop, _CHUNK):
            for kind, (_, rows) in enumerate(self.drawn(np.arange(first, min(stop, first + _CHUNK)))):
                found[kind] += [int(units(self.feeds[kind], rows, unit).sum()) for unit in UNITS]
        return found


def _drawing(images: Blended, seed: int, rows: int) -> Drawing:
    return Drawing(images, seeds=[seed * 1_000_003 + 1 + number for number in range(len(images.feeds))], rows=rows)


def _check_fit(stream: Stream) -> None:
    """Same row length, tokenizer and picture shape everywhere, and names that tell the feeds apart."""
    text, names, images = stream.text.feeds[0], stream.names, stream.images
    if sum(rows for rows, _ in stream.spans) != stream.total:
        raise MixError(f"wanted spans over {stream.total} rows. Got {stream.spans}. Report this as a bug.")
    if images is None and any(share for _, share in stream.spans):
        share = max(share for _, share in stream.spans)
        raise MixError(f"{text.name}: wanted {share} image rows. Got no image source. Add one, or make the share 0.")
    if len(set(names)) < len(names):
        raise MixError(f"sources need names of their own. Got {', '.join(names)}.")
    for feed in stream.feeds:
        if feed.table.length != stream.rows.length:
            raise MixError(f"{feed.name}: wanted rows of {stream.rows.length}. Got {feed.table.length}. Pack it again.")
        if feed.index.tokenizer_digest != text.index.tokenizer_digest:
            raise MixError(
                f"{feed.name}: wanted the tokenizer of {text.name}. Got another tokenizer. Prepare it again."
            )
    shapes = {None if feed.pictures is None else feed.pictures.shape for feed in (images.feeds if images else ())}
    if len(shapes) > 1 or None in shapes:
        raise MixError(f"{', '.join(names[1:])}: wanted pictures of one shape. Got {', '.join(map(str, shapes))}.")
    for blend in (stream.text, images) if stream.weighed and images else ():
        if not any(largest(feed, stream.counted_in, together=1) for feed in blend.feeds):
            check_countable(blend.feeds[0], Fraction(1), stream.counted_in)


def _check_supply(stream: Stream) -> None:
    """Every source holds its rows of the whole run, and of the runs before, in as many passes as it may take."""
    epochs = stream.text.epochs + (stream.images.epochs if stream.images else ())
    begun = stream.draws(0)
    for feed, want, most, had in zip(stream.feeds, stream.draws(stream.total), epochs, begun, strict=True):
        have = feed.table.rows
        if want > max(had, have * most):
            needed = f"allow epochs={-(-want // have)}, " if have else ""
            raise MixError(
                f"{feed.name}: wants {want:,} rows, but {feed.index.path} holds {have:,} and may be gone through "
                f"{most} times. Train for fewer tokens, {needed}or add a source."
            )


def _check_shares(stream: Stream, counts: list[Counts]) -> None:
    """What was counted keeps the law of its unit: in rows the floor, in tokens less than a largest row of each side."""
    texts, unit = len(stream.text.feeds), UNITS.index(stream.counted_in)
    slack = 0
    if stream.weighed:
        sides = (stream.feeds[:texts], stream.feeds[texts:])
        slack = sum(max(largest(feed, stream.counted_in, together=1) for feed in side) for side in sides)
    for held, (_, share) in zip(counts, stream.spans, strict=True):
        text, images = int(held[:texts, unit].sum()), int(held[texts:, unit].sum())
        wanted = (text + images) * share
        if images != int(wanted) if stream.counted_in == "rows" else abs(images - wanted) > slack:
            _complain(stream.names, (share, stream.counted_in), (images, text + images))
    whole = sum(counts, np.zeros((len(stream.feeds), 3), dtype=np.int64))
    for blend, held in ((stream.text, whole[:texts]), (stream.images, whole[texts:])):
        if blend is not None:
            _check_blend(blend, held)


def _check_blend(blend: Blended, counts: Counts) -> None:
    """A stretch of a blend is the difference of two prefixes: each of these may be off by what is drawn together."""
    held, names = counts[:, UNITS.index(blend.counted_in)].tolist(), tuple(feed.name for feed in blend.feeds)
    slack = 2 * sum(largest(feed, blend.counted_in, together=blend.cut) for feed in blend.feeds)
    for count, share in zip(held, blend.shares, strict=True):
        if abs(count - sum(held) * share) > slack:
            _complain(names, (share, blend.counted_in), (count, sum(held)))


def _complain(names: tuple[str, ...], wanted: tuple[Fraction, Unit], got: tuple[int, int]) -> NoReturn:
    share, unit = wanted
    raise MixError(f"{', '.join(names)}: wanted {share} of the {unit}. Got {got[0]} of {got[1]}. Report this as a bug.")
