"""RefCOCO and OCID-Ref in their own forms, and boxes that cannot be."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError
from tests.evaluate.tasks.task_files import lines, read, write

ROW: dict[str, Any] = {
    "img_id": "COCO_train2014_000000580957_4",
    "sents": "bowl",
    "bbox": [160, 107, 320, 214],
    "height": 428,
    "width": 640,
}
OCID: dict[str, Any] = {
    "scene_path": "ARID20/floor/x.png",
    "sentence": "the mug",
    "bbox": "[160, 120, 320, 240]",
    "take_id": 3,
}
INDEXED: dict[str, Any] = {
    "ref_expression": "bowl",
    "img_path": "download/refcoco/train2014/a.jpg",
    "bbox": [0, 0, 1, 1],
}


@pytest.mark.parametrize("name", ["refcoco", "refcoco_plus", "refcocog"])
@pytest.mark.parametrize("form", ["list", "lines"])
def test_refcoco_boxes_become_shares(name: str, form: str, tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [ROW] * 2 if form == "list" else lines([ROW] * 2))
    first, second = read(name, tmp_path)
    assert first.truth == (0.25, 0.25, 0.75, 0.75)
    assert (first.text, first.image) == ("bowl", "COCO_train2014_000000580957")
    assert first.id != second.id


def test_the_harness_index_holds_all_three_and_each_task_takes_its_own(tmp_path: Path) -> None:
    named = {"refcoco": "RefCOCO", "refcoco_plus": "RefCOCO+", "refcocog": "RefCOCOg"}
    rows = {str(n): INDEXED | {"refer_dataset": whose} for n, whose in enumerate(named.values())}
    write(tmp_path, "metadata-full.json", rows)
    for n, name in enumerate(named):
        (only,) = read(name, tmp_path)
        assert (only.id, only.truth, only.image) == (str(n), (0, 0, 1, 1), INDEXED["img_path"])
    write(tmp_path, "metadata-full.json", {"1": INDEXED | {"refer_dataset": "RefCOCO+"}})
    with pytest.raises(DataError, match=r"wanted rows of RefCOCO\. Got RefCOCO\+"):
        read("refcoco", tmp_path)


def test_ocid_ref_boxes_are_corners_in_text(tmp_path: Path) -> None:
    write(tmp_path, "val_expressions.json", {"9": OCID})
    (only,) = read("ocid_ref", tmp_path)
    assert (only.id, only.text, only.truth, only.image) == ("9", "the mug", (0.25, 0.25, 0.5, 0.5), OCID["scene_path"])
    write(tmp_path, "val_expressions.json", {"9": INDEXED | {"split": "Minimum Clutter"}})
    assert read("ocid_ref", tmp_path)[0].truth == (0, 0, 1, 1)
    write(tmp_path, "val_expressions.json", [OCID])
    with pytest.raises(DataError, match="Got a list"):
        read("ocid_ref", tmp_path)


BAD_BOXES = [
    ("the mug", "four numbers"),
    ("🐧", "four numbers"),
    ([1, 2, 3], "four numbers"),
    ([1, 2, 3, 4, 5], "four numbers"),
    ([1, 2, "3", 4], "four numbers"),
    ([1, 2, True, 4], "four numbers"),
    (None, "four numbers"),
    ([], "four numbers"),
    (7, "four numbers"),
    ([1.0, 2.0, float("nan"), 4.0], "four numbers"),
    ([1.0, 2.0, float("inf"), 4.0], "four numbers"),
    ([600, 10, 100, 20], "exceeds its image"),
    ([-30, 10, 100, 20], "exceeds its image"),
]


@pytest.mark.parametrize(("box", "said"), [*BAD_BOXES, ([10, 10, 0, 5], "empty"), ([10, 10, -4, 5], "empty")])
def test_boxes_that_cannot_be_are_refused_with_their_record(box: Any, said: str, tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [ROW, ROW | {"bbox": box}])
    with pytest.raises(DataError, match=rf"refcoco_val\.json: record 2: .*{said}"):
        read("refcoco", tmp_path)


@pytest.mark.parametrize(
    ("box", "said"), [*BAD_BOXES[:-2], ([160, 120, 160, 240], "empty"), ([9, 9, 900, 20], "exceeds")]
)
@pytest.mark.parametrize("as_text", [True, False])
def test_so_are_ocids(box: Any, said: str, as_text: bool, tmp_path: Path) -> None:
    text = box if isinstance(box, str) or not as_text else json.dumps(box)
    write(tmp_path, "val_expressions.json", {"8": OCID, "9": OCID | {"bbox": text}})
    with pytest.raises(DataError, match=rf"record 9: .*{said}"):
        read("ocid_ref", tmp_path)


def test_a_box_may_stick_out_by_a_rounding_error_but_not_in_shares(tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [ROW | {"bbox": [320, 214, 320.6, 214.6]}])
    assert read("refcoco", tmp_path)[0].truth == (0.5, 0.5, 1.0, 1.0)
    write(tmp_path, "refcoco_val.json", {"1": INDEXED | {"bbox": [0, 0, 1.2, 1], "refer_dataset": "RefCOCO"}})
    with pytest.raises(DataError, match="exceeds its image"):
        read("refcoco", tmp_path)


@pytest.mark.parametrize("size", [{"width": 0}, {"height": -4}, {"width": "640"}, {"width": None}])
def test_a_picture_without_a_size_is_refused(size: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [ROW | size])
    with pytest.raises(DataError, match="record 1"):
        read("refcoco", tmp_path)


def test_two_splits_in_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [ROW])
    write(tmp_path, "refcoco_testA.json", [ROW])
    with pytest.raises(DataError, match=r"Got refcoco_testA\.json, refcoco_val\.json"):
        read("refcoco", tmp_path)


QWEN: dict[str, Any] = {
    "image": "data/coco/train2014/COCO_train2014_000000580957.jpg",
    "sent": "bowl",
    "bbox": [160.0, 107.0, 480.0, 321.0],
    "height": 428,
    "width": 640,
}
SHIKRA: dict[str, Any] = {
    "img_path": "COCO_train2014_000000580957.jpg",
    "expression": "bowl",
    "bbox": [160, 107, 480, 321],
    "dataset_name": "refcoco+_unc_val",
    "height": 428,
    "width": 640,
}
MDETR: dict[str, Any] = {
    "images": [
        {
            "id": 7,
            "file_name": "COCO_train2014_000000580957.jpg",
            "caption": "bowl",
            "dataset_name": "refcocog",
            "height": 428,
            "width": 640,
        }
    ],
    "annotations": [{"image_id": 7, "bbox": [160, 107, 320, 214]}],
}


@pytest.mark.parametrize(
    ("name", "content", "others"),
    [
        ("refcoco", lines([QWEN] * 2), None),
        ("refcoco_plus", lines([SHIKRA] * 2), r"wanted rows of RefCOCO\. Got RefCOCO\+"),
        ("refcocog", MDETR, r"wanted rows of RefCOCO\. Got RefCOCOg"),
    ],
)
def test_other_public_forms_tell_the_same_box(name: str, content: Any, others: str | None, tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [ROW])
    (plain,) = read("refcoco", tmp_path)
    write(tmp_path, "refcoco_val.json", content)
    found = read(name, tmp_path)
    assert {(one.text, one.truth, one.image) for one in found} == {("bowl", plain.truth, f"{plain.image}.jpg")}
    assert len({one.id for one in found}) == len(found)
    if others:
        with pytest.raises(DataError, match=others):
            read("refcoco", tmp_path)


class Trap:
    """A pickle of it runs code when it is opened."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._sprung,)


def test_refers_pickle_is_not_opened_and_another_form_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "refcoco"
    write(folder, "README.md", "")
    (folder / "refs(unc).p").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p; a pickle can run code and is not opened"):
        read("refcoco", folder)
    plain = [{key: value for key, value in row.items() if key != "caption"} for row in MDETR["images"]]
    write(folder, "instances.json", MDETR | {"images": plain})
    with pytest.raises(DataError, match=r"a pickle, which can run code and is not opened\. Take .*refcoco_val\.jsonl"):
        read("refcoco", folder)
    assert not (tmp_path / "sprung").exists()
