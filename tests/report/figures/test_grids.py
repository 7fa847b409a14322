"""Figures of single tasks: small multiples and heat map."""

from __future__ import annotations

import pytest

from firstsight.report.figures.grids import task_heatmap
from firstsight.report.figures.layout import lay_out
from firstsight.report.figures.scores import task_grid
from firstsight.report.figures.style import vega_lite_spec
from firstsight.report.results import arm_texts
from firstsight.report.table import guesser_margins, score_table, single_task_rows
from tests.report.study_builder import TEXT, VISION, MakeArms, study


def test_grid_has_means_and_seeds_of_every_task(make_arms: MakeArms) -> None:
    arms = make_arms(questions=10)
    spec = vega_lite_spec(task_grid(score_table(arms), lay_out(study().drawn_figures[0], arms, study())))
    [rows] = spec["datasets"].values()
    assert {row["task"] for row in rows} == {*VISION, *TEXT}
    assert spec["facet"]["sort"] == [*VISION, *TEXT]
    gqa = [row["mark"] for row in rows if row["task"] == "gqa"]
    assert {name: gqa.count(name) for name in set(gqa)} == {
        "sighted": 6,
        "blind": 6,
        "question_blind": 6,
        "seed": 12,
    }


def test_heatmap_has_mean_scores_and_margins(make_arms: MakeArms) -> None:
    arms = make_arms(questions=10)
    table = score_table(arms)
    [cells] = vega_lite_spec(task_heatmap(table, arm_texts(arms, study().axes)))["datasets"].values()
    assert len(cells) == 6 * len(VISION) + 7 * len(TEXT)
    margins = guesser_margins(single_task_rows(table)).filter(arm="start-080", task="gqa")
    [cell] = [cell for cell in cells if (cell["arm"], cell["task"]) == ("start-080", "gqa")]
    assert cell["margin"] == pytest.approx(margins["margin"].mean(), rel=1e-5)
    assert cell["column"] == "80 %" and cell["seeds"] == 2
