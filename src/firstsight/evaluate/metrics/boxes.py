"""Boxes: how much of the true one is met.

A box is four decimal numbers, left, top, right and bottom in shares of the picture, between commas or white space, in
square or round brackets or none, and nothing else. The paper's harness reads the square form alone, as a Python list of
decimal numbers; each of those is read here to the same box. Prose around a box, text, a list in a list, numbers outside
0..1 and boxes without area are no box, and no box is wrong.
"""

from __future__ import annotations

import re
from functools import partial

from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise

BoundingBox = tuple[float, float, float, float]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_FOUR_NUMBERS = rf"\s*({_NUMBER})" + rf"(?:\s*,\s*|\s+)({_NUMBER})" * 3 + r"\s*,?\s*"
_BOX_PATTERN = re.compile(rf"\[{_FOUR_NUMBERS}\]|\({_FOUR_NUMBERS}\)|{_FOUR_NUMBERS}", re.ASCII | re.IGNORECASE)
_REF_TAG = re.compile(r"<ref>.*?</ref>", re.DOTALL)
_FREE_NUMBER = re.compile(rf"(?<![\w.]){_NUMBER}(?![\w.])", re.ASCII | re.IGNORECASE)
_MAX_ANSWER_CHARS = 1000
"""Letters of an answer that is still looked at; no box is written in more."""


def iou_match(answer: str, truth: Truth, *, min_iou: float) -> float:
    """The answered box overlaps the true one by at least `least`; an answer that is no box is wrong."""
    box = parse_box(answer)
    assert isinstance(truth, tuple)
    left, top, right, bottom = (float(edge) for edge in truth)
    return float(box is not None and iou(box, (left, top, right, bottom)) >= min_iou)


iou50 = partial(iou_match, min_iou=0.5)
iou25 = partial(iou_match, min_iou=0.25)


def parse_box(answer: str) -> BoundingBox | None:
    """Four numbers in [0, 1], left < right and top < bottom, with or without brackets; None for anything else."""
    match = _BOX_PATTERN.fullmatch(answer.strip()) if len(answer) <= _MAX_ANSWER_CHARS else None
    if match is None:
        return None
    left, top, right, bottom = (float(number) for number in match.groups() if number is not None)
    is_valid = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    return (left, top, right, bottom) if is_valid else None


def rescale_box(answer: str, *, right_edge: float, bottom_edge: float | None = None) -> str | None:
    """The box of an answer in other units, written in shares; None where it does not hold exactly four numbers.

    `whole` is what the picture's right edge is called (its width, 100, 999 or 1000), `high` its lower edge if that
    is called otherwise. Reads `{<12><30><55><70>}`, `<box>(12,30),(55,70)</box>` with a `<ref>` before it, and lists.
    """
    if len(answer) > _MAX_ANSWER_CHARS:
        return None
    numbers = [float(number) for number in _FREE_NUMBER.findall(_REF_TAG.sub(" ", answer))]
    if len(numbers) != 4:
        return None
    units = (right_edge, right_edge if bottom_edge is None else bottom_edge) * 2
    return str([number / unit for number, unit in zip(numbers, units, strict=True)])


def iou(a: BoundingBox, b: BoundingBox) -> float:
    """Area shared over area covered."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union > 0 else 0.0


def _is_box_answer(answer: str) -> bool:
    return parse_box(answer) is not None


IOU50 = Metric(name="iou50", compute=elementwise(iou50), is_readable=_is_box_answer)
"""RefCOCO: the box overlaps the true one by at least half."""
IOU25 = Metric(name="iou25", compute=elementwise(iou25), is_readable=_is_box_answer)
"""OCID-Ref: by at least a quarter."""
