"""Where a figure draws each arm."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from firstsight.recipe.analysis import Axis, Bars, Grid, Sweep
from firstsight.recipe.scales import get_scale
from firstsight.recipe.study import Study
from firstsight.report.figures.layout import DODGE, MARGIN, Layout, lay_out
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
    assert domain(layout) == pytest.approx([100**-MARGIN, 100 ** (1 + MARGIN)]) and layout.is_log


def test_a_hollow_group_is_on_the_line_of_the_others(make_arms: MakeArms) -> None:
    layout = lay_out(Sweep(x="start", hollow="re-warmed"), make_arms(questions=2), study())
    assert layout.hollow == "re-warmed" and layout.series == ["continued"]
    assert column(layout, "x") == column(layout, "tick") == [float(Share(n, 5)) for n in range(6)]
    assert column(layout, "hollow") == [True, False, False, False, False, True]
    assert column(layout, "place") == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    assert domain(layout) == pytest.approx([-MARGIN, 1 + MARGIN])


def test_a_grid_has_a_column_and_a_row_for_each_arm(arms: list[ArmResult]) -> None:
    layout = lay_out(Grid(x="size", y="kind_of_text"), arms, OWN)
    assert layout.title == "Size, Kind" and not layout.hollow and layout.axis is None
    cells = list(zip(column(layout, "column"), column(layout, "row"), strict=True))
    assert cells == [("1", "web"), ("1", "code"), ("100", "web"), ("100", "code")]


def test_bars_have_the_order_of_the_arms_and_no_baseline(arms: list[ArmResult]) -> None:
    layout = lay_out(Bars(), arms, OWN)
    names = ["web-1", "code-1", "web-100", "code-100"]
    assert column(layout, "arm") == names == layout.x().to_dict()["sort"] and layout.titles == ()
