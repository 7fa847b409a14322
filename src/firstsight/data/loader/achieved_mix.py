"""What a run really holds: rows, tokens and loss tokens by source, and the shares that they make, span by span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Int64

from firstsight.recipe.mixture import ShareUnit

MIX_UNITS: tuple[ShareUnit, ...] = ("rows", "tokens", "loss_tokens")
SourceCounts = Int64[np.ndarray, "feeds 3"]
"""Rows, tokens and loss tokens of each feed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanStats:
    """A span of a run with one image share."""

    rows: int
    target_share: Fraction
    achieved_shares: Mapping[str, float]
    """The image part's share in all three units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AchievedMix:
    """What a run really holds, counted row by row."""

    rows: dict[str, int]
    tokens: dict[str, int]
    """Padding not among them."""
    loss_tokens: dict[str, int]
    epochs: dict[str, float]
    """Passes of this stage through each source."""
    text_sources: tuple[str, ...]
    """Which of the sources are text."""
    text_rows_read: int
    """Of this stage and all before: where the text of the next stage begins."""
    text_row_length: int
    text_group_size: int
    """How many of these rows one row of the packed text was cut into."""
    text_seed: int
    counted_in: ShareUnit
    spans: tuple[SpanStats, ...]
    padding: float

    @property
    def target_share(self) -> Fraction:
        """The image share of the whole run, over spans by their rows."""
        total = sum(span.rows for span in self.spans)
        return sum((span.rows * span.target_share for span in self.spans), Fraction(0)) / max(1, total)

    def to_dict(self) -> dict[str, object]:
        """As JSON: counts by source, and the image part's share in all three units."""
        counts: dict[str, dict[str, int]] = {"rows": self.rows, "tokens": self.tokens, "loss_tokens": self.loss_tokens}
        image_totals = {
            unit: sum(source_counts[name] for name in source_counts if name not in self.text_sources)
            for unit, source_counts in counts.items()
        }
        return {
            "asked": str(self.target_share),
            "counted_in": self.counted_in,
            "achieved": {
                unit: image_totals[unit] / max(1, sum(source_counts.values())) for unit, source_counts in counts.items()
            },
            "spans": [
                {"rows": span.rows, "asked": str(span.target_share), "achieved": dict(span.achieved_shares)}
                for span in self.spans
            ],
            **counts,
            "epochs": self.epochs,
            "padding": self.padding,
            "text_rows_seen": self.text_rows_read,
            "text_row_length": self.text_row_length,
            "text_cut": self.text_group_size,
            "text_seed": self.text_seed,
        }


def span_stats(counts: SourceCounts, text_source_count: int, target_share: Fraction) -> SpanStats:
    """A span out of its counts, of which the first `texts` feeds are text."""
    totals, image_totals = counts.sum(axis=0).tolist(), counts[text_source_count:].sum(axis=0).tolist()
    shares = {
        unit: image_total / max(1, unit_total)
        for unit, image_total, unit_total in zip(MIX_UNITS, image_totals, totals, strict=True)
    }
    return SpanStats(rows=totals[0], target_share=Fraction(target_share), achieved_shares=shares)
