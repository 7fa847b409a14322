"""How every figure looks: colours, type, tooltips; and how rows enter a chart.

Colours are Okabe and Ito's, safe for colour-blind readers; shape and dash repeat what colour says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import altair as alt

Row = dict[str, Any]
Layers = alt.LayerChart | alt.FacetChart
"""What altair's types say of layered charts; none here is a facet."""

COLOURS = {"vision": "#0072B2", "text": "#D55E00"}
GREY, INK, PAPER = "#6b6f76", "#1d2129", "#ffffff"
STARTS = ["#4b2a8a", "#3b5fa8", "#1f8a99", "#2ba36b", "#9aa81f", "#d98b00"]
"""From early (dark) to late (light)."""
FONT = "Inter, 'Source Sans 3', Roboto, 'Helvetica Neue', Arial, sans-serif"
SCHEDULES = {
    "Continue": "continued rate",
    "Rewarm": "re-warmed rate",
    "Matched": "matched rate",
    "none": "no image phase",
    "trunk": "text trunk",
}
SHAPES = ["circle", "circle", "diamond", "square", "cross"]
PERCENT = "replace(format(datum.value, '.0%'), '%', '\u00a0%')"
"""How an axis writes a share: 80 %."""


def themed(drawn: alt.TopLevelMixin) -> dict[str, Any]:
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
    spec = drawn.to_dict(validate=False)
    datasets: dict[str, list[Row]] = {name: json.loads(rows) for name, rows in spec.pop("datasets", {}).items()}
    spec = _unpacked(spec, datasets) | {"datasets": datasets}
    spec["config"] = {
        "font": FONT,
        "background": PAPER,
        "view": {"stroke": None},
        "axis": axis,
        "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 240},
        "header": {"labelFontSize": 12.5, "labelFontWeight": 600, "labelColor": INK, "labelPadding": 4},
        "title": {
            "fontSize": 16,
            "fontWeight": 600,
            "color": INK,
            "anchor": "start",
            "offset": 14,
            "subtitleColor": "#4a4e55",
            "subtitleFontSize": 12,
            "subtitlePadding": 6,
        },
    }
    return spec


NAMES = {
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


def tip(*fields: str) -> list[alt.Tooltip]:
    """What a mark says when pointed at: the named fields with their titles and formats."""
    found = []
    for field in fields:
        title, form = NAMES.get(field, (field, None))
        numeric = form is not None or field == "seeds"
        found.append(
            alt.Tooltip(f"{field}:{'Q' if numeric else 'N'}", title=title, **({"format": form} if form else {}))
        )
    return found


def chart(rows: Sequence[Row]) -> alt.Chart:
    """A chart over plain rows."""
    return alt.Chart(packed(rows))


def packed(rows: Sequence[Row]) -> alt.InlineData:
    """Rows as one string, which altair neither copies nor checks a row at a time; `themed` unpacks it."""
    return alt.InlineData(values=json.dumps(clean(rows)), format=alt.JsonDataFormat(type="json"))


def _unpacked(part: Any, datasets: dict[str, list[Row]]) -> Any:
    """The specification with the rows that altair left in place (those of lookups) moved into `datasets` too."""
    if isinstance(part, list):
        return [_unpacked(item, datasets) for item in part]
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("values"), str):
        name = f"rows-{sha256(part['values'].encode()).hexdigest()[:12]}"
        datasets[name] = json.loads(part["values"])
        return {"name": name}
    return {key: _unpacked(item, datasets) for key, item in part.items()}


def clean(rows: Sequence[Row]) -> list[Row]:
    """Rows without empty fields, and with numbers short enough for a page."""
    return [
        {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in row.items()
            if value is not None
        }
        for row in rows
    ]
