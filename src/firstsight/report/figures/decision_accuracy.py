"""Figures of decision accuracy: the share of pairs in the order of the largest size, and the pairs themselves."""

from __future__ import annotations

import altair as alt

from firstsight.report.decision_accuracy import SizeAccuracy, StudyDecisionAccuracy
from firstsight.report.figures.scores import KIND_SCALE, PERCENT_LABEL
from firstsight.report.figures.style import (
    BACKGROUND_COLOUR,
    GREY_COLOUR,
    KIND_COLOURS,
    ChartRow,
    LayeredChart,
    field_tooltips,
    rows_chart,
)

COIN = 0.5
"""The share that a coin gets right."""
ALL_PAIRS, DECIDED_PAIRS = "all pairs", "pairs that the largest size decides"
FILL_SCALE = alt.Scale(domain=[*KIND_COLOURS, "hollow"], range=[*KIND_COLOURS.values(), BACKGROUND_COLOUR])
SIZE_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]
PANEL_WIDTH, PANEL_HEIGHT = 165, 170


def accuracy_chart(accuracy: StudyDecisionAccuracy, *, columns: int = 4) -> alt.FacetChart:
    """The decision accuracy of each measure by size: filled over all pairs, hollow over the decided ones."""
    rows = [row for size in accuracy.sizes for row in _share_rows(accuracy, size)]
    order = [accuracy.axis.text(size) for size in sorted({float(size.size) for size in accuracy.sizes})]
    x = alt.X("size:N", sort=order, title=None, axis=alt.Axis(labelAngle=0))
    y_axis = alt.Axis(labelExpr=PERCENT_LABEL, values=[0, 0.25, 0.5, 0.75, 1])
    y = alt.Y("share:Q", title=None, axis=y_axis, scale=alt.Scale(domain=[-0.04, 1.04], nice=False))
    offset = alt.XOffset("pairs:N", sort=[ALL_PAIRS, DECIDED_PAIRS])
    data = rows_chart(rows)
    base = data.encode(x=x, xOffset=offset)
    colour = alt.Color("kind:N", scale=KIND_SCALE, legend=None)
    tooltips = field_tooltips("measure", "size", "pairs", "alike", "share", "interval_low", "interval_high", "seeds")
    ends = {"y": alt.Y("interval_low:Q"), "y2": "interval_high:Q"}
    bars = base.mark_rule(strokeWidth=7, opacity=0.2).encode(**ends, color=colour, tooltip=tooltips)
    points = base.mark_point(size=95, strokeWidth=2.2, opacity=1)
    fill = alt.Fill("fill:N", scale=FILL_SCALE, legend=None)
    layers = (_level(data, COIN), bars, points.encode(y=y, color=colour, fill=fill, tooltip=tooltips))
    return _panels(alt.layer(*layers), accuracy, columns=columns)


def _level(data: alt.Chart, value: float) -> alt.Chart:
    """A dashed line at a height."""
    rule = data.mark_rule(color=GREY_COLOUR, strokeDash=[2.5, 2.5])
    return rule.encode(y=alt.datum(value), x=alt.value(0), x2=alt.value("width"))


def _share_rows(accuracy: StudyDecisionAccuracy, size: SizeAccuracy) -> list[ChartRow]:
    common: ChartRow = {"measure": size.measure, "kind": size.kind, "size": accuracy.axis.text(size.size)}
    common["seeds"] = min(size.num_seeds, size.num_seeds_at_largest)
    rows: list[ChartRow] = []
    for name, ordered in ((ALL_PAIRS, size.over_all), (DECIDED_PAIRS, size.over_decided)):
        if ordered.share is not None:
            low, high = ordered.interval or (None, None)
            row = common | {"pairs": name, "fill": size.kind if name == ALL_PAIRS else "hollow"}
            row |= {"alike": f"{ordered.num_alike:g} of {ordered.num_pairs}", "share": ordered.share}
            rows.append(row | {"interval_low": low, "interval_high": high})
    return rows


def pairs_chart(accuracy: StudyDecisionAccuracy, *, columns: int = 4) -> alt.FacetChart:
    """Differences of all pairs at a smaller size against those at the largest, better arm there first."""
    rows: list[ChartRow] = []
    for size in accuracy.sizes:
        for pair in size.pairs:
            sign = -1 if pair.largest_difference < 0 else 1
            names = (pair.a, pair.b)[::sign]
            row = {"measure": size.measure, "kind": size.kind, "size": accuracy.axis.text(size.size)}
            row |= {"pair": " − ".join(names), "decided": pair.is_decided_at_largest}
            row |= {"large": sign * pair.largest_difference, "small": sign * pair.difference}
            rows.append(row | {"fill": size.kind if pair.is_decided_at_largest else "hollow"})
    order = list(dict.fromkeys(row["size"] for row in rows))
    label = PERCENT_LABEL.replace("'.0%'", "'.0~%'")
    x = alt.X("large:Q", title="at the largest size", axis=alt.Axis(labelExpr=label, tickCount=4, grid=False))
    y = alt.Y("small:Q", title="at the smaller size", axis=alt.Axis(labelExpr=label, tickCount=5))
    base = rows_chart(rows)
    tooltips = field_tooltips("pair", "measure", "size", "large", "small", "decided")
    legend = alt.Legend(title=accuracy.axis.label, orient="bottom", titleOrient="left", titleLimit=300)
    shape = alt.Shape("size:N", scale=alt.Scale(domain=order, range=SIZE_SHAPES[: len(order)]), legend=legend)
    points = base.mark_point(size=42, strokeWidth=1.6, opacity=0.85).encode(
        x=x,
        y=y,
        color=alt.Color("kind:N", scale=KIND_SCALE, legend=None),
        fill=alt.Fill("fill:N", scale=FILL_SCALE, legend=None),
        shape=shape,
        tooltip=tooltips,
    )
    return _panels(alt.layer(_level(base, 0.0), points), accuracy, columns=columns)


def _panels(panel: LayeredChart, accuracy: StudyDecisionAccuracy, *, columns: int) -> alt.FacetChart:
    """A panel for each measure, in the order of the table."""
    header = alt.Header(labelAnchor="start", labelOrient="top")
    order = list(dict.fromkeys(size.measure for size in accuracy.sizes))
    facet = alt.Facet("measure:N", sort=order, title=None, header=header)
    return panel.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT).facet(facet=facet, columns=columns)
