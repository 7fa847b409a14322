"""In which units boxes are written: each model family has its own, and a metric reads shares of the picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from firstsight.errors import DataError
from firstsight.evaluate.given.answers import records
from firstsight.evaluate.given.wording import picture
from firstsight.evaluate.metrics.boxes import parse_box, rescaled
from firstsight.evaluate.question import Question

_HUNDREDTHS = re.compile(r"\{\s*(?:<\s*\d{1,3}\s*>\s*){4}\}")
"""MiniGPT-v2."""
_THOUSANDTHS = re.compile(r"<box>|<\|box_start\|>|\[\s*\[[\d\s,]*\]\s*\]")
"""Qwen-VL, InternVL, CogVLM."""
_PLACED = re.compile(r"(?:<loc(\d{4})>\s*){4}")
_PLACE = re.compile(r"<loc(\d{4})>")
"""PaliGemma: top, left, bottom, right in 1,024 steps."""
_STEPS = 1024
_FOUR = re.compile(r"[\[(]?\s*(-?\d+\.?\d*)\s*,\s*(-?\d+\.?\d*)\s*,\s*(-?\d+\.?\d*)\s*,\s*(-?\d+\.?\d*)\s*[\])]?")
_ENOUGH = 20
"""Least boxes from which units can be told."""
_OUTSIDE = 1.0
"""Pixels that a box may stick out of its picture by rounding."""

Size = tuple[float, float]


def in_shares(
    answers: Sequence[str], questions: Sequence[Question], references: Sequence[Path]
) -> tuple[list[str], tuple[str, ...]]:
    """Boxes as shares of the picture, and a note on each unit that was not shares; what is no box stays as it is.

    Units that are not written in the answer itself are told from all boxes together; DataError where they cannot be.
    """
    read = [_by_notation(answer) for answer in answers]
    bare = [at for at, (_, unit) in enumerate(read) if unit == "bare"]
    notes = [
        f"{count:,} boxes are written in {unit} of the picture"
        for unit in ("hundredths", "thousandths", "1,024ths")
        if (count := sum(one == unit for _, one in read))
    ]
    # A few stray ones are malformed answers; where most are so, the file is in other units.
    if 2 * len(bare) <= len(answers):
        return [words for words, _ in read], tuple(notes)
    sizes = _sizes(references)
    held = [sizes.get(picture(str(questions[at].image))) for at in bare]
    unit = _unit([read[at][0] for at in bare], held)
    found = [words for words, _ in read]
    for at, size in zip(bare, held, strict=True):
        wide, high = size if unit == "pixels" and size else (_WHOLE[unit], _WHOLE[unit])
        found[at] = rescaled(found[at], whole=wide, high=high) or found[at]
    return found, (*notes, f"{len(bare):,} boxes have no units; all of them together are {unit}")


_WHOLE = {"hundredths": 100.0, "thousandths": 1000.0, "pixels": 1.0}


def _by_notation(answer: str) -> tuple[str, str]:
    """A box in shares and the unit that its notation tells; `bare` for four numbers of which some are over 1."""
    if parse_box(answer) is not None:
        return answer, "shares"
    if _HUNDREDTHS.search(answer):
        return rescaled(answer, whole=100.0) or answer, "hundredths"
    if _THOUSANDTHS.search(answer):
        return rescaled(answer, whole=1000.0) or answer, "thousandths"
    if _PLACED.search(answer):
        top, left, bottom, right = (int(step) / _STEPS for step in _PLACE.findall(answer)[:4])
        return str([left, top, right, bottom]), "1,024ths"
    four = _FOUR.fullmatch(answer.strip())
    return answer, "bare" if four and max(map(float, four.groups())) > 1 else ""


def _unit(boxes: Sequence[str], sizes: Sequence[Size | None]) -> str:
    """The unit that all boxes without one share."""
    edges = [[float(edge) for edge in _FOUR.fullmatch(box.strip()).groups()] for box in boxes]  # type: ignore[union-attr]
    most = max(max(four) for four in edges)
    known = [(four, size) for four, size in zip(edges, sizes, strict=True) if size]
    outside = any(four[2] > size[0] + _OUTSIDE or four[3] > size[1] + _OUTSIDE for four, size in known)
    if len(boxes) >= _ENOUGH and len(known) == len(boxes):
        if most <= _WHOLE["hundredths"]:
            return "hundredths"
        if not outside:
            return "pixels"
        if most <= _WHOLE["thousandths"]:
            return "thousandths"
    raise DataError(
        f"{len(boxes):,} box{'es' if len(boxes) > 1 else ''} such as {boxes[0]} beyond 1: their units cannot be told. "
        f"Wanted left, top, right, bottom in shares of the picture, or {_ENOUGH} boxes in pixels, hundredths or "
        "thousandths. Divide them by the picture's width and height."
    )


def _sizes(references: Sequence[Path]) -> Mapping[str, Size]:
    """Pictures' width and height, as far as the benchmark's own files say them."""
    found: dict[str, Size] = {}
    for path in references:
        for _, row in records(path):
            name = next((row[key] for key in ("img_id", "image", "file_name", "scene_path") if key in row), None)
            if isinstance(name, str) and isinstance(row.get("width"), int) and isinstance(row.get("height"), int):
                found[picture(name)] = (float(row["width"]), float(row["height"]))
    return found
