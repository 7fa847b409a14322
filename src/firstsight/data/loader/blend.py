"""Sources of one part of a mix side by side: which row of which source is the blend's nth.

Legend: n rows asked for at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from firstsight.data.loader.feeds import Feed
from firstsight.data.loader.merge import Kinds, merged
from firstsight.data.order import Places, grouped, split, split_counts
from firstsight.errors import MixError
from firstsight.recipe.mix import Unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Blended:
    """Feeds with their shares of a blend, in which unit these count, and how often each feed may be gone through."""

    feeds: tuple[Feed, ...]
    shares: tuple[Fraction, ...]
    epochs: tuple[int, ...]
    counted_in: Unit

    @property
    def cut(self) -> int:
        """How many consecutive rows are drawn together, the same for all feeds."""
        return self.feeds[0].cut

    @property
    def counted(self) -> bool:
        """Whether the blend's order hangs on what its rows hold."""
        return self.counted_in != "rows" and sum(share > 0 for share in self.shares) > 1


def units(feed: Feed, rows: Places, unit: Unit) -> Places:
    """What each of some rows of a feed counts for."""
    match unit:
        case "rows":
            return np.ones_like(rows)
        case "tokens":
            return feed.table.filled[rows].astype(np.int64)
        case "loss_tokens":
            always = feed.table.always[rows].astype(np.int64)
            return always if feed.answers_only else always + feed.table.before[rows]


def largest(feed: Feed, unit: Unit, *, together: int) -> int:
    """The most that `together` consecutive rows of a feed count for."""
    held = units(feed, np.arange(feed.table.rows), unit)
    return int(held.reshape(-1, together).sum(axis=1).max(initial=0))


class Drawing:
    """The first `rows` rows of a blend in their order; what is drawn together is also counted together.

    `seeds` shuffle the feeds. Raises MixError where a share cannot be counted.
    """

    def __init__(self, blend: Blended, *, seeds: Sequence[int], rows: int) -> None:
        _check(blend)
        self.blend, self.seeds = blend, tuple(seeds)
        self._kinds: Kinds | None = None
        if blend.counted:
            held = [lambda nth, part=part: self._group_units(part, nth) for part in range(len(blend.feeds))]
            groups = -(-rows // blend.cut)
            self._kinds = Kinds.of(merged(held, blend.shares, groups), parts=len(blend.feeds))

    def at(self, nth: Places) -> tuple[Places, Places]:
        """(part, row of its table) of the nth rows of the blend."""
        part, place = self.draws(nth)
        row = np.empty_like(place)
        for number in range(len(self.seeds)):
            mine = part == number
            if mine.any():
                row[mine] = self._rows(number, place[mine])
        return part, row

    def draws(self, nth: Places) -> tuple[Places, Places]:
        """(part, which of the part's draws) of the nth rows of the blend."""
        if len(self.seeds) == 1:
            return np.zeros_like(nth), nth
        group, within = np.divmod(nth, self.blend.cut)
        part, place = split(group, self.blend.shares) if self._kinds is None else self._kinds.at(group)
        return part, place * self.blend.cut + within

    def counts(self, rows: int) -> list[int]:
        """How many of the blend's first `rows` rows are draws of each part."""
        groups, rest = divmod(rows, self.blend.cut)
        found = split_counts(groups, self.blend.shares) if self._kinds is None else self._kinds.counts(groups)
        counts = [count * self.blend.cut for count in found]
        if rest:
            part, _ = self.draws(np.array([rows - 1]))
            counts[int(part[0])] += rest
        return counts

    def units(self, nth: Places, unit: Unit) -> Places:
        """What the nth rows of the blend count for."""
        part, row = self.at(nth)
        found = np.empty_like(row)
        for number, feed in enumerate(self.blend.feeds):
            mine = part == number
            found[mine] = units(feed, row[mine], unit)
        return found

    def _rows(self, part: int, draw: Places) -> Places:
        feed = self.blend.feeds[part]
        return grouped(draw, count=feed.table.rows, cut=feed.cut, seed=self.seeds[part])

    def _group_units(self, part: int, nth: Places) -> Places:
        """Units of a part's nth group of rows that are drawn together."""
        cut, feed = self.blend.cut, self.blend.feeds[part]
        first = self._rows(part, nth * cut)
        return sum((units(feed, first + place, self.blend.counted_in) for place in range(cut)), np.zeros_like(first))


def _check(blend: Blended) -> None:
    names = ", ".join(feed.name for feed in blend.feeds)
    if sum(blend.shares, Fraction(0)) != 1:
        raise MixError(f"{names}: shares of a blend must sum to 1. Got {', '.join(map(str, blend.shares))}.")
    if len({feed.cut for feed in blend.feeds}) > 1:
        raise MixError(f"{names}: rows of one blend are cut alike. Got {[feed.cut for feed in blend.feeds]}.")
    for feed, share in zip(blend.feeds, blend.shares, strict=True):
        check_countable(feed, share, blend.counted_in if blend.counted else "rows")


def check_countable(feed: Feed, share: Fraction, unit: Unit) -> None:
    """Raise MixError where a feed holds nothing of what its share counts: it could be drawn forever in vain."""
    if share and unit != "rows" and not largest(feed, unit, together=1):
        raise MixError(
            f"{feed.name}: wanted {share} of the {unit.replace('_', ' ')}. Got a source without any, "
            f"{feed.index.path}. Count rows, or take the source out."
        )
