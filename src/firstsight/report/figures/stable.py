"""The figure: stable scores against the point where images enter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import polars as pl

from firstsight.report.compare import Interval
from firstsight.report.figures.look import COLOURS, GREY, PAPER, PERCENT, SCHEDULES, SHAPES, Layers, Row, chart, tip
from firstsight.report.table import STABLE, means, varied

WHERE = "images enter at this share of the text training"
KINDS = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
LINES: dict[str, list[float]] = {
    "rate continued": [1, 0],
    "to another schedule": [5, 4],
    "without the picture": [2.5, 2.5],
    "without the question": [1, 3],
    "finished text trunk": [9, 3, 2, 3],
}


def stable(rows: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval], *, width: int | str = 460) -> Layers:
    """Vision and text stable score by start (by arm, where starts do not vary), with seeds, intervals and guessers."""
    wanted, names = _laned(rows.filter(pl.col("task") == STABLE), by_start=varied(rows))
    mean = means(wanted, also=["lane"])
    line = _line(mean) if varied(rows) else []
    layers = [*_lanes(wanted, names), *line, *_guessers(mean), *_bars(mean, intervals), _seeds(wanted), _points(mean)]
    x = across(WHERE, names=names, last=wanted.get_column("lane").max()) if varied(rows) else by_name(names)
    return alt.layer(*layers).encode(x=x).properties(width=width, height=400)


def _laned(rows: pl.DataFrame, *, by_start: bool) -> tuple[pl.DataFrame, list[str]]:
    """Rows with their place on the axis, and the names that need a lane: controls stand to the right of 100 %."""
    drawn = rows.filter((pl.col("schedule") != "trunk") & ~(pl.col("ordinary") & by_start))
    names = drawn.get_column("arm").unique(maintain_order=True).to_list()
    lanes = {name: 1.17 + 0.12 * place for place, name in enumerate(names)} if by_start else {}
    lane = pl.col("arm").replace_strict(lanes, default=None, return_dtype=pl.Float64)
    return rows.with_columns(lane.fill_null(pl.col("start")).alias("lane")), names


def across(title: str | None, *, names: Sequence[str] = (), last: Any = 1.0, field: str = "lane") -> alt.X:
    """The horizontal axis: the start as a share, and beyond it a lane for each control."""
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1] if field == "lane" else [0, 0.4, 0.8]
    axis = alt.Axis(labelExpr=PERCENT, values=ticks, grid=False)
    end = last + 0.06 if names else 1.06
    return alt.X(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(domain=[-0.04, end], nice=False))


def by_name(names: Sequence[str], *, compact: bool = False) -> alt.X:
    """The horizontal axis where starts do not vary: the arms."""
    axis = alt.Axis(labelAngle=-50, labelLimit=70, labelFontSize=10) if compact else alt.Axis(labelAngle=-30)
    return alt.X("arm:N", title=None, sort=list(names), axis=axis)


def _lanes(rows: pl.DataFrame, names: Sequence[str]) -> list[alt.Chart]:
    """The controls' names, each along its lane."""
    lanes = dict(rows.select("arm", "lane").unique(maintain_order=True).iter_rows())
    found = [{"arm": name, "lane": lanes[name]} for name in names if lanes[name] > 1]
    if not found:
        return []
    text = chart(found).mark_text(angle=270, align="right", baseline="bottom", dy=-7, fontSize=11, color=GREY)
    return [text.encode(y=alt.value(4), text="arm:N")]


def height(title: str | None, field: str = "score") -> alt.Y:
    """The vertical axis: a share, in percent."""
    return alt.Y(f"{field}:Q", title=title, axis=alt.Axis(labelExpr=PERCENT), scale=alt.Scale(zero=False, nice=True))


def colour() -> alt.Color:
    """Vision or text."""
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=4, symbolSize=200)
    return alt.Color("kind:N", scale=KINDS, legend=legend)


def _dash(used: Sequence[str]) -> alt.StrokeDash:
    names = [name for name in LINES if name in used]
    legend = alt.Legend(
        title=None, orient="bottom", columns=2, symbolType="stroke", symbolSize=400, symbolStrokeWidth=2
    )
    return alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=[LINES[name] for name in names]), legend=legend)


def _line(mean: pl.DataFrame) -> list[alt.Chart]:
    """The line in pieces; a piece is dashed where either end follows another schedule than the trunk's own."""
    found: list[Row] = []
    for kind in COLOURS:
        of_kind = mean.filter((pl.col("kind") == kind) & pl.col("ordinary") & (pl.col("condition") == "sighted"))
        for a, b in pairwise(of_kind.sort("start").to_dicts()):
            same = a["schedule"] == b["schedule"] == "Continue"
            piece = {"kind": kind, "piece": f"{kind}{a['start']}"}
            piece["line"] = "rate continued" if same else "to another schedule"
            found += [piece | {key: end[key] for key in ("lane", "score", "address")} for end in (a, b)]
    drawn = chart(found).mark_line(strokeWidth=2.2, clip=False)
    return [drawn.encode(y=_score(), color=colour(), detail="piece:N", strokeDash=_dash(_used(mean)))]


def _score() -> alt.Y:
    return height("stable score: mean of (accuracy − chance)")


def _used(mean: pl.DataFrame) -> list[str]:
    """The kinds of line that these rows lead to."""
    conditions = set(mean.get_column("condition"))
    line = mean.filter(pl.col("ordinary"))
    same = line.get_column("schedule") if line.get_column("start").n_unique() > 1 else pl.Series([], dtype=pl.String)
    found = ["rate continued"] if (same == "Continue").any() else []
    found += ["to another schedule"] if (same != "Continue").any() else []
    found += ["without the picture"] if "blind" in conditions else []
    found += ["without the question"] if "question_blind" in conditions else []
    return found + (["finished text trunk"] if (mean.get_column("schedule") == "trunk").any() else [])


def _guessers(mean: pl.DataFrame) -> list[alt.Chart]:
    """The score without the picture, one an arm; the best without the question, one for all; the finished trunk."""
    blind = mean.filter((pl.col("condition") == "blind") & pl.col("ordinary")).with_columns(
        pl.lit("without the picture").alias("line")
    )
    unasked = mean.filter(pl.col("condition") == "question_blind")
    trunk = mean.filter((pl.col("schedule") == "trunk") & (pl.col("condition") == "sighted"))
    levels = _level(unasked, "without the question") + _level(trunk, "finished text trunk")
    dash = _dash(_used(mean))
    base = chart(blind.to_dicts()).encode(y=_score(), color=colour(), tooltip=_about())
    line = base.mark_line(strokeWidth=1.5, opacity=0.8).encode(strokeDash=dash)
    dots = base.mark_circle(size=14, opacity=0.8).encode(description="address:N")
    rule = chart(levels).mark_rule(strokeWidth=1.5, opacity=0.8)
    rule = rule.encode(x=alt.value(0), x2=alt.value("width"), y=_score(), color=colour(), strokeDash=dash)
    return [line, dots] * (not blind.is_empty()) + [rule.encode(tooltip=_about())] * bool(levels)


def _about() -> list[alt.Tooltip]:
    return tip("line", "arm", "score", "seeds", "address")


def _level(found: pl.DataFrame, line: str) -> list[Row]:
    """One row a kind: a level that no start changes, with everything it came from."""
    rows: list[Row] = []
    for (kind,), part in found.group_by("kind", maintain_order=True):
        addresses = ", ".join(part.get_column("address").unique(maintain_order=True))
        rows.append({"kind": kind, "line": line, "score": part.get_column("score").mean(), "address": addresses})
        rows[-1] |= {"arm": ", ".join(part.get_column("arm").unique(maintain_order=True)), "seeds": part["seeds"].max()}
    return rows


def _bars(mean: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval]) -> list[alt.Chart]:
    found = []
    for row in _drawn(mean).to_dicts():
        ends = intervals.get((row["arm"], row["kind"]))
        if ends:
            found.append(row | {"lo": ends[0], "hi": ends[1], "about": "95 % over questions, of the mean over seeds"})
    bars = chart(found).mark_rule(strokeWidth=7, opacity=0.2)
    hover = tip("arm", "about", "lo", "hi", "address")
    return [bars.encode(y=alt.Y("lo:Q"), y2="hi:Q", color=colour(), tooltip=hover)] * bool(found)


def _drawn(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter((pl.col("condition") == "sighted") & (pl.col("schedule") != "trunk"))


def _seeds(wanted: pl.DataFrame) -> alt.Chart:
    """Every seed as a small dot, a little to the right of its mean so that neither hides the other."""
    dots = chart(_drawn(wanted).to_dicts()).mark_circle(size=30, opacity=0.85, xOffset=11)
    hover = tip("label", "seed", "score", "schedule", "n", "address")
    return dots.encode(y=_score(), color=colour(), tooltip=hover, description="address:N")


def _points(mean: pl.DataFrame) -> alt.Chart:
    """Means over seeds: filled for the continued rate, hollow for any other schedule, whose shape tells which."""
    found = [
        row | {"how": SCHEDULES[row["schedule"]], "fill": row["kind"] if row["schedule"] == "Continue" else "hollow"}
        for row in _drawn(mean).to_dicts()
    ]
    fill = alt.Scale(domain=[*COLOURS, "hollow"], range=[*COLOURS.values(), PAPER])
    shape = alt.Scale(domain=list(SCHEDULES.values()), range=SHAPES)
    return (
        chart(found)
        .mark_point(size=95, strokeWidth=2.2, opacity=1)
        .encode(
            y=_score(),
            color=colour(),
            fill=alt.Fill("fill:N", scale=fill, legend=None),
            shape=alt.Shape("how:N", scale=shape, legend=None),
            tooltip=tip("arm", "score", "seeds", "how", "address"),
            description="address:N",
        )
    )
