"""Indexes to audit, made of token lists and image hashes; real and re-encoded images; evaluation sets."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from firstsight.data.audit import contamination
from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, SAMPLE_DTYPE, Index
from firstsight.data.records import SpecialTokenIds
from firstsight.recipe.mixture import External
from firstsight.units import Tokens
from tests.data.conftest import END

ImageEntry = tuple[int, int]
"""Hash and size in bytes."""


def make_index(
    documents: Sequence[Sequence[int]],
    *,
    images: Sequence[ImageEntry] = (),
    digest: str = "",
    form: str = "captions",
) -> Index:
    """An index of token lists; the first ones have an image each, in one tar, 1,000 bytes apart."""
    samples = np.zeros(len(documents), dtype=SAMPLE_DTYPE)
    samples["tokens_count"] = [len(document) for document in documents]
    samples["tokens_from"] = np.cumsum(samples["tokens_count"]) - samples["tokens_count"]
    samples["shown_count"] = np.arange(len(documents)) < len(images)
    samples["shown_from"] = np.minimum(np.arange(len(documents)), len(images))
    refs = np.zeros(len(images), dtype=IMAGE_REF_DTYPE)
    refs["picture"] = np.arange(len(images))
    rows = [(1000 * number, size, value, 0) for number, (value, size) in enumerate(images)]
    flat = np.array([token for document in documents for token in document], dtype=np.uint16)
    return Index(
        path=Path("made"),
        form=form,  # type: ignore[arg-type]
        samples=samples,
        image_refs=refs,
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


def images_of_tar(tar: Path) -> list[bytes]:
    with tarfile.open(tar) as data:
        return [
            stream.read()
            for member in data
            if member.name.endswith((".jpg", ".webp")) and (stream := data.extractfile(member)) is not None
        ]


def real_images(shared: Path) -> tuple[list[bytes], list[bytes]]:
    """32 images of CC12M, 48 of other shards."""
    cc12m = images_of_tar(shared / "torchtitan_cc12m" / "cc12m-train-0000.tar")
    shards = sorted((shared / "vla_foundry_shards" / "image_caption").glob("*.tar"))
    return cc12m, [data for shard in shards for data in images_of_tar(shard)]


def reencode(data: bytes, form: str, scale: float) -> bytes:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    buffer = io.BytesIO()
    image.resize((int(image.width * scale), int(image.height * scale))).save(buffer, form, quality=60)
    return buffer.getvalue()


def ngrams_of(ids: Sequence[int]) -> set[tuple[int, ...]]:
    return {
        tuple(ids[start : start + contamination.NGRAM_SIZE]) for start in range(len(ids) - contamination.NGRAM_SIZE + 1)
    }


@st.composite
def stores(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Evaluation texts, and random documents with runs of their tokens at random positions."""
    rng = draw(st.randoms(use_true_random=False))
    texts = [[rng.randrange(200) for _ in range(rng.randrange(5, 40))] for _ in range(rng.randrange(1, 8))]
    documents = []
    for _ in range(rng.randrange(1, 12)):
        document = [rng.randrange(200) for _ in range(rng.randrange(0, 50))]
        if rng.random() < 0.5:
            text = rng.choice(texts)
            start = rng.randrange(len(text))
            position = rng.randrange(len(document) + 1)
            document[position:position] = text[start : start + rng.randrange(8, 30)]
        documents.append(document)
    return texts, documents


def benchmark(folder: Path, texts: Sequence[str]) -> Path:
    rows = [{"id": number, "question": {"text": text}} for number, text in enumerate(texts)]
    (folder / "questions.json").write_text(json.dumps({"rows": rows}))
    return folder


def random_hashes(seed: int, count: int) -> np.ndarray:
    """Random hashes with 32 of 64 bits set, far from each other and never plain."""
    rng = np.random.default_rng(seed)
    bits = np.stack([rng.permutation(64) < 32 for _ in range(count)])
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def flip_bits(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = [sum(1 << int(bit) for bit in rng.permutation(64)[:bits]) for _ in hashes]
    return hashes ^ np.array(masks, dtype=np.uint64)
