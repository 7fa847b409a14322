"""Complete recipes by size: everything but the axis that a study varies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from firstsight.errors import QuantityError, UnknownName
from firstsight.recipe.scales.base import (
    CONTINUED,
    IMAGE_SHARE,
    REWARMED,
    START,
    PlanAssumptions,
    Scale,
    branch_at,
    percent_name,
    with_image_share,
)
from firstsight.recipe.scales.donors import PUBLIC_RUNS
from firstsight.recipe.scales.evening import ASSUMPTIONS, evening_scale
from firstsight.recipe.scales.paper import PAPER_SIZES, paper_scale
from firstsight.recipe.scales.synthetic import (
    SMALLER_WIDTHS,
    cpu_scale,
    hour_scale,
    smoke_scale,
    synthetic_decoder,
)

__all__ = [
    "CONTINUED",
    "IMAGE_SHARE",
    "PAPER_SIZES",
    "REWARMED",
    "SCALES",
    "START",
    "PlanAssumptions",
    "Scale",
    "branch_at",
    "get_scale",
    "percent_name",
    "plan_assumptions",
    "smaller_sizes",
    "with_image_share",
]

BUILT_IN: dict[str, Callable[[], Scale]] = {"smoke": smoke_scale, "cpu": cpu_scale, "hour": hour_scale}
"""Scales of the built-in world."""
SCALES: dict[str, Callable[[], Scale]] = {
    **BUILT_IN,
    "evening": evening_scale,
    **{name: partial(paper_scale, name) for name in PAPER_SIZES},
}


def get_scale(name: str) -> Scale:
    """The scale of that name; UnknownName with the nearest names otherwise."""
    if name not in SCALES:
        raise UnknownName("scale", name, SCALES)
    return SCALES[name]()


def plan_assumptions(name: str) -> PlanAssumptions:
    """Those of a scale, by its name in a study: an H100 for the paper's sizes and for public runs at these, a CPU where
    nothing is known. A scale with another donor (evening-pythia-70m) has those of the scale.
    """
    scale = name if name in SCALES else name.partition("-")[0]
    if scale == "evening":
        return ASSUMPTIONS
    return PlanAssumptions(device="h100" if scale in PAPER_SIZES or name in PUBLIC_RUNS else "cpu")


def smaller_sizes(scale: Scale) -> dict[str, Scale]:
    """The smaller sizes of a shipped scale by name, from small to large, with as many seeds.

    Of a paper's size all smaller ones, each with its own budget. Of a scale of the built-in world narrower decoders
    with the same data and budget. QuantityError where there are none.
    """
    if scale.name in PAPER_SIZES:
        names = list(PAPER_SIZES)[: list(PAPER_SIZES).index(scale.name)]
        sizes = {name: replace(get_scale(name), seeds=scale.seeds) for name in names}
    else:
        widths = SMALLER_WIDTHS if scale.name in BUILT_IN else ()
        sizes = {f"w{width}": scale.with_decoder(synthetic_decoder(width)) for width in widths}
    if not sizes:
        larger = ", ".join([*BUILT_IN, *list(PAPER_SIZES)[1:]])
        raise QuantityError(f"wanted a scale that has smaller sizes. Got {scale.name}. Name one of {larger}.")
    return sizes
