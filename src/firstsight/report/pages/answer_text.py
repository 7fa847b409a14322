"""Words and boxes that others wrote, as one can read them; escaping is the page's work."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

from firstsight.evaluate.metrics.boxes import BoundingBox, parse_box

MAX_CHARACTERS = 2000
"""Letters of one text on a page."""


def readable_answer(text: str) -> str:
    """An answer as one reads it: a box in two digits, accepted answers once each, all else as it is."""
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
    """`text` with its lines kept, what cannot be seen written out ([U+200B]), and no longer than MOST letters."""
    excerpt = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ... ({len(text):,} letters)"
    return "".join(
        f"[U+{ord(letter):04X}]" if letter not in " \n" and is_invisible(letter) else letter for letter in excerpt
    )


def is_invisible(letter: str) -> bool:
    """Controls, marks that turn their neighbours round, blanks of every kind, halves of pairs."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs")


def parse_truth_box(truth: Any) -> BoundingBox | None:
    """The four edges that a task's truth is, as shares of width and height; None where it is no box."""
    if not isinstance(truth, list) or len(truth) != 4:
        return None
    if not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in truth):
        return None
    left, top, right, bottom = (float(edge) for edge in truth)
    return (left, top, right, bottom) if left < right and top < bottom else None


def describe_box(box: BoundingBox) -> str:
    """Where a box lies, for those who cannot see it."""
    left, top, right, bottom = (f"{100 * edge:.0f} %" for edge in box)
    return f"left {left}, top {top}, right {right}, bottom {bottom}"


def format_score(score: float) -> str:
    """A score as a page and a terminal show it."""
    return f"{score:.2f}".removesuffix("0").removesuffix(".0")
