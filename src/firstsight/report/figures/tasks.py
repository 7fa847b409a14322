"""Single tasks: small multiples over starts, and arms by tasks at a glance."""

from __future__ import annotations

import altair as alt
import polars as pl

from firstsight.report.figures.look import INK, PAPER, Layers, chart, tip
from firstsight.report.figures.stable import KINDS, LINES, across, by_name, colour, height
from firstsight.report.table import margins, means, single, tasks_of, varied

SHOWN = {"sighted": "rate continued", "blind": "without the picture", "question_blind": "without the question"}


def tasks(rows: pl.DataFrame, *, columns: int = 4, width: int = 118, tall: int = 84) -> alt.FacetChart:
    """Single tasks as small multiples: with the picture (line and seeds), without it, and without the question."""
    alone = single(rows).filter(pl.col("ordinary") & pl.col("condition").is_in(list(SHOWN)))
    order = tasks_of(alone, "vision") + tasks_of(alone, "text")
    data = [row | {"what": row["condition"]} for row in means(alone).to_dicts()]
    data += [row | {"what": "seed"} for row in alone.filter(pl.col("condition") == "sighted").to_dicts()]
    names = alone.get_column("arm").unique(maintain_order=True).to_list()
    x = across(None, field="start") if varied(rows) else by_name(names, compact=True)
    base = chart(data).encode(x=x, y=height(None), color=colour())
    panels = alt.layer(*_lines(base, by_start=varied(rows)), *_marks(base)).properties(width=width, height=tall)
    header = alt.Header(labelAnchor="start", labelOrient="top")
    return panels.facet(facet=alt.Facet("task:N", sort=order, title=None, header=header), columns=columns)


def both(rows: pl.DataFrame, left: Layers) -> alt.HConcatChart:
    """The whole figure for a page of its own: all tasks together, and single tasks beside them."""
    return alt.hconcat(left.properties(width=430, height=430), tasks(rows, width=125, tall=110), spacing=36)


def _lines(base: alt.Chart, *, by_start: bool) -> list[alt.Chart]:
    hover = tip("arm", "task", "condition", "score", "seeds", "address")
    return [
        base.transform_filter(alt.datum.what == condition)
        .mark_line(strokeWidth=1.9 if condition == "sighted" else 1.3, strokeDash=LINES[line], opacity=0.9)
        .encode(tooltip=hover)
        for condition, line in SHOWN.items()
        if by_start or condition != "sighted"
    ]


def _marks(base: alt.Chart) -> list[alt.Chart]:
    seed = tip("label", "task", "score", "lo", "hi", "n", "address")
    mean = tip("arm", "task", "score", "seeds", "schedule", "address")
    points = base.transform_filter(alt.datum.what == "sighted").mark_point(size=26, strokeWidth=1.6, opacity=1)
    solid = alt.Fill("kind:N", scale=KINDS, legend=None)
    return [
        base.transform_filter(alt.datum.what == "seed")
        .mark_circle(size=9, opacity=0.85, xOffset=5)
        .encode(tooltip=seed, description="address:N"),
        points.transform_filter(alt.datum.schedule == "Continue").encode(
            fill=solid, tooltip=mean, description="address:N"
        ),
        points.transform_filter(alt.datum.schedule != "Continue").encode(
            fill=alt.value(PAPER), tooltip=mean, description="address:N"
        ),
    ]


MARGIN = ("margin_lo", "margin_hi")
"""Ends of a margin, means over seeds: all seeds answer the same questions, so the mean is at least that sure."""


def heat(rows: pl.DataFrame, *, width: int | str = 520) -> Layers:
    """Arms by tasks: the mean score in each cell, coloured by its margin over the better guesser."""
    alone = single(rows)
    cells = (
        margins(alone)
        .group_by("arm", "start", "ordinary", "task", "kind", maintain_order=True)
        .agg(
            pl.col("score", "margin", "margin_lo", "margin_hi", "guessed").mean(),
            pl.col("better").first(),
            pl.len().alias("seeds"),
            pl.col("address").unique(maintain_order=True).str.join(", "),
        )
        .sort("ordinary", "start", "arm", descending=[True, False, False])
    )
    by_start = varied(rows)
    shares = pl.format("{} %", (100 * pl.col("start")).round(1).cast(pl.String).str.strip_suffix(".0"))
    cells = cells.with_columns(pl.when(by_start & pl.col("ordinary")).then(shares).otherwise("arm").alias("column"))
    names = cells.get_column("column").unique(maintain_order=True).to_list()
    order = tasks_of(alone, "vision") + tasks_of(alone, "text")
    slant = -40 if max(len(name) for name in names) > 9 else 0
    top = alt.Axis(orient="top", labelAngle=slant, domain=False, ticks=False)
    side = alt.Axis(domain=False, ticks=False, labelLimit=170)
    base = chart(cells.to_dicts()).encode(
        x=alt.X("column:N", sort=names, title=None, axis=top),
        y=alt.Y("task:N", sort=order, title=None, axis=side),
        tooltip=tip("arm", "task", "score", "guessed", "better", "margin", *MARGIN, "seeds", "address"),
    )
    reach = max([0.05, *(abs(value) for value in cells.get_column("margin"))])
    return alt.layer(*_tiles(base, reach)).properties(width=width, height=alt.Step(25))


def _tiles(base: alt.Chart, reach: float) -> list[alt.Chart]:
    """Coloured cells and the numbers on them, light where the cell is dark."""
    scale = alt.Scale(domain=[-reach, 0, reach], range=["#c2512a", "#f4f1e8", "#2c7fb0"], type="linear")
    legend = alt.Legend(
        title="margin over the better guesser", orient="bottom", format="+.0%", gradientLength=220, titleLimit=300
    )
    tiles = base.mark_rect(stroke=PAPER, strokeWidth=2)
    light = f"abs(datum.margin) > {0.6 * reach:.4g}"
    text = base.mark_text(fontSize=11.5).encode(
        text=alt.Text("score:Q", format=".0%"), color=alt.condition(light, alt.value("#ffffff"), alt.value(INK))
    )
    return [tiles.encode(color=alt.Color("margin:Q", scale=scale, legend=legend), description="address:N"), text]
