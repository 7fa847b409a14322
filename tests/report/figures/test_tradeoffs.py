"""The Pareto front against its definition, and the score after every stage of one training."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import altair as alt
import vl_convert
from hypothesis import given
from hypothesis import strategies as st

from firstsight.recipe.analysis import Forgetting, ParetoFront
from firstsight.report.compare import ArmComparison
from firstsight.report.figures.style import (
    ARM_RAMP,
    ARM_SHAPES,
    PERCENT_LABEL,
    ArmChannels,
    arm_colours,
    rows_chart,
    vega_lite_spec,
)
from firstsight.report.figures.tradeoffs import earlier_arms, forgetting_chart, pareto_chart, pareto_front, stage_names
from firstsight.report.pages.report_page import VEGA_LITE_VERSION
from firstsight.report.results import ArmResult, StageLog, arm_texts
from firstsight.report.table import score_table
from tests.report.figures.charts import layer_rows
from tests.report.study_builder import MakeArms, study

POINTS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.tuples(*[st.integers(0, 4)] * 2), max_size=9)


@given(POINTS)
def test_front_is_every_point_that_no_other_dominates(points: dict[str, tuple[int, int]]) -> None:
    scores = {name: (float(x), float(y)) for name, (x, y) in points.items()}
    front = pareto_front(scores)
    expected = {
        name
        for name, (x, y) in scores.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in scores.values())
    }
    assert set(front) == expected and len(front) == len(expected)
    assert front == sorted(front, key=lambda name: scores[name][0])


def test_pareto_has_a_point_for_each_arm_with_both_scores(make_arms: MakeArms) -> None:
    arms = make_arms(questions=20)
    rows = score_table(arms)
    texts = arm_texts(arms, study().axes)
    chart = pareto_chart(ParetoFront(), rows, ArmComparison(arms, rows), texts=texts)
    assert isinstance(chart, alt.LayerChart)
    spec = vega_lite_spec(chart)
    alt.Chart.from_dict(spec, validate=True)
    [means] = layer_rows(spec, "point")
    assert {row["arm"] for row in means} == {arm.name for arm in arms if arm.role == "compared"}
    assert {row["seeds"] for row in means} == {2}
    [line] = layer_rows(spec, "line")
    front = [row for row in means if row["front"] == "on the front"]
    assert [(row["x"], row["y"]) for row in sorted(front, key=lambda row: row["x"])] == [(r["x"], r["y"]) for r in line]
    assert pareto_chart(ParetoFront(x="boolq"), rows.clear(), ArmComparison([], rows.clear()), texts={}) is None


def _with_prefix(arms: list[ArmResult]) -> list[ArmResult]:
    """The arms, and one whose training is that of start-080 without its last stage."""
    cut = [
        replace(arm, name="cut", label=f"cut.s{arm.seed}", stages=arm.stages[:-1])
        for arm in arms
        if arm.name == "start-080"
    ]
    return [*arms, *cut]


def test_points_of_an_arm_are_the_arms_whose_training_begins_alike(make_arms: MakeArms) -> None:
    arms = _with_prefix(make_arms(questions=5))
    points = {label: [arm.label for arm in parts] for label, parts in earlier_arms(arms).items()}
    assert points["start-080.s1"] == ["cut.s1", "start-080.s1"]
    assert points["start-100.s2"] == ["trunk.s2", "start-100.s2"]
    assert points["start-020.s1"] == ["start-020.s1"]
    assert not {"cut.s1", "trunk.s1"} & points.keys()


def test_forgetting_joins_the_stages_of_one_training(make_arms: MakeArms) -> None:
    arms = _with_prefix(make_arms(questions=5))
    rows = score_table(arms)
    chart = forgetting_chart(Forgetting(), arms, rows, texts=arm_texts(arms, ()))
    assert isinstance(chart, alt.LayerChart)
    spec = vega_lite_spec(chart)
    alt.Chart.from_dict(spec, validate=True)
    [points] = layer_rows(spec, "point")
    stages = {arm: [row["stage"] for row in points if row["arm"] == arm] for arm in ("start-080", "start-100")}
    assert stages == {
        "start-080": ["image-text mid-training", "fine-tuning"],
        "start-100": ["text pre-training", "fine-tuning"],
    }
    single = [arm for arm in arms if arm.name == "start-020"]
    assert forgetting_chart(Forgetting(), single, score_table(single), texts=arm_texts(single, ())) is None


def test_a_stage_has_one_point_in_a_line_the_last_that_was_measured(make_arms: MakeArms) -> None:
    arms = make_arms(questions=5, seeds=(1,))
    trunk = next(arm for arm in arms if arm.name == "trunk")
    half = replace(trunk, name="half", label="half.s1", stages=trunk.stages[:1])
    longer = replace(trunk, stages=(*trunk.stages, StageLog(kind="pretrain", address="pretrain-more")))
    parts = [half, longer, *(arm for arm in _with_prefix(arms) if arm.name in ("cut", "start-080"))]
    chart = forgetting_chart(Forgetting(), parts, score_table(parts), texts=arm_texts(parts, ()))
    assert chart is not None
    [points] = layer_rows(vega_lite_spec(chart), "point")
    measured = {arm: [row["measured"] for row in points if row["arm"] == arm] for arm in ("trunk", "start-080")}
    assert measured["trunk"] == ["trunk"] and measured["start-080"][-2:] == ["cut", "start-080"]


def test_labels_of_a_small_range_of_scores_differ() -> None:
    rows = [{"x": 0, "score": score} for score in (0.001, 0.0065)]
    y = alt.Y("score:Q", axis=alt.Axis(labelExpr=PERCENT_LABEL, title=None), scale=alt.Scale(zero=False))
    chart = rows_chart(rows).mark_point().encode(y=y)
    labels = re.findall(r">([^<]+)\u00a0%<", vl_convert.vegalite_to_svg(vega_lite_spec(chart), VEGA_LITE_VERSION))
    assert len(labels) > 3 and len(set(labels)) == len(labels)
    assert all(0 <= float(label) <= 1 for label in labels), "percent of shares from 0.001 to 0.0065"


def test_a_second_stage_of_a_kind_has_a_number() -> None:
    kinds = ("pretrain", "pretrain", "midtrain", "midtrain", "finetune")
    stages = tuple(StageLog(kind=kind, address=f"{kind}-{index}") for index, kind in enumerate(kinds))
    arm = ArmResult(name="arm", label="arm.s1", seed=1, address="evaluate-0", stages=stages)
    assert stage_names(arm) == [
        *["text pre-training"] * 2,
        *("image-text mid-training", "image-text mid-training 2", "fine-tuning"),
    ]


@given(st.integers(1, 60))
def test_arms_differ_in_colour_and_neighbours_in_shape(count: int) -> None:
    colours = arm_colours(count)
    assert len(set(colours)) == count
    assert colours[0] == ARM_RAMP[0] and (count == 1 or colours[-1] == ARM_RAMP[-1])
    channel: Any = ArmChannels([str(index) for index in range(count)]).shape.to_dict()
    shapes = channel["scale"]["range"]
    assert all(a != b for a, b in pairwise(shapes)) and len(set(ARM_SHAPES)) == len(ARM_SHAPES)
