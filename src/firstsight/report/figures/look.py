"""How every figure looks: colours, type, tooltips; and how rows enter a chart.

Colours are Okabe and Ito's, safe for colour-blind readers; shape and dash repeat what colour says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import altair as alt

ChartRow = dict[str, Any]
LayeredChart = alt.LayerChart | alt.FacetChart
"""What altair's types say of layered charts; none here is a facet."""

KIND_COLOURS = {"vision": "#0072B2", "text": "#D55E00"}
GREY_COLOUR, INK_COLOUR, BACKGROUND_COLOUR = "#6b6f76", "#1d2129", "#ffffff"
START_COLOURS = ["#4b2a8a", "#3b5fa8", "#1f8a99", "#2ba36b", "#9aa81f", "#d98b00"]
"""From early (dark) to late (light)."""
FONT = "Inter, 'Source Sans 3', Roboto, 'Helvetica Neue', Arial, sans-serif"
SCHEDULE_LABELS = {
    "continue": "continued rate",
    "rewarm": "re-warmed rate",
    "matched": "matched rate",
    "none": "no image phase",
    "trunk": "text trunk",
}
SCHEDULE_SHAPES = ["circle", "circle", "diamond", "square", "cross"]
PERCENT_LABEL = "replace(format(datum.value, '.0%'), '%', '\u00a0%')"
"""How an axis writes a share: 80 %."""


def vega_lite_spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as a Vega-Lite specification in the report's look."""
    axis = {
        "labelFont": FONT,
        "titleFont": FONT,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelColor": "#4a4e55",
        "titleColor": "#4a4e55",
        "gridColor": "#e9e7e1",
        "domainColor": "#b9b6ad",
        "tickColor": "#b9b6ad",
        "titlePadding": 8,
    }
    # Validation takes longer than everything else a report does; a test validates every figure instead.
    spec = chart.to_dict(validate=False)
    datasets: dict[str, list[ChartRow]] = {name: json.loads(rows) for name, rows in spec.pop("datasets", {}).items()}
    spec = _move_rows(spec, datasets) | {"datasets": datasets}
    spec["config"] = {
        "font": FONT,
        "background": BACKGROUND_COLOUR,
        "view": {"stroke": None},
        "axis": axis,
        "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 240},
        "header": {"labelFontSize": 12.5, "labelFontWeight": 600, "labelColor": INK_COLOUR, "labelPadding": 4},
        "title": {
            "fontSize": 16,
            "fontWeight": 600,
            "color": INK_COLOUR,
            "anchor": "start",
            "offset": 14,
            "subtitleColor": "#4a4e55",
            "subtitleFontSize": 12,
            "subtitlePadding": 6,
        },
    }
    return spec


FIELD_LABELS = {
    "score": ("score", ".1%"),
    "lo": ("from", ".1%"),
    "hi": ("to", ".1%"),
    "guessed": ("better guesser", ".1%"),
    "margin": ("margin", "+.1%"),
    "margin_lo": ("margin from (95 % over questions)", "+.1%"),
    "margin_hi": ("margin to", "+.1%"),
    "better": ("which guesser", None),
    "start": ("images enter at", ".0%"),
    "seen": ("tokens seen", ","),
    "lr": ("learning rate", ".3~g"),
    "loss": ("loss", ".4~g"),
    "how": ("schedule", None),
    "says": ("line", None),
    "about": ("interval", None),
    "n": ("questions", ","),
    "label": ("arm and seed", None),
}


def field_tooltips(*fields: str) -> list[alt.Tooltip]:
    """What a mark says when pointed at: the named fields with their titles and formats."""
    tooltips = []
    for field in fields:
        title, number_format = FIELD_LABELS.get(field, (field, None))
        is_numeric = number_format is not None or field == "seeds"
        tooltips.append(
            alt.Tooltip(
                f"{field}:{'Q' if is_numeric else 'N'}",
                title=title,
                **({"format": number_format} if number_format else {}),
            )
        )
    return tooltips


def rows_chart(rows: Sequence[ChartRow]) -> alt.Chart:
    """A chart over plain rows."""
    return alt.Chart(inline_data(rows))


def inline_data(rows: Sequence[ChartRow]) -> alt.InlineData:
    """Rows as one string, which altair neither copies nor checks a row at a time; `themed` unpacks it."""
    return alt.InlineData(values=json.dumps(compact_rows(rows)), format=alt.JsonDataFormat(type="json"))


def _move_rows(node: Any, datasets: dict[str, list[ChartRow]]) -> Any:
    """The specification with the rows that altair left in place (those of lookups) moved into `datasets` too."""
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
    """Rows without empty fields, and with numbers short enough for a page."""
    return [
        {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in row.items()
            if value is not None
        }
        for row in rows
    ]
