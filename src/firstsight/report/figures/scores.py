"""Figures of scores against a numeric axis: stable scores as lines, and single tasks as small multiples."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt
import polars as pl

from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.recipe.analysis import Sweep
from firstsight.report.figures.layout import Layout
from firstsight.report.figures.style import (
    ARM_SHAPES,
    BACKGROUND_COLOUR,
    INK_COLOUR,
    KIND_COLOURS,
    PERCENT_LABEL,
    ChartRow,
    LayeredChart,
    field_tooltips,
    rows_chart,
)
from firstsight.report.table import INTERVAL, STABLE, mean_over_seeds, single_task_names, single_task_rows

KIND_SCALE = alt.Scale(domain=list(KIND_COLOURS), range=list(KIND_COLOURS.values()))
KIND_LEGEND = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=4, symbolSize=200)
KIND_COLOUR = alt.Color("kind:N", scale=KIND_SCALE, legend=KIND_LEGEND)
SCORE_Y = alt.Y("score:Q", title=None, axis=alt.Axis(labelExpr=PERCENT_LABEL), scale=alt.Scale(zero=False, nice=True))
STABLE_TITLE = "mean over tasks of (score − chance)"
MEASURE_COLOURS = {
    "vision": ["#0072B2", "#009E73", "#56B4E9", "#7b4fa3"],
    "text": ["#D55E00", "#CC79A7", "#b08900", "#6b6f76"],
}
"""Colours of single tasks by their kind, in their order."""
SIGHTED, BLIND, QUESTION_BLIND = "with the image", "without the image", "without the question"
CONDITION_LINES = {"sighted": SIGHTED, "blind": BLIND, "question_blind": QUESTION_BLIND}
HOLLOW_DASH, BLIND_DASH, QUESTION_BLIND_DASH, BASELINE_DASH = [5, 4], [2.5, 2.5], [1, 3], [9, 3, 2, 3]


@dataclass(frozen=True, slots=True)
class ScoreChannels:
    """The vertical axis of a figure of scores, and its colours by the column `kind`."""

    y: alt.Y
    colours: Mapping[str, str]

    @property
    def colour(self) -> alt.Color:
        scale = alt.Scale(domain=list(self.colours), range=list(self.colours.values()))
        return alt.Color("kind:N", scale=scale, legend=KIND_LEGEND)

    @property
    def fill(self) -> alt.Fill:
        """Of the column `fill`: a kind, or hollow."""
        scale = alt.Scale(domain=[*self.colours, "hollow"], range=[*self.colours.values(), BACKGROUND_COLOUR])
        return alt.Fill("fill:N", scale=scale, legend=None)


STABLE_CHANNELS = ScoreChannels(SCORE_Y.title(STABLE_TITLE), KIND_COLOURS)


def stable_score_chart(
    rows: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], layout: Layout, *, width: int | str = 460
) -> LayeredChart:
    """Vision and text stable score of a sweep, with seeds, intervals, guessers and baselines.

    `intervals` are over questions, by arm and kind.
    """
    return _score_chart(rows.filter(task=STABLE), intervals, layout, STABLE_CHANNELS, width=width)


def single_task_chart(
    rows: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], layout: Layout, *, width: int | str = 460
) -> LayeredChart:
    """The scores of the single tasks that a sweep names, like `stable_score_chart`; `intervals` by arm and task."""
    measures = layout.figure.measures if isinstance(layout.figure, Sweep) else ()
    kinds = dict(rows.select("task", "kind").unique(maintain_order=True).iter_rows())
    colours: dict[str, str] = {}
    for task in filter(kinds.__contains__, measures):
        number = sum(kinds[name] == kinds[task] for name in colours)
        colours[task] = MEASURE_COLOURS[kinds[task]][number]
    tasks = rows.filter(pl.col("task").is_in(list(colours))).with_columns(kind="task")
    return _score_chart(tasks, intervals, layout, ScoreChannels(SCORE_Y.title("score"), colours), width=width)


def _score_chart(
    rows: pl.DataFrame,
    intervals: Mapping[tuple[str, str], Interval],
    layout: Layout,
    channels: ScoreChannels,
    *,
    width: int | str,
) -> LayeredChart:
    arms = layout.join(rows)
    mean, baselines = layout.join(mean_over_seeds(arms)), mean_over_seeds(rows.filter(role="baseline"))
    dash = line_dash(mean, baselines, layout)
    layers = [
        *_series_lines(mean, layout, dash, channels),
        *_level_rules(mean, baselines, dash, channels),
        *_blind_lines(mean, dash, channels),
        *_interval_bars(mean, intervals, channels),
        _seed_dots(arms, channels),
        _mean_points(mean, layout, channels),
    ]
    return alt.layer(*layers).encode(x=layout.x()).properties(width=width, height=400)


def line_dash(mean: pl.DataFrame, baselines: pl.DataFrame, layout: Layout) -> alt.StrokeDash:
    """The dash of every kind of line in the figure, with its legend; several series are named by their shapes."""
    conditions, dashes = set(mean.get_column("condition")), {}
    dashes |= {_solid_line(layout): [1, 0]} if layout.axis else {}
    dashes |= {_hollow_line(layout): HOLLOW_DASH} if layout.hollow else {}
    dashes |= {BLIND: BLIND_DASH} if "blind" in conditions else {}
    dashes |= {QUESTION_BLIND: QUESTION_BLIND_DASH} if "question_blind" in conditions else {}
    dashes |= {
        f"baseline: {name}": BASELINE_DASH
        for name in baselines.filter(condition="sighted")["arm"].unique(maintain_order=True)
    }
    symbol = {"symbolType": "stroke", "symbolSize": 400, "symbolStrokeWidth": 2, "labelLimit": 220}
    legend = alt.Legend(title=None, orient="bottom", columns=2, **symbol)
    scale = alt.Scale(domain=list(dashes), range=list(dashes.values()))
    return alt.StrokeDash("line:N", scale=scale, legend=legend)


def _solid_line(layout: Layout) -> str:
    return (layout.series[0] if len(layout.series) == 1 else "") or SIGHTED


def _hollow_line(layout: Layout) -> str:
    return f"to {layout.hollow}"


def _series_lines(mean: pl.DataFrame, layout: Layout, dash: alt.StrokeDash, channels: ScoreChannels) -> list[alt.Chart]:
    """A line through each series in segments, dashed where either end is hollow."""
    points: list[ChartRow] = []
    for (kind, series), part in mean.filter(condition="sighted").group_by("kind", "series", maintain_order=True):
        for index, (a, b) in enumerate(pairwise(part.sort("x").to_dicts())):
            line = _hollow_line(layout) if a["hollow"] or b["hollow"] else _solid_line(layout)
            segment = {"kind": kind, "segment": f"{kind}-{series}-{index}", "line": line}
            points += [segment | {key: end[key] for key in ("x", "score", "address")} for end in (a, b)]
    chart = rows_chart(points).mark_line(strokeWidth=2.2, clip=False)
    return [chart.encode(y=channels.y, color=channels.colour, detail="segment:N", strokeDash=dash)]


def _blind_lines(mean: pl.DataFrame, dash: alt.StrokeDash, channels: ScoreChannels) -> list[alt.Chart]:
    """The score of each arm without the image."""
    blind = mean.filter(condition="blind").with_columns(pl.lit(BLIND).alias("line"))
    tooltips = field_tooltips("line", "arm", "score", "seeds", "address")
    base = rows_chart(blind.to_dicts()).encode(y=channels.y, color=channels.colour, tooltip=tooltips)
    base = base.encode(detail=["series:N", "kind:N"])
    dots = base.mark_circle(size=14, opacity=0.8).encode(description="address:N")
    return [] if blind.is_empty() else [base.mark_line(strokeWidth=1.5, opacity=0.8).encode(strokeDash=dash), dots]


def _level_rules(
    mean: pl.DataFrame, baselines: pl.DataFrame, dash: alt.StrokeDash, channels: ScoreChannels
) -> list[alt.Chart]:
    """Horizontal lines: the score without the question, the same for all arms, and that of each baseline."""
    levels = level_rows(mean, baselines)
    x = {"x": alt.value(0), "x2": alt.value("width")}
    rule = rows_chart(levels).mark_rule(strokeWidth=1.5, opacity=0.8)
    tooltips = field_tooltips("line", "arm", "score", "seeds", "address")
    return [rule.encode(**x, y=channels.y, color=channels.colour, strokeDash=dash, tooltip=tooltips)] * bool(levels)


def level_rows(mean: pl.DataFrame, baselines: pl.DataFrame) -> list[ChartRow]:
    """Rows kind, line, score, seeds, arm, address: the score without the question, and that of each baseline."""
    rows = _level_rows(mean.filter(condition="question_blind"), QUESTION_BLIND)
    for (name,), part in baselines.filter(condition="sighted").group_by("arm", maintain_order=True):
        rows += _level_rows(part, f"baseline: {name}")
    return rows


def _level_rows(means: pl.DataFrame, line: str) -> list[ChartRow]:
    """One row for each kind: a level that all these arms share, with their names and addresses."""
    rows: list[ChartRow] = []
    for (kind,), part in means.group_by("kind", maintain_order=True):
        names = {key: ", ".join(part.get_column(key).unique(maintain_order=True)) for key in ("address", "arm")}
        rows.append({"kind": kind, "line": line, "score": part["score"].mean(), "seeds": part["seeds"].max(), **names})
    return rows


def interval_rows(mean: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval]) -> list[ChartRow]:
    """The means of arms that have an interval over questions, with its ends."""
    rows: list[ChartRow] = []
    for row in mean.filter(condition="sighted").to_dicts():
        low, high = intervals.get((row["arm"], row["kind"]), (None, None))
        if low is not None:
            note = "95 % over questions, of the mean over seeds"
            rows.append(row | {"interval_low": low, "interval_high": high, "interval_note": note})
    return rows


def _interval_bars(
    mean: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], channels: ScoreChannels
) -> list[alt.Chart]:
    rows = interval_rows(mean, intervals)
    bars = rows_chart(rows).mark_rule(strokeWidth=7, opacity=0.2)
    ends = {"y": alt.Y("interval_low:Q"), "y2": "interval_high:Q"}
    tooltips = field_tooltips("arm", "interval_note", "interval_low", "interval_high", "address")
    return [bars.encode(**ends, color=channels.colour, tooltip=tooltips)] * bool(rows)


def _seed_dots(arms: pl.DataFrame, channels: ScoreChannels) -> alt.Chart:
    """Every seed as a small dot, slightly to the right of its mean so that neither hides the other."""
    dots = rows_chart(arms.filter(condition="sighted").to_dicts()).mark_circle(size=30, opacity=0.85, xOffset=11)
    tooltips = field_tooltips("label", "seed", "score", "group", "questions", "address")
    return dots.encode(y=channels.y, color=channels.colour, tooltip=tooltips, description="address:N")


def _mean_points(mean: pl.DataFrame, layout: Layout, channels: ScoreChannels) -> alt.Chart:
    """Means over seeds; the shape is by series, with a legend where there are several."""
    fill_kind = pl.when(pl.col("hollow")).then(pl.lit("hollow")).otherwise("kind")
    rows = mean.filter(condition="sighted").with_columns(fill=fill_kind).to_dicts()
    shape = alt.Scale(domain=layout.series, range=ARM_SHAPES)
    colours: dict[str, Any] = {"symbolStrokeColor": INK_COLOUR, "symbolFillColor": INK_COLOUR}
    legend = alt.Legend(title=None, orient="bottom", columns=3, labelLimit=220, **colours)
    points = rows_chart(rows).mark_point(size=95, strokeWidth=2.2, opacity=1)
    return points.encode(
        y=channels.y,
        color=channels.colour,
        fill=channels.fill,
        shape=alt.Shape("series:N", scale=shape, legend=legend if len(layout.series) > 1 else None),
        tooltip=field_tooltips("arm", "place", "score", "seeds", "group", "address"),
        description="address:N",
    )


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The marks of the panels of single tasks."""

    rows: Sequence[ChartRow]
    """Of each arm, task and condition the mean over seeds, and each seed with the image: `mark` is the condition, or
    seed."""
    order: Sequence[str]
    """The tasks, vision first."""

    @property
    def marks(self) -> set[str]:
        """Which marks there are: a layer without rows is a warning in the browser's console."""
        return {row["mark"] for row in self.rows}


def task_rows(rows: pl.DataFrame, layout: Layout) -> TaskRows:
    """The scores of single tasks at the places of a layout."""
    tasks = layout.join(single_task_rows(rows).filter(pl.col("condition").is_in(list(CONDITION_LINES))))
    marks = [row | {"mark": row["condition"]} for row in layout.join(mean_over_seeds(tasks)).to_dicts()]
    marks += [row | {"mark": "seed"} for row in tasks.filter(condition="sighted").to_dicts()]
    return TaskRows(marks, single_task_names(tasks, "vision") + single_task_names(tasks, "text"))


def task_grid(
    rows: pl.DataFrame, layout: Layout, *, columns: int = 4, width: int = 118, panel_height: int = 84
) -> alt.FacetChart:
    """Single tasks as small multiples: with the image (line and seeds), without it, and without the question."""
    tasks = task_rows(rows, layout)
    base = rows_chart(tasks.rows).encode(x=layout.x(compact=True), y=SCORE_Y, color=KIND_COLOUR)
    panels = alt.layer(*_condition_lines(base, tasks.marks), *_mark_layers(base, layout))
    header = alt.Header(labelAnchor="start", labelOrient="top")
    facet = alt.Facet("task:N", sort=tasks.order, title=None, header=header)
    return panels.properties(width=width, height=panel_height).facet(facet=facet, columns=columns)


def _condition_lines(base: alt.Chart, marks: Collection[str]) -> list[alt.Chart]:
    tooltips = field_tooltips("arm", "task", "condition", "score", "seeds", "address")
    dashes = {"sighted": [1, 0], "blind": BLIND_DASH, "question_blind": QUESTION_BLIND_DASH}
    return [
        base.transform_filter(alt.datum.mark == condition)
        .mark_line(strokeWidth=1.9 if condition == "sighted" else 1.3, strokeDash=dash, opacity=0.9)
        .encode(tooltip=tooltips, detail="series:N")
        for condition, dash in dashes.items()
        if condition in marks
    ]


def _mark_layers(base: alt.Chart, layout: Layout) -> list[alt.Chart]:
    seed_tooltips = field_tooltips("label", "task", "score", *INTERVAL, "questions", "address")
    mean_tooltips = field_tooltips("arm", "task", "score", "seeds", "group", "address")
    seeds = base.transform_filter(alt.datum.mark == "seed").mark_circle(size=9, opacity=0.85, xOffset=5)
    points = base.transform_filter(alt.datum.mark == "sighted").mark_point(size=26, strokeWidth=1.6, opacity=1)
    shape = alt.Shape("series:N", scale=alt.Scale(domain=layout.series, range=ARM_SHAPES), legend=None)
    points = points.encode(tooltip=mean_tooltips, description="address:N", shape=shape)
    solid = alt.Fill("kind:N", scale=KIND_SCALE, legend=None)
    return [
        seeds.encode(tooltip=seed_tooltips, description="address:N"),
        points.transform_filter("!datum.hollow").encode(fill=solid),
        *[points.transform_filter("datum.hollow").encode(fill=alt.value(BACKGROUND_COLOUR))] * bool(layout.hollow),
    ]
