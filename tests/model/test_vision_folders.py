"""Encoder folders that are damaged or not what the recipe says: each fault is named, nothing is unpickled."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from firstsight.errors import ModelError, QuantityError
from firstsight.model.vision import encoder_spec, extract_features, load_encoder
from firstsight.recipe.vision import Dinov2, FusedEncoders, PatchProjectionSpec, TowerSpec, ViTSpec
from tests.model.tiny_encoders import DINOV2, NAMED, REGISTERED, SIGLIP, TOWERS, VIT


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """Files of each tower's folder as save_pretrained leaves them, by name."""
    folder = tmp_path_factory.mktemp("kept")
    for name, (_, build) in TOWERS.items():
        build().save_pretrained(folder / name)
    return lambda name: {path.name: path.read_bytes() for path in (folder / name).iterdir()}


@pytest.fixture
def place(tmp_path: Path, kept: Callable[[str], dict[str, bytes]]) -> Callable[[str], Path]:
    """A copy of a tower's folder to damage."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, data in kept(name).items():
            (folder / file).write_bytes(data)
        return folder

    return copy


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def write(folder: Path, changed: dict[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in changed.items()}, folder / "model.safetensors")


def configure(folder: Path, **changed: Any) -> None:
    path = folder / "config.json"
    body = json.loads(path.read_text())
    inner = body.get("vision_config", body)
    inner |= changed
    path.write_text(json.dumps(body))


def refused(spec: TowerSpec, folder: Path, *told: str) -> None:
    with pytest.raises(ModelError) as error:
        load_encoder(spec, [folder])
    for part in told:
        assert part in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["siglip, whole", "dinov2 with registers"])
def test_every_tensor_that_runs_must_be_there(name: str, place: Callable[[str], Path]) -> None:
    spec, folder = TOWERS[name][0], place(name)
    whole = tensors(folder)
    loaded = load_encoder(spec, [folder]).towers[0]
    used = set[str]()
    for missing in whole:
        write(folder, {key: value for key, value in whole.items() if key != missing})
        try:
            load_encoder(spec, [folder])
        except ModelError as error:
            assert "missing: " in str(error) and error.args[0].count(".weight") < 3
            used.add(missing)
    assert len(used) == len(loaded.state_dict())


def test_each_missing_extra_and_misshapen_tensor_is_named(place: Callable[[str], Path]) -> None:
    folder = place("siglip, whole")
    changed, begins = tensors(folder), "vision_model.encoder.layers.0."
    changed["vision_model.adapter.weight"] = torch.zeros(2)
    changed["prompt"] = torch.zeros(2)
    del changed[f"{begins}mlp.fc1.bias"], changed[f"{begins}layer_norm1.weight"]
    changed[f"{begins}mlp.fc2.weight"] = torch.zeros(16, 31)
    changed[f"{begins}mlp.fc2.bias"] = torch.zeros(16, dtype=torch.int8)
    write(folder, changed)
    refused(
        SIGLIP,
        folder,
        "missing: encoder.layers.0.layer_norm1.weight, encoder.layers.0.mlp.fc1.bias",
        "extra: prompt, vision_model.adapter.weight",
        "fc2.weight wanted [16, 32] got [16, 31]",
        "fc2.bias wanted [16] got [16] torch.int8",
    )


def test_one_tensor_under_two_names_is_one_too_many(place: Callable[[str], Path]) -> None:
    folder = place("siglip, whole")
    changed = tensors(folder)
    name = "embeddings.patch_embedding.bias"
    changed[name] = changed[f"vision_model.{name}"].clone()
    write(folder, changed)
    refused(SIGLIP, folder, "extra: ", name)


@pytest.mark.parametrize(
    ("name", "changed", "told"),
    [
        ("siglip, whole", {"num_hidden_layers": 4}, "layers wanted 3 got 4"),
        ("siglip, tower", {"hidden_size": 32}, "width wanted 16 got 32"),
        ("siglip, tower", {"num_attention_heads": 4}, "heads wanted 2 got 4"),
        ("siglip, tower", {"intermediate_size": 33}, "mlp_width wanted 32 got 33"),
        ("siglip, tower", {"image_size": 32}, "image_size wanted 16 got 32"),
        ("siglip, tower", {"patch_size": 8}, "patch_size wanted 4 got 8"),
        ("dinov2 with registers", {"num_register_tokens": 4}, "registers wanted 2 got 4"),
        ("dinov2 with registers", {"image_size": 36}, "table wanted 7 got 9"),
        ("dinov2", {"mlp_ratio": 2}, "mlp_width wanted 96 got 48"),
        ("dinov2", {"use_swiglu_ffn": True}, "SwiGLU"),
        ("dinov2", {"hidden_act": "relu"}, "hidden_act wanted gelu got relu"),
        ("siglip, tower", {"layer_norm_eps": 1e-5}, "layer_norm_eps wanted 1e-06 got 1e-05"),
        ("siglip, tower", {"image_size": "16"}, "image_size as a whole number"),
        ("siglip, tower", {"image_size": [16, 32]}, "image_size as a whole number"),
        ("siglip, tower", {"model_type": "clip"}, "'clip'"),
    ],
)
def test_a_config_that_contradicts_the_recipe_is_named(
    name: str, changed: dict[str, Any], told: str, place: Callable[[str], Path]
) -> None:
    folder = place(name)
    configure(folder, **changed)
    refused(TOWERS[name][0], folder, told)


def test_another_family_is_no_match(place: Callable[[str], Path]) -> None:
    refused(SIGLIP, place("dinov2"), "encoder wanted siglip got dinov2")
    refused(REGISTERED, place("siglip, tower"), "encoder wanted dinov2 got siglip")


def test_published_configs_say_only_what_differs_from_the_defaults(place: Callable[[str], Path]) -> None:
    """Oracle: google/siglip-base-patch16-224 says no more of its vision tower than its type."""
    folder = place("siglip, whole")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}})
    )
    found = encoder_spec(folder, "base", "resize")
    assert found.vit == ViTSpec(layers=12, width=768, heads=12, mlp_width=3072, image_size=224, patch_size=16)


def test_sides_may_be_told_twice(place: Callable[[str], Path]) -> None:
    folder = place("siglip, tower")
    configure(folder, image_size=[16, 16], patch_size=[4, 4])
    assert encoder_spec(folder, "tower", "resize") == SIGLIP


@pytest.mark.parametrize(
    ("name", "told", "fault"),
    [
        ("siglip, tower", {"image_mean": [0.485, 0.456, 0.406]}, "image_mean"),
        ("siglip, tower", {"image_std": [0.5, 0.5]}, "image_std"),
        ("dinov2", {"image_std": [0.5, 0.5, 0.5]}, "image_std"),
        ("dinov2", {"do_normalize": False}, "do_normalize"),
        ("dinov2", {"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ("dinov2", {"resample": 2}, "resample"),
    ],
)
def test_a_processor_that_prepares_pixels_otherwise_is_refused(
    name: str, told: dict[str, Any], fault: str, place: Callable[[str], Path]
) -> None:
    folder = place(name)
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    refused(TOWERS[name][0], folder, fault)
    with pytest.raises(ModelError, match=fault):
        encoder_spec(folder, "tower", "resize")


def test_published_processors_agree(place: Callable[[str], Path]) -> None:
    """Oracle: what transformers' processors of both families write, DINOv2's with ImageNet's numbers."""
    bit = pytest.importorskip("transformers.models.bit.image_processing_pil_bit").BitImageProcessorPil
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip").SiglipImageProcessorPil
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    for name, processor in (("siglip, tower", siglip()), ("dinov2", bit(image_mean=mean, image_std=deviation))):
        folder = place(name)
        processor.save_pretrained(folder)
        assert (folder / "preprocessor_config.json").is_file()
        load_encoder(TOWERS[name][0], [folder])


def test_a_sharded_folder_is_read_and_a_lost_shard_is_named(tmp_path: Path) -> None:
    whole = TOWERS["siglip, tower"][1]()
    whole.save_pretrained(tmp_path, max_shard_size="8KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    seen = torch.arange(2 * 16 * 16 * 3).remainder(256).to(torch.uint8).view(2, 16, 16, 3)
    found = extract_features(load_encoder(SIGLIP, [tmp_path]), seen)
    whole.save_pretrained(tmp_path / "one")
    assert torch.equal(found, extract_features(load_encoder(SIGLIP, [tmp_path / "one"]), seen))
    shards[1].unlink()
    refused(SIGLIP, tmp_path, shards[1].name)


def test_a_half_downloaded_file_is_refused(place: Callable[[str], Path]) -> None:
    folder = place("dinov2")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 5, 200, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        refused(DINOV2, folder, "model.safetensors")


class Bomb:
    """Pickled, it would write a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_pickles_are_not_read(place: Callable[[str], Path], tmp_path: Path) -> None:
    folder, mark = place("dinov2"), tmp_path / "exploded"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    refused(DINOV2, folder, "pytorch_model.bin", "Convert it")
    assert not mark.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert mark.exists(), "it would have"


def test_folders_that_hold_no_encoder_are_refused(place: Callable[[str], Path], tmp_path: Path) -> None:
    refused(SIGLIP, tmp_path, "no config.json")
    folder = place("siglip, tower")
    (folder / "model.safetensors").unlink()
    refused(SIGLIP, folder, "Copy model.safetensors")
    for text in ("{", "[]", ""):
        (folder / "config.json").write_text(text)
        refused(SIGLIP, folder, "wanted ")
    with pytest.raises(ModelError, match="each of 2 towers"):
        load_encoder(FusedEncoders(first=SIGLIP, second=REGISTERED), [folder])


def test_specs_that_cannot_be_are_refused() -> None:
    for changed, told in (
        ({"heads": 3}, "heads must divide"),
        ({"layers": 1}, "second-to-last"),
        ({"image_size": 3}, "one patch"),
    ):
        with pytest.raises(QuantityError, match=told):
            replace(VIT, **changed)
    with pytest.raises(QuantityError, match="one patch"):
        PatchProjectionSpec(image_size=3, patch_size=4, width=8, fit="resize")
    other = replace(SIGLIP, vit=replace(VIT, patch_size=8))
    with pytest.raises(QuantityError, match=re.escape("(16, 2, 'resize')")):
        FusedEncoders(first=SIGLIP, second=other)
    with pytest.raises(ModelError, match="multiple of its width"):
        load_encoder(
            Dinov2(vit=replace(VIT, mlp_width=33), fit="resize", registers=0, position_grid_size=4, weights=NAMED),
            [Path()],
        )
