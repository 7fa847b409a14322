"""RefCOCO and OCID-Ref: where is it? The answer is a box in shares of the picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics import iou25, iou50
from firstsight.evaluate.question import Question, Task, find, lines, load, tags, take

_COCO = re.compile(r"(COCO_\w+?_\d{12})_\d+")
_OCID_SIZE = (640, 480)
"""Every OCID picture, width and height; records of other sizes say so."""
_ASK = '\nPlease provide the bounding box coordinate of the region this sentence describes: "{q}"'


def read_refcoco(folder: Path) -> tuple[Question, ...]:
    """One row a sentence: {"img_id", "sents", "bbox": [left, top, width, height], "width", "height"} in pixels."""
    path = find(folder, "*refcoco*.json*")
    return tuple(_refcoco(row, number, path) for number, row in enumerate(lines(path)))


def _refcoco(row: dict[str, Any], number: int, path: Path) -> Question:
    left, top, width, height = _four(take(row, "bbox", path), path)
    size = (take(row, "width", path), take(row, "height", path))
    name = str(take(row, "img_id", path))
    coco = _COCO.fullmatch(name)
    return Question(
        # img_id repeats over sentences, so the line tells questions apart.
        id=str(row.get("question_id", f"{name}-{number}")),
        text=take(row, "sents", path),
        truth=_shares((left, top, left + width, top + height), size, path),
        image=coco[1] if coco else name,
        choices=(),
        split="",
        tags=tags(row),
    )


def read_ocid_ref(folder: Path) -> tuple[Question, ...]:
    """{id: {"scene_path", "sentence", "bbox": "[left, top, right, bottom]"}} in pixels of a 640 x 480 picture."""
    path = find(folder, "*expressions*.json*")
    return tuple(_ocid(str(key), row, path) for key, row in load(path).items())


def _ocid(key: str, row: dict[str, Any], path: Path) -> Question:
    box = take(row, "bbox", path)
    size = (row.get("width", _OCID_SIZE[0]), row.get("height", _OCID_SIZE[1]))
    return Question(
        id=key,
        text=take(row, "sentence", path),
        truth=_shares(_four(json.loads(box) if isinstance(box, str) else box, path), size, path),
        image=str(take(row, "scene_path", path)),
        choices=(),
        split="",
        tags=tags(row),
    )


def _four(box: Any, path: Path) -> tuple[float, float, float, float]:
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"{path}: a box is four numbers. Got {box!r}. Is this the benchmark's original file?")
    a, b, c, d = (float(edge) for edge in box)
    return a, b, c, d


def _shares(box: tuple[float, float, float, float], size: tuple[int, int], path: Path) -> tuple[float, ...]:
    width, height = size
    left, top, right, bottom = box
    # Annotated boxes may stick out of the picture by a rounding error.
    shares = (max(left / width, 0.0), max(top / height, 0.0), min(right / width, 1.0), min(bottom / height, 1.0))
    if not (shares[0] < shares[2] and shares[1] < shares[3]):
        raise DataError(f"{path}: box {box} is empty in a picture of {width} x {height}. Is it in this form's order?")
    return shares


REFCOCO = Task(
    name="refcoco",
    kind="vision",
    metric="iou50",
    check=iou50,
    chance=0.0,
    baseline=0.0,
    read=read_refcoco,
    wording={"bare": "{q}", "paper": _ASK},
    version=1,
)

OCID_REF = Task(
    name="ocid_ref",
    kind="vision",
    metric="iou25",
    check=iou25,
    chance=0.0,
    baseline=0.0,
    read=read_ocid_ref,
    wording={"bare": "{q}", "paper": _ASK},
    version=1,
)
