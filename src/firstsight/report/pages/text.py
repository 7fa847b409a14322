"""Texts and boxes from data and models, made readable: boxes with two digits, invisible characters written out."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

from markupsafe import Markup, escape

from firstsight.evaluate.metrics.boxes import BoundingBox, parse_box

MAX_CHARACTERS = 2000
"""Characters of one text on a page."""
BLANK_HTML = {" ": Markup("<i> </i>"), "\n": Markup("<i class=n>↵</i>\n"), "\t": Markup("<i class=n>⇥</i>\t")}


def readable_answer(text: str) -> str:
    """An answer for a reader: a box with two digits an edge, several accepted answers each once, else unchanged."""
    box = parse_box(text)
    if box:
        return " ".join(f"{edge:.2f}".removeprefix("0") for edge in box)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " / ".join(dict.fromkeys(value))
    return text


def escape_invisible(text: str) -> str:
    """The first MAX_CHARACTERS of `text`, with line breaks, and with invisible characters written out: [U+200B]."""
    excerpt = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ... ({len(text):,} characters)"
    return _write_out(excerpt, allowed=" \n")


def single_line_text(text: str) -> str:
    """`text` on one line, with invisible characters written out: names of files and records."""
    return _write_out(text, allowed=" ")


def _write_out(text: str, *, allowed: str) -> str:
    return "".join(f"[U+{ord(char):04X}]" if char not in allowed and is_invisible(char) else char for char in text)


def visible_html(text: str) -> Markup:
    """`text` as safe HTML in which every blank is marked and every invisible character is written out."""
    return Markup("").join(map(_visible_character, text))


def _visible_character(char: str) -> Markup:
    if char in BLANK_HTML:
        return BLANK_HTML[char]
    return Markup("<i class=u>U+{:04X}</i>").format(ord(char)) if is_invisible(char) else escape(char)


def is_invisible(char: str) -> bool:
    """Whether a character is a control, a bidirectional mark, unassigned, half of a surrogate pair or any blank."""
    return unicodedata.category(char) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs")


def parse_truth_box(truth: Any) -> BoundingBox | None:
    """The truth of a box task (four edges as shares of width and height); None for any other truth."""
    if not isinstance(truth, list) or len(truth) != 4:
        return None
    if not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in truth):
        return None
    left, top, right, bottom = (float(edge) for edge in truth)
    return (left, top, right, bottom) if left < right and top < bottom else None


def describe_box(box: BoundingBox) -> str:
    """A box in words, for screen readers."""
    left, top, right, bottom = (f"{100 * edge:.0f} %" for edge in box)
    return f"left {left}, top {top}, right {right}, bottom {bottom}"
