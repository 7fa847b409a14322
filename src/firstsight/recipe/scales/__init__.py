"""Complete recipes by size: everything but the axis that a study varies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from firstsight.errors import UnknownName
from firstsight.recipe.scales.base import CONTINUED, REWARMED, START, Scale, branch_at
from firstsight.recipe.scales.paper import PAPER_SIZES, paper_scale
from firstsight.recipe.scales.synthetic import cpu_scale, smoke_scale

__all__ = ["CONTINUED", "REWARMED", "SCALES", "START", "Scale", "branch_at", "get_scale"]

SCALES: dict[str, Callable[[], Scale]] = {
    "smoke": smoke_scale,
    "cpu": cpu_scale,
    **{name: partial(paper_scale, name) for name in PAPER_SIZES},
}


def get_scale(name: str) -> Scale:
    """The scale of that name; UnknownName with the nearest names otherwise."""
    if name not in SCALES:
        raise UnknownName("scale", name, SCALES)
    return SCALES[name]()
