"""Intersection over union of an answered box with the true one.

A box is four decimal numbers, left, top, right and bottom as shares of the image's width and height, separated by
commas or white space, in square or round brackets or none, and nothing else. The paper's harness accepts only the
square form, a Python list, and gives the same box. Other text, nested lists, numbers outside 0..1 and boxes without
area are no box, and an answer without a box is wrong.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial

from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise

BoundingBox = tuple[float, float, float, float]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_FOUR_NUMBERS = rf"\s*({_NUMBER})" + rf"(?:\s*,\s*|\s+)({_NUMBER})" * 3 + r"\s*,?\s*"
_BOX_PATTERN = re.compile(rf"\[{_FOUR_NUMBERS}\]|\({_FOUR_NUMBERS}\)|{_FOUR_NUMBERS}", re.ASCII | re.IGNORECASE)
_REF_TAG = re.compile(r"<ref>.*?</ref>", re.DOTALL)
_FREE_NUMBER = re.compile(rf"(?<![\w.]){_NUMBER}(?![\w.])", re.ASCII | re.IGNORECASE)
_MAX_ANSWER_CHARS = 1000
"""Longer answers are not parsed; no box is that long."""


def iou_match(answer: str, truth: Truth, *, min_iou: float) -> float:
    """1 if the answered box has an IoU of at least `min_iou` with the true one; 0 also for an answer without a box."""
    box = parse_box(answer)
    assert isinstance(truth, tuple)
    left, top, right, bottom = (float(edge) for edge in truth)
    return float(box is not None and iou(box, (left, top, right, bottom)) >= min_iou)


iou50 = partial(iou_match, min_iou=0.5)
iou25 = partial(iou_match, min_iou=0.25)


@lru_cache(maxsize=1 << 16)
def parse_box(answer: str) -> BoundingBox | None:
    """Four numbers in [0, 1], left < right and top < bottom, with or without brackets; None for anything else."""
    match = _BOX_PATTERN.fullmatch(answer.strip()) if len(answer) <= _MAX_ANSWER_CHARS else None
    if match is None:
        return None
    left, top, right, bottom = (float(number) for number in match.groups() if number is not None)
    is_valid = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    return (left, top, right, bottom) if is_valid else None


def rescale_box(answer: str, *, right_edge: float, bottom_edge: float | None = None) -> str | None:
    """The box of an answer in other units, written in shares; None unless it contains exactly four numbers.

    `right_edge` is the coordinate of the image's right edge (its width, 100, 999 or 1000), `bottom_edge` of its bottom
    edge if it differs. Reads `{<12><30><55><70>}`, `<box>(12,30),(55,70)</box>` with a `<ref>` before it, and lists.
    """
    if len(answer) > _MAX_ANSWER_CHARS:
        return None
    numbers = [float(number) for number in _FREE_NUMBER.findall(_REF_TAG.sub(" ", answer))]
    if len(numbers) != 4:
        return None
    units = (right_edge, right_edge if bottom_edge is None else bottom_edge) * 2
    return str([number / unit for number, unit in zip(numbers, units, strict=True)])


def iou(a: BoundingBox, b: BoundingBox) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union > 0 else 0.0


def _is_box_answer(answer: str) -> bool:
    return parse_box(answer) is not None


IOU50 = Metric(name="iou50", compute=elementwise(iou50), is_readable=_is_box_answer)
"""RefCOCO: an IoU of at least 0.5."""
IOU25 = Metric(name="iou25", compute=elementwise(iou25), is_readable=_is_box_answer)
"""OCID-Ref: an IoU of at least 0.25."""
