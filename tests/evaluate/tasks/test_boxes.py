"""RefCOCO and OCID-Ref in their public forms, and invalid boxes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError
from tests.evaluate.tasks.task_files import lines, read, write

REFCOCO_ROW: dict[str, Any] = {
    "img_id": "COCO_train2014_000000580957_4",
    "sents": "bowl",
    "bbox": [160, 107, 320, 214],
    "height": 428,
    "width": 640,
}
OCID_ROW: dict[str, Any] = {
    "scene_path": "ARID20/floor/x.png",
    "sentence": "the mug",
    "bbox": "[160, 120, 320, 240]",
    "take_id": 3,
}
INDEX_ROW: dict[str, Any] = {
    "ref_expression": "bowl",
    "img_path": "download/refcoco/train2014/a.jpg",
    "bbox": [0, 0, 1, 1],
}


@pytest.mark.parametrize("name", ["refcoco", "refcoco_plus", "refcocog"])
@pytest.mark.parametrize("form", ["list", "lines"])
def test_refcoco_boxes_become_shares(name: str, form: str, tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [REFCOCO_ROW] * 2 if form == "list" else lines([REFCOCO_ROW] * 2))
    first, second = read(name, tmp_path)
    assert first.truth == (0.25, 0.25, 0.75, 0.75)
    assert (first.text, first.image) == ("bowl", "COCO_train2014_000000580957")
    assert first.id != second.id


def test_each_task_reads_its_benchmark_from_the_harness_index(tmp_path: Path) -> None:
    benchmarks = {"refcoco": "RefCOCO", "refcoco_plus": "RefCOCO+", "refcocog": "RefCOCOg"}
    rows = {str(n): INDEX_ROW | {"refer_dataset": benchmark} for n, benchmark in enumerate(benchmarks.values())}
    write(tmp_path, "metadata-full.json", rows)
    for n, name in enumerate(benchmarks):
        (question,) = read(name, tmp_path)
        assert (question.id, question.truth, question.image) == (str(n), (0, 0, 1, 1), INDEX_ROW["img_path"])
    write(tmp_path, "metadata-full.json", {"1": INDEX_ROW | {"refer_dataset": "RefCOCO+"}})
    with pytest.raises(DataError, match=r"wanted rows of RefCOCO\. Got RefCOCO\+"):
        read("refcoco", tmp_path)


def test_ocid_ref_boxes_are_corners_in_text(tmp_path: Path) -> None:
    write(tmp_path, "val_expressions.json", {"9": OCID_ROW})
    (question,) = read("ocid_ref", tmp_path)
    assert (question.id, question.text, question.truth, question.image) == (
        "9",
        "the mug",
        (0.25, 0.25, 0.5, 0.5),
        OCID_ROW["scene_path"],
    )
    write(tmp_path, "val_expressions.json", {"9": INDEX_ROW | {"split": "Minimum Clutter"}})
    assert read("ocid_ref", tmp_path)[0].truth == (0, 0, 1, 1)
    write(tmp_path, "val_expressions.json", [OCID_ROW])
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


@pytest.mark.parametrize(("box", "message"), [*BAD_BOXES, ([10, 10, 0, 5], "empty"), ([10, 10, -4, 5], "empty")])
def test_invalid_boxes_are_refused_with_their_record(box: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [REFCOCO_ROW, REFCOCO_ROW | {"bbox": box}])
    with pytest.raises(DataError, match=rf"refcoco_val\.json: record 2: .*{message}"):
        read("refcoco", tmp_path)


@pytest.mark.parametrize(
    ("box", "message"), [*BAD_BOXES[:-2], ([160, 120, 160, 240], "empty"), ([9, 9, 900, 20], "exceeds")]
)
@pytest.mark.parametrize("as_text", [True, False])
def test_invalid_ocid_boxes_are_refused_with_their_record(
    box: Any, message: str, as_text: bool, tmp_path: Path
) -> None:
    text = box if isinstance(box, str) or not as_text else json.dumps(box)
    write(tmp_path, "val_expressions.json", {"8": OCID_ROW, "9": OCID_ROW | {"bbox": text}})
    with pytest.raises(DataError, match=rf"record 9: .*{message}"):
        read("ocid_ref", tmp_path)


def test_pixel_boxes_may_exceed_the_image_by_rounding_but_shares_may_not(tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [REFCOCO_ROW | {"bbox": [320, 214, 320.6, 214.6]}])
    assert read("refcoco", tmp_path)[0].truth == (0.5, 0.5, 1.0, 1.0)
    write(tmp_path, "refcoco_val.json", {"1": INDEX_ROW | {"bbox": [0, 0, 1.2, 1], "refer_dataset": "RefCOCO"}})
    with pytest.raises(DataError, match="exceeds its image"):
        read("refcoco", tmp_path)


@pytest.mark.parametrize("size", [{"width": 0}, {"height": -4}, {"width": "640"}, {"width": None}])
def test_an_image_without_a_size_is_refused(size: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [REFCOCO_ROW | size])
    with pytest.raises(DataError, match="record 1"):
        read("refcoco", tmp_path)


def test_two_splits_in_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, "refcoco_val.json", [REFCOCO_ROW])
    write(tmp_path, "refcoco_testA.json", [REFCOCO_ROW])
    with pytest.raises(DataError, match=r"Got refcoco_testA\.json, refcoco_val\.json"):
        read("refcoco", tmp_path)


QWEN_ROW: dict[str, Any] = {
    "image": "data/coco/train2014/COCO_train2014_000000580957.jpg",
    "sent": "bowl",
    "bbox": [160.0, 107.0, 480.0, 321.0],
    "height": 428,
    "width": 640,
}
SHIKRA_ROW: dict[str, Any] = {
    "img_path": "COCO_train2014_000000580957.jpg",
    "expression": "bowl",
    "bbox": [160, 107, 480, 321],
    "dataset_name": "refcoco+_unc_val",
    "height": 428,
    "width": 640,
}
MDETR_FILE: dict[str, Any] = {
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
    ("name", "content", "other_message"),
    [
        ("refcoco", lines([QWEN_ROW] * 2), None),
        ("refcoco_plus", lines([SHIKRA_ROW] * 2), r"wanted rows of RefCOCO\. Got RefCOCO\+"),
        ("refcocog", MDETR_FILE, r"wanted rows of RefCOCO\. Got RefCOCOg"),
    ],
)
def test_other_public_forms_have_the_same_box(
    name: str, content: Any, other_message: str | None, tmp_path: Path
) -> None:
    write(tmp_path, "refcoco_val.json", [REFCOCO_ROW])
    (first,) = read("refcoco", tmp_path)
    write(tmp_path, "refcoco_val.json", content)
    questions = read(name, tmp_path)
    assert {(question.text, question.truth, question.image) for question in questions} == {
        ("bowl", first.truth, f"{first.image}.jpg")
    }
    assert len({question.id for question in questions}) == len(questions)
    if other_message:
        with pytest.raises(DataError, match=other_message):
            read("refcoco", tmp_path)


class MaliciousPickle:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._sprung = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._sprung,)


def test_refers_pickle_is_not_opened_and_other_forms_are_suggested(tmp_path: Path) -> None:
    folder = tmp_path / "refcoco"
    write(folder, "README.md", "")
    (folder / "refs(unc).p").write_bytes(pickle.dumps(MaliciousPickle(tmp_path / "marker")))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p; a pickle can run code and is not opened"):
        read("refcoco", folder)
    first = [{key: value for key, value in row.items() if key != "caption"} for row in MDETR_FILE["images"]]
    write(folder, "instances.json", MDETR_FILE | {"images": first})
    with pytest.raises(DataError, match=r"a pickle, which can run code and is not opened\. Take .*refcoco_val\.jsonl"):
        read("refcoco", folder)
    assert not (tmp_path / "marker").exists()
