"""Where a figure draws each arm."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.recipe.analysis import Axis, Bars, Grid, Sweep
from firstsight.recipe.scales import get_scale
from firstsight.recipe.study import Study
from firstsight.report.figures.layout import (
    DODGE,
    LABEL_SEPARATION,
    MARGIN,
    Layout,
    fitting_labels,
    lay_out,
    symlog_constant,
)
from firstsight.report.results import ArmResult
from firstsight.studies.when import trunk_arm
from firstsight.units import Share
from tests.report.study_builder import MakeArms, study

SIZE = Axis(name="size", label="Size", unit="count", scale="log")
KIND = Axis(name="kind_of_text", label="Kind", unit="category")
OWN = Study(name="own", scale="cpu", question="?", arms=(trunk_arm(get_scale("cpu")),), axes=(SIZE, KIND))


@pytest.fixture
def arms(make_arms: MakeArms) -> list[ArmResult]:
    """Four arms on two axes, and the trunk."""
    first, trunk = (next(arm for arm in make_arms(questions=2) if arm.name == name) for name in ("start-080", "trunk"))
    places = [(size, kind) for size in (1, 100) for kind in ("web", "code")]
    made = [
        replace(
            first, name=f"{kind}-{size}", label=f"{kind}-{size}.s1", group=kind, at={"size": size, "kind_of_text": kind}
        )
        for size, kind in places
    ]
    return [*made, trunk]


def column(layout: Layout, name: str) -> list[object]:
    return layout.places.get_column(name).to_list()


def domain(layout: Layout) -> list[float]:
    return layout.x().to_dict()["scale"]["domain"]


def test_lines_are_moved_apart_around_the_coordinate_on_a_logarithmic_axis(arms: list[ArmResult]) -> None:
    layout = lay_out(Sweep(x="size"), arms, OWN)
    assert layout.series == ["web", "code"] and column(layout, "tick") == [1.0, 1.0, 100.0, 100.0]
    shifts = [log(x / tick) / log(100) for x, tick in zip(column(layout, "x"), column(layout, "tick"), strict=True)]
    assert shifts == pytest.approx([-DODGE / 2, DODGE / 2] * 2)
    assert domain(layout) == pytest.approx([100**-MARGIN, 100 ** (1 + MARGIN)])
    assert layout.x().to_dict()["scale"]["type"] == "log"


SHARES = (0, 1, 5, 10, 20, 50, 80, 100)
IMAGES = replace(SIZE, name="images", unit="percent", scale="symlog")


def test_a_symlog_axis_draws_zero_and_keeps_all_ticks_apart(arms: list[ArmResult]) -> None:
    """At log(1 + value / constant), from the first to the last tick with margins; two lines are beside the tick."""
    places = [(share, group) for share in SHARES for group in ("early", "late")]
    made = [
        replace(arms[0], name=f"{group}-{share}", group=group, at={"images": Share(share, 100)})
        for share, group in places
    ]
    layout = lay_out(Sweep(x="images"), made, replace(OWN, axes=(IMAGES,)))
    x = layout.x().to_dict()
    assert x["axis"]["values"] == [share / 100 for share in SHARES] and x["scale"]["type"] == "symlog"
    constant, length = x["scale"]["constant"], log(1 + 1 / x["scale"]["constant"])
    places_on_axis = [log(1 + share / 100 / constant) / length for share in SHARES]
    assert min(b - a for a, b in pairwise(places_on_axis)) * 460 > 25, "pixels of a figure, for labels of that width"
    for shift, tick, value in zip([-0.5, 0.5] * 8, column(layout, "tick"), column(layout, "x"), strict=True):
        assert isinstance(value, float) and isinstance(tick, float)
        place = log(1 + abs(value) / constant) * (1 if value >= 0 else -1)
        assert place == pytest.approx(log(1 + tick / constant) + shift * DODGE * length)
    low, high = domain(layout)
    assert -log(1 - low / constant) == pytest.approx(-MARGIN * length)
    assert log(1 + high / constant) == pytest.approx((1 + MARGIN) * length)


@given(st.sets(st.integers(1, 1000), min_size=1, max_size=8), st.booleans())
def test_the_constant_of_a_symlog_axis_is_a_tick_that_no_other_one_betters(above: set[int], has_zero: bool) -> None:
    ticks = [*[0.0] * has_zero, *map(float, sorted(above))]
    gaps = {}
    for constant in ticks[has_zero:]:
        places = [log(1 + tick / constant) for tick in ticks]
        gaps[constant] = min((b - a for a, b in pairwise(places)), default=0) / (places[-1] - places[0] or 1)
    assert gaps[symlog_constant(ticks)] == pytest.approx(max(gaps.values()))


def test_a_hollow_group_is_on_the_line_of_the_others(make_arms: MakeArms) -> None:
    layout = lay_out(Sweep(x="start", hollow="re-warmed"), make_arms(questions=2), study())
    assert layout.hollow == "re-warmed" and layout.series == ["continued"]
    assert column(layout, "x") == column(layout, "tick") == [float(Share(n, 5)) for n in range(6)]
    assert column(layout, "hollow") == [True, False, False, False, False, True]
    assert column(layout, "place") == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    assert domain(layout) == pytest.approx([-MARGIN, 1 + MARGIN])


def test_a_grid_has_a_column_and_a_row_for_each_arm(arms: list[ArmResult]) -> None:
    layout = lay_out(Grid(x="size", y="kind_of_text"), arms, OWN)
    assert layout.title == "Size × Kind" and not layout.hollow and layout.axis is None
    cells = list(zip(column(layout, "column"), column(layout, "row"), strict=True))
    assert cells == [("1", "web"), ("1", "code"), ("100", "web"), ("100", "code")]


def test_bars_have_the_order_of_the_arms_and_no_baseline(arms: list[ArmResult]) -> None:
    layout = lay_out(Bars(), arms, OWN)
    names = ["web-1", "code-1", "web-100", "code-100"]
    assert column(layout, "arm") == column(layout, "place") == names and layout.titles == ()


def overlaps(places: list[float], widths: list[float], a: int, b: int, length: float) -> bool:
    return abs(places[a] - places[b]) * length < (widths[a] + widths[b]) / 2 + LABEL_SEPARATION


@given(
    places=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8, unique=True).map(sorted),
    data=st.data(),
    length=st.floats(50.0, 600.0),
)
def test_labels_are_those_of_the_ends_and_all_between_that_fit(
    places: list[float], data: st.DataObject, length: float
) -> None:
    widths = data.draw(st.lists(st.floats(5.0, 60.0), min_size=len(places), max_size=len(places)))
    labelled = fitting_labels(places, widths, length=length)
    assert labelled[0] == 0 and labelled[-1] == len(places) - 1 and labelled == sorted(set(labelled))
    pairs = [(a, b) for a, b in pairwise(labelled) if len(labelled) > 2]
    assert not any(overlaps(places, widths, a, b, length) for a, b in pairs)
    left_out = set(range(len(places))) - set(labelled)
    assert all(any(overlaps(places, widths, index, other, length) for other in labelled) for index in left_out)


@pytest.mark.parametrize("compact", [False, True])
def test_the_ends_of_a_narrow_axis_are_labelled(arms: list[ArmResult], compact: bool) -> None:
    """Seven shares, as a study of shares has them: all fit on a page of 390 pixels, the ends and some in a panel."""
    shares = (0, 1, 5, 10, 20, 50, 100)
    own = replace(OWN, axes=(IMAGES, KIND))
    many = [replace(arms[0], name=f"share-{s}", at={"images": s / 100, "kind_of_text": "web"}) for s in shares]
    axis = lay_out(Sweep(x="images"), many, own).x(compact=compact).to_dict()["axis"]
    values = [share / 100 for share in shares]
    assert axis["values"] == values and axis["labelOverlap"] is False
    labelled = json.loads(match[1]) if (match := re.match(r"indexof\((.*?\])", axis["labelExpr"])) else values
    assert {0.0, 1.0} < set(labelled) <= set(values)
    assert (labelled == values) == (not compact)
