"""Indexes to audit, made of token lists and picture hashes, and real pictures written anew."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, SAMPLE_DTYPE, Index
from firstsight.data.records import SpecialTokenIds
from firstsight.recipe.mixture import External
from firstsight.units import Tokens

from .conftest import END

Picture = tuple[int, int]
"""Hash and size in bytes."""


def made(
    documents: Sequence[Sequence[int]],
    *,
    pictures: Sequence[Picture] = (),
    digest: str = "",
    form: str = "captions",
) -> Index:
    """An index of token lists; the first of them show one picture each, in one tar, 1,000 bytes apart."""
    samples = np.zeros(len(documents), dtype=SAMPLE_DTYPE)
    samples["tokens_count"] = [len(one) for one in documents]
    samples["tokens_from"] = np.cumsum(samples["tokens_count"]) - samples["tokens_count"]
    samples["shown_count"] = np.arange(len(documents)) < len(pictures)
    samples["shown_from"] = np.minimum(np.arange(len(documents)), len(pictures))
    shown = np.zeros(len(pictures), dtype=IMAGE_REF_DTYPE)
    shown["picture"] = np.arange(len(pictures))
    rows = [(1000 * number, size, code, 0) for number, (code, size) in enumerate(pictures)]
    flat = np.array([token for one in documents for token in one], dtype=np.uint16)
    return Index(
        path=Path("made"),
        form=form,  # type: ignore[arg-type]
        samples=samples,
        image_refs=shown,
        tokens=flat,
        loss=np.ones(len(flat), dtype=np.uint8),
        images=np.array(rows, dtype=IMAGE_DTYPE),
        image_shards=("a.tar",),
        source_shards=(),
        source=External(name="s", form="captions", tokens=Tokens(0)),
        special_ids=SpecialTokenIds(end=END, human=5, answer=3, pad=6),
        tokenizer_digest=digest,
        source_digest="",
        digest="",
    )


def packed(tar: Path) -> list[bytes]:
    with tarfile.open(tar) as data:
        return [
            stream.read()
            for member in data
            if member.name.endswith((".jpg", ".webp")) and (stream := data.extractfile(member)) is not None
        ]


def real(shared: Path) -> tuple[list[bytes], list[bytes]]:
    """32 pictures of CC12M, 48 of another group's shards."""
    web = packed(shared / "torchtitan_cc12m" / "cc12m-train-0000.tar")
    shards = sorted((shared / "vla_foundry_shards" / "image_caption").glob("*.tar"))
    return web, [data for shard in shards for data in packed(shard)]


def again(data: bytes, form: str, scale: float) -> bytes:
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    held = io.BytesIO()
    whole.resize((int(whole.width * scale), int(whole.height * scale))).save(held, form, quality=60)
    return held.getvalue()
