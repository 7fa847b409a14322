"""Sources of the loader (index, packed rows, images), and mixtures of them: which row comes nth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float16, Int64, UInt8

from firstsight.data.image_reader import ImageReader
from firstsight.data.images import SIGLIP_PAD_COLOR, decode_image_fast
from firstsight.data.index import Index
from firstsight.data.loader.mixing import SourceSequence, merge_by_units
from firstsight.data.packing import PackedRows
from firstsight.data.sampling import Indices, assign_sources, grouped_permutation, source_counts
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.vision import ImageFit, RGBBytes


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecomputedFeatures:
    """The features that an external encoder computed of an index's images, in the order of the index."""

    array: Float16[np.ndarray, "images I W"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    def take(self, image_ids: Int64[np.ndarray, "N"]) -> Float16[np.ndarray, "N I W"]:
        return self.array[image_ids]


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
