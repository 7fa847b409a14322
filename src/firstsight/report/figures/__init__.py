"""Charts of the report; every mark has the address of its evaluate or training step in its tooltip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import polars as pl

from firstsight.errors import RequestError, UnknownName
from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.recipe.analysis import SOFT_SUFFIX, Grid
from firstsight.recipe.study import Study
from firstsight.report.compare import ArmComparison
from firstsight.report.decision_accuracy import StudyDecisionAccuracy, study_decision_accuracy
from firstsight.report.figures.curves import (
    TrainingCurves,
    learning_rate_chart,
    loss_chart,
    planned_curves,
    read_curves,
)
from firstsight.report.figures.decision_accuracy import accuracy_chart, pairs_chart
from firstsight.report.figures.grids import score_grid, task_heatmap
from firstsight.report.figures.layout import Layout, lay_out
from firstsight.report.figures.scores import stable_score_chart, task_grid
from firstsight.report.figures.style import THEME, LayeredChart
from firstsight.report.results import ArmResult, arm_texts
from firstsight.report.table import STABLE, score_table, single_task_rows, soft_rows

StudyChart = LayeredChart | alt.HConcatChart
DECISION_CHARTS = ("accuracy", "pairs")
"""The charts of a study that states `decision_accuracy`."""


def study_charts(
    arms: Sequence[ArmResult],
    study: Study,
    *,
    rows: pl.DataFrame,
    comparison: ArmComparison,
    curves: TrainingCurves,
    accuracy: StudyDecisionAccuracy | None = None,
) -> dict[str, StudyChart]:
    """The charts for which there are results: stable (the first figure of the study), stable-2 ..., soft (the first
    figure with soft stable scores), accuracy and pairs (decision accuracy), tasks, heat, losses, and main (stable and
    tasks side by side); and schedules, which needs none."""
    charts: dict[str, StudyChart] = {}
    sighted = rows.filter(condition="sighted")
    compared = sighted.filter(role="compared")
    layouts = [lay_out(figure, arms, study) for figure in study.drawn_figures]
    if not compared.filter(task=STABLE).is_empty():
        intervals = _stable_intervals(rows, comparison)
        for number, layout in enumerate(layouts, start=1):
            charts["stable" if number == 1 else f"stable-{number}"] = _stable_chart(rows, intervals, layout)
    soft = soft_rows(rows)
    if not soft.filter(task=STABLE, condition="sighted", role="compared").is_empty():
        intervals = _stable_intervals(soft, comparison, suffix=SOFT_SUFFIX)
        charts["soft"] = _stable_chart(soft, intervals, layouts[0])
    if accuracy and accuracy.sizes:
        charts |= {"accuracy": accuracy_chart(accuracy), "pairs": pairs_chart(accuracy)}
    if not single_task_rows(compared).is_empty():
        charts["tasks"] = task_grid(rows, layouts[0])
    if not single_task_rows(sighted).is_empty():
        charts["heat"] = task_heatmap(rows, arm_texts(arms, study.axes))
    if (planned := planned_curves(arms)).rows:
        charts["schedules"] = learning_rate_chart(planned, study)
    if curves.rows:
        charts["losses"] = loss_chart(curves)
    if "stable" in charts and "tasks" in charts:
        charts["main"] = _side_by_side(charts["stable"], task_grid(rows, layouts[0], width=125, panel_height=110))
    return charts


def _stable_intervals(
    rows: pl.DataFrame, comparison: ArmComparison, *, suffix: str = ""
) -> dict[tuple[str, str], Interval]:
    """The interval over questions of each arm's stable score, by arm and kind; `suffix` makes a kind the measure."""
    pairs = rows.filter(task=STABLE).select("arm", "kind").unique(maintain_order=True).rows()
    found = {(arm, kind): comparison.question_interval(arm, f"{kind}{suffix}") for arm, kind in pairs}
    return {pair: interval for pair, interval in found.items() if interval}


def _stable_chart(rows: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], layout: Layout) -> LayeredChart:
    return (score_grid if isinstance(layout.figure, Grid) else stable_score_chart)(rows, intervals, layout)


def _side_by_side(stable: StudyChart, tasks: alt.FacetChart) -> alt.HConcatChart:
    """The main figure for use outside the page."""
    left = stable.properties(width=430, height=430) if isinstance(stable, alt.LayerChart) else stable
    return alt.hconcat(left, tasks, spacing=36)


def draw_figure(arms: Sequence[ArmResult], study: Study, name: str = "stable") -> StudyChart:
    """One chart of a study, with the report's look; the study's name is that of its main figure.

    Raises UnknownName for a chart that does not exist, and RequestError for one without results yet.
    """
    rows = score_table(arms, study.axes)
    comparison, curves = ArmComparison(arms, rows), read_curves(arms)
    accuracy = study_decision_accuracy(arms, rows, study)
    charts = study_charts(arms, study, rows=rows, comparison=comparison, curves=curves, accuracy=accuracy)
    chart = charts.get("main" if name == study.name and name not in charts else name)
    if chart is None:
        stable = ["stable", *(f"stable-{number}" for number in range(2, len(study.drawn_figures) + 1))]
        decision = DECISION_CHARTS if study.decision_accuracy else ()
        known = [*stable, "soft", *decision, "tasks", "heat", "schedules", "losses", "main", study.name]
        if name in known:
            raise RequestError(f"the figure {name!r} of {study.name} has no results yet. Run the study first.")
        raise UnknownName(f"figure of {study.name}", name, known)
    return chart.properties(config=THEME)
