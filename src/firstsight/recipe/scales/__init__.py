"""Complete recipes by size: everything but the axis that a study varies."""

from __future__ import annotations

from collections.abc import Callable

from firstsight.errors import UnknownName
from firstsight.recipe.scales.base import Scale, branch_at
from firstsight.recipe.scales.paper import paper_1b, paper_7b, paper_79m, paper_154m, paper_411m
from firstsight.recipe.scales.synthetic import cpu_scale, smoke_scale

__all__ = ["SCALES", "Scale", "branch_at", "scale_named"]

SCALES: dict[str, Callable[[], Scale]] = {
    "smoke": smoke_scale,
    "cpu": cpu_scale,
    "79m": paper_79m,
    "154m": paper_154m,
    "411m": paper_411m,
    "1b": paper_1b,
    "7b": paper_7b,
}


def scale_named(name: str) -> Scale:
    """The recipe of that size; UnknownName with the nearest names otherwise."""
    if name not in SCALES:
        raise UnknownName("scale", name, SCALES)
    return SCALES[name]()
