"""Single tasks: small multiples over starts, and a heat map of arms by tasks."""

from __future__ import annotations

import altair as alt
import polars as pl

from firstsight.report.figures.look import BACKGROUND_COLOUR, INK_COLOUR, LayeredChart, field_tooltips, rows_chart
from firstsight.report.figures.stable import (
    BLIND,
    CONTINUED,
    KIND_SCALE,
    LINE_DASHES,
    QUESTION_BLIND,
    arm_axis,
    kind_colour,
    score_axis,
    start_axis,
)
from firstsight.report.table import (
    guesser_margins,
    has_varied_starts,
    mean_over_seeds,
    single_task_names,
    single_task_rows,
)

CONDITION_LINES = {"sighted": CONTINUED, "blind": BLIND, "question_blind": QUESTION_BLIND}


def task_grid(rows: pl.DataFrame, *, columns: int = 4, width: int = 118, panel_height: int = 84) -> alt.FacetChart:
    """Single tasks as small multiples: with the image (line and seeds), without it, and without the question."""
    tasks = single_task_rows(rows).filter(pl.col("in_sweep") & pl.col("condition").is_in(list(CONDITION_LINES)))
    order = single_task_names(tasks, "vision") + single_task_names(tasks, "text")
    data = [row | {"series": row["condition"]} for row in mean_over_seeds(tasks).to_dicts()]
    data += [row | {"series": "seed"} for row in tasks.filter(condition="sighted").to_dicts()]
    names, by_start = tasks.get_column("arm").unique(maintain_order=True).to_list(), has_varied_starts(rows)
    x = start_axis(None, field="start") if by_start else arm_axis(names, compact=True)
    base = rows_chart(data).encode(x=x, y=score_axis(None), color=kind_colour())
    panels = alt.layer(*_condition_lines(base, by_start=by_start), *_mark_layers(base))
    header = alt.Header(labelAnchor="start", labelOrient="top")
    facet = alt.Facet("task:N", sort=order, title=None, header=header)
    return panels.properties(width=width, height=panel_height).facet(facet=facet, columns=columns)


def combined_chart(rows: pl.DataFrame, stable_chart: LayeredChart) -> alt.HConcatChart:
    """The main figure for use outside the page: the stable score, and single tasks beside it."""
    grid = task_grid(rows, width=125, panel_height=110)
    return alt.hconcat(stable_chart.properties(width=430, height=430), grid, spacing=36)


def _condition_lines(base: alt.Chart, *, by_start: bool) -> list[alt.Chart]:
    tooltips = field_tooltips("arm", "task", "condition", "score", "seeds", "address")
    return [
        base.transform_filter(alt.datum.series == condition)
        .mark_line(strokeWidth=1.9 if condition == "sighted" else 1.3, strokeDash=LINE_DASHES[line], opacity=0.9)
        .encode(tooltip=tooltips)
        for condition, line in CONDITION_LINES.items()
        if by_start or condition != "sighted"
    ]


def _mark_layers(base: alt.Chart) -> list[alt.Chart]:
    interval = ("interval_low", "interval_high")
    seed_tooltips = field_tooltips("label", "task", "score", *interval, "questions", "address")
    mean_tooltips = field_tooltips("arm", "task", "score", "seeds", "schedule", "address")
    seeds = base.transform_filter(alt.datum.series == "seed").mark_circle(size=9, opacity=0.85, xOffset=5)
    points = base.transform_filter(alt.datum.series == "sighted").mark_point(size=26, strokeWidth=1.6, opacity=1)
    points = points.encode(tooltip=mean_tooltips, description="address:N")
    solid = alt.Fill("kind:N", scale=KIND_SCALE, legend=None)
    return [
        seeds.encode(tooltip=seed_tooltips, description="address:N"),
        points.transform_filter(alt.datum.schedule == "continue").encode(fill=solid),
        points.transform_filter(alt.datum.schedule != "continue").encode(fill=alt.value(BACKGROUND_COLOUR)),
    ]


def task_heatmap(rows: pl.DataFrame, *, width: int | str = 520) -> LayeredChart:
    """Arms by tasks: the mean score in each cell, coloured by its margin over the better guesser.

    Ends of a margin's interval are means over seeds: all seeds answer the same questions, so the mean is at least that
    precise.
    """
    tasks, by_start = single_task_rows(rows), has_varied_starts(rows)
    start_labels = pl.format("{} %", (100 * pl.col("start")).round(1).cast(pl.String).str.strip_suffix(".0"))
    cells = (
        guesser_margins(tasks)
        .group_by("arm", "start", "in_sweep", "task", "kind", maintain_order=True)
        .agg(
            pl.col("score", "margin", "margin_low", "margin_high", "guesser_score").mean(),
            pl.col("guesser").first(),
            pl.len().alias("seeds"),
            pl.col("address").unique(maintain_order=True).str.join(", "),
        )
        .sort("in_sweep", "start", "arm", descending=[True, False, False])
        .with_columns(pl.when(by_start & pl.col("in_sweep")).then(start_labels).otherwise("arm").alias("column"))
    )
    names = cells.get_column("column").unique(maintain_order=True).to_list()
    order = single_task_names(tasks, "vision") + single_task_names(tasks, "text")
    label_angle = -40 if max(len(name) for name in names) > 9 else 0
    column_axis = alt.Axis(orient="top", labelAngle=label_angle, domain=False, ticks=False)
    task_axis = alt.Axis(domain=False, ticks=False, labelLimit=170)
    margin = ("guesser_score", "guesser", "margin", "margin_low", "margin_high")
    base = rows_chart(cells.to_dicts()).encode(
        x=alt.X("column:N", sort=names, title=None, axis=column_axis),
        y=alt.Y("task:N", sort=order, title=None, axis=task_axis),
        tooltip=field_tooltips("arm", "task", "score", *margin, "seeds", "address"),
    )
    max_margin = max([0.05, *(abs(value) for value in cells.get_column("margin"))])
    return alt.layer(*_heatmap_layers(base, max_margin)).properties(width=width, height=alt.Step(25))


def _heatmap_layers(base: alt.Chart, max_margin: float) -> list[alt.Chart]:
    """Coloured cells and the numbers on them, which are light where the cell is dark."""
    scale = alt.Scale(domain=[-max_margin, 0, max_margin], range=["#c2512a", "#f4f1e8", "#2c7fb0"], type="linear")
    title = "margin over the better guesser"
    legend = alt.Legend(title=title, orient="bottom", format="+.0%", gradientLength=220, titleLimit=300)
    tiles = base.mark_rect(stroke=BACKGROUND_COLOUR, strokeWidth=2)
    is_dark_cell = f"abs(datum.margin) > {0.6 * max_margin:.4g}"
    text = base.mark_text(fontSize=11.5).encode(
        text=alt.Text("score:Q", format=".0%"),
        color=alt.condition(is_dark_cell, alt.value("#ffffff"), alt.value(INK_COLOUR)),
    )
    return [tiles.encode(color=alt.Color("margin:Q", scale=scale, legend=legend), description="address:N"), text]
