"""RefCOCO, RefCOCO+, RefCOCOg and OCID-Ref: the box of a described object, in shares of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.image_names import strip_annotation_id
from firstsight.evaluate.metrics.boxes import IOU25, IOU50
from firstsight.evaluate.task import PublishedVersion, Question, require_key, single_file
from firstsight.evaluate.tasks import records
from firstsight.evaluate.tasks.records import BenchmarkRecord, image_question, text_field, vision_task

_CORNER_BOX_KEYS = (("sent", "image"), ("expression", "img_path"))
"""Keys of sentence and image in forms with left, top, right, bottom: Qwen-VL's and InternVL's lines, Shikra's."""
_OCID_IMAGE_SIZE = (640, 480)
"""Width and height of OCID's images, unless a record has others."""
_BOX_PROMPT = '\nPlease provide the bounding box coordinate of the region this sentence describes: "{q}"'


def read_refcoco(paths: Sequence[Path], *, benchmark: str) -> tuple[Question, ...]:
    """One record per sentence, with the image's width and height, in one of the public forms.

    In pixels: MiniGPT-4's {"img_id", "sents", "bbox": [left, top, width, height]}; Qwen-VL's {"image", "sent", "bbox":
    [left, top, right, bottom]}; Shikra's, likewise, {"img_path", "expression", "bbox", "dataset_name"}; MDETR's, which
    is COCO's form with a caption per image. In shares: the index of the paper's harness, which contains all three
    benchmarks and names them under "refer_dataset".
    """
    path = single_file(paths, f"{benchmark}'s sentences of one split")
    return _read_questions(path, _refcoco_question, benchmark=benchmark)


def read_ocid_ref(paths: Sequence[Path]) -> tuple[Question, ...]:
    """{id: {"scene_path", "sentence", "bbox": "[left, top, right, bottom]"}} in pixels of a 640 x 480 image."""
    path = single_file(paths, "OCID-Ref's expressions of one split")
    return _read_questions(path, _ocid_question, benchmark=None)


def _read_questions(
    path: Path, to_question: Callable[[BenchmarkRecord], Question], *, benchmark: str | None
) -> tuple[Question, ...]:
    questions: list[Question] = []
    skipped: set[str] = set()
    for record in _read_box_records(path):
        dataset = record.fields.get("refer_dataset") or _benchmark_of(record) or benchmark
        if dataset != benchmark:
            skipped.add(str(dataset))
        else:
            is_indexed = "ref_expression" in record.fields
            questions.append(_harness_index_question(record) if is_indexed else to_question(record))
    if not questions and skipped:
        raise DataError(f"{path}: wanted rows of {benchmark}. Got {', '.join(sorted(skipped))}. Add them.")
    return records.require_unique_ids(questions, [path])


def _harness_index_question(record: BenchmarkRecord) -> Question:
    """The paper's harness stores boxes as shares of the image, rounded to two places."""
    row, location = record.fields, record.location
    return image_question(
        row,
        question_id=record.key or text_field(row, "example_id", location),
        text=text_field(row, "ref_expression", location),
        truth=records.normalize_box(_bbox(record), (1, 1), location, tolerance=0.0),
        image=text_field(row, "img_path", location),
    )


def _refcoco_question(record: BenchmarkRecord) -> Question:
    row, location = record.fields, record.location
    text_key, image_key = next((keys for keys in _CORNER_BOX_KEYS if keys[0] in row), ("sents", "img_id"))
    left, top, right, bottom = _bbox(record)
    image = text_field(row, image_key, location)
    if text_key == "sents":
        right, bottom = left + right, top + bottom
    else:
        image = image.rpartition("/")[2]  # without the folders of the machine that wrote the lines
    size = (require_key(row, "width", location), require_key(row, "height", location))
    return image_question(
        row,
        # img_id repeats over sentences, so the record's number is added
        question_id=str(row.get("question_id", f"{image}-{record.index}")),
        text=text_field(row, text_key, location),
        truth=records.normalize_box((left, top, right, bottom), size, location),
        image=strip_annotation_id(image),
    )


def _ocid_question(record: BenchmarkRecord) -> Question:
    row, location = record.fields, record.location
    if record.key is None:
        raise DataError(
            f"{location}: wanted an object of expressions by their ids. Got a list. Is this OCID-Ref's file?"
        )
    size = (row.get("width", _OCID_IMAGE_SIZE[0]), row.get("height", _OCID_IMAGE_SIZE[1]))
    return image_question(
        row,
        question_id=record.key,
        text=text_field(row, "sentence", location),
        truth=records.normalize_box(_bbox(record), size, location),
        image=text_field(row, "scene_path", location),
    )


def _bbox(record: BenchmarkRecord) -> tuple[float, float, float, float]:
    return records.parse_four_floats(require_key(record.fields, "bbox", record.location), record.location)


def _benchmark_of(record: BenchmarkRecord) -> str | None:
    """The benchmark that Shikra and MDETR name in a row: refcoco_unc_val, refcoco+_unc_testA, refcocog."""
    dataset = str(record.fields.get("dataset_name", "")).partition("_")[0].lower()
    return next((name for name in _VAL_COUNTS if name.lower() == dataset), None)


def _read_box_records(path: Path) -> list[BenchmarkRecord]:
    """The records of a file; of MDETR's COCO form one per image, with its caption and its one box."""
    box_records = records.read_benchmark_records(path)
    if len(box_records) != 1 or not {"images", "annotations"} <= box_records[0].fields.keys():
        return box_records
    boxes = {require_key(row, "image_id", path): row for row in box_records[0].fields["annotations"]}
    images = box_records[0].fields["images"]
    if not images or "caption" not in images[0]:
        raise DataError(
            f"{path}: has boxes without sentences. In refer's download the sentences are in refs(unc).p, a pickle, "
            "which can run code and is not opened. Take the split as a list: MiniGPT-4's refcoco_val.json, Qwen-VL's "
            "refcoco_val.jsonl or MDETR's finetune_refcoco_val.json."
        )
    rows: list[dict[str, Any]] = [
        row
        | {"img_id": require_key(row, "file_name", path), "sents": require_key(row, "caption", path)}
        | {"bbox": require_key(boxes.get(require_key(row, "id", path), {}), "bbox", path)}
        for row in images
    ]
    return [
        BenchmarkRecord(key=None, index=index, location=f"{path}: image {index + 1}", fields=row)
        for index, row in enumerate(rows)
    ]


_VAL_COUNTS = {"RefCOCO": 10834, "RefCOCO+": 10758, "RefCOCOg": 4896}
_TEST_COUNTS = {
    "RefCOCO testA": 5657,
    "RefCOCO testB": 5095,
    "RefCOCO+ testA": 5726,
    "RefCOCO+ testB": 4889,
    "RefCOCOg test": 9602,
}


def _published_splits(benchmark: str) -> tuple[PublishedVersion, ...]:
    """All three benchmarks' splits, since their files look alike; the validation split of `benchmark` first."""
    names = [benchmark, *(name for name in _VAL_COUNTS if name != benchmark)]
    return records.published_versions({f"{name} val": _VAL_COUNTS[name] for name in names} | _TEST_COUNTS)


REFCOCO = replace(
    vision_task(
        "refcoco", IOU50, partial(read_refcoco, benchmark="RefCOCO"), prompt=_BOX_PROMPT, version=1, baseline=0.0
    ),
    published=_published_splits("RefCOCO"),
)

REFCOCO_PLUS, REFCOCOG = (
    replace(
        REFCOCO,
        name=name,
        baseline=None,
        read_questions=partial(read_refcoco, benchmark=benchmark),
        published=_published_splits(benchmark),
    )
    for name, benchmark in (("refcoco_plus", "RefCOCO+"), ("refcocog", "RefCOCOg"))
)

OCID_REF = vision_task(
    "ocid_ref",
    IOU25,
    read_ocid_ref,
    prompt=_BOX_PROMPT,
    version=1,
    baseline=0.0,
    published={"OCID-Ref val": 18342, "test": 27513, "train": 259839},
)
