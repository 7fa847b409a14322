"""Single tasks: small multiples over starts, and arms by tasks at a glance."""

from __future__ import annotations

import altair as alt
import polars as pl

from firstsight.report.figures.look import BACKGROUND_COLOUR, INK_COLOUR, LayeredChart, field_tooltips, rows_chart
from firstsight.report.figures.stable import KIND_SCALE, LINE_DASHES, arm_axis, kind_colour, score_axis, start_axis
from firstsight.report.table import (
    guesser_margins,
    has_varied_starts,
    mean_over_seeds,
    single_task_names,
    single_task_rows,
)

CONDITION_LINES = {
    "sighted": "rate continued",
    "blind": "without the picture",
    "question_blind": "without the question",
}


def task_grid(rows: pl.DataFrame, *, columns: int = 4, width: int = 118, panel_height: int = 84) -> alt.FacetChart:
    """Single tasks as small multiples: with the picture (line and seeds), without it, and without the question."""
    single_tasks = single_task_rows(rows).filter(pl.col("ordinary") & pl.col("condition").is_in(list(CONDITION_LINES)))
    order = single_task_names(single_tasks, "vision") + single_task_names(single_tasks, "text")
    data = [row | {"what": row["condition"]} for row in mean_over_seeds(single_tasks).to_dicts()]
    data += [row | {"what": "seed"} for row in single_tasks.filter(pl.col("condition") == "sighted").to_dicts()]
    names = single_tasks.get_column("arm").unique(maintain_order=True).to_list()
    x = start_axis(None, field="start") if has_varied_starts(rows) else arm_axis(names, compact=True)
    base = rows_chart(data).encode(x=x, y=score_axis(None), color=kind_colour())
    panels = alt.layer(*_condition_lines(base, by_start=has_varied_starts(rows)), *_mark_layers(base)).properties(
        width=width, height=panel_height
    )
    header = alt.Header(labelAnchor="start", labelOrient="top")
    return panels.facet(facet=alt.Facet("task:N", sort=order, title=None, header=header), columns=columns)


def combined_chart(rows: pl.DataFrame, stable_chart: LayeredChart) -> alt.HConcatChart:
    """The whole figure for a page of its own: all tasks together, and single tasks beside them."""
    return alt.hconcat(
        stable_chart.properties(width=430, height=430), task_grid(rows, width=125, panel_height=110), spacing=36
    )


def _condition_lines(base: alt.Chart, *, by_start: bool) -> list[alt.Chart]:
    tooltips = field_tooltips("arm", "task", "condition", "score", "seeds", "address")
    return [
        base.transform_filter(alt.datum.what == condition)
        .mark_line(strokeWidth=1.9 if condition == "sighted" else 1.3, strokeDash=LINE_DASHES[line], opacity=0.9)
        .encode(tooltip=tooltips)
        for condition, line in CONDITION_LINES.items()
        if by_start or condition != "sighted"
    ]


def _mark_layers(base: alt.Chart) -> list[alt.Chart]:
    seed_tooltips = field_tooltips("label", "task", "score", "lo", "hi", "n", "address")
    mean_tooltips = field_tooltips("arm", "task", "score", "seeds", "schedule", "address")
    points = base.transform_filter(alt.datum.what == "sighted").mark_point(size=26, strokeWidth=1.6, opacity=1)
    solid = alt.Fill("kind:N", scale=KIND_SCALE, legend=None)
    return [
        base.transform_filter(alt.datum.what == "seed")
        .mark_circle(size=9, opacity=0.85, xOffset=5)
        .encode(tooltip=seed_tooltips, description="address:N"),
        points.transform_filter(alt.datum.schedule == "continue").encode(
            fill=solid, tooltip=mean_tooltips, description="address:N"
        ),
        points.transform_filter(alt.datum.schedule != "continue").encode(
            fill=alt.value(BACKGROUND_COLOUR), tooltip=mean_tooltips, description="address:N"
        ),
    ]


MARGIN_FIELDS = ("margin_lo", "margin_hi")
"""Ends of a margin, means over seeds: all seeds answer the same questions, so the mean is at least that sure."""


def task_heatmap(rows: pl.DataFrame, *, width: int | str = 520) -> LayeredChart:
    """Arms by tasks: the mean score in each cell, coloured by its margin over the better guesser."""
    single_tasks = single_task_rows(rows)
    cells = (
        guesser_margins(single_tasks)
        .group_by("arm", "start", "ordinary", "task", "kind", maintain_order=True)
        .agg(
            pl.col("score", "margin", "margin_lo", "margin_hi", "guessed").mean(),
            pl.col("better").first(),
            pl.len().alias("seeds"),
            pl.col("address").unique(maintain_order=True).str.join(", "),
        )
        .sort("ordinary", "start", "arm", descending=[True, False, False])
    )
    by_start = has_varied_starts(rows)
    start_labels = pl.format("{} %", (100 * pl.col("start")).round(1).cast(pl.String).str.strip_suffix(".0"))
    cells = cells.with_columns(
        pl.when(by_start & pl.col("ordinary")).then(start_labels).otherwise("arm").alias("column")
    )
    names = cells.get_column("column").unique(maintain_order=True).to_list()
    order = single_task_names(single_tasks, "vision") + single_task_names(single_tasks, "text")
    label_angle = -40 if max(len(name) for name in names) > 9 else 0
    column_axis = alt.Axis(orient="top", labelAngle=label_angle, domain=False, ticks=False)
    task_axis = alt.Axis(domain=False, ticks=False, labelLimit=170)
    base = rows_chart(cells.to_dicts()).encode(
        x=alt.X("column:N", sort=names, title=None, axis=column_axis),
        y=alt.Y("task:N", sort=order, title=None, axis=task_axis),
        tooltip=field_tooltips(
            "arm", "task", "score", "guessed", "better", "margin", *MARGIN_FIELDS, "seeds", "address"
        ),
    )
    max_margin = max([0.05, *(abs(value) for value in cells.get_column("margin"))])
    return alt.layer(*_heatmap_layers(base, max_margin)).properties(width=width, height=alt.Step(25))


def _heatmap_layers(base: alt.Chart, max_margin: float) -> list[alt.Chart]:
    """Coloured cells and the numbers on them, light where the cell is dark."""
    scale = alt.Scale(domain=[-max_margin, 0, max_margin], range=["#c2512a", "#f4f1e8", "#2c7fb0"], type="linear")
    legend = alt.Legend(
        title="margin over the better guesser", orient="bottom", format="+.0%", gradientLength=220, titleLimit=300
    )
    tiles = base.mark_rect(stroke=BACKGROUND_COLOUR, strokeWidth=2)
    is_dark_cell = f"abs(datum.margin) > {0.6 * max_margin:.4g}"
    text = base.mark_text(fontSize=11.5).encode(
        text=alt.Text("score:Q", format=".0%"),
        color=alt.condition(is_dark_cell, alt.value("#ffffff"), alt.value(INK_COLOUR)),
    )
    return [tiles.encode(color=alt.Color("margin:Q", scale=scale, legend=legend), description="address:N"), text]
