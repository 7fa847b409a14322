"""Figures of single tasks: small multiples and heat map."""

from __future__ import annotations

import pytest

from firstsight.report.figures.scores import task_grid, task_heatmap
from firstsight.report.figures.style import vega_lite_spec
from firstsight.report.table import guesser_margins, score_table, single_task_rows
from tests.report.study_builder import TEXT, VISION, MakeArms


def test_grid_has_means_and_seeds_of_every_task(make_arms: MakeArms) -> None:
    spec = vega_lite_spec(task_grid(score_table(make_arms(questions=10))))
    [rows] = spec["datasets"].values()
    assert {row["task"] for row in rows} == {*VISION, *TEXT}
    assert spec["facet"]["sort"] == [*VISION, *TEXT]
    gqa = [row["series"] for row in rows if row["task"] == "gqa"]
    assert {name: gqa.count(name) for name in set(gqa)} == {
        "sighted": 6,
        "blind": 6,
        "question_blind": 6,
        "seed": 12,
    }


def test_heatmap_has_mean_scores_and_margins(make_arms: MakeArms) -> None:
    table = score_table(make_arms(questions=10))
    [cells] = vega_lite_spec(task_heatmap(table))["datasets"].values()
    assert len(cells) == 6 * len(VISION) + 7 * len(TEXT)
    margins = guesser_margins(single_task_rows(table)).filter(arm="start-080", task="gqa")
    [cell] = [cell for cell in cells if (cell["arm"], cell["task"]) == ("start-080", "gqa")]
    assert cell["margin"] == pytest.approx(margins["margin"].mean(), rel=1e-5)
    assert cell["column"] == "80 %" and cell["seeds"] == 2
