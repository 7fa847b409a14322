"""Units and notations of boxes: what each family of models writes, and the same boxes in shares of the image.

A model's own answers are read in its family's documented unit (`normalize_model_box`); those of answer
files, where the model is unknown, by notation or else by all boxes of the file together (`normalize_file_boxes`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from firstsight.errors import DataError
from firstsight.evaluate.metrics.boxes import parse_box, rescale_box
from firstsight.evaluate.task import load_json, normalize_image_name

BoxUnit = Literal["thousandths", "pixels of the scaled image", "1,024ths"]
ImageSize = tuple[float, float]
"""Width and height in pixels."""

_UNIT_EXTENTS = {"hundredths": 100.0, "thousandths": 1000.0, "1,024ths": 1024.0}
"""The coordinate of the image's right and bottom edges."""

_NUMBER = r"(\d+(?:\.\d+)?)"
_PAIR = rf"\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)"
_CORNER_PAIRS = re.compile(rf"{_PAIR}\s*,\s*{_PAIR}")
"""(left,top),(right,bottom): Qwen2-VL."""
_LIST = r"\s*,\s*".join([_NUMBER] * 4)
_BRACKETED_LIST = re.compile(rf"\[\s*{_LIST}\s*\]")
"""[left, top, right, bottom], also in brackets, text or JSON: all other families."""
_BARE_LIST = re.compile(rf"\s*{_LIST}\s*")

_HUNDREDTHS = re.compile(r"\{\s*(?:<\s*\d{1,3}\s*>\s*){4}\}")
"""MiniGPT-v2."""
_THOUSANDTHS = re.compile(r"<box>|<\|box_start\|>|\[\s*\[[\d\s,]*\]\s*\]")
"""Qwen-VL, InternVL, CogVLM."""
_LOC_TOKEN = re.compile(r"<loc(\d{4})>")
_LOC_BOX = re.compile(r"(?:<loc\d{4}>\s*){4}")
"""PaliGemma: top, left, bottom, right in 1,024 steps."""
_SIGNED_LIST = re.compile(r"[\[(]?\s*" + r"\s*,\s*".join([r"(-?\d+\.?\d*)"] * 4) + r"\s*[\])]?")
_MIN_BOXES = 20
"""Minimum number of boxes to infer a unit from."""
_PIXEL_TOLERANCE = 1.0
"""Pixels by which a box may exceed its image because of rounding."""


class BoxFormat(NamedTuple):
    """The unit in which a family of models writes boxes, and where its makers document it."""

    family: str
    unit: BoxUnit
    source: str

    @property
    def description(self) -> str:
        """One line printed with the score; part of the answer cache's key."""
        return f"boxes read as {self.unit}, as {self.family} writes them"


_QWEN2_5_SOURCE = "QwenLM/Qwen2.5-VL, cookbooks/spatial_understanding.ipynb"
_INTERNVL_SOURCE = "OpenGVLab/InternVL, internvl_chat/eval/refcoco/evaluate_grounding.py"
_QWEN3 = BoxFormat("Qwen3-VL", "thousandths", "QwenLM/Qwen3-VL, cookbooks/2d_grounding.ipynb")
BOX_FORMATS = {
    "qwen2_vl": BoxFormat("Qwen2-VL", "thousandths", "arXiv:2409.12191, 2.2"),
    "qwen2_5_vl": BoxFormat("Qwen2.5-VL", "pixels of the scaled image", _QWEN2_5_SOURCE),
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "internvl": BoxFormat("InternVL", "thousandths", _INTERNVL_SOURCE),
    "paligemma": BoxFormat("PaliGemma", "1,024ths", "big_vision, configs/proj/paligemma/README"),
}
"""By the `model_type` of config.json; other models' boxes are read as shares."""


def box_format_of(checkpoint: Path) -> BoxFormat | None:
    """The box format of the model in a folder; None for families that write shares or do not document it."""
    config_path = checkpoint / "config.json"
    if (checkpoint / "spec.json").is_file() or not config_path.is_file():
        return None
    return BOX_FORMATS.get(str(load_json(config_path).get("model_type")))


def normalize_model_box(answer: str, box_format: BoxFormat, *, get_image_size: Callable[[], ImageSize | None]) -> str:
    """The first box of an answer in shares of the image; answers without one, or in shares already, are unchanged.

    `get_image_size` returns the size of the scaled image, None for a question without one. PaliGemma's <loc0000> tokens
    are converted by its chat format, so its answers are unchanged here.
    """
    if parse_box(answer) is not None or box_format.unit == "1,024ths":
        return answer
    match = _CORNER_PAIRS.search(answer) or _BRACKETED_LIST.search(answer) or _BARE_LIST.fullmatch(answer)
    extent = _UNIT_EXTENTS.get(box_format.unit)
    size = (extent, extent) if extent else get_image_size() if match else None
    rescaled = rescale_box(match[0], right_edge=size[0], bottom_edge=size[1]) if match and size else None
    return rescaled or answer


def normalize_file_boxes(
    answers: Sequence[str], images: Sequence[str], *, get_image_sizes: Callable[[], Mapping[str, ImageSize]]
) -> tuple[list[str], tuple[str, ...]]:
    """Answers with boxes in shares of their images, and a note for each other unit; other answers are unchanged.

    The unit of plain numbers is inferred from all boxes together; DataError if it cannot be. `get_image_sizes` returns
    sizes by normalised image name; it is called only for plain numbers.
    """
    parsed = [_parse_notation(answer) for answer in answers]
    texts = [text for text, _ in parsed]
    counts = Counter(unit for _, unit in parsed)
    notes = [f"{counts[unit]:,} boxes are written in {unit} of the image" for unit in _UNIT_EXTENTS if counts[unit]]
    positions = [position for position, (_, unit) in enumerate(parsed) if unit == "plain"]
    # A few are malformed answers in shares; if most have numbers over 1, the file is in another unit.
    if 2 * len(positions) <= len(answers):
        return texts, tuple(notes)
    all_sizes = get_image_sizes()
    sizes = [all_sizes.get(normalize_image_name(images[position])) for position in positions]
    unit = _infer_unit([texts[position] for position in positions], sizes)
    for position, size in zip(positions, sizes, strict=True):
        width, height = size if unit == "pixels" and size else (_UNIT_EXTENTS[unit],) * 2
        texts[position] = rescale_box(texts[position], right_edge=width, bottom_edge=height) or texts[position]
    return texts, (*notes, f"{len(positions):,} boxes have no units; all of them together are {unit}")


def _parse_notation(answer: str) -> tuple[str, str]:
    """A box in shares and the unit that its notation implies; "plain" for four numbers, some above 1."""
    if parse_box(answer) is not None:
        return answer, "shares"
    for unit, pattern in (("hundredths", _HUNDREDTHS), ("thousandths", _THOUSANDTHS)):
        if pattern.search(answer):
            return rescale_box(answer, right_edge=_UNIT_EXTENTS[unit]) or answer, unit
    if _LOC_BOX.search(answer):
        steps = _UNIT_EXTENTS["1,024ths"]
        top, left, bottom, right = (int(step) / steps for step in _LOC_TOKEN.findall(answer)[:4])
        return str([left, top, right, bottom]), "1,024ths"
    match = _SIGNED_LIST.fullmatch(answer.strip())
    return answer, "plain" if match and max(map(float, match.groups())) > 1 else ""


def _infer_unit(boxes: Sequence[str], sizes: Sequence[ImageSize | None]) -> str:
    edges = [tuple(map(float, match.groups())) for box in boxes if (match := _SIGNED_LIST.fullmatch(box.strip()))]
    largest = max(map(max, edges))
    if len(boxes) >= _MIN_BOXES and all(sizes):
        if largest <= _UNIT_EXTENTS["hundredths"]:
            return "hundredths"
        pairs = zip(edges, sizes, strict=True)
        excesses = (edge - extent for box, size in pairs for edge, extent in zip(box[2:], size or (), strict=True))
        if max(excesses) <= _PIXEL_TOLERANCE:
            return "pixels"
        if largest <= _UNIT_EXTENTS["thousandths"]:
            return "thousandths"
    raise DataError(
        f"{len(boxes):,} box{'es' if len(boxes) > 1 else ''} such as {boxes[0]} beyond 1: their unit is unclear. "
        f"Wanted left, top, right, bottom in shares of the image, or {_MIN_BOXES} boxes in pixels, hundredths or "
        "thousandths. Divide them by the image's width and height."
    )
