"""Encoder towers and trained patches against transformers' own models and against what they are defined to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from firstsight.model.vision import (
    Encoder,
    PatchProjection,
    encoder_spec,
    extract_features,
    load_encoder,
    normalize_pixels,
)
from firstsight.recipe.vision import Dinov2, EncoderSpec, FusedEncoders, PatchProjectionSpec, Siglip, TowerSpec
from tests.conftest import DEVICE
from tests.model.tiny_encoders import DINOV2, NAMED, REGISTERED, SIGLIP, TOWERS, siglip_tower, vision_of

Saved = Mapping[str, tuple[nn.Module, Path]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """transformers' models with random weights, and the folders that save_pretrained makes of them."""
    made = dict[str, tuple[nn.Module, Path]]()
    for name, (_, build) in TOWERS.items():
        folder, whole = tmp_path_factory.mktemp("towers") / name, build()
        whole.save_pretrained(folder)
        made[name] = (whole.to(DEVICE).eval(), folder)
    return made


def pixels(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=generator).to(DEVICE)


def loaded(spec: EncoderSpec, *folders: Path) -> Encoder:
    return load_encoder(spec, folders).to(DEVICE)


def published(whole: nn.Module, spec: TowerSpec, seen: Tensor) -> Tensor:
    """What transformers calls hidden_states[-2], without class token and registers."""
    tower = vision_of(whole)
    with torch.no_grad():
        values = normalize_pixels(seen, mean=spec.mean, std=spec.std)
        hidden = tower(pixel_values=values, output_hidden_states=True).hidden_states[-2]
    return hidden[:, 1 + spec.registers :] if isinstance(spec, Dinov2) else hidden


@pytest.mark.parametrize("name", TOWERS)
def test_features_are_transformers_second_to_last_hidden_states(name: str, saved: Saved) -> None:
    (spec, _), (whole, folder) = TOWERS[name], saved[name]
    encoder, seen = loaded(spec, folder), pixels(3, spec.image_size)
    found = extract_features(encoder, seen)
    assert torch.equal(found, published(whole, spec, seen))
    assert found.shape == (3, spec.tokens, spec.width)
    assert found.std() > 0.1


def test_two_towers_stand_side_by_side_in_their_order(saved: Saved) -> None:
    first, second = saved["siglip, tower"], saved["dinov2 with registers"]
    seen = pixels(2, 16)
    one, other = (published(whole, spec, seen) for (whole, _), spec in ((first, SIGLIP), (second, REGISTERED)))
    ahead = loaded(FusedEncoders(first=SIGLIP, second=REGISTERED), first[1], second[1])
    assert torch.equal(extract_features(ahead, seen), torch.cat((one, other), -1))
    behind = loaded(FusedEncoders(first=REGISTERED, second=SIGLIP), second[1], first[1])
    assert torch.equal(extract_features(behind, seen), torch.cat((other, one), -1))


@pytest.mark.parametrize("name", TOWERS)
def test_a_loaded_encoder_is_frozen_and_sees_no_chance(name: str, saved: Saved) -> None:
    spec, folder = TOWERS[name][0], saved[name][1]
    encoder = loaded(spec, folder)
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
    assert all(p.dtype == torch.float32 and not p.is_meta for p in encoder.parameters())
    assert not list(encoder.buffers())
    seen = pixels(2, spec.image_size)
    assert not extract_features(encoder, seen).requires_grad
    assert torch.equal(encoder.train()(seen), encoder.eval()(seen)), "no dropout, in training neither"


@pytest.mark.parametrize("name", TOWERS)
def test_names_are_those_of_transformers_and_only_what_runs_is_built(name: str, saved: Saved) -> None:
    (spec, _), (whole, _) = TOWERS[name], saved[name]
    with torch.device("meta"):
        hollow = Encoder(spec)
    theirs = {f"towers.0.{key}": value.shape for key, value in vision_of(whole).state_dict().items()}
    ours = {key: value.shape for key, value in hollow.state_dict().items()}
    assert ours.items() <= theirs.items()
    unused = theirs.keys() - ours.keys()
    last = spec.vit.layers - 1
    marks = (f".{last}.", ".head.", ".post_layernorm.", "towers.0.layernorm.", "mask_token")
    assert all(any(mark in key for mark in marks) for key in unused)


@pytest.mark.parametrize("name", TOWERS)
def test_what_is_on_the_meta_device_is_filled_by_assignment(name: str, saved: Saved) -> None:
    spec, folder = TOWERS[name][0], saved[name][1]
    with torch.device("meta"):
        hollow = Encoder(spec)
    assert all(one.is_meta for one in hollow.state_dict().values())
    encoder = loaded(spec, folder)
    hollow.load_state_dict(encoder.state_dict(), assign=True)
    seen = pixels(2, spec.image_size)
    assert torch.equal(extract_features(hollow, seen), extract_features(encoder, seen))


@pytest.mark.parametrize("name", TOWERS)
def test_counts_are_those_of_the_built_tower(name: str) -> None:
    spec = TOWERS[name][0]
    with torch.device("meta"):
        built = Encoder(spec)
    assert sum(parameter.numel() for parameter in built.parameters()) == spec.parameters()


@pytest.mark.parametrize("spec", [SIGLIP, DINOV2, REGISTERED, FusedEncoders(first=SIGLIP, second=REGISTERED)], ids=repr)
def test_flops_are_counted_in_its_products(spec: Siglip | Dinov2 | FusedEncoders) -> None:
    seen = pixels(3, spec.image_size)
    encoder = Encoder(spec).to(DEVICE).eval()
    for tower in encoder.towers:
        tower.encoder.config._attn_implementation = "eager"  # type: ignore[union-attr]
    with FlopCounterMode(display=False) as counter:
        extract_features(encoder, seen)
    assert counter.get_total_flops() == 3 * spec.flops()


def test_flops_and_parameters_of_patches() -> None:
    spec = PatchProjectionSpec(image_size=23, patch_size=5, width=7, fit="resize")
    built = PatchProjection(spec).to(DEVICE)
    with FlopCounterMode(display=False) as counter:
        assert built(pixels(2, 23)).shape == (2, 16, 7)
    assert counter.get_total_flops() == 2 * spec.flops()
    assert sum(parameter.numel() for parameter in built.parameters()) == spec.parameters()


def test_every_parameter_of_a_trained_encoder_gets_a_gradient() -> None:
    encoder = Encoder(FusedEncoders(first=SIGLIP, second=REGISTERED)).to(DEVICE)
    encoder(pixels(2, 16)).square().sum().backward()
    idle = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert not idle


@pytest.mark.parametrize(
    ("spec", "worst"),
    [(SIGLIP, 0.0), (PatchProjectionSpec(image_size=8, patch_size=4, width=5, fit="resize"), 0.0), (DINOV2, 1e-6)],
)
def test_every_byte_is_scaled_as_the_processor_does(spec: Any, worst: float) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    found = normalize_pixels(every.to(DEVICE), mean=spec.mean, std=spec.std).cpu()
    told = [torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (spec.mean, spec.std)]
    wanted = (every.permute(0, 3, 1, 2).double() / 255 - told[0]) / told[1]
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)
    if not worst:
        assert torch.equal(found, every.permute(0, 3, 1, 2).float() / 127.5 - 1), "what older runs saw"


def test_patches_are_one_linear_map_of_each_square() -> None:
    layer = PatchProjection(PatchProjectionSpec(image_size=8, patch_size=4, width=5, fit="resize")).to(DEVICE).double()
    seen = pixels(2, 8)
    found = layer(seen)
    for row in range(2):
        for column in range(2):
            square = normalize_pixels(seen, torch.float64)[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            wanted = square.flatten(1) @ layer.conv.weight.flatten(1).T
            torch.testing.assert_close(found[:, 2 * row + column], wanted)


@pytest.mark.parametrize("name", TOWERS)
def test_a_folder_says_its_own_spec(name: str, saved: Saved) -> None:
    spec, folder = TOWERS[name][0], saved[name][1]
    found = encoder_spec(folder, "tower", "letterbox")
    own = (
        replace(spec.vit, image_size=spec.position_grid_size * spec.vit.patch_size)
        if isinstance(spec, Dinov2)
        else spec.vit
    )
    assert found == replace(spec, vit=own, fit="letterbox", weights=NAMED)


def test_a_dinov2_may_be_shown_pictures_of_any_size(saved: Saved) -> None:
    whole, folder = saved["dinov2"]
    for image in (8, 12, 15, 28):
        spec = replace(DINOV2, vit=replace(DINOV2.vit, image_size=image))
        seen = pixels(2, image)
        assert torch.equal(extract_features(loaded(spec, folder), seen), published(whole, spec, seen))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_files_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = siglip_tower().to(dtype)
    whole.save_pretrained(tmp_path)
    encoder, seen = loaded(SIGLIP, tmp_path), pixels(2, 16)
    assert torch.equal(extract_features(encoder, seen), published(whole.to(DEVICE).float().eval(), SIGLIP, seen))
    assert all(parameter.dtype == torch.float32 for parameter in encoder.parameters())
