"""The contrastive handler: the pixel cache changes no bit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.data.images import decode_image
from firstsight.errors import LimitExceeded
from firstsight.limits import Limits, apply_limits
from firstsight.site import Site
from firstsight.train import encoder
from firstsight.train.encoder import train_contrastive
from tests.train import tiny_study


def test_pixel_cache_decodes_once_and_changes_no_bit(
    inputs: dict[str, Path], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(
        encoder,
        "decode_image",
        lambda data, *how, **more: (decoded.append(data), decode_image(data, *how, **more))[1],
    )
    recipe = replace(tiny_study.SIGLIP, weights=replace(tiny_study.SIGLIP.weights, steps=50))
    role_paths, digests = {"captions": inputs["captions"]}, list[str]()
    for cache_bytes in (encoder.PIXEL_CACHE_BYTES, 0):
        monkeypatch.setattr(encoder, "PIXEL_CACHE_BYTES", cache_bytes)
        out = tiny_study.run_handler(train_contrastive, recipe, role_paths, tmp_path / str(cache_bytes), site)
        digests.append(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
        if cache_bytes:
            assert len(decoded) == 160, "50 batches of 8 are two and a half epochs"
    assert digests[0] == digests[1]
    assert len(decoded) == 160 + 400


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(record=5), r"\.tar, .*(txt|json): wanted a record of at most 5 B"),
        (Limits(picture=20), r"\.tar, .*png: wanted an image of at most 20 B"),
        (Limits(depth=1), r"\.tar, .*json: wanted JSON of at most 1 levels"),
    ],
)
def test_members_of_a_tar_beyond_a_limit_are_named(
    inputs: dict[str, Path], site: Site, tmp_path: Path, limits: Limits, message: str
) -> None:
    apply_limits(limits)
    with pytest.raises(LimitExceeded, match=message):
        tiny_study.run_handler(train_contrastive, tiny_study.SIGLIP, {"captions": inputs["captions"]}, tmp_path, site)
