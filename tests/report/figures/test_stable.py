"""What the figures draw, read back from their specifications, and that every one is valid Vega-Lite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import altair as alt
import pytest

from firstsight.report.figures import curves, stable, tasks
from firstsight.report.figures.look import vega_lite_spec
from firstsight.report.results import ArmResult
from firstsight.report.table import score_table

Make = Callable[..., list[ArmResult]]
Spec = dict[str, Any]


def _layers(spec: Spec, mark: str) -> list[list[Spec]]:
    """The rows of every layer drawn with this mark."""
    return [
        spec["datasets"][layer["data"]["name"]] if "data" in layer else []
        for layer in _walk(spec)
        if isinstance(layer.get("mark"), dict) and layer["mark"]["type"] == mark
    ]


def _walk(part: Any) -> Iterator[Spec]:
    if isinstance(part, dict):
        yield part
    for item in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _walk(item)


@pytest.fixture
def spec(make: Make) -> Spec:
    rows = score_table(make(questions=20))
    return vega_lite_spec(stable.stable_score_chart(rows, {("start-080", "vision"): (0.4, 0.6)}))


def test_every_figure_is_valid(make: Make) -> None:
    arms = make(questions=20)
    rows, logged = score_table(arms), curves.read_curves(arms)
    chart = stable.stable_score_chart(rows, {})
    drawn = [chart, tasks.task_grid(rows), tasks.combined_chart(rows, chart), tasks.task_heatmap(rows)]
    for chart in [*drawn, curves.learning_rate_chart(logged), curves.loss_chart(logged)]:
        spec = vega_lite_spec(chart)
        spec["datasets"] = {name: rows[:1] for name, rows in spec["datasets"].items()}
        alt.Chart.from_dict(spec, validate=True)


def test_ends_are_hollow_and_the_inside_is_filled(spec: Spec) -> None:
    (points,) = _layers(spec, "point")
    assert len(points) == 12
    assert {row["start"] for row in points if row["fill"] == "hollow"} == {0.0, 1.0}
    assert {row["schedule_label"] for row in points if row["fill"] == "hollow"} == {"re-warmed rate"}


def test_line_is_dashed_toward_another_schedule(spec: Spec) -> None:
    pieces = next(rows for rows in _layers(spec, "line") if "segment" in rows[0])
    dashed = {row["segment"] for row in pieces if row["line"] == "to another schedule"}
    assert dashed == {f"{kind}{start}" for kind in ("vision", "text") for start in (0.0, 0.8)}


def test_every_seed_has_its_own_mark(spec: Spec) -> None:
    seeds = next(rows for rows in _layers(spec, "circle") if rows[0]["condition"] == "sighted")
    assert len(seeds) == 6 * 2 * 2
    assert len({(row["label"], row["kind"]) for row in seeds}) == 24


def test_both_guessers_and_the_trunk_are_drawn(spec: Spec) -> None:
    levels = next(rows for rows in _layers(spec, "rule") if "line" in rows[0])
    assert {(row["line"], row["kind"]) for row in levels} == {
        ("without the question", "vision"),
        ("finished text trunk", "text"),
    }
    blind = next(rows for rows in _layers(spec, "line") if rows[0].get("condition") == "blind")
    assert len(blind) == 6


def test_every_mark_names_its_address(make: Make) -> None:
    arms = make(questions=20)
    rows, logged = score_table(arms), curves.read_curves(arms)
    for chart in (
        stable.stable_score_chart(rows, {}),
        tasks.task_grid(rows),
        tasks.task_heatmap(rows),
        curves.loss_chart(logged),
    ):
        spec = vega_lite_spec(chart)
        for name, dataset in spec["datasets"].items():
            assert all(row["address"] for row in dataset), name
        marks = [part for part in _walk(spec) if isinstance(part.get("mark"), dict) and part["mark"]["type"] != "text"]
        told = [part for part in marks if "address" in json.dumps(part.get("encoding", {}).get("tooltip", ""))]
        # Lines that only join points leave the telling to their points.
        assert all(part in told or part["mark"]["type"] == "line" for part in marks)


def test_shared_trunk_is_drawn_once_and_arms_go_on_where_it_ends(make: Make) -> None:
    arms = make(questions=5)
    logged = curves.read_curves(arms)
    addresses = [stage["address"] for stage in logged.stages]
    assert len(addresses) == len(set(addresses)) == 2 * (5 + 2 * 6)
    rates = {address: [row for row in logged.rows if row["address"] == address] for address in addresses}
    for arm in arms:
        if arm.schedule == "continue":
            trunk, branch = rates[arm.stages[-3].address], rates[arm.stages[-2].address]
            assert branch[0]["seen"] > trunk[-1]["seen"]
            assert branch[0]["lr"] == pytest.approx(trunk[-1]["lr"], rel=0.02)
    assert logged.total_tokens["start-000"] == 593_920 + 798_720
    assert logged.total_tokens["start-100"] == 1_433_600 + 593_920 + 798_720


def test_controls_stand_in_lanes_of_their_own(make: Make) -> None:
    arms = make(questions=10)
    names = {"start-080": "start-080-rewarm", "start-100": "start-100-matched"}
    controls = [
        replace(arm, name=names[arm.name], label=f"{names[arm.name]}.s{arm.seed}") for arm in arms if arm.name in names
    ]
    (points,) = _layers(vega_lite_spec(stable.stable_score_chart(score_table([*arms, *controls]), {})), "point")
    lanes = {row["arm"]: row["lane"] for row in points}
    assert [lanes[f"start-{percent:03d}"] for percent in range(0, 101, 20)] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert 1 < lanes["start-080-rewarm"] < lanes["start-100-matched"]


def test_arms_stand_side_by_side_where_starts_do_not_vary(make: Make) -> None:
    late = make(ability={80: 0.5}, literacy={80: 0.5}, seeds=(1,), trunk=False)
    arms = [replace(arm, name=name, label=f"{name}.s1") for arm in late for name in ("siglip", "patches")]
    spec = vega_lite_spec(stable.stable_score_chart(score_table(arms), {}))
    axes = [part["encoding"]["x"] for part in _walk(spec) if "x" in part.get("encoding", {})]
    assert {axis.get("field", "arm") for axis in axes} == {"arm"}
