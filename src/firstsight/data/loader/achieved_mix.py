"""What a run consists of: rows, tokens and loss tokens by source, and the shares that they make, span by span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NoReturn

import numpy as np
from jaxtyping import Int64

from firstsight.data.loader.mixture import LoaderMixture
from firstsight.data.loader.stream import BatchStream
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit

MIX_UNITS: tuple[ShareUnit, ...] = ("rows", "tokens", "loss_tokens")
_COUNT_CHUNK = 1 << 20
SourceCounts = Int64[np.ndarray, "sources 3"]
"""Rows, tokens and loss tokens of each source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanStats:
    """A span of a run with a constant image share."""

    rows: int
    target_share: Fraction
    achieved_shares: dict[str, float]

    @classmethod
    def from_counts(cls, counts: SourceCounts, target_share: Fraction, text_count: int) -> SpanStats:
        """The first `text_count` sources are text."""
        totals, images = counts.sum(axis=0).tolist(), counts[text_count:].sum(axis=0).tolist()
        shares = {unit: images[column] / max(1, totals[column]) for column, unit in enumerate(MIX_UNITS)}
        return cls(rows=totals[0], target_share=Fraction(target_share), achieved_shares=shares)


class AchievedMix:
    """What the first `steps` steps of a stream consist of, counted row by row; raises MixError if a share is off."""

    def __init__(self, stream: BatchStream, steps: int) -> None:
        self.stream, total_rows = stream, steps * stream.row_shape.batch_size
        ends = [min(total_rows, end) for end in accumulate((rows for rows, _ in stream.spans), initial=0)]
        counts = [_count_rows(stream, start, stop) for start, stop in pairwise(ends)]
        _check_shares(stream, counts)
        shares, text_count = [share for _, share in stream.spans], len(stream.text_mixture.sources)
        self.spans = [SpanStats.from_counts(*span, text_count) for span in zip(counts, shares, strict=True)]
        totals, mean = sum(counts, _count_rows(stream, 0, 0)), sum(s.rows * s.target_share for s in self.spans)
        self.whole = SpanStats.from_counts(totals, Fraction(mean) / max(1, total_rows), text_count)
        """All spans as one; its target share is their mean, weighted by rows."""
        columns = (dict(zip(stream.source_names, column, strict=True)) for column in totals.T.tolist())
        self.rows, self.tokens, self.loss_tokens = columns
        """By source; tokens without padding."""
        sizes = {source.name: max(1, source.packed_rows.row_count) for source in stream.sources}
        self.epochs = {name: self.rows[name] / size for name, size in sizes.items()}
        """Passes of this stage through each source."""
        self.text_rows_read = stream.text_row_offset + int(totals[:text_count, 0].sum())
        """Of this stage and all before: where the text of the next stage begins."""
        self.padding = 1 - int(totals[:, 1].sum()) / max(1, total_rows * stream.row_shape.length)

    def to_dict(self) -> dict[str, object]:
        """The contents of achieved.json: counts by source, and the share of images in each unit."""
        return {
            "asked": str(self.whole.target_share),
            "counted_in": self.stream.counted_in,
            "achieved": self.whole.achieved_shares,
            "spans": [
                {"rows": span.rows, "asked": str(span.target_share), "achieved": span.achieved_shares}
                for span in self.spans
            ],
            "rows": self.rows,
            "tokens": self.tokens,
            "loss_tokens": self.loss_tokens,
            "epochs": self.epochs,
            "padding": self.padding,
            "text_rows_seen": self.text_rows_read,
            "text_row_length": self.stream.row_shape.length,
            "text_cut": self.stream.text_mixture.group_size,
            "text_seed": self.stream.text_seed,
        }


def _count_rows(stream: BatchStream, start: int, stop: int) -> SourceCounts:
    counts = np.zeros((len(stream.sources), 3), dtype=np.int64)
    for first in range(start, stop, _COUNT_CHUNK):
        for source_id, (_, rows) in enumerate(stream.source_rows(np.arange(first, min(stop, first + _COUNT_CHUNK)))):
            counts[source_id] += [int(stream.sources[source_id].units(rows, unit).sum()) for unit in MIX_UNITS]
    return counts


def _check_shares(stream: BatchStream, counts: Sequence[SourceCounts]) -> None:
    """Raise MixError unless every span has its image share, and the whole run the shares of both mixtures.

    An image share of rows is exact (floor); a share of tokens may be off by a largest row of text and one of images.
    """
    unit, text, images, slack = stream.counted_in, stream.text_mixture, stream.image_mixture, 0
    mixtures = [text] if images is None else [text, images]
    column, text_count = MIX_UNITS.index(unit), len(text.sources)
    if unit != "rows":
        slack = sum(max(source.max_units(unit) for source in mixture.sources) for mixture in mixtures)
    for span, (_, share) in zip(counts, stream.spans, strict=True):
        total, image_units = int(span[:, column].sum()), int(span[text_count:, column].sum())
        is_off = image_units != int(total * share)
        if unit != "rows" and 0 < share < 1:
            is_off = abs(image_units - total * share) > slack
        if is_off:
            _raise_share_error(stream.source_names, share, unit, image_units, total)
    totals = sum(counts, np.zeros((len(stream.sources), 3), dtype=np.int64))
    for mixture, part in zip(mixtures, (totals[:text_count], totals[text_count:]), strict=False):
        _check_mixture_shares(mixture, part)


def _check_mixture_shares(mixture: LoaderMixture, counts: SourceCounts) -> None:
    """A run is the difference of two prefixes of a mixture: each of these may be off by what is drawn together."""
    units, names = counts[:, MIX_UNITS.index(mixture.counted_in)].tolist(), [source.name for source in mixture.sources]
    slack = 2 * sum(source.max_units(mixture.counted_in, group_size=mixture.group_size) for source in mixture.sources)
    for count, share in zip(units, mixture.shares, strict=True):
        if abs(count - sum(units) * share) > slack:
            _raise_share_error(names, share, mixture.counted_in, count, sum(units))


def _raise_share_error(names: Sequence[str], share: Fraction, unit: ShareUnit, count: int, total: int) -> NoReturn:
    raise MixError(f"{', '.join(names)}: wanted {share} of the {unit}. Got {count} of {total}. Report this as a bug.")
