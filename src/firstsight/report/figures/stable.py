"""The figure: stable scores against the point where images enter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import altair as alt
import polars as pl

from firstsight.report.compare import Interval
from firstsight.report.figures.look import COLOURS, PAPER, PERCENT, SCHEDULES, SHAPES, Layers, Row, chart, tip
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
    wanted = rows.filter(pl.col("task") == STABLE)
    mean = means(wanted)
    x = across(WHERE if varied(rows) else None, by_start=varied(rows), names=_names(mean))
    layers = [*_guessers(mean), _bars(mean, intervals), _seeds(wanted), _points(mean), *_names_of_controls(mean)]
    if varied(rows):
        layers.insert(0, _line(mean))
    return alt.layer(*layers).encode(x=x).properties(width=width, height=400)


def _names(mean: pl.DataFrame) -> list[str]:
    return mean.filter(pl.col("schedule") != "trunk").get_column("arm").unique(maintain_order=True).to_list()


def across(title: str | None, *, by_start: bool, names: Sequence[str], compact: bool = False) -> alt.X:
    """The horizontal axis: the start as a share, or the arms by name."""
    if not by_start:
        return alt.X("arm:N", title=title, sort=list(names), axis=alt.Axis(labelAngle=-30, labels=not compact))
    ticks = [0, 0.4, 0.8] if compact else [0, 0.2, 0.4, 0.6, 0.8, 1]
    axis = alt.Axis(labelExpr=PERCENT, values=ticks, grid=False)
    return alt.X("start:Q", title=title, axis=axis, scale=alt.Scale(domain=[-0.04, 1.06], nice=False))


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


def _line(mean: pl.DataFrame) -> alt.Chart:
    """The line in pieces; a piece is dashed where either end follows another schedule than the trunk's own."""
    found: list[Row] = []
    for kind in COLOURS:
        of_kind = mean.filter((pl.col("kind") == kind) & pl.col("ordinary") & (pl.col("condition") == "sighted"))
        for a, b in pairwise(of_kind.sort("start").to_dicts()):
            same = a["schedule"] == b["schedule"] == "Continue"
            piece = {"kind": kind, "piece": f"{kind}{a['start']}"}
            piece["line"] = "rate continued" if same else "to another schedule"
            found += [piece | {key: end[key] for key in ("start", "score", "address")} for end in (a, b)]
    drawn = chart(found).mark_line(strokeWidth=2.2, clip=False)
    return drawn.encode(y=_score(), color=colour(), detail="piece:N", strokeDash=_dash(_used(mean)))


def _score() -> alt.Y:
    return height("stable score: mean of (accuracy − chance)")


def _used(mean: pl.DataFrame) -> list[str]:
    """The kinds of line that these rows lead to."""
    conditions = set(mean.get_column("condition"))
    same = mean.filter(pl.col("ordinary")).get_column("schedule")
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
    line = chart(blind.to_dicts()).mark_line(strokeWidth=1.5, opacity=0.8)
    line = line.encode(y=_score(), color=colour(), strokeDash=dash, tooltip=_about())
    rule = chart(levels).mark_rule(strokeWidth=1.5, opacity=0.8)
    rule = rule.encode(x=alt.value(0), x2=alt.value("width"), y=_score(), color=colour(), strokeDash=dash)
    dots = chart(blind.to_dicts()).mark_circle(size=14, opacity=0.8)
    dots = dots.encode(y=_score(), color=colour(), tooltip=_about(), description="address:N")
    return [line, dots, rule.encode(tooltip=_about())]


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


def _bars(mean: pl.DataFrame, intervals: Mapping[tuple[str, str], Interval]) -> alt.Chart:
    found = []
    for row in _drawn(mean).to_dicts():
        ends = intervals.get((row["arm"], row["kind"]))
        if ends:
            found.append(row | {"lo": ends[0], "hi": ends[1], "about": "95 % over questions, of the mean over seeds"})
    bars = chart(found).mark_rule(strokeWidth=7, opacity=0.2)
    hover = tip("arm", "about", "lo", "hi", "address")
    return bars.encode(y=alt.Y("lo:Q"), y2="hi:Q", color=colour(), tooltip=hover)


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


def _names_of_controls(mean: pl.DataFrame) -> list[alt.Chart]:
    """Arms beside the line carry their names; by name they stand on the axis already."""
    beside = _drawn(mean).filter(~pl.col("ordinary"))
    if beside.is_empty():
        return []
    text = chart(beside.to_dicts()).mark_text(align="right", dx=-10, fontSize=11)
    return [text.encode(y=_score(), color=colour(), text="arm:N")]
