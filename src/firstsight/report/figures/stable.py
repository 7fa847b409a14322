"""The figure: stable scores against the point where images enter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import polars as pl

from firstsight.report.compare import Interval
from firstsight.report.figures.look import (
    BACKGROUND_COLOUR,
    GREY_COLOUR,
    KIND_COLOURS,
    PERCENT_LABEL,
    SCHEDULE_LABELS,
    SCHEDULE_SHAPES,
    ChartRow,
    LayeredChart,
    field_tooltips,
    rows_chart,
)
from firstsight.report.table import STABLE, has_varied_starts, mean_over_seeds

START_TITLE = "images enter at this share of the text training"
KIND_SCALE = alt.Scale(domain=list(KIND_COLOURS), range=list(KIND_COLOURS.values()))
LINE_DASHES: dict[str, list[float]] = {
    "rate continued": [1, 0],
    "to another schedule": [5, 4],
    "without the picture": [2.5, 2.5],
    "without the question": [1, 3],
    "finished text trunk": [9, 3, 2, 3],
}


def stable_score_chart(
    rows: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], *, width: int | str = 460
) -> LayeredChart:
    """Vision and text stable score by start (by arm, where starts do not vary), with seeds, intervals and guessers."""
    stable_rows, names = _assign_lanes(rows.filter(pl.col("task") == STABLE), by_start=has_varied_starts(rows))
    mean = mean_over_seeds(stable_rows, extra_keys=["lane"])
    sweep_layers = _sweep_line(mean) if has_varied_starts(rows) else []
    layers = [
        *_lane_labels(stable_rows, names),
        *sweep_layers,
        *_guesser_layers(mean),
        *_interval_bars(mean, intervals),
        _seed_dots(stable_rows),
        _mean_points(mean),
    ]
    x = (
        start_axis(START_TITLE, names=names, last_lane=stable_rows.get_column("lane").max())
        if has_varied_starts(rows)
        else arm_axis(names)
    )
    return alt.layer(*layers).encode(x=x).properties(width=width, height=400)


def _assign_lanes(rows: pl.DataFrame, *, by_start: bool) -> tuple[pl.DataFrame, list[str]]:
    """Rows with their place on the axis, and the names that need a lane: controls stand to the right of 100 %."""
    controls = rows.filter((pl.col("schedule") != "trunk") & ~(pl.col("ordinary") & by_start))
    names = controls.get_column("arm").unique(maintain_order=True).to_list()
    lanes = {name: 1.17 + 0.12 * index for index, name in enumerate(names)} if by_start else {}
    lane = pl.col("arm").replace_strict(lanes, default=None, return_dtype=pl.Float64)
    return rows.with_columns(lane.fill_null(pl.col("start")).alias("lane")), names


def start_axis(title: str | None, *, names: Sequence[str] = (), last_lane: Any = 1.0, field: str = "lane") -> alt.X:
    """The horizontal axis: the start as a share, and beyond it a lane for each control."""
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1] if field == "lane" else [0, 0.4, 0.8]
    axis = alt.Axis(labelExpr=PERCENT_LABEL, values=ticks, grid=False)
    axis_end = last_lane + 0.06 if names else 1.06
    return alt.X(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(domain=[-0.04, axis_end], nice=False))


def arm_axis(names: Sequence[str], *, compact: bool = False) -> alt.X:
    """The horizontal axis where starts do not vary: the arms."""
    axis = alt.Axis(labelAngle=-50, labelLimit=70, labelFontSize=10) if compact else alt.Axis(labelAngle=-30)
    return alt.X("arm:N", title=None, sort=list(names), axis=axis)


def _lane_labels(rows: pl.DataFrame, names: Sequence[str]) -> list[alt.Chart]:
    """The controls' names, each along its lane."""
    lanes = dict(rows.select("arm", "lane").unique(maintain_order=True).iter_rows())
    label_rows = [{"arm": name, "lane": lanes[name]} for name in names if lanes[name] > 1]
    if not label_rows:
        return []
    text = rows_chart(label_rows).mark_text(
        angle=270, align="right", baseline="bottom", dy=-7, fontSize=11, color=GREY_COLOUR
    )
    return [text.encode(y=alt.value(4), text="arm:N")]


def score_axis(title: str | None, field: str = "score") -> alt.Y:
    """The vertical axis: a share, in percent."""
    return alt.Y(
        f"{field}:Q", title=title, axis=alt.Axis(labelExpr=PERCENT_LABEL), scale=alt.Scale(zero=False, nice=True)
    )


def kind_colour() -> alt.Color:
    """Vision or text."""
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=4, symbolSize=200)
    return alt.Color("kind:N", scale=KIND_SCALE, legend=legend)


def _line_dash(line_names: Sequence[str]) -> alt.StrokeDash:
    names = [name for name in LINE_DASHES if name in line_names]
    legend = alt.Legend(
        title=None, orient="bottom", columns=2, symbolType="stroke", symbolSize=400, symbolStrokeWidth=2
    )
    return alt.StrokeDash(
        "line:N", scale=alt.Scale(domain=names, range=[LINE_DASHES[name] for name in names]), legend=legend
    )


def _sweep_line(mean: pl.DataFrame) -> list[alt.Chart]:
    """The line in pieces; a piece is dashed where either end follows another schedule than the trunk's own."""
    segments: list[ChartRow] = []
    for kind in KIND_COLOURS:
        kind_means = mean.filter((pl.col("kind") == kind) & pl.col("ordinary") & (pl.col("condition") == "sighted"))
        for a, b in pairwise(kind_means.sort("start").to_dicts()):
            is_continued = a["schedule"] == b["schedule"] == "continue"
            piece = {"kind": kind, "piece": f"{kind}{a['start']}"}
            piece["line"] = "rate continued" if is_continued else "to another schedule"
            segments += [piece | {key: endpoint[key] for key in ("lane", "score", "address")} for endpoint in (a, b)]
    line = rows_chart(segments).mark_line(strokeWidth=2.2, clip=False)
    return [
        line.encode(
            y=_stable_score_axis(), color=kind_colour(), detail="piece:N", strokeDash=_line_dash(_line_names(mean))
        )
    ]


def _stable_score_axis() -> alt.Y:
    return score_axis("stable score: mean of (accuracy − chance)")


def _line_names(mean: pl.DataFrame) -> list[str]:
    """The kinds of line that these rows lead to."""
    conditions = set(mean.get_column("condition"))
    sweep_rows = mean.filter(pl.col("ordinary"))
    sweep_schedules = (
        sweep_rows.get_column("schedule")
        if sweep_rows.get_column("start").n_unique() > 1
        else pl.Series([], dtype=pl.String)
    )
    line_names = ["rate continued"] if (sweep_schedules == "continue").any() else []
    line_names += ["to another schedule"] if (sweep_schedules != "continue").any() else []
    line_names += ["without the picture"] if "blind" in conditions else []
    line_names += ["without the question"] if "question_blind" in conditions else []
    return line_names + (["finished text trunk"] if (mean.get_column("schedule") == "trunk").any() else [])


def _guesser_layers(mean: pl.DataFrame) -> list[alt.Chart]:
    """The score without the picture, one an arm; the best without the question, one for all; the finished trunk."""
    blind = mean.filter((pl.col("condition") == "blind") & pl.col("ordinary")).with_columns(
        pl.lit("without the picture").alias("line")
    )
    question_blind = mean.filter(pl.col("condition") == "question_blind")
    trunk = mean.filter((pl.col("schedule") == "trunk") & (pl.col("condition") == "sighted"))
    levels = _level_rows(question_blind, "without the question") + _level_rows(trunk, "finished text trunk")
    dash = _line_dash(_line_names(mean))
    base = rows_chart(blind.to_dicts()).encode(y=_stable_score_axis(), color=kind_colour(), tooltip=_guesser_tooltips())
    line = base.mark_line(strokeWidth=1.5, opacity=0.8).encode(strokeDash=dash)
    dots = base.mark_circle(size=14, opacity=0.8).encode(description="address:N")
    rule = rows_chart(levels).mark_rule(strokeWidth=1.5, opacity=0.8)
    rule = rule.encode(
        x=alt.value(0), x2=alt.value("width"), y=_stable_score_axis(), color=kind_colour(), strokeDash=dash
    )
    return [line, dots] * (not blind.is_empty()) + [rule.encode(tooltip=_guesser_tooltips())] * bool(levels)


def _guesser_tooltips() -> list[alt.Tooltip]:
    return field_tooltips("line", "arm", "score", "seeds", "address")


def _level_rows(level_means: pl.DataFrame, line: str) -> list[ChartRow]:
    """One row a kind: a level that no start changes, with everything it came from."""
    rows: list[ChartRow] = []
    for (kind,), part in level_means.group_by("kind", maintain_order=True):
        addresses = ", ".join(part.get_column("address").unique(maintain_order=True))
        rows.append({"kind": kind, "line": line, "score": part.get_column("score").mean(), "address": addresses})
        rows[-1] |= {"arm": ", ".join(part.get_column("arm").unique(maintain_order=True)), "seeds": part["seeds"].max()}
    return rows


def _interval_bars(mean: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval]) -> list[alt.Chart]:
    bar_rows = []
    for row in _sighted_arms(mean).to_dicts():
        interval = intervals.get((row["arm"], row["kind"]))
        if interval:
            bar_rows.append(
                row | {"lo": interval[0], "hi": interval[1], "about": "95 % over questions, of the mean over seeds"}
            )
    bars = rows_chart(bar_rows).mark_rule(strokeWidth=7, opacity=0.2)
    tooltips = field_tooltips("arm", "about", "lo", "hi", "address")
    return [bars.encode(y=alt.Y("lo:Q"), y2="hi:Q", color=kind_colour(), tooltip=tooltips)] * bool(bar_rows)


def _sighted_arms(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter((pl.col("condition") == "sighted") & (pl.col("schedule") != "trunk"))


def _seed_dots(stable_rows: pl.DataFrame) -> alt.Chart:
    """Every seed as a small dot, a little to the right of its mean so that neither hides the other."""
    dots = rows_chart(_sighted_arms(stable_rows).to_dicts()).mark_circle(size=30, opacity=0.85, xOffset=11)
    tooltips = field_tooltips("label", "seed", "score", "schedule", "n", "address")
    return dots.encode(y=_stable_score_axis(), color=kind_colour(), tooltip=tooltips, description="address:N")


def _mean_points(mean: pl.DataFrame) -> alt.Chart:
    """Means over seeds: filled for the continued rate, hollow for any other schedule, whose shape tells which."""
    point_rows = [
        row
        | {"how": SCHEDULE_LABELS[row["schedule"]], "fill": row["kind"] if row["schedule"] == "continue" else "hollow"}
        for row in _sighted_arms(mean).to_dicts()
    ]
    fill = alt.Scale(domain=[*KIND_COLOURS, "hollow"], range=[*KIND_COLOURS.values(), BACKGROUND_COLOUR])
    shape = alt.Scale(domain=list(SCHEDULE_LABELS.values()), range=SCHEDULE_SHAPES)
    return (
        rows_chart(point_rows)
        .mark_point(size=95, strokeWidth=2.2, opacity=1)
        .encode(
            y=_stable_score_axis(),
            color=kind_colour(),
            fill=alt.Fill("fill:N", scale=fill, legend=None),
            shape=alt.Shape("how:N", scale=shape, legend=None),
            tooltip=field_tooltips("arm", "score", "seeds", "how", "address"),
            description="address:N",
        )
    )
