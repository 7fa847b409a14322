"""Where a figure draws each arm: its position on the axis, the line that it belongs to, and the axis itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import copysign, expm1, log, log1p
from typing import Any

import altair as alt
import polars as pl

from firstsight.recipe.analysis import Axis, Grid, ScoreFigure, Sweep
from firstsight.recipe.study import Study
from firstsight.report.figures.style import PERCENT_LABEL, ChartRow
from firstsight.report.results import ArmResult, arm_texts, compared_arms

MAX_TICKS = 8
"""An axis of more coordinates has ticks at round numbers."""
DODGE = 0.016
"""Distance between the points of two lines at one coordinate, as a share of the axis."""
MARGIN = 0.045
"""Length of the axis before its first and after its last coordinate, as a share of it."""

MIN_LENGTH, PANEL_LENGTH = 270.0, 118.0
"""Pixels of the axis on a page of 390, and in a panel of a single task."""
LETTER_WIDTH, LABEL_SEPARATION = 5.6, 3.0
"""Pixels of a letter or digit of a label on average, and between two labels at least."""

LABEL_EXPRESSIONS = {
    "percent": PERCENT_LABEL,
    "count": "format(datum.value, '.4~g')",
    **dict.fromkeys(("tokens", "parameters"), "replace(format(datum.value, '.3~s'), 'G', 'B')"),
}
"""Vega expressions of an axis label by the axis's unit: 80 %, 3, 28.8B."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The places of the compared arms in one figure."""

    figure: ScoreFigure
    titles: tuple[str, ...]
    """Labels of the axes that the figure shows; none for the names of the arms."""
    axis: Axis | None
    """The axis of a sweep."""
    places: pl.DataFrame
    """arm, place (text), series (name of its line; empty for a single one) and hollow; x and tick (numbers) in a sweep,
    column and row (texts) in a grid."""

    @property
    def title(self) -> str:
        """The labels as one text."""
        return " × ".join(self.titles)

    @property
    def series(self) -> list[str]:
        """Names of the lines, in the order of the arms."""
        return self.places.get_column("series").unique(maintain_order=True).to_list()

    @property
    def hollow(self) -> str:
        """The group that is drawn hollow, if arms of it are drawn; else an empty text."""
        is_hollow = isinstance(self.figure, Sweep) and self.places.get_column("hollow").any()
        return self.figure.hollow if is_hollow and isinstance(self.figure, Sweep) else ""

    def join(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of compared arms with their places."""
        return rows.join(self.places, on="arm", how="inner", maintain_order="left")

    def x(self, *, compact: bool = False) -> alt.X:
        """The horizontal axis of a sweep; `compact` for small multiples."""
        assert self.axis is not None  # a sweep's
        ticks = self.places.get_column("tick").unique().sort().to_list()
        kind, label = self.axis.scale, LABEL_EXPRESSIONS[self.axis.unit]
        options: dict[str, Any] = {"labelOverlap": "greedy", "labelSeparation": 5}
        if len(ticks) <= MAX_TICKS:
            widths = [LETTER_WIDTH * len(_tick_text(self.axis, tick)) for tick in ticks]
            labelled = fitting_labels(axis_shares(ticks, kind), widths, length=PANEL_LENGTH if compact else MIN_LENGTH)
            options = {"values": ticks, "labelOverlap": False}
            if len(labelled) < len(ticks):
                label = f"indexof({[ticks[index] for index in labelled]}, datum.value) < 0 ? '' : {label}"
        options |= {"labelFlush": 12} if compact else {}
        axis = alt.Axis(labelExpr=label, grid=False, **options)
        domain = [_moved(ticks[0], -MARGIN, ticks, kind), _moved(ticks[-1], MARGIN, ticks, kind)]
        scale = alt.Scale(type=kind, domain=domain, nice=False)
        if kind == "symlog":
            scale.constant = symlog_constant(ticks)
        return alt.X("x:Q", title=None if compact else self.title, axis=axis, scale=scale)


def _tick_text(axis: Axis, tick: float) -> str:
    """A label as LABEL_EXPRESSIONS writes it."""
    return f"{100 * tick:.4g} %" if axis.unit == "percent" else axis.text(tick)


def fitting_labels(places: Sequence[float], widths: Sequence[float], *, length: float) -> list[int]:
    """Indices of labels without overlap: the first, the last, and from the left those that fit between.

    `places`: ascending, as shares of an axis of `length` pixels; `widths` in pixels.
    """
    last = len(places) - 1

    def is_clear(left: int, right: int) -> bool:
        gap = (places[right] - places[left]) * length - (widths[left] + widths[right]) / 2
        return gap >= LABEL_SEPARATION

    labelled = [0]
    for index in range(1, last):
        if is_clear(labelled[-1], index) and is_clear(index, last):
            labelled.append(index)
    return [*labelled, last] if last else labelled


def axis_shares(ticks: Sequence[float], kind: str) -> list[float]:
    """Ascending places on an axis of a kind, as shares of its length, between the margins before and after them."""
    constant = symlog_constant(ticks)
    places = {"log": log, "symlog": lambda tick: log1p(tick / constant)}
    values = [places[kind](tick) if kind in places else tick for tick in ticks]
    extent = values[-1] - values[0] or 1.0
    return [(MARGIN + (value - values[0]) / extent) / (1 + 2 * MARGIN) for value in values]


def symlog_constant(ticks: Sequence[float]) -> float:
    """Below which number a symlog axis is about linear: the tick above 0 that keeps neighbours furthest apart.

    A value is at log(1 + value / constant), as in d3 and Vega.
    """

    def least_gap(constant: float) -> float:
        places = [log1p(tick / constant) for tick in ticks]
        return min(b - a for a, b in pairwise(places)) / (places[-1] - places[0])

    positive = [tick for tick in ticks if tick > 0]
    return max(positive, key=least_gap) if len(ticks) > 1 else next(iter(positive), 1.0)


def _moved(value: float, share: float, ticks: Sequence[float], kind: str) -> float:
    """A position moved by a share of the axis's length."""
    first, last = ticks[0], ticks[-1]
    if kind == "log":
        return value * (last / first if last > first else 10.0) ** share
    if kind == "symlog":
        constant = symlog_constant(ticks)
        place = log1p(value / constant) + share * log1p((last - first) / (first + constant) or 1.0)
        return copysign(constant * expm1(abs(place)), place)
    return value + share * (last - first or abs(first) or 1.0)


def lay_out(figure: ScoreFigure, arms: Sequence[ArmResult], study: Study) -> Layout:
    """The places of all compared arms of a study in one of its figures."""
    arms = list({arm.name: arm for arm in compared_arms(arms)}.values())
    if isinstance(figure, Sweep):
        axis = study.axis(figure.x)
        return Layout(figure=figure, titles=(axis.label,), axis=axis, places=_sweep_places(figure, arms, study))
    rows: list[ChartRow] = []
    axes = [study.axis(name) for name in ((figure.x, figure.y) if isinstance(figure, Grid) else (figure.x,)) if name]
    texts = arm_texts(arms, axes)
    for arm in arms:
        row: ChartRow = {"arm": arm.name, "place": texts[arm.name], "series": "", "hollow": False}
        if isinstance(figure, Grid):
            row |= {name: axis.text(arm.at[axis.name]) for name, axis in zip(("column", "row"), axes, strict=True)}
        rows.append(row)
    return Layout(figure=figure, titles=tuple(axis.label for axis in axes), axis=None, places=_table(rows))


def _sweep_places(figure: Sweep, arms: Sequence[ArmResult], study: Study) -> pl.DataFrame:
    """Points of several lines are moved apart, so that none hides another at the same coordinate."""
    axis, names = study.axis(figure.x), {arm.name: arm.group for arm in arms}
    if figure.lines:
        names = {arm.name: study.axis(figure.lines).text(arm.at[figure.lines]) for arm in arms}
    ticks = sorted({float(arm.at[axis.name]) for arm in arms})
    lines = list(dict.fromkeys(name for name in names.values() if not figure.hollow or name != figure.hollow))
    lines = lines or [figure.hollow]
    rows: list[ChartRow] = []
    for arm in arms:
        line = lines.index(names[arm.name]) if names[arm.name] in lines else 0
        tick, shift = float(arm.at[axis.name]), DODGE * (line - (len(lines) - 1) / 2)
        series = lines[line] if len(lines) > 1 or figure.hollow else ""
        row: ChartRow = {"arm": arm.name, "place": axis.text(arm.at[axis.name]), "series": series, "tick": tick}
        row["x"] = _moved(tick, shift, ticks, axis.scale)
        rows.append(row | {"hollow": bool(figure.hollow) and arm.group == figure.hollow})
    return _table(rows)


def _table(rows: Sequence[ChartRow]) -> pl.DataFrame:
    return pl.DataFrame(rows) if rows else pl.DataFrame(schema={"arm": pl.String})
