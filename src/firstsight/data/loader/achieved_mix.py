"""What a run consists of: rows, tokens and loss tokens by source, and the shares that they make, span by span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn

import numpy as np
from jaxtyping import Int64

from firstsight.data.loader.mixture import LoaderMixture
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit

MIX_UNITS: tuple[ShareUnit, ...] = ("rows", "tokens", "loss_tokens")
SourceCounts = Int64[np.ndarray, "sources 3"]
"""Rows, tokens and loss tokens of each source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanStats:
    """A span of a run with a constant image share."""

    rows: int
    target_share: Fraction
    achieved_shares: Mapping[str, float]
    """The share of images in each unit."""

    @classmethod
    def from_counts(cls, counts: SourceCounts, target_share: Fraction, text_count: int) -> SpanStats:
        """The first `text_count` sources are text."""
        totals, images = counts.sum(axis=0).tolist(), counts[text_count:].sum(axis=0).tolist()
        shares = {unit: images[column] / max(1, totals[column]) for column, unit in enumerate(MIX_UNITS)}
        return cls(rows=totals[0], target_share=Fraction(target_share), achieved_shares=shares)


@dataclass(frozen=True, kw_only=True, slots=True)
class AchievedMix:
    """What a run consists of, counted row by row."""

    rows: dict[str, int]
    tokens: dict[str, int]
    """Without padding."""
    loss_tokens: dict[str, int]
    epochs: dict[str, float]
    """Passes of this stage through each source."""
    text_sources: tuple[str, ...]
    text_rows_read: int
    """Of this stage and all before: where the text of the next stage begins."""
    text_row_length: int
    text_group_size: int
    """How many of these rows are parts of one row that the text was packed into."""
    text_seed: int
    counted_in: ShareUnit
    spans: tuple[SpanStats, ...]
    whole: SpanStats
    """All spans as one; its target share is their mean, weighted by rows."""
    padding: float

    def to_dict(self) -> dict[str, object]:
        """The contents of achieved.json: counts by source, and the share of images in each unit."""
        return {
            "asked": str(self.whole.target_share),
            "achieved": dict(self.whole.achieved_shares),
            "counted_in": self.counted_in,
            "spans": [
                {"rows": span.rows, "asked": str(span.target_share), "achieved": dict(span.achieved_shares)}
                for span in self.spans
            ],
            "rows": self.rows,
            "tokens": self.tokens,
            "loss_tokens": self.loss_tokens,
            "epochs": self.epochs,
            "padding": self.padding,
            "text_rows_seen": self.text_rows_read,
            "text_row_length": self.text_row_length,
            "text_cut": self.text_group_size,
            "text_seed": self.text_seed,
        }


def check_span_shares(
    text: LoaderMixture,
    images: LoaderMixture | None,
    *,
    counts: Sequence[SourceCounts],
    shares: Sequence[Fraction],
    counted_in: ShareUnit,
) -> None:
    """Raise MixError unless every span has its image share, and the whole run the shares of both mixtures.

    An image share of rows is exact (floor); a share of tokens may be off by a largest row of text and one of images.
    """
    unit, mixtures = MIX_UNITS.index(counted_in), [text] if images is None else [text, images]
    text_count, sources = len(text.sources), [source for mixture in mixtures for source in mixture.sources]
    names = tuple(source.name for source in sources)
    slack = 0
    if counted_in != "rows":
        slack = sum(max(source.max_units(counted_in) for source in mixture.sources) for mixture in mixtures)
    for span, share in zip(counts, shares, strict=True):
        total, image_units = int(span[:, unit].sum()), int(span[text_count:, unit].sum())
        is_off = image_units != int(total * share)
        if counted_in != "rows" and 0 < share < 1:
            is_off = abs(image_units - total * share) > slack
        if is_off:
            _raise_share_error(names, share, counted_in, image_units, total)
    totals = sum(counts, np.zeros((len(sources), 3), dtype=np.int64))
    _check_mixture_shares(text, totals[:text_count])
    if images is not None:
        _check_mixture_shares(images, totals[text_count:])


def _check_mixture_shares(mixture: LoaderMixture, counts: SourceCounts) -> None:
    """A run is the difference of two prefixes of a mixture: each of these may be off by what is drawn together."""
    units, names = counts[:, MIX_UNITS.index(mixture.counted_in)].tolist(), [source.name for source in mixture.sources]
    slack = 2 * sum(source.max_units(mixture.counted_in, group_size=mixture.group_size) for source in mixture.sources)
    for count, share in zip(units, mixture.shares, strict=True):
        if abs(count - sum(units) * share) > slack:
            _raise_share_error(names, share, mixture.counted_in, count, sum(units))


def _raise_share_error(names: Sequence[str], share: Fraction, unit: ShareUnit, count: int, total: int) -> NoReturn:
    raise MixError(f"{', '.join(names)}: wanted {share} of the {unit}. Got {count} of {total}. Report this as a bug.")
