"""Every kind of model through all handlers: text, images, instructions, generation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.evaluate.models.interface import GenerationRequest
from firstsight.evaluate.models.native import load_native_model
from firstsight.model.checkpoint_io import load
from firstsight.recipe.model import Llama3Rope, VLMSpec
from firstsight.recipe.stages import Encode
from firstsight.recipe.vision import FusedEncoders
from firstsight.site import Site
from firstsight.train import encoder
from firstsight.train.encoder import encode_features
from firstsight.train.handlers import pretrain, train_stage
from tests.train import tiny_study

Inputs = dict[str, Path]
LLAMA = replace(
    tiny_study.LM,
    norm="rms",
    qk_norm=False,
    kv_heads=1,
    ties_embeddings=True,
    token_shift=1,
    embedding_scale=1,
    rope=Llama3Rope(base=10_000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8),
)
FUSED = replace(
    tiny_study.FEATURE_VLM, vision=FusedEncoders(first=tiny_study.EXTERNAL_SIGLIP, second=tiny_study.DINOV2)
)
LETTERBOX = replace(tiny_study.EXTERNAL_SIGLIP, fit="letterbox")
ARMS: dict[str, VLMSpec] = {
    "linear": replace(tiny_study.FEATURE_VLM, projector=replace(tiny_study.PROJECTOR, kind="linear")),
    "mlp3": replace(tiny_study.FEATURE_VLM, projector=replace(tiny_study.PROJECTOR, kind="mlp3")),
    "shuffle 2": replace(tiny_study.FEATURE_VLM, projector=replace(tiny_study.PROJECTOR, pixel_shuffle=2)),
    "prefix": replace(tiny_study.FEATURE_VLM, attention="prefix"),
    "trained": tiny_study.INCLUDED_VLM,
    "named, letterboxed": replace(tiny_study.FEATURE_VLM, vision=LETTERBOX),
    "fused": FUSED,
    "fused, trained": replace(FUSED, encoder="included"),
    "dinov2": replace(tiny_study.FEATURE_VLM, vision=tiny_study.DINOV2),
    "patches": tiny_study.PATCH_VLM,
    "llama": replace(tiny_study.FEATURE_VLM, lm=LLAMA),
}


@pytest.fixture(scope="module")
def inputs_by_vision(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Inputs]:
    """Step inputs for each kind of vision: with precomputed features, or with published encoder folders."""
    root = tmp_path_factory.mktemp("arms")
    plain = {role: path for role, path in inputs.items() if role not in ("image0.features", "encoder0")}
    siglip, dinov2 = tiny_study.write_siglip(root / "siglip", 1), tiny_study.write_dinov2(root / "dinov2", 2)
    named = {**plain, "encoder0": siglip}
    return {
        "our own": inputs,
        "siglip": named,
        "dinov2": {**plain, "encoder0": dinov2},
        "fused": {**named, "encoder1": dinov2},
        "none": plain,
    }


@pytest.fixture(scope="module")
def trunks(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The trunk, and one with Llama's settings."""
    folders, spec = dict[bool, Path](), tiny_study.segment_spec(12, "0", "1")
    for llama in (False, True):
        trunk = replace(spec.pretrain, model=LLAMA if llama else tiny_study.LM)
        folder = tmp_path_factory.mktemp("trunk")
        folders[llama] = tiny_study.run_handler(pretrain, replace(spec, pretrain=trunk), inputs, folder, site)
    return folders


def vision_inputs(model: VLMSpec) -> str:
    match model.vision:
        case FusedEncoders():
            return "fused"
        case tiny_study.SIGLIP:
            return "our own"
        case tiny_study.DINOV2:
            return "dinov2"
        case _:
            return "siglip" if model.vision.towers else "none"


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"]["captions-rich"] for line in lines if "captions-rich" in line["losses"]]


@pytest.mark.parametrize("name", ARMS)
def test_every_model_kind_learns_and_generates(
    name: str, inputs_by_vision: dict[str, Inputs], trunks: dict[bool, Path], site: Site, tmp_path: Path
) -> None:
    model = ARMS[name]
    inputs = inputs_by_vision[vision_inputs(model)]
    trains = tiny_study.ENCODER_TRAINS if model.encoder == "included" else tiny_study.TRAINS
    spec = replace(tiny_study.midtrain_spec(model, 12, "3/4"), trains=trains)
    trunk = trunks[model.lm == LLAMA]
    mid = tiny_study.run_handler(train_stage, spec, {**inputs, "trunk": trunk}, tmp_path / "mid", site)
    tuning = replace(tiny_study.finetune_spec(model, 8), trains=trains)
    done = tiny_study.run_handler(train_stage, tuning, {**inputs, "previous": mid}, tmp_path / "done", site)
    fell = [*losses(mid), *losses(done)]
    assert sum(fell[-4:]) < 0.9 * sum(fell[:4])
    assert load(done).spec == model
    native_model = load_native_model(done, site=site)
    [encoded] = native_model.encode_images([("x.png", tiny_study.png_image("red", "blue"))])
    requests = [GenerationRequest(text="w1 w2", image=image) for image in (encoded, None)]
    assert len(list(native_model.generate(requests, max_new_tokens=3))) == 2


@pytest.mark.parametrize("name", ["fused", "named, letterboxed"])
def test_features_in_fixed_batches_train_like_those_computed_afresh_to_the_bit(
    name: str,
    inputs_by_vision: dict[str, Inputs],
    trunks: dict[bool, Path],
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also in micro-batches, from several files of features."""
    monkeypatch.setattr(encoder, "FEATURE_FILE_BYTES", 10_000)
    model = replace(ARMS[name], stores_features=True)
    inputs = {**inputs_by_vision[vision_inputs(ARMS[name])], "trunk": trunks[False]}
    needs = {**inputs, "source": inputs["captions"], "index": inputs["image0"]}
    encode = Encode(source=tiny_study.CAPTIONS, vision=model.vision, fixed_batches=True)
    features = tiny_study.run_handler(encode_features, encode, needs, tmp_path / "features", site)
    assert len(list(features.iterdir())) > 1
    spec, with_features = tiny_study.midtrain_spec(model, 4, "1"), {**inputs, "image0.features": features}
    for micro_site in (site, replace(site, rows_at_once=1)):
        folders = [tmp_path / f"{kind}{micro_site.rows_at_once}" for kind in ("afresh", "stored")]
        for stage_inputs, folder in zip((inputs, with_features), folders, strict=True):
            tiny_study.run_handler(train_stage, spec, stage_inputs, folder, micro_site)
        assert tiny_study.read_files(folders[0]) == tiny_study.read_files(folders[1])


@pytest.mark.parametrize("name", ["fused", "dinov2", "named, letterboxed"])
def test_precomputed_features_of_published_encoders_train_like_pixels(
    name: str, inputs_by_vision: dict[str, Inputs], trunks: dict[bool, Path], site: Site, tmp_path: Path
) -> None:
    """Both are rounded to float16; only the encoder's batch size differs."""
    model = ARMS[name]
    inputs = {**inputs_by_vision[vision_inputs(model)], "trunk": trunks[False]}
    needs = {**inputs, "source": inputs["captions"], "index": inputs["image0"]}
    features = tiny_study.run_handler(
        encode_features, Encode(source=tiny_study.CAPTIONS, vision=model.vision), needs, tmp_path / "sheet", site
    )
    spec = tiny_study.midtrain_spec(model, 4, "1")
    online = tiny_study.run_handler(train_stage, spec, inputs, tmp_path / "online", site)
    stored = tiny_study.run_handler(
        train_stage, spec, {**inputs, "image0.features": features}, tmp_path / "stored", site
    )
    assert losses(stored) == pytest.approx(losses(online), rel=1e-3)
    assert (online / "encoder0").is_dir() and (online / "encoder1").is_dir() == (name == "fused")
