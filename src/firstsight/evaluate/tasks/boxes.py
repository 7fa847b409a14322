"""RefCOCO, RefCOCO+, RefCOCOg and OCID-Ref: where is it? The answer is a box in shares of the picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.boxes import IOU25, IOU50
from firstsight.evaluate.question import Published, Question, Task, single, tags, take
from firstsight.evaluate.tasks.records import Record, distinct, four, rows, shares, word

_COCO = re.compile(r"(COCO_\w+?_\d{12})_\d+")
_CORNERS = (("sent", "image"), ("expression", "img_path"))
"""Sentence and picture where the box is left, top, right, bottom: Qwen-VL's (and InternVL's) lines, and Shikra's."""
_OCID_SIZE = (640, 480)
"""Every OCID picture, width and height; records of other sizes say so."""
_ASK = '\nPlease provide the bounding box coordinate of the region this sentence describes: "{q}"'


def read_refcoco(given: Sequence[Path], *, named: str) -> tuple[Question, ...]:
    """One row a sentence, with the picture's width and height, in one of the public forms.

    MiniGPT-4's {"img_id", "sents", "bbox": [left, top, width, height]}; Qwen-VL's {"image", "sent", "bbox": [left, top,
    right, bottom]}; Shikra's, likewise, {"img_path", "expression", "bbox", "dataset_name"}; MDETR's, which is COCO's
    with a caption a picture; all in pixels. Or the index that the paper's harness builds over all three, whose rows say
    which they are of ("refer_dataset").
    """
    path = single(given, f"{named}'s sentences of one split")
    return _read(path, _refcoco, named=named)


def read_ocid_ref(given: Sequence[Path]) -> tuple[Question, ...]:
    """{id: {"scene_path", "sentence", "bbox": "[left, top, right, bottom]"}} in pixels of a 640 x 480 picture."""
    path = single(given, "OCID-Ref's expressions of one split")
    return _read(path, _ocid, named=None)


def _read(path: Path, one: Callable[[Record], Question], *, named: str | None) -> tuple[Question, ...]:
    found: list[Question] = []
    others: set[str] = set()
    for record in _split_up(path):
        dataset = record.held.get("refer_dataset") or _dataset(record) or named
        if dataset != named:
            others.add(str(dataset))
        else:
            found.append(_indexed(record) if "ref_expression" in record.held else one(record))
    if not found and others:
        raise DataError(f"{path}: wanted rows of {named}. Got {', '.join(sorted(others))}. Add them.")
    return distinct(found, [path])


def _indexed(record: Record) -> Question:
    """A row of the paper's harness: boxes are shares of the picture already (and rounded to two places)."""
    row, where = record.held, record.where
    box = shares(four(take(row, "bbox", where), where), (1, 1), where, slack=0.0)
    key = record.key or word(row, "example_id", where)
    return _box_question(key, word(row, "ref_expression", where), box, word(row, "img_path", where), row)


def _refcoco(record: Record) -> Question:
    row, where = record.held, record.where
    sentence, picture = next((keys for keys in _CORNERS if keys[0] in row), ("sents", "img_id"))
    left, top, right, bottom = four(take(row, "bbox", where), where)
    if sentence == "sents":
        right, bottom = left + right, top + bottom
    size = (take(row, "width", where), take(row, "height", where))
    box = shares((left, top, right, bottom), size, where)
    # Without the folders of the machine that wrote the lines.
    name = word(row, picture, where) if sentence == "sents" else word(row, picture, where).rpartition("/")[2]
    coco = _COCO.fullmatch(name)
    # img_id repeats over sentences, so the line tells questions apart.
    key = str(row.get("question_id", f"{name}-{record.number}"))
    return _box_question(key, word(row, sentence, where), box, coco[1] if coco else name, row)


def _dataset(record: Record) -> str | None:
    """Which benchmark a row of Shikra or MDETR says it is of: refcoco_unc_val, refcoco+_unc_testA, refcocog."""
    said = str(record.held.get("dataset_name", "")).partition("_")[0].lower()
    return next((name for name in _VAL if name.lower() == said), None)


def _split_up(path: Path) -> list[Record]:
    """The rows of a file; of MDETR's, which is COCO's form, one for each picture with its caption and its one box."""
    found = rows(path)
    if len(found) != 1 or not {"images", "annotations"} <= found[0].held.keys():
        return found
    boxes = {take(row, "image_id", path): row for row in found[0].held["annotations"]}
    pictures = found[0].held["images"]
    if not pictures or "caption" not in pictures[0]:
        raise DataError(
            f"{path}: this holds boxes without sentences. In refer's download those lie in refs(unc).p, a pickle, "
            "which can run code and is not opened. Take the split as a list: MiniGPT-4's refcoco_val.json, Qwen-VL's "
            "refcoco_val.jsonl or MDETR's finetune_refcoco_val.json."
        )
    joined = [
        row
        | {"img_id": take(row, "file_name", path), "sents": take(row, "caption", path)}
        | {"bbox": take(boxes.get(take(row, "id", path), {}), "bbox", path)}
        for row in pictures
    ]
    return [Record(key=None, number=at, where=f"{path}: picture {at + 1}", held=row) for at, row in enumerate(joined)]


def _ocid(record: Record) -> Question:
    row, where = record.held, record.where
    if record.key is None:
        raise DataError(f"{where}: wanted an object of expressions by their ids. Got a list. Is this OCID-Ref's file?")
    size = (row.get("width", _OCID_SIZE[0]), row.get("height", _OCID_SIZE[1]))
    box = shares(four(take(row, "bbox", where), where), size, where)
    return _box_question(record.key, word(row, "sentence", where), box, word(row, "scene_path", where), row)


def _box_question(key: str, text: str, box: tuple[float, ...], picture: str, row: dict[str, Any]) -> Question:
    return Question(id=key, text=text, truth=box, image=picture, choices=(), split="", tags=tags(row))


_VAL = {"RefCOCO": 10834, "RefCOCO+": 10758, "RefCOCOg": 4896}
_TESTS = {
    "RefCOCO testA": 5657,
    "RefCOCO testB": 5095,
    "RefCOCO+ testA": 5726,
    "RefCOCO+ testB": 4889,
    "RefCOCOg test": 9602,
}


def _known(named: str) -> tuple[Published, ...]:
    """All three benchmarks' splits, this one's validation split first: their files look alike."""
    order = [named, *(name for name in _VAL if name != named)]
    counts = {f"{name} val": _VAL[name] for name in order} | _TESTS
    return tuple(Published(name=name, counts={"": count}) for name, count in counts.items())


REFCOCO = Task(
    name="refcoco",
    kind="vision",
    answered="words",
    metric=IOU50,
    chance=0.0,
    baseline=0.0,
    read=partial(read_refcoco, named="RefCOCO"),
    wording={"bare": "{q}", "paper": _ASK},
    version=1,
    published=_known("RefCOCO"),
)

REFCOCO_PLUS = replace(
    REFCOCO,
    name="refcoco_plus",
    baseline=None,
    read=partial(read_refcoco, named="RefCOCO+"),
    published=_known("RefCOCO+"),
)

REFCOCOG = replace(
    REFCOCO,
    name="refcocog",
    baseline=None,
    read=partial(read_refcoco, named="RefCOCOg"),
    published=_known("RefCOCOg"),
)

OCID_REF = Task(
    name="ocid_ref",
    kind="vision",
    answered="words",
    metric=IOU25,
    chance=0.0,
    baseline=0.0,
    read=read_ocid_ref,
    wording={"bare": "{q}", "paper": _ASK},
    version=1,
    published=(
        Published(name="OCID-Ref val", counts={"": 18342}),
        Published(name="test", counts={"": 27513}),
        Published(name="train", counts={"": 259839}),
    ),
)
