"""The encode handler: feature values, and reruns after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from firstsight.data.images import decode_image
from firstsight.data.index import Index
from firstsight.data.loader import PrecomputedFeatures
from firstsight.errors import DataError, ModelError
from firstsight.model.vision import extract_features, extract_fixed, load_encoder
from firstsight.recipe.stages import Encode
from firstsight.site import Site
from firstsight.train import encoder
from firstsight.train.encoder import encode_features
from tests.damage import DAMAGES, damage_file
from tests.train import tiny_study

SPEC = Encode(source=tiny_study.CAPTIONS, vision=tiny_study.FEATURE_VLM.vision)


@pytest.fixture
def encode_inputs(inputs: dict[str, Path]) -> dict[str, Path]:
    return {"source": inputs["captions"], "index": inputs["image0"], "encoder0": inputs["encoder0"]}


def test_features_are_in_index_order(
    inputs: dict[str, Path], encode_inputs: dict[str, Path], site: Site, tmp_path: Path
) -> None:
    index, tower = Index.open(inputs["image0"]), load_encoder(tiny_study.SIGLIP, [inputs["encoder0"]])
    actual = np.load(
        tiny_study.run_handler(encode_features, SPEC, encode_inputs, tmp_path / "out", site) / "features.npy"
    )
    assert actual.shape == (len(index.images), 4, 16)
    for number in (0, 1, 77, 159):
        offset, size, _, shard = index.images[number].item()
        data = (inputs["captions"] / index.image_shards[shard]).read_bytes()[offset : offset + size]
        expected = extract_features(tower, torch.from_numpy(decode_image(data, 8).copy())[None])[0].numpy()
        np.testing.assert_allclose(actual[number], expected, rtol=0, atol=2e-2)


class Killed(BaseException):
    """Stands for a signal."""


FIXED = replace(SPEC, fixed_batches=True)
ROWS_PER_FILE = 50
FILES = {SPEC: ["features.npy"], FIXED: [f"features-{number:05d}.npy" for number in range(4)]}


@pytest.mark.parametrize("spec", FILES, ids=["one file", "fixed batches"])
@pytest.mark.parametrize("readers", [1, 2])
def test_rerun_after_kill_leaves_the_same_bytes(
    encode_inputs: dict[str, Path],
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    readers: int,
    spec: Encode,
) -> None:
    monkeypatch.setattr(encoder, "ENCODE_BATCH", 32)
    monkeypatch.setattr(encoder, "FEATURE_FILE_BYTES", ROWS_PER_FILE * 2 * 4 * 16)
    whole = tiny_study.run_handler(encode_features, spec, encode_inputs, tmp_path / "whole", site)
    batches: list[int] = []

    def failing_extract(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
        batches.append(len(pixels))
        if len(batches) == 4:
            raise Killed
        return extract(tower, pixels)

    name, extract = ("extract_fixed", extract_fixed) if spec.fixed_batches else ("extract_features", extract_features)
    monkeypatch.setattr(encoder, name, failing_extract)
    often_saved = replace(site, save_every=0.0, readers=readers)
    with pytest.raises(Killed):
        tiny_study.run_handler(encode_features, spec, encode_inputs, tmp_path / "out", often_saved)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["resume"]
    tiny_study.run_handler(encode_features, spec, encode_inputs, tmp_path / "out", often_saved)
    assert batches == [32] * 6, "three batches, the killed one, and the remaining two"
    assert sorted(tiny_study.read_files(whole)) == FILES[spec]
    assert tiny_study.read_files(tmp_path / "out") == tiny_study.read_files(whole)


def test_features_of_several_files_are_those_of_one(
    encode_inputs: dict[str, Path], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "FEATURE_FILE_BYTES", ROWS_PER_FILE * 2 * 4 * 16)
    features = PrecomputedFeatures.open(
        tiny_study.run_handler(encode_features, FIXED, encode_inputs, tmp_path / "out", site)
    )
    assert [len(array) for array in features.arrays] == [50, 50, 50, 10]
    whole, ids = np.concatenate(features.arrays), np.random.default_rng(0).integers(160, size=(200,))
    np.testing.assert_array_equal(features.take(ids), whole[ids])
    assert features.take(np.zeros(0, dtype=np.int64)).shape == (0, 4, 16)


def test_features_beyond_the_sites_room_are_an_error(
    encode_inputs: dict[str, Path], site: Site, tmp_path: Path
) -> None:
    size = 160 * 4 * 16 * 2
    with pytest.raises(DataError, match=r"feature_bytes in the site file\. Got 20.5 kB for 160 images"):
        small = replace(site, feature_bytes=size - 1)
        tiny_study.run_handler(encode_features, FIXED, encode_inputs, tmp_path / "out", small)
    tiny_study.run_handler(encode_features, FIXED, encode_inputs, tmp_path / "out", replace(site, feature_bytes=size))


def test_changed_source_is_an_error(encode_inputs: dict[str, Path], site: Site, tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir()
    tar = next(encode_inputs["source"].glob("*.tar"))
    (tmp_path / "captions" / tar.name).write_bytes(tar.read_bytes()[:-512] + b"\1" * 512)
    with pytest.raises(DataError, match=tar.name):
        tiny_study.run_handler(
            encode_features, SPEC, {**encode_inputs, "source": tmp_path / "captions"}, tmp_path / "out", site
        )


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["features.npy", "point.json"])
def test_damaged_features_are_not_used(
    encode_inputs: dict[str, Path], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.setattr(encoder, "ENCODE_BATCH", 32)
    whole = tiny_study.run_handler(encode_features, SPEC, encode_inputs, tmp_path / "whole", site)
    calls = iter([False, False, False, True, *[False] * 99])

    def failing_extract(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
        if next(calls):
            raise Killed
        return extract_features(tower, pixels)

    monkeypatch.setattr(encoder, "extract_features", failing_extract)
    often_saved, out = replace(site, save_every=0.0), tmp_path / "work" / "out"
    with pytest.raises(Killed):
        tiny_study.run_handler(encode_features, SPEC, encode_inputs, out, often_saved)
    damage_file(out / "resume" / name, kind, at=0.2)
    tiny_study.run_handler(encode_features, SPEC, encode_inputs, out, often_saved)
    assert tiny_study.read_files(out) == tiny_study.read_files(whole)


def test_features_beyond_float16_are_an_error(
    encode_inputs: dict[str, Path], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def huge(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
        features = extract_features(tower, pixels)
        features[3] *= 1e9
        return features

    monkeypatch.setattr(encoder, "extract_features", huge)
    with pytest.raises(ModelError, match=r"finite in float16\. Got others for 1 images, the first is image 3"):
        tiny_study.run_handler(encode_features, SPEC, encode_inputs, tmp_path / "out", site)
