"""Bars and panels of categories, read back from their specifications."""

from __future__ import annotations

import pytest

from firstsight.recipe.analysis import Bars
from firstsight.report.figures.bars import ARM_HEIGHT, bar_chart, task_panels
from firstsight.report.figures.layout import lay_out
from firstsight.report.figures.style import vega_lite_spec
from firstsight.report.table import score_table
from tests.report.figures.charts import Spec, layer_rows, nodes
from tests.report.study_builder import TEXT, VISION, MakeArms, study

NAMES = [f"start-{percent:03d}" for percent in range(0, 101, 20)]


@pytest.fixture
def specs(make_arms: MakeArms) -> tuple[Spec, Spec]:
    """The figure of stable scores and the panels of single tasks, with the names of the arms as categories."""
    arms = make_arms(questions=10)
    layout, rows = lay_out(Bars(), arms, study()), score_table(arms)
    intervals = {("start-080", "vision"): (0.4, 0.6)}
    return vega_lite_spec(bar_chart(rows, intervals, layout)), vega_lite_spec(task_panels(rows, layout))


def vertical_axes(spec: Spec) -> list[Spec]:
    encodings = [node["encoding"]["y"] for node in nodes(spec) if "y" in node.get("encoding", {})]
    return [axis for axis in encodings if "field" in axis]


def test_arms_are_listed_from_top_to_bottom_in_their_order_in_every_layer(specs: tuple[Spec, Spec]) -> None:
    for spec in specs:
        axes = vertical_axes(spec)
        assert axes and all(axis["sort"] == NAMES and axis["field"] == "place" for axis in axes)
    assert specs[0]["height"] == ARM_HEIGHT * len(NAMES)


def test_a_bar_a_seed_and_an_interval_are_rows_of_their_own(specs: tuple[Spec, Spec]) -> None:
    [bars] = layer_rows(specs[0], "bar")
    assert len(bars) == len(NAMES) * 2 and {row["seeds"] for row in bars} == {2}
    [seeds] = layer_rows(specs[0], "circle")
    assert len({(row["label"], row["kind"]) for row in seeds}) == len(seeds) == 2 * len(bars)
    levels = next(rows for rows in layer_rows(specs[0], "rule") if rows[0]["line"] == "without the question")
    assert {(row["line"], row["kind"]) for row in levels} == {
        ("without the question", "vision"),
        ("baseline: trunk", "text"),
    }


def test_no_line_joins_categories(specs: tuple[Spec, Spec]) -> None:
    marks = [{node["mark"]["type"] for node in nodes(spec) if isinstance(node.get("mark"), dict)} for spec in specs]
    assert marks == [{"bar", "rule", "circle"}, {"rule", "circle", "point"}]


def test_panels_have_means_and_seeds_of_every_task(specs: tuple[Spec, Spec]) -> None:
    [rows] = specs[1]["datasets"].values()
    assert specs[1]["facet"]["sort"] == [*VISION, *TEXT] == list(dict.fromkeys(row["task"] for row in rows))
    gqa = [row["mark"] for row in rows if row["task"] == "gqa"]
    assert {mark: gqa.count(mark) for mark in set(gqa)} == {"sighted": 6, "blind": 6, "question_blind": 6, "seed": 12}
