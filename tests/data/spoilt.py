"""Sources of which any share may be bad, written by hand, and what became of them when they were prepared."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from firstsight.data.image_reader import ImageReader
from firstsight.data.index import Index
from firstsight.data.prepare import prepare
from firstsight.errors import DataError
from firstsight.recipe.mixture import ExternalForm
from firstsight.site import Location, Site
from firstsight.units import Share

from .conftest import WORDS, Workshop, add, asked, picture

GOOD = picture((10, 200, 30), side=16)


@dataclass(frozen=True)
class Made:
    """What became of a source."""

    index: Index
    location: Location
    quarantine: list[tuple[str, str, str]]
    """Reason, shard and place of every refused record."""

    def captions(self) -> list[list[int]]:
        """Numbers of the words of every record, without its ends."""
        return [
            [int(one) - WORDS for one in self.index.tokens[start : start + count] if one >= WORDS]
            for start, count in zip(self.index.samples["tokens_from"], self.index.samples["tokens_count"], strict=True)
        ]

    def pictures(self) -> list[bytes]:
        return ImageReader(self.index, self.location, None).read_images(np.arange(len(self.index.images)))


def run(workshop: Workshop, source: Path, form: ExternalForm, *, words: Path | None = None, out: str = "index") -> Made:
    """Prepare a source of which any share may be bad."""
    location = Location(path=str(source), most_bad=Share(1))
    folder = workshop.folder(out)
    prepare(
        asked(form),
        inputs={"tokenizer": words or workshop.words()},
        out=folder,
        site=Site(sources={"s": location}),
        on_progress=lambda progress: None,
    )
    lines = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    refused = [(line["reason"], line["shard"], line["where"]) for line in lines]
    index = Index.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["counts"]["bad"] == len(refused)
    return Made(index=index, location=location, quarantine=refused)


def refuses(workshop: Workshop, source: Path, form: ExternalForm, match: str, *, words: Path | None = None) -> None:
    """Preparing ends in a DataError that says `match`, and leaves nothing that could be taken for an index."""
    with pytest.raises(DataError, match=match):
        run(workshop, source, form, words=words)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Index.open(workshop.root / "index")


def tarred(folder: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], name: str = "00000.tar") -> Path:
    with tarfile.open(folder / name, "w") as tar:
        for member, data in members.items() if isinstance(members, Mapping) else members:
            add(tar, member, data)
    return folder


def pairs(count: int, **odd: bytes) -> dict[str, bytes]:
    """Captioned pictures a0 to a<count - 1>, the n-th says w<n>; `odd` are members that replace or add."""
    members: dict[str, bytes] = {}
    for number in range(count):
        members |= {f"a{number}.png": GOOD, f"a{number}.txt": f"w{number}".encode()}
    return members | {name.replace("_", "."): data for name, data in odd.items()}


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **options)  # type: ignore[arg-type]
    return held.getvalue()
