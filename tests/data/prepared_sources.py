"""Small sources with invalid records, and the result of preparing them."""

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

from .conftest import WORDS, Workshop, add, picture, prepare_spec

VALID_IMAGE = picture((10, 200, 30), side=16)


@dataclass(frozen=True)
class PreparedSource:
    """The result of preparing a source."""

    index: Index
    location: Location
    quarantine: list[tuple[str, str, str]]
    """Reason, shard and position of each rejected record."""

    def caption_words(self) -> list[list[int]]:
        """Numbers of the words of each record, without special tokens."""
        return [
            [int(token) - WORDS for token in self.index.tokens[start : start + count] if token >= WORDS]
            for start, count in zip(self.index.samples["tokens_from"], self.index.samples["tokens_count"], strict=True)
        ]

    def images(self) -> list[bytes]:
        return ImageReader(self.index, self.location, None).read_images(np.arange(len(self.index.images)))


def prepare_source(
    workshop: Workshop, source: Path, form: ExternalForm, *, tokenizer_path: Path | None = None, out: str = "index"
) -> PreparedSource:
    """Prepare a source; all of its records may be bad."""
    location = Location(path=str(source), most_bad=Share(1))
    folder = workshop.folder(out)
    prepare(
        prepare_spec(form),
        inputs={"tokenizer": tokenizer_path or workshop.words()},
        out=folder,
        site=Site(sources={"s": location}, cache=workshop.cache),
        on_progress=lambda progress: None,
    )
    lines = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    rejected = [(line["reason"], line["shard"], line["where"]) for line in lines]
    index = Index.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["counts"]["bad"] == len(rejected)
    return PreparedSource(index=index, location=location, quarantine=rejected)


def check_refused(
    workshop: Workshop, source: Path, form: ExternalForm, match: str, *, tokenizer_path: Path | None = None
) -> None:
    """Preparing raises a DataError that matches, and writes no index."""
    with pytest.raises(DataError, match=match):
        prepare_source(workshop, source, form, tokenizer_path=tokenizer_path)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Index.open(workshop.root / "index")


def write_tar(
    folder: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], name: str = "00000.tar"
) -> Path:
    with tarfile.open(folder / name, "w") as tar:
        for member, data in members.items() if isinstance(members, Mapping) else members:
            add(tar, member, data)
    return folder


def caption_members(count: int, **members_by_name: bytes) -> dict[str, bytes]:
    """Captioned images a0 to a<count - 1>, the n-th caption is w<n>; `members_by_name` replaces or adds members."""
    members: dict[str, bytes] = {}
    for number in range(count):
        members |= {f"a{number}.png": VALID_IMAGE, f"a{number}.txt": f"w{number}".encode()}
    return members | {name.replace("_", "."): data for name, data in members_by_name.items()}


def encode_image(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()
