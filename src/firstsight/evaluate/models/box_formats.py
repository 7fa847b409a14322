"""Units and notations of boxes: what each family of models writes, and the same boxes in shares of the image.

A model's own answers are read in its family's documented unit (`normalize_model_box`); those of answer
files, where the model is unknown, by notation or else by all boxes of the file together (`normalize_file_boxes`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

_HUNDREDTHS = re.compile(r"\{\s*" + r"\s*".join([r"<\s*(\d{1,3})\s*>"] * 4) + r"\s*\}")
"""MiniGPT-v2."""
_THOUSANDTHS = re.compile(
    r"(?:<box>|<\|box_start\|>|<\|det\|>)(.*?)(?:</box>|<\|box_end\|>|<\|/det\|>|$)|\[\s*\[([\d\s,]*)\]", re.DOTALL
)
"""Qwen-VL, InternVL, DeepSeek-VL2, CogVLM; the second group is a box of [[...]]."""
_FREE_NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d+\.?\d*|\.\d+)(?![\w.])", re.ASCII)
_LOC_TOKEN = re.compile(r"<loc(\d{4})>")
_LOC_BOX = re.compile(r"(?:<loc\d{4}>\s*){4}")
"""PaliGemma: top, left, bottom, right in 1,024 steps."""
_FLORENCE_BOX = re.compile(r"\s*".join([r"<loc_(\d{1,3})>"] * 4))
"""Florence-2: left, top, right, bottom in thousandths."""
_SIGNED = r"([+-]?(?:\d+\.?\d*|\.\d+))"
_COMMA = r"\s*[,;]\s*"
_SIGNED_LIST = re.compile(r"[\[(]?\s*" + _COMMA.join([_SIGNED] * 4) + r"\s*,?\s*[\])]?")
"""A box alone."""
_BLANK_LIST = re.compile(r"[\[(]?\s*" + r"\s+".join([_SIGNED] * 4) + r"\s*[\])]?")
"""A box alone, without commas: read where the unit of all boxes together is clear, and otherwise no box."""
_UNIT_LISTS = {
    unit: re.compile(r"(?:\s*[,;]\s*|\s+)".join([rf"{_SIGNED}\s*{mark}"] * 4), re.IGNORECASE)
    for unit, mark in (("hundredths", "%"), ("pixels", "(?:px|pixels?)"))
}
"""Four numbers, each with its unit."""
_LISTS = re.compile(
    rf"\[\s*{_COMMA.join([_SIGNED] * 4)}\s*\]|\(\s*{_COMMA.join([_SIGNED] * 4)}\s*\)"
    rf"|\(\s*{_SIGNED}{_COMMA}{_SIGNED}\s*\)(?:\s*,?\s*|\s+(?:to|and)\s+)\(\s*{_SIGNED}{_COMMA}{_SIGNED}\s*\)"
    rf"|\[\s*{_SIGNED}{_COMMA}{_SIGNED}\s*\](?:\s*,?\s*|\s+(?:to|and)\s+)\[\s*{_SIGNED}{_COMMA}{_SIGNED}\s*\]"
)
"""A box in a sentence or in JSON: four numbers in brackets, or two corners."""
_LABELLED = re.compile(
    r"\W+".join(
        rf"\b{axis}_?(?:{number}|{name})[\"'\s:=]+{_SIGNED}"
        for number, name in ((1, "min"), (2, "max"))
        for axis in ("x", "y")
    ),
    re.IGNORECASE,
)
"""Named edges: {"x1": 20, "y1": 30, "x2": 200, "y2": 190}, xmin=..."""
_MAX_ANSWER_CHARS = 100_000
"""Longer answers are not searched for boxes."""
_MIN_BOXES = 20
"""Minimum number of boxes to infer a unit from."""
_PIXEL_TOLERANCE = 1.0
"""Pixels, or steps of another unit, by which a box may exceed its image because of rounding."""
_SHARE_TOLERANCE = 0.005
"""Half a step of shares with two decimals."""
_MAX_SHARE = 2.0
"""Boxes of which none has a larger number are shares that exceed their images, and no pixels or hundredths."""
_MIN_REORDERED = 0.05
"""Share of boxes that end before they begin from which a file's boxes may be left, top, width and height."""


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


Box = tuple[float, ...]
"""Left, top, right and bottom."""


class _FileBox(NamedTuple):
    """The first box of an answer in a file."""

    edges: Box = ()
    """Empty without a box."""
    unit: str = ""
    """The unit of its notation; "shares" for numbers up to 1, "plain" for others without a notation, and "blanks" for
    those of which nothing but blanks is between the numbers."""
    is_alone: bool = True
    """Whether the answer has nothing else."""
    has_others: bool = False
    """Whether the answer has several boxes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileBoxes:
    """The answers of a file with boxes in shares of their images."""

    texts: tuple[str, ...]
    """Answers without a box are unchanged."""
    notes: tuple[str, ...]


def normalize_file_boxes(
    answers: Sequence[str],
    images: Sequence[str],
    *,
    get_image_sizes: Callable[[], Mapping[str, ImageSize]],
    units: Sequence[str] = (),
) -> FileBoxes:
    """Boxes in shares of their images, and a note for each other unit and each way in which a box was read.

    `units` are those that a file's form defines, "" for answers without one. The unit of plain numbers is inferred from
    all boxes together; DataError if it cannot be. `get_image_sizes` returns sizes by normalised image name; it is
    called only for plain numbers. A box that exceeds its image by no more than rounding does is cut to the image.
    """
    boxes = [_find_box(answer) for answer in answers]
    if any(units):
        boxes = [box._replace(unit=box.unit and unit) for box, unit in zip(boxes, units, strict=True)]
    counts = Counter(box.unit for box in boxes)
    notes = [f"{counts[unit]:,} boxes are written in {unit} of the image" for unit in _UNIT_EXTENTS if counts[unit]]
    sizes: list[ImageSize | None] = [None] * len(boxes)
    # A few are malformed answers in shares; if most have numbers over 1, the file is in another unit.
    num_plain = counts["plain"] + counts["blanks"]
    if counts["pixels"] or 2 * num_plain > len(answers):
        all_sizes = get_image_sizes()
        sizes = [all_sizes.get(normalize_image_name(image)) for image in images]
        positions = [position for position, box in enumerate(boxes) if box.unit in ("plain", "pixels", "blanks")]
        edges, box_sizes = (
            [boxes[position].edges for position in positions],
            [sizes[position] for position in positions],
        )
        unit = _unit_of_all(edges, box_sizes, is_plain=num_plain > 0, may_be_unclear=counts["blanks"] == len(positions))
        if unit:
            for position in positions:
                boxes[position] = boxes[position]._replace(unit=unit)
            if num_plain:
                notes.append(f"{len(positions):,} boxes have no units; all of them together are {unit}")
            notes += _order_notes(edges, box_sizes, unit)
    texts = [_share_text(answer, box, size) for answer, box, size in zip(answers, boxes, sizes, strict=True)]
    notes += _reading_notes(answers, boxes, [text for text, _ in texts], sum(is_cut for _, is_cut in texts))
    return FileBoxes(texts=tuple(text for text, _ in texts), notes=tuple(notes))


def _unit_of_all(
    boxes: Sequence[Box], sizes: Sequence[ImageSize | None], *, is_plain: bool, may_be_unclear: bool
) -> str:
    """The unit of all boxes together, some of which are plain; DataError, or empty, where it is unclear."""
    try:
        unit = _infer_unit(boxes, sizes) if is_plain else "pixels"
        if unit == "pixels" and not all(sizes):
            raise DataError("The boxes are in pixels, and the references have no sizes of images. Add files that have.")
    except DataError:
        if may_be_unclear:
            return ""
        raise
    return unit


def _find_box(answer: str) -> _FileBox:
    """The first box of an answer, by its notation if it has one, whatever other numbers the answer has."""
    if (shares := parse_box(answer)) is not None:
        return _FileBox(shares, "shares")
    if len(answer) > _MAX_ANSWER_CHARS:
        return _FileBox()
    if "{" in answer and (match := _HUNDREDTHS.search(answer)):
        has_others = _HUNDREDTHS.search(answer, match.end()) is not None
        return _FileBox(tuple(map(float, match.groups())), "hundredths", has_others=has_others)
    if "<loc" in answer and (match := _LOC_BOX.search(answer)):
        top, left, bottom, right = map(float, _LOC_TOKEN.findall(match[0]))
        has_others = _LOC_BOX.search(answer, match.end()) is not None
        return _FileBox((left, top, right, bottom), "1,024ths", has_others=has_others)
    if "<loc" in answer and (match := _FLORENCE_BOX.search(answer)):
        has_others = _FLORENCE_BOX.search(answer, match.end()) is not None
        return _FileBox(tuple(map(float, match.groups())), "thousandths", has_others=has_others)
    for unit, pattern in _UNIT_LISTS.items():
        if match := pattern.search(answer):
            has_others = pattern.search(answer, match.end()) is not None
            return _FileBox(tuple(map(float, match.groups())), unit, has_others=has_others)
    if match := _SIGNED_LIST.fullmatch(answer.strip()):
        return _numbers_box(match.groups())
    if match := _BLANK_LIST.fullmatch(answer.strip()):
        box = _numbers_box(match.groups())
        return box._replace(unit="blanks") if box.unit == "plain" else box
    notation = _THOUSANDTHS.search(answer)
    written = notation[1] or notation[2] or "" if notation else ""
    numbers = _FREE_NUMBER.findall(written)
    searched = written or answer
    match = _LISTS.search(searched) or _LABELLED.search(searched) if len(numbers) != 4 else None
    if match is None and len(numbers) != 4:
        return _FileBox()
    box = _numbers_box(match.groups() if match else numbers)
    end = match or notation
    rest = (written if match and written else answer)[end.end() :] if end else ""
    unit = "thousandths" if notation and (box.unit == "plain" or "." not in written) else box.unit
    return box._replace(unit=unit, is_alone=notation is not None, has_others=_LISTS.search(rest) is not None)


def _numbers_box(groups: Sequence[str | None]) -> _FileBox:
    edges = tuple(float(number) for number in groups if number is not None)
    return _FileBox(edges, "shares" if max(edges) <= 1 + _SHARE_TOLERANCE else "plain")


def _share_text(answer: str, box: _FileBox, size: ImageSize | None) -> tuple[str, bool]:
    """A box as the metric reads it, and whether it was cut to the image; other answers are unchanged."""
    if box.unit in ("", "plain", "blanks") or (box.unit == "shares" and parse_box(answer) is not None):
        return answer, False
    extent = _UNIT_EXTENTS.get(box.unit, 1.0)
    width, height = size if box.unit == "pixels" and size else (extent, extent)
    tolerance = _SHARE_TOLERANCE if box.unit == "shares" else _PIXEL_TOLERANCE
    pairs = list(zip(box.edges, (width, height) * 2, strict=True))
    is_cut = any(edge < 0 or edge > end for edge, end in pairs)
    if is_cut and any(edge < -tolerance or edge > end + tolerance for edge, end in pairs):
        return str([edge / end for edge, end in pairs]), False
    return str([min(max(edge / end, 0.0), 1.0) for edge, end in pairs]), is_cut


def _reading_notes(answers: Sequence[str], boxes: Sequence[_FileBox], texts: Sequence[str], num_cut: int) -> list[str]:
    notes: list[str] = []
    in_sentences = [answer for answer, box in zip(answers, boxes, strict=True) if not box.is_alone]
    if in_sentences:
        notes.append(f"{len(in_sentences):,} boxes are read from sentences or JSON such as {in_sentences[0]!r:.80}")
    if several := sum(box.has_others for box in boxes):
        notes.append(f"{several:,} answers have several boxes, of which the first counts")
    if num_cut:
        notes.append(f"{num_cut:,} boxes exceed their images by no more than rounding and are cut to them")
    unread = [answer for answer, text in zip(answers, texts, strict=True) if answer and parse_box(text) is None]
    if unread:
        notes.append(f"{len(unread):,} answers have no box inside the image, such as {unread[0]!r:.80}")
    return notes


def _infer_unit(boxes: Sequence[Box], sizes: Sequence[ImageSize | None]) -> str:
    largest = max(map(max, boxes))
    if largest <= _MAX_SHARE:
        return "shares"
    if len(boxes) >= _MIN_BOXES and all(sizes):
        if largest <= _UNIT_EXTENTS["hundredths"]:
            return "hundredths"
        pairs = zip(boxes, sizes, strict=True)
        excesses = (edge - extent for box, size in pairs for edge, extent in zip(box[2:], size or (), strict=True))
        if max(excesses) <= _PIXEL_TOLERANCE:
            return "pixels"
        if largest <= _UNIT_EXTENTS["thousandths"]:
            return "thousandths"
    raise DataError(
        f"{len(boxes):,} box{'es' if len(boxes) > 1 else ''} such as {list(boxes[0])} beyond 1: their unit is unclear. "
        f"Wanted left, top, right, bottom in shares of the image, or {_MIN_BOXES} boxes in pixels, hundredths or "
        "thousandths. Divide them by the image's width and height."
    )


def _order_notes(boxes: Sequence[Box], sizes: Sequence[ImageSize | None], unit: str) -> list[str]:
    """A warning if some boxes end before they begin and all would fit as left, top, width and height."""
    extent = _UNIT_EXTENTS.get(unit, 1.0)
    num_reversed = sum(left >= right or top >= bottom for left, top, right, bottom in boxes)
    ends = [size if unit == "pixels" and size else (extent, extent) for size in sizes]
    fits = all(
        box[0] + box[2] <= width + _PIXEL_TOLERANCE and box[1] + box[3] <= height + _PIXEL_TOLERANCE
        for box, (width, height) in zip(boxes, ends, strict=True)
    )
    if num_reversed < _MIN_REORDERED * len(boxes) or not fits:
        return []
    return [
        f"{num_reversed:,} boxes end before they begin, and all fit their images as left, top, width and height: "
        "convert them to left, top, right and bottom if they are"
    ]
