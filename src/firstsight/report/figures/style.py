"""The common style of all figures (colours, fonts, tooltips), and how rows are put into a chart.

Colours are Okabe and Ito's, safe for colour-blind readers; shape and dash repeat the information of the colour.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

import altair as alt

from firstsight.visible import visible_values

ChartRow = dict[str, Any]
LayeredChart = alt.LayerChart | alt.FacetChart
"""The return type of altair's methods on layered charts; no chart here is a facet."""

KIND_COLOURS = {"vision": "#0072B2", "text": "#D55E00"}
GREY_COLOUR, INK_COLOUR, BACKGROUND_COLOUR = "#6b6f76", "#1d2129", "#ffffff"

ARM_RAMP = ["#4b2a8a", "#3b5fa8", "#1f8a99", "#2ba36b", "#9aa81f", "#d98b00"]
"""Colours from the first arm of a study (dark) to its last (light), between which those of more arms lie."""
ARM_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
"""Of arms or lines in their order, so that neighbours in colour differ in shape."""
MAX_LEGEND_ARMS = 40
"""With more arms a figure has no legend: their names would fill the page; every mark has them in its tooltip."""

THEME: dict[str, Any] = json.loads((files("firstsight.report.figures") / "theme.json").read_text(encoding="utf-8"))

FIELD_LABELS = {
    "score": ("score", ".1%"),
    "interval_low": ("from", ".1%"),
    "interval_high": ("to", ".1%"),
    "interval_note": ("interval", None),
    "guesser": ("which guesser", None),
    "guesser_score": ("better guesser", ".1%"),
    "margin": ("margin", "+.1%"),
    "margin_low": ("margin from (95 % over questions)", "+.1%"),
    "margin_high": ("margin to", "+.1%"),
    "place": ("at", None),
    "seen": ("tokens", ","),
    "lr": ("learning rate", ".3~g"),
    "published": ("published rate", ".4~g"),
    "difference": ("ours differs by", "+.1%"),
    "loss": ("loss", ".4~g"),
    "questions": ("questions", ","),
    "seeds": ("seeds", ""),
    "label": ("arm and seed", None),
}
"""Title and number format of each field in a tooltip; None for text."""


PERCENT_LABEL = "replace(format(datum.value * 100, '.4~g') + '%', '%', '\u00a0%')"
"""Vega expression of an axis label: 80 %, 0.5 %."""
TITLE_LETTER_WIDTH = 6.5
"""Pixels of a letter in the title of an axis."""


def wrapped_title(text: str, length: int) -> list[str] | None:
    """The title of an axis in lines that are no longer than it, in pixels; None for an empty one."""
    return textwrap.wrap(text, width=max(10, int(length / TITLE_LETTER_WIDTH))) or None


def vega_lite_spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as a Vega-Lite specification with the report's style, every text in it `visible`."""
    # Validation would take longer than the rest of the report; the tests validate every figure instead.
    spec = chart.to_dict(validate=False)
    datasets: dict[str, list[ChartRow]] = {name: json.loads(rows) for name, rows in spec.pop("datasets", {}).items()}
    return visible_values(_move_rows(spec, datasets) | {"datasets": datasets}) | {"config": THEME}


def field_tooltips(*fields: str) -> list[alt.Tooltip]:
    """A tooltip with the named fields, their titles and formats."""
    tooltips = []
    for field in fields:
        title, number_format = FIELD_LABELS.get(field, (field, None))
        options = {"format": number_format} if number_format else {}
        tooltips.append(alt.Tooltip(f"{field}:{'N' if number_format is None else 'Q'}", title=title, **options))
    return tooltips


def rows_chart(rows: Sequence[ChartRow]) -> alt.Chart:
    """A chart of plain rows."""
    return alt.Chart(inline_data(rows))


def inline_data(rows: Sequence[ChartRow]) -> alt.InlineData:
    """Rows as one JSON string, which altair neither copies nor validates row by row; `vega_lite_spec` parses it."""
    return alt.InlineData(values=json.dumps(compact_rows(rows)), format=alt.JsonDataFormat(type="json"))


@dataclass(frozen=True, slots=True)
class ArmChannels:
    """Colour and shape of each arm, with one legend for both, by a column that contains the arm's name."""

    names: Sequence[str]
    field: str = "arm"

    @property
    def colour(self) -> alt.Color:
        scale = alt.Scale(domain=list(self.names), range=arm_colours(len(self.names)))
        return alt.Color(f"{self.field}:N", scale=scale, legend=self._legend)

    @property
    def shape(self) -> alt.Shape:
        shapes = [ARM_SHAPES[index % len(ARM_SHAPES)] for index in range(len(self.names))]
        scale = alt.Scale(domain=list(self.names), range=shapes)
        return alt.Shape(f"{self.field}:N", scale=scale, legend=self._legend)

    @property
    def _legend(self) -> alt.Legend | None:
        legend = alt.Legend(title=None, orient="top", columns=6, symbolSize=90, symbolOpacity=1, labelLimit=200)
        return legend if len(self.names) <= MAX_LEGEND_ARMS else None


def arm_colours(count: int) -> list[str]:
    """`count` different colours along ARM_RAMP, its first and its last one included."""
    ramp = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in ARM_RAMP]
    colours = []
    for index in range(count):
        position = index * (len(ramp) - 1) / max(count - 1, 1)
        start = min(int(position), len(ramp) - 2)
        rest = position - start
        parts = [round(a + rest * (b - a)) for a, b in zip(ramp[start], ramp[start + 1], strict=True)]
        colours.append("#{:02x}{:02x}{:02x}".format(*parts))
    return colours


def _move_rows(node: Any, datasets: dict[str, list[ChartRow]]) -> Any:
    if isinstance(node, list):
        return [_move_rows(item, datasets) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("values"), str):
        name = f"rows-{sha256(node['values'].encode()).hexdigest()[:12]}"
        datasets[name] = json.loads(node["values"])
        return {"name": name}
    return {key: _move_rows(item, datasets) for key, item in node.items()}


def compact_rows(rows: Sequence[ChartRow]) -> list[ChartRow]:
    """Rows without null fields, and with floats rounded to six digits, to keep the page small."""
    return [{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in r.items() if v is not None} for r in rows]
