"""Every kind of model through every handler: text, images, instructions, and an answer at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.evaluate.models.interface import GenerationRequest
from firstsight.evaluate.models.native import load_native_model
from firstsight.model.checkpoint_io import load
from firstsight.recipe.lm import Llama3Rope
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.stages import Encode
from firstsight.recipe.vision import FusedEncoders
from firstsight.site import Site
from firstsight.train.encode import encode_features
from firstsight.train.handlers import finetune, midtrain, pretrain
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
FUSED = replace(tiny_study.SEES, vision=FusedEncoders(first=tiny_study.NAMED, second=tiny_study.DINOV2))
LETTERBOX = replace(tiny_study.NAMED, fit="letterbox")
ARMS: dict[str, VLMSpec] = {
    "linear": replace(tiny_study.SEES, projector=replace(tiny_study.PROJECTOR, kind="linear")),
    "mlp3": replace(tiny_study.SEES, projector=replace(tiny_study.PROJECTOR, kind="mlp3")),
    "shuffle 2": replace(tiny_study.SEES, projector=replace(tiny_study.PROJECTOR, pixel_shuffle=2)),
    "prefix": replace(tiny_study.SEES, attention="prefix"),
    "trained": tiny_study.TRAINED,
    "named, letterboxed": replace(tiny_study.SEES, vision=LETTERBOX),
    "fused": FUSED,
    "fused, trained": replace(FUSED, encoder="trained"),
    "dinov2": replace(tiny_study.SEES, vision=tiny_study.DINOV2),
    "patches": tiny_study.PATCHED,
    "llama": replace(tiny_study.SEES, lm=LLAMA),
}


@pytest.fixture(scope="module")
def reads(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Inputs]:
    """What each kind of vision reads: with features of our own SigLIP, or with published folders."""
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
    """The text model that arms branch from, and the one with Llama's settings."""
    found, spec = dict[bool, Path](), tiny_study.segment(12, "0", "1")
    for llama in (False, True):
        trunk = replace(spec.pretrain, model=LLAMA if llama else tiny_study.LM)
        folder = tmp_path_factory.mktemp("trunk")
        found[llama] = tiny_study.ran(pretrain, replace(spec, pretrain=trunk), inputs, folder, site)
    return found


def read(model: VLMSpec) -> str:
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


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_learns_and_answers(
    arm: str, reads: dict[str, Inputs], trunks: dict[bool, Path], site: Site, tmp_path: Path
) -> None:
    model = ARMS[arm]
    inputs = reads[read(model)]
    optim = replace(tiny_study.ADAM, encoder_lr_scale=0.5 if model.encoder == "trained" else 0.0)
    spec = replace(tiny_study.midtraining(model, 12, "3/4"), optim=optim)
    trunk = trunks[model.lm == LLAMA]
    mid = tiny_study.ran(midtrain, spec, {**inputs, "trunk": trunk}, tmp_path / "mid", site)
    tuning = replace(tiny_study.finetuning(model, 8), optim=optim)
    done = tiny_study.ran(finetune, tuning, {**inputs, "previous": mid}, tmp_path / "done", site)
    fell = [*losses(mid), *losses(done)]
    assert sum(fell[-4:]) < 0.9 * sum(fell[:4])
    assert load(done).spec == model
    who = load_native_model(done, site=site)
    [seen] = who.encode_images([("x.png", tiny_study.picture("red", "blue"))])
    asked = [GenerationRequest(text="w1 w2", image=picture) for picture in (seen, None)]
    assert len(list(who.generate(asked, max_new_tokens=3))) == 2


@pytest.mark.parametrize("arm", ["fused", "dinov2", "named, letterboxed"])
def test_features_of_a_named_encoder_stored_first_train_alike(
    arm: str, reads: dict[str, Inputs], trunks: dict[bool, Path], site: Site, tmp_path: Path
) -> None:
    """Both are rounded to float16; how many pictures go through the encoder together is all that differs."""
    model = ARMS[arm]
    inputs = {**reads[read(model)], "trunk": trunks[False]}
    needs = {**inputs, "source": inputs["captions"], "index": inputs["image0"]}
    sheet = tiny_study.ran(
        encode_features, Encode(source=tiny_study.CAPTIONS, vision=model.vision), needs, tmp_path / "sheet", site
    )
    spec = tiny_study.midtraining(model, 4, "1")
    online = tiny_study.ran(midtrain, spec, inputs, tmp_path / "online", site)
    stored = tiny_study.ran(midtrain, spec, {**inputs, "image0.features": sheet}, tmp_path / "stored", site)
    assert losses(stored) == pytest.approx(losses(online), rel=1e-3)
    assert (online / "encoder0").is_dir() and (online / "encoder1").is_dir() == (arm == "fused")
