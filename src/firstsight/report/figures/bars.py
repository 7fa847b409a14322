"""Figures of scores by category, which have no order: bars from left to right, and single tasks as small multiples.

Arms are listed from top to bottom, so that their names are horizontal at every width, and no line joins them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.report.figures.layout import Layout
from firstsight.report.figures.scores import (
    BLIND,
    BLIND_DASH,
    KIND_COLOUR,
    KIND_SCALE,
    QUESTION_BLIND_DASH,
    STABLE_TITLE,
    TaskRows,
    interval_rows,
    level_rows,
    line_dash,
    task_rows,
)
from firstsight.report.figures.style import (
    BACKGROUND_COLOUR,
    KIND_COLOURS,
    PERCENT_LABEL,
    LayeredChart,
    field_tooltips,
    rows_chart,
    wrapped_title,
)
from firstsight.report.table import INTERVAL, STABLE, mean_over_seeds

ARM_HEIGHT, LEAST_HEIGHT, PANEL_ARM_HEIGHT = 30, 180, 15
"""Pixels of an arm in the figure of stable scores, of that whole figure, and of an arm in a panel of one task."""
KIND_OFFSET = alt.YOffset("kind:N", sort=list(KIND_COLOURS))
BAR_X = alt.X("score:Q", title=STABLE_TITLE, axis=alt.Axis(labelExpr=PERCENT_LABEL), scale=alt.Scale(nice=True))
PANEL_X = alt.X(
    "score:Q",
    title=None,
    axis=alt.Axis(labelExpr=PERCENT_LABEL, tickCount=3, labelOverlap="greedy", labelSeparation=5),
    scale=alt.Scale(zero=False, nice=True),
)


def bar_chart(
    rows: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], layout: Layout, *, width: int | str = 460
) -> LayeredChart:
    """Vision and text stable score of each arm as bars, with seeds, intervals, guessers and baselines.

    `intervals` are over questions, by arm and kind.
    """
    stable = rows.filter(task=STABLE)
    arms, baselines = layout.join(stable), mean_over_seeds(stable.filter(role="baseline"))
    mean = layout.join(mean_over_seeds(arms))
    dash = line_dash(mean, baselines, layout)
    names = layout.places.get_column("place").to_list()
    height = max(LEAST_HEIGHT, ARM_HEIGHT * len(names))
    y = alt.Y("place:N", sort=names, title=wrapped_title(layout.title, height), axis=alt.Axis(labelLimit=150))
    marks = [
        _bars(mean),
        *_levels(mean, baselines, dash),
        *_blind_rules(mean, y, dash),
        *_intervals(mean, intervals),
        _seeds(arms),
    ]
    return alt.layer(*marks).encode(y=y).properties(width=width, height=height)


def _band_ends(y: alt.Y) -> dict[str, Any]:
    """From the upper to the lower end of an arm's place on a vertical axis."""
    return {"y": y.bandPosition(0), "y2": alt.Y2("place:N", bandPosition=1)}


def _bars(mean: pl.DataFrame) -> alt.Chart:
    """Means over seeds, vision above text."""
    bars = rows_chart(mean.filter(condition="sighted").to_dicts()).mark_bar(opacity=0.55)
    tooltips = field_tooltips("arm", "place", "score", "seeds", "group", "address")
    return bars.encode(x=BAR_X, color=KIND_COLOUR, yOffset=KIND_OFFSET, tooltip=tooltips, description="address:N")


def _levels(mean: pl.DataFrame, baselines: pl.DataFrame, dash: alt.StrokeDash) -> list[alt.Chart]:
    """Vertical lines: the score without the question, the same for all arms, and that of each baseline."""
    rows = level_rows(mean, baselines)
    rule = rows_chart(rows).mark_rule(strokeWidth=1.5, opacity=0.8)
    tooltips = field_tooltips("line", "arm", "score", "seeds", "address")
    ends = {"y": alt.value(0), "y2": alt.value("height")}
    return [rule.encode(**ends, x=BAR_X, color=KIND_COLOUR, strokeDash=dash, tooltip=tooltips)] * bool(rows)


def _blind_rules(mean: pl.DataFrame, y: alt.Y, dash: alt.StrokeDash) -> list[alt.Chart]:
    """The score of each arm without the image, as a line across its bars."""
    blind = mean.filter(condition="blind").with_columns(pl.lit(BLIND).alias("line"))
    tooltips = field_tooltips("line", "arm", "score", "seeds", "address")
    rule = rows_chart(blind.to_dicts()).mark_rule(strokeWidth=1.8)
    rule = rule.encode(**_band_ends(y), x=BAR_X, color=KIND_COLOUR, strokeDash=dash, tooltip=tooltips)
    return [rule] * (not blind.is_empty())


def _intervals(mean: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval]) -> list[alt.Chart]:
    rows = interval_rows(mean, intervals)
    rules = rows_chart(rows).mark_rule(strokeWidth=7, opacity=0.3)
    tooltips = field_tooltips("arm", "interval_note", "interval_low", "interval_high", "address")
    ends = {"x": alt.X("interval_low:Q"), "x2": "interval_high:Q", "yOffset": KIND_OFFSET}
    return [rules.encode(**ends, color=KIND_COLOUR, tooltip=tooltips)] * bool(rows)


def _seeds(arms: pl.DataFrame) -> alt.Chart:
    dots = rows_chart(arms.filter(condition="sighted").to_dicts())
    dots = dots.mark_circle(size=34, opacity=1, stroke=BACKGROUND_COLOUR, strokeWidth=0.8)
    tooltips = field_tooltips("label", "seed", "score", "group", "questions", "address")
    encoding = {"x": BAR_X, "color": KIND_COLOUR, "yOffset": KIND_OFFSET}
    return dots.encode(**encoding, tooltip=tooltips, description="address:N")


def task_panels(rows: pl.DataFrame, layout: Layout, *, columns: int = 4, width: int = 118) -> alt.FacetChart:
    """Single tasks as small multiples: in each the arms from top to bottom, with the image (mean and seeds), without
    it, and without the question."""
    tasks: TaskRows = task_rows(rows, layout)
    names = layout.places.get_column("place").to_list()
    axis = alt.Axis(labelLimit=100, labelFontSize=10.5, domain=False, ticks=False)
    y = alt.Y("place:N", sort=names, title=None, axis=axis)
    base = rows_chart(tasks.rows).encode(x=PANEL_X, y=y, color=KIND_COLOUR)
    dashes = {"blind": BLIND_DASH, "question_blind": QUESTION_BLIND_DASH}
    tooltips = field_tooltips("arm", "task", "condition", "score", "seeds", "address")
    rules = [
        base.transform_filter(alt.datum.mark == condition)
        .mark_rule(strokeWidth=1.6, strokeDash=dash)
        .encode(**_band_ends(y), tooltip=tooltips)
        for condition, dash in dashes.items()
        if condition in tasks.marks
    ]
    panels = alt.layer(*rules, *_panel_marks(base)).properties(width=width, height=alt.Step(PANEL_ARM_HEIGHT))
    header = alt.Header(labelAnchor="start", labelOrient="top")
    return panels.facet(facet=alt.Facet("task:N", sort=tasks.order, title=None, header=header), columns=columns)


def _panel_marks(base: alt.Chart) -> list[alt.Chart]:
    """The seeds and, filled, their mean."""
    seed_tooltips = field_tooltips("label", "task", "score", *INTERVAL, "questions", "address")
    mean_tooltips = field_tooltips("arm", "task", "score", "seeds", "group", "address")
    seeds = base.transform_filter(alt.datum.mark == "seed").mark_circle(size=9, opacity=0.85, yOffset=4)
    points = base.transform_filter(alt.datum.mark == "sighted").mark_point(size=26, strokeWidth=1.6, opacity=1)
    solid = alt.Fill("kind:N", scale=KIND_SCALE, legend=None)
    return [
        seeds.encode(tooltip=seed_tooltips, description="address:N"),
        points.encode(tooltip=mean_tooltips, description="address:N", fill=solid),
    ]
