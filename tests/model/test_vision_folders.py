"""Encoder folders that are damaged or contradict the recipe: errors name the fault, nothing is unpickled."""

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
from tests.model.tiny_encoders import DINOV2, DINOV2_REGISTERS, EXTERNAL, SIGLIP, TOWERS, VIT


@pytest.fixture(scope="module")
def saved_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """The files that save_pretrained writes for each tower, by name."""
    folder = tmp_path_factory.mktemp("kept")
    for name, (_, build) in TOWERS.items():
        build().save_pretrained(folder / name)
    return lambda name: {path.name: path.read_bytes() for path in (folder / name).iterdir()}


@pytest.fixture
def copy_folder(tmp_path: Path, saved_files: Callable[[str], dict[str, bytes]]) -> Callable[[str], Path]:
    """Copies a tower's folder, to be damaged."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, data in saved_files(name).items():
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


def assert_refused(spec: TowerSpec, folder: Path, *message: str) -> None:
    with pytest.raises(ModelError) as error:
        load_encoder(spec, [folder])
    for part in message:
        assert part in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["siglip, whole", "dinov2 with registers"])
def test_every_used_tensor_is_required(name: str, copy_folder: Callable[[str], Path]) -> None:
    spec, folder = TOWERS[name][0], copy_folder(name)
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


def test_error_names_missing_extra_and_wrongly_shaped_tensors(copy_folder: Callable[[str], Path]) -> None:
    folder = copy_folder("siglip, whole")
    changed, begins = tensors(folder), "vision_model.encoder.layers.0."
    changed["vision_model.adapter.weight"] = torch.zeros(2)
    changed["prompt"] = torch.zeros(2)
    del changed[f"{begins}mlp.fc1.bias"], changed[f"{begins}layer_norm1.weight"]
    changed[f"{begins}mlp.fc2.weight"] = torch.zeros(16, 31)
    changed[f"{begins}mlp.fc2.bias"] = torch.zeros(16, dtype=torch.int8)
    write(folder, changed)
    assert_refused(
        SIGLIP,
        folder,
        "missing: encoder.layers.0.layer_norm1.weight, encoder.layers.0.mlp.fc1.bias",
        "extra: prompt, vision_model.adapter.weight",
        "fc2.weight wanted [16, 32] got [16, 31]",
        "fc2.bias wanted [16] got [16] torch.int8",
    )


def test_tensor_under_two_names_is_an_error(copy_folder: Callable[[str], Path]) -> None:
    folder = copy_folder("siglip, whole")
    changed = tensors(folder)
    name = "embeddings.patch_embedding.bias"
    changed[name] = changed[f"vision_model.{name}"].clone()
    write(folder, changed)
    assert_refused(SIGLIP, folder, "extra: ", name)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
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
        ("siglip, tower", {"model_type": "siglip2"}, "'siglip2'"),
    ],
)
def test_config_that_contradicts_the_recipe_is_an_error(
    name: str, changed: dict[str, Any], message: str, copy_folder: Callable[[str], Path]
) -> None:
    folder = copy_folder(name)
    configure(folder, **changed)
    assert_refused(TOWERS[name][0], folder, message)


def test_another_family_is_an_error(copy_folder: Callable[[str], Path]) -> None:
    assert_refused(SIGLIP, copy_folder("dinov2"), "encoder wanted siglip got dinov2")
    assert_refused(DINOV2_REGISTERS, copy_folder("siglip, tower"), "encoder wanted dinov2 got siglip")


def test_missing_config_settings_are_transformers_defaults(copy_folder: Callable[[str], Path]) -> None:
    """Oracle: the vision_config of google/siglip-base-patch16-224 contains the model type only."""
    folder = copy_folder("siglip, whole")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}})
    )
    actual = encoder_spec(folder, "base", "resize")
    assert actual.vit == ViTSpec(layers=12, width=768, heads=12, mlp_width=3072, image_size=224, patch_size=16)


def test_sizes_may_be_pairs(copy_folder: Callable[[str], Path]) -> None:
    folder = copy_folder("siglip, tower")
    configure(folder, image_size=[16, 16], patch_size=[4, 4])
    assert encoder_spec(folder, "tower", "resize") == SIGLIP


@pytest.mark.parametrize(
    ("name", "message", "fault"),
    [
        ("siglip, tower", {"image_mean": [0.485, 0.456, 0.406]}, "image_mean"),
        ("siglip, tower", {"image_std": [0.5, 0.5]}, "image_std"),
        ("dinov2", {"image_std": [0.5, 0.5, 0.5]}, "image_std"),
        ("dinov2", {"do_normalize": False}, "do_normalize"),
        ("dinov2", {"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ("dinov2", {"resample": 2}, "resample"),
    ],
)
def test_processor_with_other_settings_is_an_error(
    name: str, message: dict[str, Any], fault: str, copy_folder: Callable[[str], Path]
) -> None:
    folder = copy_folder(name)
    (folder / "preprocessor_config.json").write_text(json.dumps(message))
    assert_refused(TOWERS[name][0], folder, fault)
    with pytest.raises(ModelError, match=fault):
        encoder_spec(folder, "tower", "resize")


def test_processors_of_transformers_are_accepted(copy_folder: Callable[[str], Path]) -> None:
    """Oracle: the configs that transformers' processors of both families save."""
    bit = pytest.importorskip("transformers.models.bit.image_processing_pil_bit").BitImageProcessorPil
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip").SiglipImageProcessorPil
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    for name, processor in (("siglip, tower", siglip()), ("dinov2", bit(image_mean=mean, image_std=deviation))):
        folder = copy_folder(name)
        processor.save_pretrained(folder)
        assert (folder / "preprocessor_config.json").is_file()
        load_encoder(TOWERS[name][0], [folder])


def test_sharded_folder_loads_and_missing_shard_is_an_error(tmp_path: Path) -> None:
    whole = TOWERS["siglip, tower"][1]()
    whole.save_pretrained(tmp_path, max_shard_size="8KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    images = torch.arange(2 * 16 * 16 * 3).remainder(256).to(torch.uint8).view(2, 16, 16, 3)
    actual = extract_features(load_encoder(SIGLIP, [tmp_path]), images)
    whole.save_pretrained(tmp_path / "one")
    assert torch.equal(actual, extract_features(load_encoder(SIGLIP, [tmp_path / "one"]), images))
    shards[1].unlink()
    assert_refused(SIGLIP, tmp_path, shards[1].name)


def test_truncated_file_is_an_error(copy_folder: Callable[[str], Path]) -> None:
    folder = copy_folder("dinov2")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 5, 200, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert_refused(DINOV2, folder, "model.safetensors")


class PickleWithSideEffect:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, side_effect: Path) -> None:
        self.mark = side_effect

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_pickles_are_not_loaded(copy_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder, side_effect = copy_folder("dinov2"), tmp_path / "exploded"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(PickleWithSideEffect(side_effect)))
    assert_refused(DINOV2, folder, "pytorch_model.bin", "Convert it")
    assert not side_effect.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert side_effect.exists(), "the pickle must work, or the test proves nothing"


def test_folders_without_encoder_are_errors(copy_folder: Callable[[str], Path], tmp_path: Path) -> None:
    assert_refused(SIGLIP, tmp_path, "no config.json")
    folder = copy_folder("siglip, tower")
    (folder / "model.safetensors").unlink()
    assert_refused(SIGLIP, folder, "Copy model.safetensors")
    for text in ("{", "[]", ""):
        (folder / "config.json").write_text(text)
        assert_refused(SIGLIP, folder, "wanted ")
    with pytest.raises(ModelError, match="each of 2 towers"):
        load_encoder(FusedEncoders(first=SIGLIP, second=DINOV2_REGISTERS), [folder])


def test_invalid_specs_are_errors() -> None:
    for changed, message in (
        ({"heads": 3}, "heads must divide"),
        ({"layers": 1}, "second-to-last"),
        ({"image_size": 3}, "one patch"),
    ):
        with pytest.raises(QuantityError, match=message):
            replace(VIT, **changed)
    with pytest.raises(QuantityError, match="one patch"):
        PatchProjectionSpec(image_size=3, patch_size=4, width=8, fit="resize")
    coarse = replace(SIGLIP, vit=replace(VIT, patch_size=8))
    with pytest.raises(QuantityError, match=re.escape("(16, 2, 'resize')")):
        FusedEncoders(first=SIGLIP, second=coarse)
    with pytest.raises(ModelError, match="multiple of its width"):
        load_encoder(
            Dinov2(vit=replace(VIT, mlp_width=33), fit="resize", registers=0, position_grid_size=4, weights=EXTERNAL),
            [Path()],
        )
