"""In which units boxes are written: each model family has its own, and a metric reads shares of the picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from firstsight.errors import DataError
from firstsight.evaluate.metrics.boxes import parse_box, rescale_box
from firstsight.evaluate.offline_scoring.answer_files import read_answer_records
from firstsight.evaluate.offline_scoring.text_matching import normalize_image_name
from firstsight.evaluate.task import Question

_HUNDREDTHS = re.compile(r"\{\s*(?:<\s*\d{1,3}\s*>\s*){4}\}")
"""MiniGPT-v2."""
_THOUSANDTHS = re.compile(r"<box>|<\|box_start\|>|\[\s*\[[\d\s,]*\]\s*\]")
"""Qwen-VL, InternVL, CogVLM."""
_LOC_BOX = re.compile(r"(?:<loc(\d{4})>\s*){4}")
_LOC_TOKEN = re.compile(r"<loc(\d{4})>")
"""PaliGemma: top, left, bottom, right in 1,024 steps."""
_LOC_STEPS = 1024
_FOUR_NUMBERS = re.compile(
    r"[\[(]?\s*(-?\d+\.?\d*)\s*,\s*(-?\d+\.?\d*)\s*,\s*(-?\d+\.?\d*)\s*,\s*(-?\d+\.?\d*)\s*[\])]?"
)
_MIN_BOXES = 20
"""Least boxes from which units can be told."""
_PIXEL_TOLERANCE = 1.0
"""Pixels that a box may stick out of its picture by rounding."""

ImageSize = tuple[float, float]


def normalize_answer_boxes(
    answers: Sequence[str], questions: Sequence[Question], reference_paths: Sequence[Path]
) -> tuple[list[str], tuple[str, ...]]:
    """Boxes as shares of the picture, and a note on each unit that was not shares; what is no box stays as it is.

    Units that are not written in the answer itself are told from all boxes together; DataError where they cannot be.
    """
    parsed_answers = [_parse_notation(answer) for answer in answers]
    unitless_positions = [position for position, (_, unit) in enumerate(parsed_answers) if unit == "bare"]
    notes = [
        f"{count:,} boxes are written in {unit} of the picture"
        for unit in ("hundredths", "thousandths", "1,024ths")
        if (count := sum(answer_unit == unit for _, answer_unit in parsed_answers))
    ]
    # A few stray ones are malformed answers; where most are so, the file is in other units.
    if 2 * len(unitless_positions) <= len(answers):
        return [text for text, _ in parsed_answers], tuple(notes)
    sizes = _read_image_sizes(reference_paths)
    unitless_sizes = [
        sizes.get(normalize_image_name(str(questions[position].image))) for position in unitless_positions
    ]
    unit = _infer_unit([parsed_answers[position][0] for position in unitless_positions], unitless_sizes)
    texts = [text for text, _ in parsed_answers]
    for position, size in zip(unitless_positions, unitless_sizes, strict=True):
        width, height = size if unit == "pixels" and size else (_UNIT_EXTENT[unit], _UNIT_EXTENT[unit])
        texts[position] = rescale_box(texts[position], right_edge=width, bottom_edge=height) or texts[position]
    return texts, (*notes, f"{len(unitless_positions):,} boxes have no units; all of them together are {unit}")


_UNIT_EXTENT = {"hundredths": 100.0, "thousandths": 1000.0, "pixels": 1.0}


def _parse_notation(answer: str) -> tuple[str, str]:
    """A box in shares and the unit that its notation tells; `bare` for four numbers of which some are over 1."""
    if parse_box(answer) is not None:
        return answer, "shares"
    if _HUNDREDTHS.search(answer):
        return rescale_box(answer, right_edge=100.0) or answer, "hundredths"
    if _THOUSANDTHS.search(answer):
        return rescale_box(answer, right_edge=1000.0) or answer, "thousandths"
    if _LOC_BOX.search(answer):
        top, left, bottom, right = (int(step) / _LOC_STEPS for step in _LOC_TOKEN.findall(answer)[:4])
        return str([left, top, right, bottom]), "1,024ths"
    number_match = _FOUR_NUMBERS.fullmatch(answer.strip())
    return answer, "bare" if number_match and max(map(float, number_match.groups())) > 1 else ""


def _infer_unit(boxes: Sequence[str], sizes: Sequence[ImageSize | None]) -> str:
    """The unit that all boxes without one share."""
    edges = [[float(edge) for edge in _FOUR_NUMBERS.fullmatch(box.strip()).groups()] for box in boxes]  # type: ignore[union-attr]
    max_edge = max(max(box_edges) for box_edges in edges)
    sized_boxes = [(box_edges, size) for box_edges, size in zip(edges, sizes, strict=True) if size]
    exceeds_image = any(
        box_edges[2] > size[0] + _PIXEL_TOLERANCE or box_edges[3] > size[1] + _PIXEL_TOLERANCE
        for box_edges, size in sized_boxes
    )
    if len(boxes) >= _MIN_BOXES and len(sized_boxes) == len(boxes):
        if max_edge <= _UNIT_EXTENT["hundredths"]:
            return "hundredths"
        if not exceeds_image:
            return "pixels"
        if max_edge <= _UNIT_EXTENT["thousandths"]:
            return "thousandths"
    raise DataError(
        f"{len(boxes):,} box{'es' if len(boxes) > 1 else ''} such as {boxes[0]} beyond 1: their units cannot be told. "
        f"Wanted left, top, right, bottom in shares of the picture, or {_MIN_BOXES} boxes in pixels, hundredths or "
        "thousandths. Divide them by the picture's width and height."
    )


def _read_image_sizes(reference_paths: Sequence[Path]) -> Mapping[str, ImageSize]:
    """Pictures' width and height, as far as the benchmark's own files say them."""
    sizes: dict[str, ImageSize] = {}
    for path in reference_paths:
        for _, row in read_answer_records(path):
            name = next((row[key] for key in ("img_id", "image", "file_name", "scene_path") if key in row), None)
            if isinstance(name, str) and isinstance(row.get("width"), int) and isinstance(row.get("height"), int):
                sizes[normalize_image_name(name)] = (float(row["width"]), float(row["height"]))
    return sizes
