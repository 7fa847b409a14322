"""COCO captions and NoCaps: say what is in the picture, against everyone's captions of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.captions import CIDER
from firstsight.evaluate.task import PublishedVersion, Question, Task, load_json, record_tags, require_key, single_file
from firstsight.evaluate.tasks.records import abbreviate_names, first_text_field, require_unique_ids, text_field

_CAPTION_PROMPT = "Provide a short image description."
"""The paper's trigger words for captions, which its harness asks with, too. Source: paper 3."""
_IMAGE_KEYS = ("file_name", "image", "filename")
_KARPATHY_SPLIT = "test"


def read_coco_captions(paths: Sequence[Path]) -> tuple[Question, ...]:
    """One question a picture, all its captions the truth, from one of the usual forms.

    COCO's and NoCaps' {"images": [...], "annotations": [...]}, Karpathy's {"images": [{"sentences", "split"}]} (its
    test split), or a list of {"image", "caption": [...]}.
    """
    path = single_file(paths, "the captions of one split")
    content = load_json(path)
    if isinstance(content, list):
        pairs = [(row, _require_texts(require_key(row, "caption", path), path)) for row in content]
    elif isinstance(content, dict) and "annotations" in content:
        pairs = _join_captions(content, path)
    else:
        pairs = _karpathy_captions(require_key(content, "images", path), path)
    return require_unique_ids([_question(row, captions, path) for row, captions in pairs], paths)


def _question(row: Mapping[str, Any], captions: Sequence[str], path: Path) -> Question:
    image_name = first_text_field(row, _IMAGE_KEYS, path)
    question_id = next((str(row[key]) for key in ("id", "cocoid", "image_id") if key in row), image_name)
    if not any(caption.strip() for caption in captions):
        raise DataError(
            f"{path}: picture {question_id} has no captions to compare with. Use a split with public captions."
        )
    return Question(
        id=question_id,
        text=_CAPTION_PROMPT,
        truth=tuple(captions),
        image=image_name,
        choices=(),
        split="",
        tags=record_tags(dict(row)),
    )


def _join_captions(content: Mapping[str, Any], path: Path) -> list[tuple[Mapping[str, Any], list[str]]]:
    """COCO's form: captions find their picture by its id, and none may stand alone."""
    captions: dict[str, list[str]] = {}
    for row in content["annotations"]:
        captions.setdefault(text_field(row, "image_id", path), []).append(text_field(row, "caption", path))
    images = [(text_field(row, "id", path), row) for row in require_key(content, "images", path)]
    image_ids = {image_id for image_id, _ in images}
    for problem, unmatched_ids in (
        ("pictures without captions", image_ids - captions.keys()),
        ("captions", captions.keys() - image_ids),
    ):
        if unmatched_ids:
            raise DataError(
                f"{path}: {problem} of no picture here: {abbreviate_names(sorted(unmatched_ids))}. Is the file complete?"
            )
    return [(row, captions[image_id]) for image_id, row in images]


def _karpathy_captions(rows: Any, path: Path) -> list[tuple[Mapping[str, Any], list[str]]]:
    test_rows = [row for row in rows if require_key(row, "split", path) == _KARPATHY_SPLIT]
    return [
        (row, [text_field(sentence, "raw", path) for sentence in require_key(row, "sentences", path)])
        for row in test_rows
    ]


def _require_texts(value: Any, path: Path) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path}: captions are texts. Got {str(value)[:80]}. Is this the benchmark's own file?")
    return texts


COCO_CAPTIONS = Task(
    name="coco_captions",
    kind="vision",
    answer_type="words",
    metric=CIDER,
    chance=0.0,
    baseline=None,
    read_questions=read_coco_captions,
    prompt_templates={"bare": "{q}", "paper": "\n{q}"},
    version=1,
    published=(
        PublishedVersion(name="COCO Karpathy test, Karpathy val or val2017", split_sizes={"": 5000}),
        PublishedVersion(name="val2014, whole", split_sizes={"": 40504}),
    ),
)

NOCAPS = replace(COCO_CAPTIONS, name="nocaps", published=(PublishedVersion(name="NoCaps val", split_sizes={"": 4500}),))
"""Its records say their domain, so scores come by in-domain, near-domain and out-domain, too."""
