"""Encoder towers and patch projection against transformers' models and their definitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from firstsight.model.vision import (
    Encoder,
    PatchProjection,
    encoder_spec,
    extract_features,
    extract_fixed,
    load_encoder,
    normalize_pixels,
)
from firstsight.recipe.vision import (
    Clip,
    Dinov2,
    Dinov3,
    EncoderSpec,
    FusedEncoders,
    PatchProjectionSpec,
    Siglip,
    TowerSpec,
)
from tests.conftest import DEVICE
from tests.model.tiny_encoders import (
    CLIP,
    DINOV2,
    DINOV2_REGISTERS,
    DINOV3,
    EXTERNAL,
    SIGLIP,
    TOWERS,
    siglip_vision_model,
    vision_tower,
)

SavedTowers = Mapping[str, tuple[nn.Module, Path]]


@pytest.fixture(scope="module")
def saved_towers(tmp_path_factory: pytest.TempPathFactory) -> SavedTowers:
    """transformers' models with random weights, and their saved folders."""
    saved = dict[str, tuple[nn.Module, Path]]()
    for name, (_, build) in TOWERS.items():
        folder, whole = tmp_path_factory.mktemp("towers") / name, build()
        whole.save_pretrained(folder)
        saved[name] = (whole.to(DEVICE).eval(), folder)
    return saved


def pixels(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=generator).to(DEVICE)


def loaded(spec: EncoderSpec, *folders: Path) -> Encoder:
    return load_encoder(spec, folders).to(DEVICE)


def transformers_features(whole: nn.Module, spec: TowerSpec, images: Tensor) -> Tensor:
    """hidden_states[-2] of transformers, without class token and registers."""
    tower = vision_tower(whole)
    with torch.no_grad():
        values = normalize_pixels(images, mean=spec.mean, std=spec.std)
        hidden = tower(pixel_values=values, output_hidden_states=True).hidden_states[-2]
    prefix = 1 + spec.registers if isinstance(spec, (Dinov2, Dinov3)) else int(isinstance(spec, Clip))
    return hidden[:, prefix:]


@pytest.mark.parametrize("name", TOWERS)
def test_features_equal_second_to_last_hidden_states_of_transformers(name: str, saved_towers: SavedTowers) -> None:
    (spec, _), (whole, folder) = TOWERS[name], saved_towers[name]
    encoder, images = loaded(spec, folder), pixels(3, spec.image_size)
    actual = extract_features(encoder, images)
    assert torch.equal(actual, transformers_features(whole, spec, images))
    assert actual.shape == (3, spec.tokens, spec.width)
    assert actual.std() > 0.1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.sampled_from((SIGLIP, DINOV2_REGISTERS)))
@settings(max_examples=20)
def test_fixed_batches_give_an_image_the_same_bits_in_any_batch(images: list[int], spec: TowerSpec) -> None:
    torch.manual_seed(0)
    encoder = Encoder(replace(spec, vit=replace(spec.vit, width=spec.vit.heads * 32))).eval()
    pixels = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    alone = torch.cat([extract_fixed(encoder, image[None]) for image in pixels])
    assert torch.equal(extract_fixed(encoder, pixels[images]), alone[images])
    torch.testing.assert_close(alone, extract_features(encoder, pixels))


def test_features_of_two_towers_are_concatenated_in_order(saved_towers: SavedTowers) -> None:
    first, second = saved_towers["siglip, tower"], saved_towers["dinov2 with registers"]
    images = pixels(2, 16)
    left, right = (
        transformers_features(whole, spec, images) for (whole, _), spec in ((first, SIGLIP), (second, DINOV2_REGISTERS))
    )
    joined = loaded(FusedEncoders(first=SIGLIP, second=DINOV2_REGISTERS), first[1], second[1])
    assert torch.equal(extract_features(joined, images), torch.cat((left, right), -1))
    swapped = loaded(FusedEncoders(first=DINOV2_REGISTERS, second=SIGLIP), second[1], first[1])
    assert torch.equal(extract_features(swapped, images), torch.cat((right, left), -1))


@pytest.mark.parametrize("name", TOWERS)
def test_loaded_encoder_is_frozen_and_has_no_dropout(name: str, saved_towers: SavedTowers) -> None:
    spec, folder = TOWERS[name][0], saved_towers[name][1]
    encoder = loaded(spec, folder)
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
    assert all(p.dtype == torch.float32 and not p.is_meta for p in encoder.parameters())
    assert not list(encoder.buffers())
    images = pixels(2, spec.image_size)
    assert not extract_features(encoder, images).requires_grad
    assert torch.equal(encoder.train()(images), encoder.eval()(images)), "no dropout, even in training mode"


@pytest.mark.parametrize("name", TOWERS)
def test_parameter_names_are_those_of_transformers_without_unused_parts(name: str, saved_towers: SavedTowers) -> None:
    (spec, _), (whole, _) = TOWERS[name], saved_towers[name]
    with torch.device("meta"):
        meta_encoder = Encoder(spec)
    published_shapes = {
        f"towers.0.{key.replace('model.layer.', 'encoder.layer.')}": value.shape
        for key, value in vision_tower(whole).state_dict().items()
    }
    parameters = {key: value.shape for key, value in meta_encoder.state_dict().items()}
    assert parameters.items() <= published_shapes.items()
    unused = published_shapes.keys() - parameters.keys()
    last = spec.vit.layers - 1
    unused_parts = (f".{last}.", ".head.", ".post_layernorm.", "towers.0.layernorm.", "towers.0.norm.", "mask_token")
    assert all(any(mark in key for mark in unused_parts) for key in unused)


@pytest.mark.parametrize("name", TOWERS)
def test_meta_encoder_takes_assigned_weights(name: str, saved_towers: SavedTowers) -> None:
    spec, folder = TOWERS[name][0], saved_towers[name][1]
    with torch.device("meta"):
        meta_encoder = Encoder(spec)
    assert all(tensor.is_meta for tensor in meta_encoder.state_dict().values())
    encoder = loaded(spec, folder)
    meta_encoder.load_state_dict(encoder.state_dict(), assign=True)
    images = pixels(2, spec.image_size)
    assert torch.equal(extract_features(meta_encoder, images), extract_features(encoder, images))


@pytest.mark.parametrize("name", TOWERS)
def test_parameter_counts_match_built_towers(name: str) -> None:
    spec = TOWERS[name][0]
    with torch.device("meta"):
        built = Encoder(spec)
    assert sum(parameter.numel() for parameter in built.parameters()) == spec.parameters()


@pytest.mark.parametrize(
    "spec",
    [SIGLIP, DINOV2, DINOV2_REGISTERS, DINOV3, CLIP, FusedEncoders(first=SIGLIP, second=DINOV2_REGISTERS)],
    ids=repr,
)
def test_flops_match_torchs_counter(spec: Siglip | Dinov2 | FusedEncoders) -> None:
    images = pixels(3, spec.image_size)
    encoder = Encoder(spec).to(DEVICE).eval()
    for tower in encoder.towers:
        tower.encoder.config._attn_implementation = "eager"  # type: ignore[union-attr]
    with FlopCounterMode(display=False) as counter:
        extract_features(encoder, images)
    assert counter.get_total_flops() == 3 * spec.flops()


def test_flops_and_parameters_of_patch_projection() -> None:
    spec = PatchProjectionSpec(image_size=23, patch_size=5, width=7, fit="resize")
    built = PatchProjection(spec).to(DEVICE)
    with FlopCounterMode(display=False) as counter:
        assert built(pixels(2, 23)).shape == (2, 16, 7)
    assert counter.get_total_flops() == 2 * spec.flops()
    assert sum(parameter.numel() for parameter in built.parameters()) == spec.parameters()


def test_every_parameter_of_a_trained_encoder_gets_a_gradient() -> None:
    encoder = Encoder(FusedEncoders(first=SIGLIP, second=DINOV2_REGISTERS)).to(DEVICE)
    encoder(pixels(2, 16)).square().sum().backward()
    idle = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert not idle


@pytest.mark.parametrize(
    ("spec", "tolerance"),
    [(SIGLIP, 0.0), (PatchProjectionSpec(image_size=8, patch_size=4, width=5, fit="resize"), 0.0), (DINOV2, 1e-6)],
)
def test_normalized_pixels_match_the_processor_for_every_byte(spec: Any, tolerance: float) -> None:
    all_bytes = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    actual = normalize_pixels(all_bytes.to(DEVICE), mean=spec.mean, std=spec.std).cpu()
    constants = [torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (spec.mean, spec.std)]
    expected = (all_bytes.permute(0, 3, 1, 2).double() / 255 - constants[0]) / constants[1]
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-6)
    if not tolerance:
        assert torch.equal(actual, all_bytes.permute(0, 3, 1, 2).float() / 127.5 - 1), "the formula of earlier versions"


def test_patch_projection_is_a_linear_map_of_each_patch() -> None:
    layer = PatchProjection(PatchProjectionSpec(image_size=8, patch_size=4, width=5, fit="resize")).to(DEVICE).double()
    images = pixels(2, 8)
    actual = layer(images)
    for row in range(2):
        for column in range(2):
            square = normalize_pixels(images, torch.float64)[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            expected = square.flatten(1) @ layer.conv.weight.flatten(1).T
            torch.testing.assert_close(actual[:, 2 * row + column], expected)


@pytest.mark.parametrize("name", TOWERS)
def test_encoder_spec_of_a_folder(name: str, saved_towers: SavedTowers) -> None:
    spec, folder = TOWERS[name][0], saved_towers[name][1]
    actual = encoder_spec(folder, "tower", "letterbox")
    expected_vit = (
        replace(spec.vit, image_size=spec.position_grid_size * spec.vit.patch_size)
        if isinstance(spec, Dinov2)
        else spec.vit
    )
    assert actual == replace(spec, vit=expected_vit, fit="letterbox", weights=EXTERNAL)


@pytest.mark.parametrize(("name", "tower"), [("dinov2", DINOV2), ("dinov3", DINOV3)])
def test_dino_accepts_any_image_size(name: str, tower: Dinov2 | Dinov3, saved_towers: SavedTowers) -> None:
    whole, folder = saved_towers[name]
    for image in (8, 12, 15, 28):
        spec = replace(tower, vit=replace(tower.vit, image_size=image))
        images = pixels(2, image)
        assert torch.equal(extract_features(loaded(spec, folder), images), transformers_features(whole, spec, images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_files_load_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = siglip_vision_model().to(dtype)
    whole.save_pretrained(tmp_path)
    encoder, images = loaded(SIGLIP, tmp_path), pixels(2, 16)
    assert torch.equal(
        extract_features(encoder, images), transformers_features(whole.to(DEVICE).float().eval(), SIGLIP, images)
    )
    assert all(parameter.dtype == torch.float32 for parameter in encoder.parameters())
