"""Figures of scores: the stable score by start, single tasks as small multiples, and a heat map of arms by tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import polars as pl

from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.report.figures.style import (
    BACKGROUND_COLOUR,
    GREY_COLOUR,
    INK_COLOUR,
    KIND_COLOURS,
    SCHEDULE_LABELS,
    ChartRow,
    LayeredChart,
    field_tooltips,
    rows_chart,
)
from firstsight.report.table import (
    INTERVAL,
    MARGIN_INTERVAL,
    STABLE,
    guesser_margins,
    has_varied_starts,
    mean_over_seeds,
    single_task_names,
    single_task_rows,
)

SCHEDULE_SHAPES = ["circle", "circle", "diamond", "square", "cross"]
PERCENT_LABEL = "replace(format(datum.value, '.0%'), '%', '\u00a0%')"
"""Vega expression of an axis label: 80 %."""
START_TITLE = "images enter at this share of the text training"
KIND_SCALE = alt.Scale(domain=list(KIND_COLOURS), range=list(KIND_COLOURS.values()))
KIND_LEGEND = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=4, symbolSize=200)
KIND_COLOUR = alt.Color("kind:N", scale=KIND_SCALE, legend=KIND_LEGEND)
SCORE_Y = alt.Y("score:Q", title=None, axis=alt.Axis(labelExpr=PERCENT_LABEL), scale=alt.Scale(zero=False, nice=True))
STABLE_Y = SCORE_Y.title("stable score: mean of (accuracy − chance)")
CONTINUED, RESCHEDULED, TRUNK = "rate continued", "to another schedule", "finished text trunk"
BLIND, QUESTION_BLIND = "without the image", "without the question"
LINE_DASHES = {CONTINUED: [1, 0], RESCHEDULED: [5, 4], BLIND: [2.5, 2.5], QUESTION_BLIND: [1, 3], TRUNK: [9, 3, 2, 3]}
CONDITION_LINES = {"sighted": CONTINUED, "blind": BLIND, "question_blind": QUESTION_BLIND}


def stable_score_chart(
    rows: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], *, width: int | str = 460
) -> LayeredChart:
    """Vision and text stable score by start (by arm, where starts do not vary), with seeds, intervals and guessers.

    `intervals` are over questions, by arm and kind.
    """
    by_start = has_varied_starts(rows)
    stable, names = _assign_lanes(rows.filter(task=STABLE), by_start=by_start)
    mean = mean_over_seeds(stable, extra_keys=["lane"])
    x = start_axis(START_TITLE, names=names, last_lane=stable["lane"].max()) if by_start else arm_axis(names)
    layers = [
        *_lane_labels(stable, names),
        *(_sweep_line(mean) if by_start else []),
        *_guesser_layers(mean),
        *_interval_bars(mean, intervals),
        _seed_dots(stable),
        _mean_points(mean),
    ]
    return alt.layer(*layers).encode(x=x).properties(width=width, height=400)


def _assign_lanes(rows: pl.DataFrame, *, by_start: bool) -> tuple[pl.DataFrame, list[str]]:
    """Rows with their x position (`lane`), and the names of the control arms, which are placed right of 100 %."""
    controls = rows.filter((pl.col("schedule") != "trunk") & ~(pl.col("in_sweep") & by_start))
    names = controls.get_column("arm").unique(maintain_order=True).to_list()
    lanes = {name: 1.17 + 0.12 * index for index, name in enumerate(names)} if by_start else {}
    lane = pl.col("arm").replace_strict(lanes, default=None, return_dtype=pl.Float64)
    return rows.with_columns(lane.fill_null(pl.col("start")).alias("lane")), names


def start_axis(title: str | None, *, names: Sequence[str] = (), last_lane: Any = 1.0, field: str = "lane") -> alt.X:
    """The horizontal axis of starts as shares; with `names`, it extends to the last lane of the control arms."""
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1] if field == "lane" else [0, 0.4, 0.8]
    axis = alt.Axis(labelExpr=PERCENT_LABEL, values=ticks, grid=False)
    axis_end = last_lane + 0.06 if names else 1.06
    return alt.X(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(domain=[-0.04, axis_end], nice=False))


def arm_axis(names: Sequence[str], *, compact: bool = False) -> alt.X:
    """The horizontal axis of arm names, where starts do not vary."""
    axis = alt.Axis(labelAngle=-50, labelLimit=70, labelFontSize=10) if compact else alt.Axis(labelAngle=-30)
    return alt.X("arm:N", title=None, sort=list(names), axis=axis)


def _lane_labels(rows: pl.DataFrame, names: Sequence[str]) -> list[alt.Chart]:
    lanes = dict(rows.select("arm", "lane").unique(maintain_order=True).iter_rows())
    labels = [{"arm": name, "lane": lanes[name]} for name in names if lanes[name] > 1]
    style = {"angle": 270, "align": "right", "baseline": "bottom", "dy": -7, "fontSize": 11, "color": GREY_COLOUR}
    return [rows_chart(labels).mark_text(**style).encode(y=alt.value(4), text="arm:N")] if labels else []


def _line_dash(mean: pl.DataFrame) -> alt.StrokeDash:
    conditions, sweep = set(mean.get_column("condition")), mean.filter(pl.col("in_sweep"))
    schedules = set(sweep.get_column("schedule")) if sweep.get_column("start").n_unique() > 1 else set()
    is_drawn = {
        CONTINUED: "continue" in schedules,
        RESCHEDULED: bool(schedules - {"continue"}),
        BLIND: "blind" in conditions,
        QUESTION_BLIND: "question_blind" in conditions,
        TRUNK: "trunk" in set(mean.get_column("schedule")),
    }
    names = [name for name in LINE_DASHES if is_drawn[name]]
    symbol = {"symbolType": "stroke", "symbolSize": 400, "symbolStrokeWidth": 2}
    legend = alt.Legend(title=None, orient="bottom", columns=2, **symbol)
    scale = alt.Scale(domain=names, range=[LINE_DASHES[name] for name in names])
    return alt.StrokeDash("line:N", scale=scale, legend=legend)


def _sweep_line(mean: pl.DataFrame) -> list[alt.Chart]:
    """The sweep's line in segments; a segment is dashed unless both of its arms continue the trunk's schedule."""
    points: list[ChartRow] = []
    for kind in KIND_COLOURS:
        sweep = mean.filter(pl.col("in_sweep"), kind=kind, condition="sighted").sort("start")
        for a, b in pairwise(sweep.to_dicts()):
            line = CONTINUED if a["schedule"] == b["schedule"] == "continue" else RESCHEDULED
            segment = {"kind": kind, "segment": f"{kind}{a['start']}", "line": line}
            points += [segment | {key: end[key] for key in ("lane", "score", "address")} for end in (a, b)]
    chart = rows_chart(points).mark_line(strokeWidth=2.2, clip=False)
    return [chart.encode(y=STABLE_Y, color=KIND_COLOUR, detail="segment:N", strokeDash=_line_dash(mean))]


def _guesser_layers(mean: pl.DataFrame) -> list[alt.Chart]:
    """A line of scores without the image, by arm; horizontal lines for scores without the question and the trunk's."""
    blind = mean.filter(pl.col("in_sweep"), condition="blind").with_columns(pl.lit(BLIND).alias("line"))
    trunk = mean.filter(schedule="trunk", condition="sighted")
    levels = _level_rows(mean.filter(condition="question_blind"), QUESTION_BLIND) + _level_rows(trunk, TRUNK)
    dash, tooltips = _line_dash(mean), field_tooltips("line", "arm", "score", "seeds", "address")
    base = rows_chart(blind.to_dicts()).encode(y=STABLE_Y, color=KIND_COLOUR, tooltip=tooltips)
    line = base.mark_line(strokeWidth=1.5, opacity=0.8).encode(strokeDash=dash)
    dots = base.mark_circle(size=14, opacity=0.8).encode(description="address:N")
    rule = rows_chart(levels).mark_rule(strokeWidth=1.5, opacity=0.8)
    x = {"x": alt.value(0), "x2": alt.value("width")}
    rule = rule.encode(**x, y=STABLE_Y, color=KIND_COLOUR, strokeDash=dash, tooltip=tooltips)
    return [line, dots] * (not blind.is_empty()) + [rule] * bool(levels)


def _level_rows(means: pl.DataFrame, line: str) -> list[ChartRow]:
    """One row per kind with the mean score, which does not depend on the start, and all arms and addresses."""
    rows: list[ChartRow] = []
    for (kind,), part in means.group_by("kind", maintain_order=True):
        names = {key: ", ".join(part.get_column(key).unique(maintain_order=True)) for key in ("address", "arm")}
        rows.append({"kind": kind, "line": line, "score": part["score"].mean(), "seeds": part["seeds"].max(), **names})
    return rows


def _interval_bars(mean: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval]) -> list[alt.Chart]:
    rows: list[ChartRow] = []
    for row in _sighted_arms(mean).to_dicts():
        low, high = intervals.get((row["arm"], row["kind"]), (None, None))
        if low is not None:
            note = "95 % over questions, of the mean over seeds"
            rows.append(row | {"interval_low": low, "interval_high": high, "interval_note": note})
    bars = rows_chart(rows).mark_rule(strokeWidth=7, opacity=0.2)
    tooltips = field_tooltips("arm", "interval_note", "interval_low", "interval_high", "address")
    y = {"y": alt.Y("interval_low:Q"), "y2": "interval_high:Q"}
    return [bars.encode(**y, color=KIND_COLOUR, tooltip=tooltips)] * bool(rows)


def _sighted_arms(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("schedule") != "trunk", condition="sighted")


def _seed_dots(stable: pl.DataFrame) -> alt.Chart:
    """Every seed as a small dot, slightly to the right of its mean so that neither hides the other."""
    dots = rows_chart(_sighted_arms(stable).to_dicts()).mark_circle(size=30, opacity=0.85, xOffset=11)
    tooltips = field_tooltips("label", "seed", "score", "schedule", "questions", "address")
    return dots.encode(y=STABLE_Y, color=KIND_COLOUR, tooltip=tooltips, description="address:N")


def _mean_points(mean: pl.DataFrame) -> alt.Chart:
    """Means over seeds: filled where the learning rate continues, hollow otherwise; the shape is by schedule."""
    kinds = pl.when(schedule="continue").then("kind").otherwise(pl.lit("hollow"))
    labels = pl.col("schedule").replace_strict(SCHEDULE_LABELS)
    rows = _sighted_arms(mean).with_columns(schedule_label=labels, fill=kinds).to_dicts()
    fill = alt.Scale(domain=[*KIND_COLOURS, "hollow"], range=[*KIND_COLOURS.values(), BACKGROUND_COLOUR])
    shape = alt.Scale(domain=list(SCHEDULE_LABELS.values()), range=SCHEDULE_SHAPES)
    points = rows_chart(rows).mark_point(size=95, strokeWidth=2.2, opacity=1)
    return points.encode(
        y=STABLE_Y,
        color=KIND_COLOUR,
        fill=alt.Fill("fill:N", scale=fill, legend=None),
        shape=alt.Shape("schedule_label:N", scale=shape, legend=None),
        tooltip=field_tooltips("arm", "score", "seeds", "schedule_label", "address"),
        description="address:N",
    )


def task_grid(rows: pl.DataFrame, *, columns: int = 4, width: int = 118, panel_height: int = 84) -> alt.FacetChart:
    """Single tasks as small multiples: with the image (line and seeds), without it, and without the question."""
    tasks = single_task_rows(rows).filter(pl.col("in_sweep") & pl.col("condition").is_in(list(CONDITION_LINES)))
    order = single_task_names(tasks, "vision") + single_task_names(tasks, "text")
    data = [row | {"series": row["condition"]} for row in mean_over_seeds(tasks).to_dicts()]
    data += [row | {"series": "seed"} for row in tasks.filter(condition="sighted").to_dicts()]
    names, by_start = tasks.get_column("arm").unique(maintain_order=True).to_list(), has_varied_starts(rows)
    x = start_axis(None, field="start") if by_start else arm_axis(names, compact=True)
    base = rows_chart(data).encode(x=x, y=SCORE_Y, color=KIND_COLOUR)
    panels = alt.layer(*_condition_lines(base, by_start=by_start), *_mark_layers(base))
    header = alt.Header(labelAnchor="start", labelOrient="top")
    facet = alt.Facet("task:N", sort=order, title=None, header=header)
    return panels.properties(width=width, height=panel_height).facet(facet=facet, columns=columns)


def combined_chart(rows: pl.DataFrame, stable_chart: LayeredChart) -> alt.HConcatChart:
    """The main figure for use outside the page: the stable score on the left, single tasks on the right."""
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
    seed_tooltips = field_tooltips("label", "task", "score", *INTERVAL, "questions", "address")
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
    """Arms by tasks: each cell has the mean score over seeds, coloured by its margin over the better guesser."""
    tasks, by_start = single_task_rows(rows), has_varied_starts(rows)
    start_labels = pl.format("{} %", (100 * pl.col("start")).round(1).cast(pl.String).str.strip_suffix(".0"))
    cells = (
        guesser_margins(tasks)
        .group_by("arm", "start", "in_sweep", "task", "kind", maintain_order=True)
        .agg(
            pl.col("score", "margin", *MARGIN_INTERVAL, "guesser_score").mean(),
            pl.col("guesser").first(),
            pl.len().alias("seeds"),
            pl.col("address").unique(maintain_order=True).str.join(", "),
        )
        .sort("in_sweep", "start", "arm", descending=[True, False, False])
        .with_columns(pl.when(by_start & pl.col("in_sweep")).then(start_labels).otherwise("arm").alias("column"))
    )
    names = cells.get_column("column").unique(maintain_order=True).to_list()
    order = single_task_names(tasks, "vision") + single_task_names(tasks, "text")
    label_angle = -40 if max(map(len, names)) > 9 else 0
    column_axis = alt.Axis(orient="top", labelAngle=label_angle, domain=False, ticks=False)
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
    is_dark_cell = f"abs(datum.margin) > {0.6 * max_margin:.4g}"
    text = base.mark_text(fontSize=11.5).encode(
        text=alt.Text("score:Q", format=".0%"),
        color=alt.condition(is_dark_cell, alt.value("#ffffff"), alt.value(INK_COLOUR)),
    )
    return [tiles.encode(color=alt.Color("margin:Q", scale=scale, legend=legend), description="address:N"), text]
