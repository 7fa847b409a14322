"""The Jinja environment of all pages, and how styles, scripts and data are put into them."""

from __future__ import annotations

import base64
import json
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from firstsight.report.format import FILTERS


@cache
def _environment() -> Environment:
    """Every value is escaped; a name that the context lacks is an error."""
    loader = PackageLoader("firstsight.report", "pages")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
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
