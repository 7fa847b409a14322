"""Charts of the report; every mark has the address of its evaluate or training step in its tooltip."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import polars as pl

from firstsight.errors import RequestError, UnknownName
from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.recipe.analysis import (
    SOFT_SUFFIX,
    STABLE_MEASURES,
    Figure,
    Forgetting,
    Grid,
    ParetoFront,
    Sweep,
)
from firstsight.recipe.study import Study
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.compare import ArmComparison
from firstsight.report.figures.bars import bar_chart, task_panels
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
from firstsight.report.figures.scores import single_task_chart, stable_score_chart, task_grid
from firstsight.report.figures.style import THEME, LayeredChart
from firstsight.report.figures.tradeoffs import forgetting_chart, pareto_chart
from firstsight.report.results import arm_texts
from firstsight.report.table import STABLE, single_task_rows, soft_rows

StudyChart = LayeredChart | alt.HConcatChart
DECISION_CHARTS = ("accuracy", "pairs")
"""The charts of a study that states `decision_accuracy`."""


def study_charts(results: StudyAnalysis, curves: TrainingCurves) -> dict[str, StudyChart]:
    """The charts for which there are results: stable (the first figure of the study's stable scores), stable-2 ...,
    single (its figures of single tasks), pareto, forgetting, soft (the first figure with soft stable scores), accuracy
    and pairs (decision accuracy), tasks, heat, losses, and main (stable and tasks side by side); and schedules, which
    needs none."""
    rows, study = results.scores, results.study
    charts: dict[str, StudyChart] = {}
    sighted = rows.filter(condition="sighted")
    layout = lay_out(study.score_figures[0], results.arms, study)
    if not sighted.filter(task=STABLE, role="compared").is_empty():
        charts |= _score_charts(results)
    charts |= _tradeoff_charts(results)
    soft = soft_rows(rows)
    if not soft.filter(task=STABLE, condition="sighted", role="compared").is_empty():
        charts["soft"] = _stable_chart(soft, _intervals(soft, results.comparison, suffix=SOFT_SUFFIX), layout)
    if (accuracy := results.decision_accuracy) and accuracy.sizes:
        charts |= {"accuracy": accuracy_chart(accuracy), "pairs": pairs_chart(accuracy)}
    if not single_task_rows(sighted.filter(role="compared")).is_empty():
        charts["tasks"] = _task_chart(rows, layout)
    if not single_task_rows(sighted).is_empty():
        charts["heat"] = task_heatmap(rows, arm_texts(results.arms, study.axes))
    if (planned := planned_curves(results.arms)).rows:
        charts["schedules"] = learning_rate_chart(planned, study)
    if curves.rows:
        charts["losses"] = loss_chart(curves)
    if "stable" in charts and "tasks" in charts:
        panels = _task_chart(rows, layout, width=125, panel_height=110)
        charts["main"] = _side_by_side(charts["stable"], panels, **{"height": 430} if layout.axis else {})
    return charts


def figure_names(study: Study) -> dict[str, Figure]:
    """The figures of a study by the names of their charts."""
    counts: dict[str, int] = {}
    names: dict[str, Figure] = {}
    for figure in study.drawn_figures:
        kind = _figure_kind(figure)
        counts[kind] = counts.get(kind, 0) + 1
        names[kind if counts[kind] == 1 else f"{kind}-{counts[kind]}"] = figure
    return names


def _figure_kind(figure: Figure) -> str:
    if isinstance(figure, ParetoFront | Forgetting):
        return "pareto" if isinstance(figure, ParetoFront) else "forgetting"
    return "stable" if not isinstance(figure, Sweep) or figure.measures == STABLE_MEASURES else "single"


def _score_charts(results: StudyAnalysis) -> dict[str, StudyChart]:
    rows, charts = results.scores, dict[str, StudyChart]()
    stable = _intervals(rows, results.comparison)
    for name, figure in figure_names(results.study).items():
        if isinstance(figure, ParetoFront | Forgetting):
            continue
        layout = lay_out(figure, results.arms, results.study)
        if _figure_kind(figure) == "stable":
            charts[name] = _stable_chart(rows, stable, layout)
        elif isinstance(figure, Sweep):
            tasks = rows.filter(pl.col("task").is_in(list(figure.measures)))
            if not tasks.is_empty():
                charts[name] = single_task_chart(tasks, _intervals(tasks, results.comparison), layout)
    return charts


def _tradeoff_charts(results: StudyAnalysis) -> dict[str, StudyChart]:
    arms, rows, texts = results.arms, results.scores, arm_texts(results.arms, results.study.axes)
    charts: dict[str, StudyChart | None] = {}
    for name, figure in figure_names(results.study).items():
        if isinstance(figure, ParetoFront):
            charts[name] = pareto_chart(figure, rows, results.comparison, texts=texts)
        elif isinstance(figure, Forgetting):
            charts[name] = forgetting_chart(figure, arms, rows, texts=texts)
    return {name: chart for name, chart in charts.items() if chart is not None}


def _intervals(rows: pl.DataFrame, comparison: ArmComparison, *, suffix: str = "") -> dict[tuple[str, str], Interval]:
    """The interval over questions of each arm's score, by arm and by kind (stable scores) or task (single tasks).

    `rows` are of stable scores, or of single tasks only; `suffix` makes a kind the measure.
    """
    stable = rows.filter(task=STABLE)
    column = "task" if stable.is_empty() else "kind"
    pairs = (rows if stable.is_empty() else stable).select("arm", column).unique(maintain_order=True).rows()
    intervals = {(arm, name): comparison.question_interval(arm, f"{name}{suffix}") for arm, name in pairs}
    return {pair: interval for pair, interval in intervals.items() if interval}


def _stable_chart(rows: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], layout: Layout) -> LayeredChart:
    if isinstance(layout.figure, Grid):
        return score_grid(rows, intervals, layout)
    return (bar_chart if layout.axis is None else stable_score_chart)(rows, intervals, layout)


def _task_chart(rows: pl.DataFrame, layout: Layout, **sizes: int) -> alt.FacetChart:
    """Small multiples of single tasks, in which only numbers are joined by lines."""
    if layout.axis is None:
        return task_panels(rows, layout)
    return task_grid(rows, layout, **sizes)


def _side_by_side(stable: StudyChart, tasks: alt.FacetChart, **sizes: int) -> alt.HConcatChart:
    """The main figure for use outside the page; `sizes` are of the stable scores."""
    left = stable.properties(**({"width": 430} | sizes)) if isinstance(stable, alt.LayerChart) else stable
    return alt.hconcat(left, tasks, spacing=36)


def draw_figure(results: StudyAnalysis, name: str = "stable") -> StudyChart:
    """One chart of a study, with the report's look; the study's name is that of its main figure.

    Raises UnknownName for a chart that does not exist, and RequestError for one without results yet.
    """
    study = results.study
    charts = study_charts(results, read_curves(results.arms))
    chart = charts.get("main" if name == study.name and name not in charts else name)
    if chart is None:
        decision = DECISION_CHARTS if study.decision_accuracy else ()
        known = [*figure_names(study), "soft", *decision, "tasks", "heat", "schedules", "losses", "main", study.name]
        if name in known:
            raise RequestError(f"the figure {name!r} of {study.name} has no results yet. Run the study first.")
        raise UnknownName(f"figure of {study.name}", name, known)
    return chart.properties(config=THEME)
