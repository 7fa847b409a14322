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
from firstsight.evaluate.tasks.records import image_question, text_field, vision_task

_CAPTION_PROMPT = "Provide a short image description."
"""The paper's trigger words for captions, which its harness uses as the prompt too. Source: paper 3."""
_IMAGE_KEYS = ("file_name", "image", "filename")
_ID_KEYS = ("id", "cocoid", "image_id")
_KARPATHY_SPLIT = "test"

_CaptionedRows = list[tuple[Mapping[str, Any], list[str]]]
"""An image's record and its captions."""


def read_coco_captions(paths: Sequence[Path]) -> tuple[Question, ...]:
    """One question per image, with all its captions as truth, from one of the usual forms.

    COCO's and NoCaps' {"images": [...], "annotations": [...]}, Karpathy's {"images": [{"sentences", "split"}]} (its
    test split), or a list of {"image", "caption": [...]}.
    """
    path = single_file(paths, "the captions of one split")
    content = load_json(path)
    if isinstance(content, list):
        pairs = [(row, _caption_list(require_key(row, "caption", path), path)) for row in content]
    elif isinstance(content, dict) and "annotations" in content:
        pairs = _join_captions(content, path)
    else:
        pairs = _karpathy_captions(require_key(content, "images", path), path)
    return records.require_unique_ids([_question(row, captions, path) for row, captions in pairs], paths)


def _question(row: Mapping[str, Any], captions: Sequence[str], path: Path) -> Question:
    image = records.first_text_field(row, _IMAGE_KEYS, path)
    question_id = next((str(row[key]) for key in _ID_KEYS if key in row), image)
    if not any(caption.strip() for caption in captions):
        raise DataError(
            f"{path}: image {question_id} has no captions to compare with. Use a split with public captions."
        )
    return image_question(row, question_id=question_id, text=_CAPTION_PROMPT, truth=tuple(captions), image=image)


def _join_captions(content: Mapping[str, Any], path: Path) -> _CaptionedRows:
    """COCO's form: captions refer to images by id; DataError for an image or a caption without counterpart."""
    captions: dict[str, list[str]] = {}
    for row in content["annotations"]:
        captions.setdefault(text_field(row, "image_id", path), []).append(text_field(row, "caption", path))
    images = [(text_field(row, "id", path), row) for row in require_key(content, "images", path)]
    image_ids = {image_id for image_id, _ in images}
    for problem, ids in (
        ("images without captions", image_ids - captions.keys()),
        ("captions of images that are missing", captions.keys() - image_ids),
    ):
        if ids:
            raise DataError(f"{path}: {problem}: {records.abbreviate_names(sorted(ids))}. Is the file complete?")
    return [(row, captions[image_id]) for image_id, row in images]


def _karpathy_captions(rows: Any, path: Path) -> _CaptionedRows:
    return [
        (row, [text_field(sentence, "raw", path) for sentence in require_key(row, "sentences", path)])
        for row in rows
        if require_key(row, "split", path) == _KARPATHY_SPLIT
    ]


def _caption_list(value: Any, path: Path) -> list[str]:
    captions = [value] if isinstance(value, str) else value
    if not records.is_text_list(captions):
        raise DataError(f"{path}: captions are texts. Got {str(value)[:80]}. Is this the benchmark's own file?")
    return captions


COCO_CAPTIONS = vision_task(
    "coco_captions",
    CIDER,
    read_coco_captions,
    prompt="\n{q}",
    version=1,
    published={"COCO Karpathy test, Karpathy val or val2017": 5000, "val2014, whole": 40504},
)

NOCAPS = replace(COCO_CAPTIONS, name="nocaps", published=records.published_versions({"NoCaps val": 4500}))
"""Its records have a `domain`, so scores are also given for in-domain, near-domain and out-domain."""
