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
from firstsight.evaluate.task import PublishedVersion, Question, Task, record_tags, require_key, single_file
from firstsight.evaluate.tasks.records import (
    BenchmarkRecord,
    normalize_box,
    parse_four_floats,
    read_benchmark_records,
    require_unique_ids,
    text_field,
)

_COCO_NAME = re.compile(r"(COCO_\w+?_\d{12})_\d+")
_CORNER_BOX_KEYS = (("sent", "image"), ("expression", "img_path"))
"""Sentence and picture where the box is left, top, right, bottom: Qwen-VL's (and InternVL's) lines, and Shikra's."""
_OCID_IMAGE_SIZE = (640, 480)
"""Every OCID picture, width and height; records of other sizes say so."""
_BOX_PROMPT = '\nPlease provide the bounding box coordinate of the region this sentence describes: "{q}"'


def read_refcoco(paths: Sequence[Path], *, benchmark: str) -> tuple[Question, ...]:
    """One row a sentence, with the picture's width and height, in one of the public forms.

    MiniGPT-4's {"img_id", "sents", "bbox": [left, top, width, height]}; Qwen-VL's {"image", "sent", "bbox": [left, top,
    right, bottom]}; Shikra's, likewise, {"img_path", "expression", "bbox", "dataset_name"}; MDETR's, which is COCO's
    with a caption a picture; all in pixels. Or the index that the paper's harness builds over all three, whose rows say
    which they are of ("refer_dataset").
    """
    path = single_file(paths, f"{benchmark}'s sentences of one split")
    return _read_questions(path, _refcoco_question, benchmark=benchmark)


def read_ocid_ref(paths: Sequence[Path]) -> tuple[Question, ...]:
    """{id: {"scene_path", "sentence", "bbox": "[left, top, right, bottom]"}} in pixels of a 640 x 480 picture."""
    path = single_file(paths, "OCID-Ref's expressions of one split")
    return _read_questions(path, _ocid_question, benchmark=None)


def _read_questions(
    path: Path, to_question: Callable[[BenchmarkRecord], Question], *, benchmark: str | None
) -> tuple[Question, ...]:
    questions: list[Question] = []
    skipped_datasets: set[str] = set()
    for record in _read_box_records(path):
        dataset = record.fields.get("refer_dataset") or _benchmark_of(record) or benchmark
        if dataset != benchmark:
            skipped_datasets.add(str(dataset))
        else:
            questions.append(
                _harness_index_question(record) if "ref_expression" in record.fields else to_question(record)
            )
    if not questions and skipped_datasets:
        raise DataError(f"{path}: wanted rows of {benchmark}. Got {', '.join(sorted(skipped_datasets))}. Add them.")
    return require_unique_ids(questions, [path])


def _harness_index_question(record: BenchmarkRecord) -> Question:
    """A row of the paper's harness: boxes are shares of the picture already (and rounded to two places)."""
    row, location = record.fields, record.location
    box = normalize_box(
        parse_four_floats(require_key(row, "bbox", location), location), (1, 1), location, tolerance=0.0
    )
    key = record.key or text_field(row, "example_id", location)
    return _box_question(
        key, text_field(row, "ref_expression", location), box, text_field(row, "img_path", location), row
    )


def _refcoco_question(record: BenchmarkRecord) -> Question:
    row, location = record.fields, record.location
    sentence_key, image_key = next((keys for keys in _CORNER_BOX_KEYS if keys[0] in row), ("sents", "img_id"))
    left, top, right, bottom = parse_four_floats(require_key(row, "bbox", location), location)
    if sentence_key == "sents":
        right, bottom = left + right, top + bottom
    size = (require_key(row, "width", location), require_key(row, "height", location))
    box = normalize_box((left, top, right, bottom), size, location)
    # Without the folders of the machine that wrote the lines.
    image_name = (
        text_field(row, image_key, location)
        if sentence_key == "sents"
        else text_field(row, image_key, location).rpartition("/")[2]
    )
    coco_match = _COCO_NAME.fullmatch(image_name)
    # img_id repeats over sentences, so the line tells questions apart.
    key = str(row.get("question_id", f"{image_name}-{record.index}"))
    return _box_question(
        key, text_field(row, sentence_key, location), box, coco_match[1] if coco_match else image_name, row
    )


def _benchmark_of(record: BenchmarkRecord) -> str | None:
    """Which benchmark a row of Shikra or MDETR says it is of: refcoco_unc_val, refcoco+_unc_testA, refcocog."""
    dataset_name = str(record.fields.get("dataset_name", "")).partition("_")[0].lower()
    return next((name for name in _VAL_COUNTS if name.lower() == dataset_name), None)


def _read_box_records(path: Path) -> list[BenchmarkRecord]:
    """The rows of a file; of MDETR's, which is COCO's form, one for each picture with its caption and its one box."""
    records = read_benchmark_records(path)
    if len(records) != 1 or not {"images", "annotations"} <= records[0].fields.keys():
        return records
    boxes = {require_key(row, "image_id", path): row for row in records[0].fields["annotations"]}
    images = records[0].fields["images"]
    if not images or "caption" not in images[0]:
        raise DataError(
            f"{path}: this holds boxes without sentences. In refer's download those lie in refs(unc).p, a pickle, "
            "which can run code and is not opened. Take the split as a list: MiniGPT-4's refcoco_val.json, Qwen-VL's "
            "refcoco_val.jsonl or MDETR's finetune_refcoco_val.json."
        )
    sentence_rows = [
        row
        | {"img_id": require_key(row, "file_name", path), "sents": require_key(row, "caption", path)}
        | {"bbox": require_key(boxes.get(require_key(row, "id", path), {}), "bbox", path)}
        for row in images
    ]
    return [
        BenchmarkRecord(key=None, index=index, location=f"{path}: picture {index + 1}", fields=row)
        for index, row in enumerate(sentence_rows)
    ]


def _ocid_question(record: BenchmarkRecord) -> Question:
    row, location = record.fields, record.location
    if record.key is None:
        raise DataError(
            f"{location}: wanted an object of expressions by their ids. Got a list. Is this OCID-Ref's file?"
        )
    size = (row.get("width", _OCID_IMAGE_SIZE[0]), row.get("height", _OCID_IMAGE_SIZE[1]))
    box = normalize_box(parse_four_floats(require_key(row, "bbox", location), location), size, location)
    return _box_question(
        record.key, text_field(row, "sentence", location), box, text_field(row, "scene_path", location), row
    )


def _box_question(key: str, text: str, box: tuple[float, ...], image_name: str, row: dict[str, Any]) -> Question:
    return Question(id=key, text=text, truth=box, image=image_name, choices=(), split="", tags=record_tags(row))


_VAL_COUNTS = {"RefCOCO": 10834, "RefCOCO+": 10758, "RefCOCOg": 4896}
_TEST_COUNTS = {
    "RefCOCO testA": 5657,
    "RefCOCO testB": 5095,
    "RefCOCO+ testA": 5726,
    "RefCOCO+ testB": 4889,
    "RefCOCOg test": 9602,
}


def _published_splits(benchmark: str) -> tuple[PublishedVersion, ...]:
    """All three benchmarks' splits, this one's validation split first: their files look alike."""
    benchmarks = [benchmark, *(name for name in _VAL_COUNTS if name != benchmark)]
    counts = {f"{name} val": _VAL_COUNTS[name] for name in benchmarks} | _TEST_COUNTS
    return tuple(PublishedVersion(name=name, split_sizes={"": count}) for name, count in counts.items())


REFCOCO = Task(
    name="refcoco",
    kind="vision",
    answer_type="words",
    metric=IOU50,
    chance=0.0,
    baseline=0.0,
    read_questions=partial(read_refcoco, benchmark="RefCOCO"),
    prompt_templates={"bare": "{q}", "paper": _BOX_PROMPT},
    version=1,
    published=_published_splits("RefCOCO"),
)

REFCOCO_PLUS = replace(
    REFCOCO,
    name="refcoco_plus",
    baseline=None,
    read_questions=partial(read_refcoco, benchmark="RefCOCO+"),
    published=_published_splits("RefCOCO+"),
)

REFCOCOG = replace(
    REFCOCO,
    name="refcocog",
    baseline=None,
    read_questions=partial(read_refcoco, benchmark="RefCOCOg"),
    published=_published_splits("RefCOCOg"),
)

OCID_REF = Task(
    name="ocid_ref",
    kind="vision",
    answer_type="words",
    metric=IOU25,
    chance=0.0,
    baseline=0.0,
    read_questions=read_ocid_ref,
    prompt_templates={"bare": "{q}", "paper": _BOX_PROMPT},
    version=1,
    published=(
        PublishedVersion(name="OCID-Ref val", split_sizes={"": 18342}),
        PublishedVersion(name="test", split_sizes={"": 27513}),
        PublishedVersion(name="train", split_sizes={"": 259839}),
    ),
)
