"""The figure of stable scores, read back from its specification."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.recipe.analysis import Sweep
from firstsight.report.figures.layout import lay_out
from firstsight.report.figures.scores import stable_score_chart
from firstsight.report.figures.style import vega_lite_spec
from firstsight.report.results import ArmResult
from firstsight.report.table import score_table
from tests.report.figures.charts import Spec, layer_rows
from tests.report.study_builder import MakeArms, study

INTERVALS = {("start-080", "vision"): (0.4, 0.6)}
HOLLOW = study().drawn_figures[0]


def _spec(arms: list[ArmResult], figure: Sweep) -> Spec:
    layout = lay_out(figure, arms, study())
    return vega_lite_spec(stable_score_chart(score_table(arms), INTERVALS, layout))


@pytest.fixture
def spec(make_arms: MakeArms) -> Spec:
    assert isinstance(HOLLOW, Sweep)
    return _spec(make_arms(questions=20), HOLLOW)


def test_points_of_the_hollow_group_are_hollow(spec: Spec) -> None:
    (points,) = layer_rows(spec, "point")
    assert len(points) == 12
    assert {row["x"] for row in points if row["fill"] == "hollow"} == {0.0, 1.0}
    assert {row["group"] for row in points if row["fill"] == "hollow"} == {"re-warmed"}


def test_line_is_dashed_toward_hollow_points(spec: Spec) -> None:
    segments = next(rows for rows in layer_rows(spec, "line") if "segment" in rows[0])
    dashed = {row["segment"] for row in segments if row["line"] == "to re-warmed"}
    assert dashed == {f"{kind}-continued-{index}" for kind in ("vision", "text") for index in (0, 4)}
    assert {row["line"] for row in segments} == {"continued", "to re-warmed"}


def test_every_seed_has_a_mark(spec: Spec) -> None:
    seeds = next(rows for rows in layer_rows(spec, "circle") if rows[0]["condition"] == "sighted")
    assert len(seeds) == 6 * 2 * 2
    assert len({(row["label"], row["kind"]) for row in seeds}) == 24


def test_both_guessers_and_the_baseline_are_drawn(spec: Spec) -> None:
    levels = next(rows for rows in layer_rows(spec, "rule") if "line" in rows[0])
    assert {(row["line"], row["kind"]) for row in levels} == {
        ("without the question", "vision"),
        ("baseline: trunk", "text"),
    }
    blind = next(rows for rows in layer_rows(spec, "line") if rows[0].get("condition") == "blind")
    assert len(blind) == 6


def test_intervals_are_drawn_as_bars(spec: Spec) -> None:
    [bar] = next(rows for rows in layer_rows(spec, "rule") if "interval_low" in rows[0])
    assert (bar["arm"], bar["kind"], bar["interval_low"], bar["interval_high"]) == ("start-080", "vision", 0.4, 0.6)


def test_groups_are_lines_of_their_own_beside_each_other(make_arms: MakeArms) -> None:
    arms = make_arms(questions=10)
    names = {"start-080": "start-080-rewarm", "start-060": "start-060-rewarm"}
    controls = [
        replace(arm, name=names[arm.name], label=f"{names[arm.name]}.s{arm.seed}", group="re-warmed")
        for arm in arms
        if arm.name in names
    ]
    spec = _spec([*arms, *controls], Sweep(x="start"))
    (points,) = layer_rows(spec, "point")
    positions = {row["arm"]: row["x"] for row in points}
    shift = positions["start-000"] - 0.0
    for percent in range(0, 101, 20):
        side = shift if percent in (0, 100) else -shift
        assert positions[f"start-{percent:03d}"] == pytest.approx(percent / 100 + side)
    assert positions["start-080-rewarm"] == pytest.approx(0.8 + shift)
    assert {row["series"] for row in points} == {"continued", "re-warmed"}
    segments = next(rows for rows in layer_rows(spec, "line") if "segment" in rows[0])
    joined = {row["segment"] for row in segments if row["kind"] == "vision"}
    assert len(joined) == 3 + 3  # 20 to 80 % continued, and 0, 60, 80, 100 % re-warmed
    assert {row["line"] for row in segments} == {"with the image"}
