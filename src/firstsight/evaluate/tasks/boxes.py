"""RefCOCO, RefCOCO+, RefCOCOg and OCID-Ref: the box of a described object, in shares of the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.boxes import IOU25, IOU50, BoundingBox
from firstsight.evaluate.task import Question, Task, require_key, single_file, strip_annotation_id
from firstsight.evaluate.tasks import records
from firstsight.evaluate.tasks.records import BenchmarkRecord, list_records, normalize_box, read_records, vision_task

_CORNER_BOX_KEYS = (("sent", "image"), ("expression", "img_path"))
"""Keys of sentence and image in forms with left, top, right, bottom: Qwen-VL's and InternVL's lines, Shikra's."""
_BOX_PROMPT = '\nPlease provide the bounding box coordinate of the region this sentence describes: "{q}"'


def read_refcoco(paths: Sequence[Path], *, benchmark: str) -> tuple[Question, ...]:
    """One record per sentence, with the image's width and height, in one of the public forms.

    In pixels: MiniGPT-4's {"img_id", "sents", "bbox": [left, top, width, height]}; Qwen-VL's {"image", "sent", "bbox":
    [left, top, right, bottom]}; Shikra's, likewise, {"img_path", "expression", "bbox", "dataset_name"}; MDETR's, which
    is COCO's form with a caption per image; Google RefExp's, aligned with COCO. In shares: the index of the paper's
    harness, which contains all three benchmarks and names them under "refer_dataset".
    """
    path = single_file(paths, f"{benchmark}'s sentences of one split")
    return _read_questions(path, _refcoco_question, benchmark=benchmark)


def read_ocid_ref(paths: Sequence[Path]) -> tuple[Question, ...]:
    """{id: {"scene_path", "sentence", "bbox": "[left, top, right, bottom]"}} in pixels of a 640 x 480 image."""
    path = single_file(paths, "OCID-Ref's expressions of one split")
    return _read_questions(path, _ocid_question, benchmark=None)


def _read_questions(path: Path, to_question: Callable[..., Question], *, benchmark: str | None) -> tuple[Question, ...]:
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
        raise DataError(f"{path}: wanted rows of {benchmark}. Got {', '.join(sorted(skipped))}. Add its file.")
    return records.require_unique_ids(questions, [path])


def _harness_index_question(record: BenchmarkRecord) -> Question:
    """The paper's harness stores boxes as shares of the image, rounded to two places."""
    question_id, text = record.key or record.text("example_id"), record.text("ref_expression")
    truth = normalize_box(_bbox(record), (1, 1), record.location, tolerance=0.0)
    return record.question(question_id=question_id, text=text, truth=truth, image=record.text("img_path"))


def _refcoco_question(record: BenchmarkRecord) -> Question:
    text_key, image_key = next((keys for keys in _CORNER_BOX_KEYS if keys[0] in record.fields), ("sents", "img_id"))
    left, top, right, bottom = _bbox(record)
    image = record.text(image_key)
    if text_key == "sents":
        right, bottom = left + right, top + bottom
    else:
        image = image.rpartition("/")[2]  # without the folders of the machine that wrote the lines
    size = (record.value("width"), record.value("height"))
    return record.question(
        # img_id repeats over sentences, so the record's number is added
        question_id=str(record.fields.get("question_id", f"{image}-{record.index}")),
        text=record.text(text_key),
        truth=normalize_box((left, top, right, bottom), size, record.location),
        image=strip_annotation_id(image),
    )


def _ocid_question(record: BenchmarkRecord) -> Question:
    if record.key is None:
        raise record.error("wanted an object of expressions by their ids. Got a list. Is this OCID-Ref's file?")
    size = (record.fields.get("width", 640), record.fields.get("height", 480))
    truth = normalize_box(_bbox(record), size, record.location)
    image = record.text("scene_path")
    return record.question(question_id=record.key, text=record.text("sentence"), truth=truth, image=image)


def _bbox(record: BenchmarkRecord) -> BoundingBox:
    return records.parse_four_floats(record.value("bbox"), record.location)


def _benchmark_of(record: BenchmarkRecord) -> str | None:
    """The benchmark that Shikra and MDETR name in a row: refcoco_unc_val, refcoco+_unc_testA, refcocog."""
    dataset = str(record.fields.get("dataset_name", "")).partition("_")[0].lower()
    return next((name for name in _VAL_COUNTS if name.lower() == dataset), None)


def _read_box_records(path: Path) -> list[BenchmarkRecord]:
    """The records of a file; for MDETR's COCO form one per image, with its caption and box."""
    file_records = read_records(path)
    tables = {record.key: record.fields for record in file_records if record.key in _REFEXP_TABLES}
    content: dict[Any, Any] = tables or (file_records[0].fields if len(file_records) == 1 else {})
    if content.keys() >= set(_REFEXP_TABLES):
        return _read_refexps(content, path)
    if not {"images", "annotations"} <= content.keys():
        return file_records
    boxes = {require_key(row, "image_id", path): row for row in content["annotations"]}
    images = list_records(content["images"], path)
    if not images or "caption" not in images[0].fields:
        raise DataError(
            f"{path}: has boxes without sentences. In refer's download the sentences are in refs(unc).p, a pickle, "
            "which can run code and is not opened. Take the split as a list: MiniGPT-4's refcoco_val.json, Qwen-VL's "
            "refcoco_val.jsonl or MDETR's finetune_refcoco_val.json."
        )
    for image in images:
        box = require_key(boxes.get(image.value("id"), {}), "bbox", path)
        image.fields.update(img_id=image.value("file_name"), sents=image.value("caption"), bbox=box)
    return images


_REFEXP_TABLES = {"images": "image_id", "annotations": "annotation_id", "refexps": "refexp_id"}
"""The tables of Google RefExp's file, and their rows' ids."""


def _read_refexps(content: Mapping[Any, Any], path: Path) -> list[BenchmarkRecord]:
    """One record per expression of google_refexp_val_201511_coco_aligned.json; ids are <annotation>-<expression>."""
    tables = {
        name: {str(require_key(row, key, path)): row for row in _values(content[name])}
        for name, key in _REFEXP_TABLES.items()
    }
    rows: list[dict[str, Any]] = []
    for annotation_id, annotation in tables["annotations"].items():
        if "bbox" not in annotation:
            raise DataError(f"{path}: annotations have no bbox. Align the file with COCO by its own setup.py.")
        image = tables["images"].get(str(annotation.get("image_id")), {})
        for refexp_id in require_key(annotation, "refexp_ids", path):
            rows.append(
                {
                    "question_id": f"{annotation_id}-{refexp_id}",
                    "sents": require_key(tables["refexps"].get(str(refexp_id), {}), "raw", path),
                    "img_id": require_key(image, "file_name", path),
                    **{key: require_key(image, key, path) for key in ("width", "height")},
                    "bbox": annotation["bbox"],
                }
            )
    return list_records(rows, path)


def _values(table: Any) -> list[Any]:
    return list(table.values()) if isinstance(table, dict) else list(table)


_VAL_COUNTS = {"RefCOCO": 10834, "RefCOCO+": 10758, "RefCOCOg": 4896}
_REFCOCO_TEST_COUNTS = {"RefCOCO testA": 5657, "RefCOCO testB": 5095}
_TEST_COUNTS = _REFCOCO_TEST_COUNTS | {"RefCOCO+ testA": 5726, "RefCOCO+ testB": 4889, "RefCOCOg test": 9602}
_OCID = {"OCID-Ref val": 18342, "test": 27513, "train": 259839}


def _refcoco_task(name: str, benchmark: str, *, baseline: float | None) -> Task:
    """`published` are all three benchmarks' splits (their files have one form), the task's validation split first."""
    names = [benchmark, *(name for name in _VAL_COUNTS if name != benchmark)]
    counts = {f"{name} val": _VAL_COUNTS[name] for name in names} | _TEST_COUNTS
    read = partial(read_refcoco, benchmark=benchmark)
    return vision_task(name, IOU50, read, prompt=_BOX_PROMPT, version=1, baseline=baseline, published=counts)


REFCOCO = _refcoco_task("refcoco", "RefCOCO", baseline=0.0)
REFCOCO_PLUS = _refcoco_task("refcoco_plus", "RefCOCO+", baseline=None)
REFCOCOG = _refcoco_task("refcocog", "RefCOCOg", baseline=None)
OCID_REF = vision_task("ocid_ref", IOU25, read_ocid_ref, prompt=_BOX_PROMPT, version=1, baseline=0.0, published=_OCID)
