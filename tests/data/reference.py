"""Definitions that are slow and plain, as oracles for the vectorised code."""

from __future__ import annotations

from fractions import Fraction
from math import floor


def source_at(row: int, share: Fraction) -> tuple[bool, int]:
    """Whether row `row` is an image row, and its number among the rows of its kind."""
    before, after = floor(row * share), floor((row + 1) * share)
    return (True, before) if after > before else (False, row - before)
