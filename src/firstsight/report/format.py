"""Values as text for pages, tables and the terminal, and the Jinja environment of all pages."""

from __future__ import annotations

import base64
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from firstsight.evaluate.metrics.boxes import BoundingBox, parse_box
from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.units import format_count
from firstsight.visible import visible

MAX_CHARACTERS = 2000
"""Characters of one text on a page."""
BLANK_HTML = {" ": Markup("<i> </i>"), "\n": Markup("<i class=n>↵</i>\n"), "\t": Markup("<i class=n>⇥</i>\t")}


def format_percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 in percent, without the sign: 53.1; an empty string for None."""
    return "" if share is None else _with_minus(f"{100 * share:.{digits}f}")


def format_points(difference: float) -> str:
    """A difference of shares in points with its sign: +2.1; 0.0 has none."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else _with_minus(text)


def _with_minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def format_interval(interval: Interval) -> str:
    """An interval of differences in points: +0.3 to +4.1."""
    return " to ".join(map(format_points, interval))


def format_p_value(p_value: float | None, family_size: int = 1) -> str:
    """A p-value and the number of comparisons it is corrected for: p = 0.013 after Holm for 5. None counts as 1."""
    p_value = 1.0 if p_value is None else p_value
    text = f"p = {p_value:.2g}" if p_value >= 0.0001 else "p < 0.0001"
    return f"{text} after Holm for {family_size}" if family_size > 1 else text


def format_score(score: float) -> str:
    """The score of a single answer, without trailing zeros: 1, 0.5, 0.33."""
    return f"{score:.2f}".removesuffix("0").removesuffix(".0")


def format_duration(seconds: float) -> str:
    """Seconds in a unit that fits: 42 s, 9.5 min, 31 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def join_names(names: Sequence[str]) -> str:
    """Names as a list in a sentence: a, b or c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def axis_limit(differences: Iterable[float]) -> float:
    """Half the width of an axis centred on 0 that contains all `differences`: a multiple of 5 points, at least 5."""
    return 0.05 * math.ceil(max([0.01, *map(abs, differences)]) / 0.05 - 1e-9)


def readable_answer(text: str) -> str:
    """An answer in readable form: two digits for each edge of a box, a list of answers without repeats, else as is."""
    box = parse_box(text)
    if box:
        return " ".join(f"{edge:.2f}".removeprefix("0") for edge in box)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return " / ".join(dict.fromkeys(value)) if is_list else text


def escape_invisible(text: str, *, allowed: str = " \n") -> str:
    """The first MAX_CHARACTERS of `text`, with invisible characters except `allowed` written out: [U+200B]."""
    excerpt = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ... ({len(text):,} characters)"
    return "".join(f"[U+{ord(char):04X}]" if char not in allowed and is_invisible(char) else char for char in excerpt)


def visible_html(text: str) -> Markup:
    """`text` as safe HTML in which every blank is marked and every invisible character is written out."""
    write_out = Markup("<i class=u>U+{:04X}</i>").format
    marked = (BLANK_HTML.get(c) or (write_out(ord(c)) if is_invisible(c) else escape(c)) for c in text)
    return Markup("").join(marked)


def is_invisible(char: str) -> bool:
    """Whether a character is a control, a bidirectional mark, unassigned, half of a surrogate pair or any blank."""
    return unicodedata.category(char) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs")


def parse_truth_box(truth: Any) -> BoundingBox | None:
    """The truth of a box task (four edges as shares of width and height); None for any other truth."""
    if not isinstance(truth, list) or len(truth) != 4:
        return None
    if not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in truth):
        return None
    left, top, right, bottom = map(float, truth)
    return (left, top, right, bottom) if left < right and top < bottom else None


def describe_box(box: BoundingBox) -> str:
    """A box in words, for screen readers."""
    return ", ".join(f"{side} {100 * e:.0f} %" for side, e in zip(("left", "top", "right", "bottom"), box, strict=True))


def known_columns(table: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[str]]:
    """A table of text with a header row without the columns that are "unknown" in all rows, and the titles of these."""
    header, *rows = table
    unknown = [place for place in range(len(header)) if rows and all(row[place] == "unknown" for row in rows)]
    known = [[text for place, text in enumerate(row) if place not in unknown] for row in table]
    return known, [header[place] for place in unknown]


FILTERS: Mapping[str, Callable[..., Any]] = {
    "percent": format_percent,
    "points": format_points,
    "interval": format_interval,
    "p_value": format_p_value,
    "score": format_score,
    "duration": format_duration,
    "token_count": format_count,
    "readable": readable_answer,
    "visible": escape_invisible,
    "known_columns": known_columns,
    "single_line": partial(escape_invisible, allowed=" "),
    "visible_html": visible_html,
}
"""Filters of the Jinja templates by name."""


def _visible_value(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    """Every value is `visible` and escaped; a name that the context lacks is an error."""
    loader = PackageLoader("firstsight.report", "pages")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_visible_value)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters |= FILTERS
    return environment


def render_template(name: str, **context: Any) -> str:
    """The template `name` with FILTERS and `context`; equal input gives equal text."""
    return _environment().get_template(name).render(context)


def read_assets(*names: str) -> Markup:
    """Style sheets or scripts, joined."""
    folder = files("firstsight.report.pages")
    return Markup("".join((folder / name).read_text(encoding="utf-8") for name in names))


def csp_hash(text: str) -> str:
    """Source expression by which a Content-Security-Policy allows exactly this style or script."""
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def inline_json(value: object) -> Markup:
    """JSON that is safe inside a script element, whatever its strings contain."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
