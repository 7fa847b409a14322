"""What a run really holds: rows, tokens and loss tokens by source, and the shares that they make, span by span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Int64

from firstsight.recipe.mix import Unit

UNITS: tuple[Unit, ...] = ("rows", "tokens", "loss_tokens")
Counts = Int64[np.ndarray, "feeds 3"]
"""Rows, tokens and loss tokens of each feed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A span of a run with one image share."""

    rows: int
    asked: Fraction
    achieved: Mapping[str, float]
    """The image part's share in all three units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Achieved:
    """What a run really holds, counted row by row."""

    rows: dict[str, int]
    tokens: dict[str, int]
    """Padding not among them."""
    loss_tokens: dict[str, int]
    epochs: dict[str, float]
    """Passes of this stage through each source."""
    text: tuple[str, ...]
    """Which of the sources are text."""
    text_rows_seen: int
    """Of this stage and all before: where the text of the next stage begins."""
    text_row_length: int
    text_cut: int
    """How many of these rows one row of the packed text was cut into."""
    text_seed: int
    counted_in: Unit
    spans: tuple[Stretch, ...]
    padding: float

    @property
    def asked(self) -> Fraction:
        """The image share of the whole run, over spans by their rows."""
        total = sum(span.rows for span in self.spans)
        return sum((span.rows * span.asked for span in self.spans), Fraction(0)) / max(1, total)

    def record(self) -> dict[str, object]:
        """As JSON: counts by source, and the image part's share in all three units."""
        counts: dict[str, dict[str, int]] = {"rows": self.rows, "tokens": self.tokens, "loss_tokens": self.loss_tokens}
        images = {unit: sum(held[name] for name in held if name not in self.text) for unit, held in counts.items()}
        return {
            "asked": str(self.asked),
            "counted_in": self.counted_in,
            "achieved": {unit: images[unit] / max(1, sum(held.values())) for unit, held in counts.items()},
            "spans": [
                {"rows": span.rows, "asked": str(span.asked), "achieved": dict(span.achieved)} for span in self.spans
            ],
            **counts,
            "epochs": self.epochs,
            "padding": self.padding,
            "text_rows_seen": self.text_rows_seen,
            "text_row_length": self.text_row_length,
            "text_cut": self.text_cut,
            "text_seed": self.text_seed,
        }


def stretch(counts: Counts, texts: int, asked: Fraction) -> Stretch:
    """A span out of its counts, of which the first `texts` feeds are text."""
    total, images = counts.sum(axis=0).tolist(), counts[texts:].sum(axis=0).tolist()
    shares = {unit: held / max(1, whole) for unit, held, whole in zip(UNITS, images, total, strict=True)}
    return Stretch(rows=total[0], asked=Fraction(asked), achieved=shares)
