"""COCO captions and NoCaps: a caption of an image, compared with all annotators' captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.captions import CIDER
from firstsight.evaluate.task import Question, load_json, require_key, single_file
from firstsight.evaluate.tasks import records
from firstsight.evaluate.tasks.records import BenchmarkRecord, list_records, text_field, vision_task

_CAPTION_PROMPT = "Provide a short image description."
"""The paper's trigger words for captions, which its harness uses as the prompt too. Source: paper 3."""


def read_coco_captions(paths: Sequence[Path]) -> tuple[Question, ...]:
    """One question per image, with all its captions as truth, from one of the usual forms.

    COCO's and NoCaps' {"images": [...], "annotations": [...]}, Karpathy's {"images": [{"sentences", "split"}]} (its
    test split), or a list of {"image", "caption": [...]}.
    """
    path = single_file(paths, "the captions of one split")
    content = load_json(path)
    if isinstance(content, list):
        pairs = [(record, _captions(record)) for record in list_records(content, path)]
    elif isinstance(content, dict) and "annotations" in content:
        pairs = _join_captions(content, path)
    else:
        images = list_records(require_key(content, "images", path), path)
        pairs = [
            (image, [text_field(sentence, "raw", image.location) for sentence in image.value("sentences")])
            for image in images
            if image.value("split") == "test"
        ]
    return records.require_unique_ids([_question(record, captions) for record, captions in pairs], paths)


def _question(record: BenchmarkRecord, captions: Sequence[str]) -> Question:
    image = record.text("file_name", "image", "filename")
    question_id = next((str(record.fields[key]) for key in ("id", "cocoid", "image_id") if key in record.fields), image)
    if not any(caption.strip() for caption in captions):
        raise record.error(f"image {question_id} has no captions to compare with. Use a split with public captions.")
    return record.question(question_id=question_id, text=_CAPTION_PROMPT, truth=tuple(captions), image=image)


def _join_captions(content: Mapping[str, Any], path: Path) -> list[tuple[BenchmarkRecord, list[str]]]:
    """COCO's form: captions refer to images by id; DataError for an image or a caption without counterpart."""
    captions: dict[str, list[str]] = {}
    for row in content["annotations"]:
        captions.setdefault(text_field(row, "image_id", path), []).append(text_field(row, "caption", path))
    images = [(record.text("id"), record) for record in list_records(require_key(content, "images", path), path)]
    image_ids = {image_id for image_id, _ in images}
    bare, missing = image_ids - captions.keys(), captions.keys() - image_ids
    for problem, ids in (("images without captions", bare), ("captions of images that are missing", missing)):
        if ids:
            raise DataError(f"{path}: {problem}: {records.abbreviate_names(sorted(ids))}. Is the file complete?")
    return [(record, captions[image_id]) for image_id, record in images]


def _captions(record: BenchmarkRecord) -> list[str]:
    value = record.value("caption")
    captions = [value] if isinstance(value, str) else value
    if not records.is_text_list(captions):
        raise record.error(f"captions are texts. Got {str(value)[:80]}. Is this the benchmark's own file?")
    return captions


_SIZES = {"COCO Karpathy test, Karpathy val or val2017": 5000, "val2014, whole": 40504}
COCO_CAPTIONS = vision_task("coco_captions", CIDER, read_coco_captions, prompt="\n{q}", version=1, published=_SIZES)

NOCAPS = replace(COCO_CAPTIONS, name="nocaps", published={"NoCaps val": {"": 4500}})
"""Its records have a `domain`, so scores are also given for in-domain, near-domain and out-domain."""
