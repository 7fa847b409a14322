"""The figure of stable scores, read back from its specification."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.report.figures.scores import stable_score_chart
from firstsight.report.figures.style import vega_lite_spec
from firstsight.report.table import score_table
from tests.report.figures.charts import Spec, layer_rows, nodes
from tests.report.study_builder import MakeArms


@pytest.fixture
def spec(make_arms: MakeArms) -> Spec:
    rows = score_table(make_arms(questions=20))
    return vega_lite_spec(stable_score_chart(rows, {("start-080", "vision"): (0.4, 0.6)}))


def test_points_of_other_schedules_are_hollow(spec: Spec) -> None:
    (points,) = layer_rows(spec, "point")
    assert len(points) == 12
    assert {row["start"] for row in points if row["fill"] == "hollow"} == {0.0, 1.0}
    assert {row["schedule_label"] for row in points if row["fill"] == "hollow"} == {"re-warmed rate"}


def test_line_is_dashed_toward_another_schedule(spec: Spec) -> None:
    segments = next(rows for rows in layer_rows(spec, "line") if "segment" in rows[0])
    dashed = {row["segment"] for row in segments if row["line"] == "to another schedule"}
    assert dashed == {f"{kind}{start}" for kind in ("vision", "text") for start in (0.0, 0.8)}


def test_every_seed_has_a_mark(spec: Spec) -> None:
    seeds = next(rows for rows in layer_rows(spec, "circle") if rows[0]["condition"] == "sighted")
    assert len(seeds) == 6 * 2 * 2
    assert len({(row["label"], row["kind"]) for row in seeds}) == 24


def test_both_guessers_and_the_trunk_are_drawn(spec: Spec) -> None:
    levels = next(rows for rows in layer_rows(spec, "rule") if "line" in rows[0])
    assert {(row["line"], row["kind"]) for row in levels} == {
        ("without the question", "vision"),
        ("finished text trunk", "text"),
    }
    blind = next(rows for rows in layer_rows(spec, "line") if rows[0].get("condition") == "blind")
    assert len(blind) == 6


def test_intervals_are_drawn_as_bars(spec: Spec) -> None:
    [bar] = next(rows for rows in layer_rows(spec, "rule") if "interval_low" in rows[0])
    assert (bar["arm"], bar["kind"], bar["interval_low"], bar["interval_high"]) == ("start-080", "vision", 0.4, 0.6)


def test_controls_have_lanes_of_their_own(make_arms: MakeArms) -> None:
    arms = make_arms(questions=10)
    names = {"start-080": "start-080-rewarm", "start-100": "start-100-matched"}
    controls = [
        replace(arm, name=names[arm.name], label=f"{names[arm.name]}.s{arm.seed}") for arm in arms if arm.name in names
    ]
    (points,) = layer_rows(vega_lite_spec(stable_score_chart(score_table([*arms, *controls]), {})), "point")
    lanes = {row["arm"]: row["lane"] for row in points}
    assert [lanes[f"start-{percent:03d}"] for percent in range(0, 101, 20)] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert 1 < lanes["start-080-rewarm"] < lanes["start-100-matched"]


def test_axis_has_arm_names_where_starts_do_not_vary(make_arms: MakeArms) -> None:
    late = make_arms(vision={80: 0.5}, text={80: 0.5}, seeds=(1,), trunk=False)
    arms = [replace(arm, name=name, label=f"{name}.s1") for arm in late for name in ("siglip", "patches")]
    spec = vega_lite_spec(stable_score_chart(score_table(arms), {}))
    axes = [node["encoding"]["x"] for node in nodes(spec) if "x" in node.get("encoding", {})]
    assert {axis.get("field", "arm") for axis in axes} == {"arm"}
