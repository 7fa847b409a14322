"""The contrastive handler: the pixel cache changes no bit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.data.images import decode_image
from firstsight.site import Site
from firstsight.train import contrastive
from firstsight.train.contrastive import train_contrastive
from tests.train import tiny_study


def test_contrast_decodes_once_and_trains_to_the_same_bits_without_memory(
    inputs: dict[str, Path], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(
        contrastive,
        "decode_image",
        lambda data, *how, **more: (decoded.append(data), decode_image(data, *how, **more))[1],
    )
    recipe = replace(tiny_study.SIGLIP, weights=replace(tiny_study.SIGLIP.weights, steps=50))
    needs, digests = {"captions": inputs["captions"]}, list[str]()
    for kept in (contrastive.PIXEL_CACHE_BYTES, 0):
        monkeypatch.setattr(contrastive, "PIXEL_CACHE_BYTES", kept)
        out = tiny_study.ran(train_contrastive, recipe, needs, tmp_path / str(kept), site)
        digests.append(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
        if kept:
            assert len(decoded) == 160, "50 batches of 8 are two and a half epochs"
    assert digests[0] == digests[1]
    assert len(decoded) == 160 + 400
