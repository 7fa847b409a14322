"""COCO captions and NoCaps: say what is in the picture, against everyone's captions of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.captions import CIDER
from firstsight.evaluate.question import Published, Question, Task, load, single, tags, take
from firstsight.evaluate.tasks.records import distinct, first_of, listed, word

_ASK = "Provide a short image description."
"""The paper's trigger words for captions, which its harness asks with, too. Source: paper 3."""
_PICTURE = ("file_name", "image", "filename")
_KARPATHY = "test"


def read(given: Sequence[Path]) -> tuple[Question, ...]:
    """One question a picture, all its captions the truth, from one of the usual forms.

    COCO's and NoCaps' {"images": [...], "annotations": [...]}, Karpathy's {"images": [{"sentences", "split"}]} (its
    test split), or a list of {"image", "caption": [...]}.
    """
    path = single(given, "the captions of one split")
    held = load(path)
    if isinstance(held, list):
        pairs = [(row, _texts(take(row, "caption", path), path)) for row in held]
    elif isinstance(held, dict) and "annotations" in held:
        pairs = _joined(held, path)
    else:
        pairs = _karpathy(take(held, "images", path), path)
    return distinct([_question(row, captions, path) for row, captions in pairs], given)


def _question(row: Mapping[str, Any], captions: Sequence[str], path: Path) -> Question:
    picture = first_of(row, _PICTURE, path)
    named = next((str(row[key]) for key in ("id", "cocoid", "image_id") if key in row), picture)
    if not any(caption.strip() for caption in captions):
        raise DataError(f"{path}: picture {named} has no captions to compare with. Use a split with public captions.")
    return Question(
        id=named, text=_ASK, truth=tuple(captions), image=picture, choices=(), split="", tags=tags(dict(row))
    )


def _joined(held: Mapping[str, Any], path: Path) -> list[tuple[Mapping[str, Any], list[str]]]:
    """COCO's form: captions find their picture by its id, and none may stand alone."""
    captions: dict[str, list[str]] = {}
    for row in held["annotations"]:
        captions.setdefault(word(row, "image_id", path), []).append(word(row, "caption", path))
    pictures = [(word(row, "id", path), row) for row in take(held, "images", path)]
    names = {name for name, _ in pictures}
    for what, alone in (("pictures without captions", names - captions.keys()), ("captions", captions.keys() - names)):
        if alone:
            raise DataError(f"{path}: {what} of no picture here: {listed(sorted(alone))}. Is the file complete?")
    return [(row, captions[name]) for name, row in pictures]


def _karpathy(rows: Any, path: Path) -> list[tuple[Mapping[str, Any], list[str]]]:
    wanted = [row for row in rows if take(row, "split", path) == _KARPATHY]
    return [(row, [word(one, "raw", path) for one in take(row, "sentences", path)]) for row in wanted]


def _texts(given: Any, path: Path) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path}: captions are texts. Got {str(given)[:80]}. Is this the benchmark's own file?")
    return texts


COCO_CAPTIONS = Task(
    name="coco_captions",
    kind="vision",
    answered="words",
    metric=CIDER,
    chance=0.0,
    baseline=None,
    read=read,
    wording={"bare": "{q}", "paper": "\n{q}"},
    version=1,
    published=(
        Published(name="COCO Karpathy test, Karpathy val or val2017", counts={"": 5000}),
        Published(name="val2014, whole", counts={"": 40504}),
    ),
)

NOCAPS = replace(COCO_CAPTIONS, name="nocaps", published=(Published(name="NoCaps val", counts={"": 4500}),))
"""Its records say their domain, so scores come by in-domain, near-domain and out-domain, too."""
