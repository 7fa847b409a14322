"""Words and boxes that others wrote, as one can read them; escaping is the page's work."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

from firstsight.evaluate.metrics.boxes import Box, parse_box

MOST = 2000
"""Letters of one text on a page."""


def shown(text: str) -> str:
    """An answer as one reads it: a box in two digits, accepted answers once each, all else as it is."""
    found = parse_box(text)
    if found:
        return " ".join(f"{edge:.2f}".removeprefix("0") for edge in found)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " / ".join(dict.fromkeys(value))
    return text


def seen(text: str) -> str:
    """`text` with its lines kept, what cannot be seen written out ([U+200B]), and no longer than MOST letters."""
    cut = text if len(text) <= MOST else f"{text[:MOST]} ... ({len(text):,} letters)"
    return "".join(f"[U+{ord(letter):04X}]" if letter not in " \n" and unseen(letter) else letter for letter in cut)


def unseen(letter: str) -> bool:
    """Controls, marks that turn their neighbours round, blanks of every kind, halves of pairs."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs")


def true_box(truth: Any) -> Box | None:
    """The four edges that a task's truth is, as shares of width and height; None where it is no box."""
    if not isinstance(truth, list) or len(truth) != 4:
        return None
    if not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in truth):
        return None
    left, top, right, bottom = (float(edge) for edge in truth)
    return (left, top, right, bottom) if left < right and top < bottom else None


def placed(box: Box) -> str:
    """Where a box lies, for those who cannot see it."""
    left, top, right, bottom = (f"{100 * edge:.0f} %" for edge in box)
    return f"left {left}, top {top}, right {right}, bottom {bottom}"


def marked(score: float) -> str:
    """A score as a page and a terminal show it."""
    return f"{score:.2f}".removesuffix("0").removesuffix(".0")
