"""Heat maps: the stable score over two axes, and every arm on every task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.report.figures.layout import Layout
from firstsight.report.figures.style import (
    BACKGROUND_COLOUR,
    INK_COLOUR,
    KIND_COLOURS,
    LayeredChart,
    field_tooltips,
    rows_chart,
    wrapped_title,
)
from firstsight.report.table import (
    GUESSERS,
    MARGIN_INTERVAL,
    STABLE,
    guesser_margins,
    mean_over_seeds,
    single_task_names,
    single_task_rows,
)

ROW_HEIGHT = 54
DARK_CELL = 0.6
"""Share of the colour range beyond which a cell's text is white."""


def score_grid(
    rows: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], layout: Layout, *, width: int = 300
) -> alt.FacetChart:
    """Vision and text stable score over two axes: in each cell the mean over seeds, and in brackets that of the better
    guesser.

    The darkest cell of a kind is its best one. `intervals` are over questions, by arm and kind.
    """
    means = mean_over_seeds(rows.filter(task=STABLE, role="compared"))
    guessers = (
        means.filter(pl.col("condition").is_in(GUESSERS))
        .group_by("arm", "kind")
        .agg(guesser_score=pl.col("score").max())
    )
    low, high = pl.col("score").min().over("kind"), pl.col("score").max().over("kind")
    shade = pl.when(high > low).then((pl.col("score") - low) / (high - low)).otherwise(1.0)
    cells = layout.join(
        means.filter(condition="sighted").join(guessers, on=["arm", "kind"], how="left", maintain_order="left")
    )
    data = []
    for row in cells.with_columns(shade=shade).to_dicts():
        ends = intervals.get((row["arm"], row["kind"]), (None, None))
        data.append(row | {"interval_low": ends[0], "interval_high": ends[1]})
    places = {name: cells.get_column(name).unique(maintain_order=True).to_list() for name in ("column", "row")}
    plain: dict[str, Any] = {"domain": False, "ticks": False}
    x_title, y_title = layout.titles
    height = ROW_HEIGHT * len(places["row"])
    base = rows_chart(data).encode(
        x=alt.X("column:N", sort=places["column"], title=x_title, axis=alt.Axis(labelAngle=0, **plain)),
        y=alt.Y(
            "row:N", sort=places["row"], title=wrapped_title(y_title, height), axis=alt.Axis(labelLimit=130, **plain)
        ),
        tooltip=field_tooltips("arm", "score", "interval_low", "interval_high", "guesser_score", "seeds", "address"),
    )
    header = alt.Header(labelAnchor="start", labelOrient="top")
    facet = alt.Facet("kind:N", sort=list(KIND_COLOURS), title=None, header=header)
    panel = alt.layer(*_grid_layers(base)).properties(width=width, height=alt.Step(ROW_HEIGHT))
    return panel.facet(facet=facet, columns=2)


def _grid_layers(base: alt.Chart) -> list[alt.Chart]:
    scale = alt.Scale(domain=list(KIND_COLOURS), range=list(KIND_COLOURS.values()))
    colour = alt.Color("kind:N", scale=scale, legend=None)
    opacity = alt.Opacity("shade:Q", scale=alt.Scale(domain=[0, 1], range=[0.12, 0.95]), legend=None)
    tiles = base.mark_rect(stroke=BACKGROUND_COLOUR, strokeWidth=2).encode(color=colour, opacity=opacity)
    ink = alt.condition(f"datum.shade > {DARK_CELL}", alt.value("#ffffff"), alt.value(INK_COLOUR))
    score = base.mark_text(fontSize=14, fontWeight=600, dy=-7).encode(text=alt.Text("score:Q", format=".1%"), color=ink)
    guesser = base.transform_filter("isValid(datum.guesser_score)").transform_calculate(
        guesser_text="'(' + format(datum.guesser_score, '.1%') + ')'"
    )
    guesser = guesser.mark_text(fontSize=10.5, dy=10).encode(text="guesser_text:N", color=ink)
    return [tiles.encode(description="address:N"), score, guesser]


def task_heatmap(rows: pl.DataFrame, texts: Mapping[str, str], *, width: int | str = 520) -> LayeredChart:
    """Arms by tasks: the mean score in each cell, coloured by its margin over the better guesser, means over seeds.

    `texts` are the titles of the arms' columns, by name.
    """
    tasks = single_task_rows(rows)
    cells = (
        guesser_margins(tasks)
        .group_by("arm", "task", "kind", maintain_order=True)
        .agg(
            pl.col("score", "margin", *MARGIN_INTERVAL, "guesser_score").mean(),
            pl.col("guesser").first(),
            pl.len().alias("seeds"),
            pl.col("address").unique(maintain_order=True).str.join(", "),
        )
        .with_columns(pl.col("arm").replace_strict(texts).alias("column"))
    )
    names = cells.get_column("column").unique(maintain_order=True).to_list()
    order = single_task_names(tasks, "vision") + single_task_names(tasks, "text")
    label_angle = -90 if max(map(len, names)) > 9 else 0  # a slanted name would end outside the figure
    column_axis = alt.Axis(orient="top", labelAngle=label_angle, labelLimit=160, domain=False, ticks=False)
    task_axis = alt.Axis(domain=False, ticks=False, labelLimit=170)
    margin = ("guesser_score", "guesser", "margin", *MARGIN_INTERVAL)
    base = rows_chart(cells.to_dicts()).encode(
        x=alt.X("column:N", sort=names, title=None, axis=column_axis),
        y=alt.Y("task:N", sort=order, title=None, axis=task_axis),
        tooltip=field_tooltips("arm", "task", "score", *margin, "seeds", "address"),
    )
    max_margin = max([0.05, *map(abs, cells.get_column("margin"))])
    return alt.layer(*_heatmap_layers(base, max_margin)).properties(width=width, height=alt.Step(25))


def _heatmap_layers(base: alt.Chart, max_margin: float) -> list[alt.Chart]:
    scale = alt.Scale(domain=[-max_margin, 0, max_margin], range=["#c2512a", "#f4f1e8", "#2c7fb0"], type="linear")
    title = "margin over the better guesser"
    legend = alt.Legend(title=title, orient="bottom", format="+.0%", gradientLength=220, titleLimit=300)
    tiles = base.mark_rect(stroke=BACKGROUND_COLOUR, strokeWidth=2)
    is_dark_cell = f"abs(datum.margin) > {DARK_CELL * max_margin:.4g}"
    text = base.mark_text(fontSize=11.5).encode(
        text=alt.Text("score:Q", format=".0%"),
        color=alt.condition(is_dark_cell, alt.value("#ffffff"), alt.value(INK_COLOUR)),
    )
    return [tiles.encode(color=alt.Color("margin:Q", scale=scale, legend=legend), description="address:N"), text]
