"""Sources of one part of a mix side by side: which row of which source is the blend's nth.

Legend: n rows asked for at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from firstsight.data.loader.mixing import SourceSequence, merge_by_units
from firstsight.data.loader.sources import LoaderSource
from firstsight.data.sampling import Indices, assign_sources, grouped_permutation, source_counts
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderMixture:
    """Feeds with their shares of a blend, in which unit these count, and how often each feed may be gone through."""

    sources: tuple[LoaderSource, ...]
    shares: tuple[Fraction, ...]
    epochs: tuple[int, ...]
    counted_in: ShareUnit

    @property
    def group_size(self) -> int:
        """How many consecutive rows are drawn together, the same for all feeds."""
        return self.sources[0].group_size

    @property
    def is_weighted(self) -> bool:
        """Whether the blend's order hangs on what its rows hold."""
        return self.counted_in != "rows" and sum(share > 0 for share in self.shares) > 1


def row_units(source: LoaderSource, rows: Indices, unit: ShareUnit) -> Indices:
    """What each of some rows of a feed counts for."""
    match unit:
        case "rows":
            return np.ones_like(rows)
        case "tokens":
            return source.packed_rows.filled[rows].astype(np.int64)
        case "loss_tokens":
            loss_counts = source.packed_rows.loss_always[rows].astype(np.int64)
            return loss_counts if source.answers_only else loss_counts + source.packed_rows.loss_before_finetuning[rows]


def largest_row_units(source: LoaderSource, unit: ShareUnit, *, group_size: int) -> int:
    """The most that `together` consecutive rows of a feed count for."""
    units_per_row = row_units(source, np.arange(source.packed_rows.row_count), unit)
    return int(units_per_row.reshape(-1, group_size).sum(axis=1).max(initial=0))


class MixtureSampler:
    """The first `rows` rows of a blend in their order; what is drawn together is also counted together.

    `seeds` shuffle the feeds. Raises MixError where a share cannot be counted.
    """

    def __init__(self, mixture: LoaderMixture, *, seeds: Sequence[int], rows: int) -> None:
        _check_mixture(mixture)
        self.mixture, self.seeds = mixture, tuple(seeds)
        self._source_order: SourceSequence | None = None
        if mixture.is_weighted:
            source_units = [
                lambda positions, source_id=source_id: self._group_units(source_id, positions)
                for source_id in range(len(mixture.sources))
            ]
            group_count = -(-rows // mixture.group_size)
            self._source_order = SourceSequence.from_source_ids(
                merge_by_units(source_units, mixture.shares, group_count), source_count=len(mixture.sources)
            )

    def rows_at(self, positions: Indices) -> tuple[Indices, Indices]:
        """(part, row of its table) of the nth rows of the blend."""
        source_ids, draws = self.source_draws(positions)
        rows = np.empty_like(draws)
        for source_id in range(len(self.seeds)):
            mask = source_ids == source_id
            if mask.any():
                rows[mask] = self._rows(source_id, draws[mask])
        return source_ids, rows

    def source_draws(self, positions: Indices) -> tuple[Indices, Indices]:
        """(part, which of the part's draws) of the nth rows of the blend."""
        if len(self.seeds) == 1:
            return np.zeros_like(positions), positions
        groups, offsets = np.divmod(positions, self.mixture.group_size)
        source_ids, draws = (
            assign_sources(groups, self.mixture.shares)
            if self._source_order is None
            else self._source_order.source_draws(groups)
        )
        return source_ids, draws * self.mixture.group_size + offsets

    def draw_counts(self, rows: int) -> list[int]:
        """How many of the blend's first `rows` rows are draws of each part."""
        groups, remainder = divmod(rows, self.mixture.group_size)
        group_counts = (
            source_counts(groups, self.mixture.shares)
            if self._source_order is None
            else self._source_order.draw_counts(groups)
        )
        counts = [count * self.mixture.group_size for count in group_counts]
        if remainder:
            source_ids, _ = self.source_draws(np.array([rows - 1]))
            counts[int(source_ids[0])] += remainder
        return counts

    def units_at(self, positions: Indices, unit: ShareUnit) -> Indices:
        """What the nth rows of the blend count for."""
        source_ids, rows = self.rows_at(positions)
        unit_counts = np.empty_like(rows)
        for source_id, source in enumerate(self.mixture.sources):
            mask = source_ids == source_id
            unit_counts[mask] = row_units(source, rows[mask], unit)
        return unit_counts

    def _rows(self, source_id: int, draws: Indices) -> Indices:
        source = self.mixture.sources[source_id]
        return grouped_permutation(
            draws, count=source.packed_rows.row_count, group_size=source.group_size, seed=self.seeds[source_id]
        )

    def _group_units(self, source_id: int, groups: Indices) -> Indices:
        """Units of a part's nth group of rows that are drawn together."""
        group_size, source = self.mixture.group_size, self.mixture.sources[source_id]
        first_rows = self._rows(source_id, groups * group_size)
        return sum(
            (row_units(source, first_rows + offset, self.mixture.counted_in) for offset in range(group_size)),
            np.zeros_like(first_rows),
        )


def _check_mixture(mixture: LoaderMixture) -> None:
    names = ", ".join(source.name for source in mixture.sources)
    if sum(mixture.shares, Fraction(0)) != 1:
        raise MixError(f"{names}: shares of a blend must sum to 1. Got {', '.join(map(str, mixture.shares))}.")
    if len({source.group_size for source in mixture.sources}) > 1:
        raise MixError(
            f"{names}: rows of one blend are cut alike. Got {[source.group_size for source in mixture.sources]}."
        )
    for source, share in zip(mixture.sources, mixture.shares, strict=True):
        check_countable(source, share, mixture.counted_in if mixture.is_weighted else "rows")


def check_countable(source: LoaderSource, share: Fraction, unit: ShareUnit) -> None:
    """Raise MixError where a feed holds nothing of what its share counts: it could be drawn forever in vain."""
    if share and unit != "rows" and not largest_row_units(source, unit, group_size=1):
        raise MixError(
            f"{source.name}: wanted {share} of the {unit.replace('_', ' ')}. Got a source without any, "
            f"{source.index.path}. Count rows, or take the source out."
        )
