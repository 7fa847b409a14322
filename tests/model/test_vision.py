"""The frozen tower and the trained patches against what they are defined to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model.vision import PatchProjection, features, load_encoder, load_siglip, scaled
from firstsight.recipe.mix import Named
from firstsight.recipe.vision import Patches, Siglip, Vit
from firstsight.units import Tokens


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=8
    )
    SiglipVisionModel(config).save_pretrained(folder)
    return folder


VIT = Vit(layers=3, width=16, heads=2, hidden=32, image=16, patch=8)


def pixels(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def test_pixels_are_scaled_as_the_processor_does() -> None:
    found = scaled(pixels(2, 4))
    wanted = (pixels(2, 4).permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.5
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)


def test_features_are_the_second_to_last_blocks(tower: Path) -> None:
    spec = Siglip(vit=VIT, fit="resize", weights=Named(name="tower", form="encoder", tokens=Tokens(0)))
    whole, encoder, seen = load_siglip(tower), load_encoder(spec, [tower]), pixels(2, 16)
    inner = whole.vision_model if hasattr(whole, "vision_model") else whole
    x = inner.embeddings(scaled(seen))
    for layer in list(inner.encoder.layers)[:-1]:
        x = layer(x, attention_mask=None)
    found = features(encoder, seen)
    torch.testing.assert_close(found, x[0] if isinstance(x, tuple) else x)
    assert found.shape == (2, 4, 16)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_folders_that_are_no_siglip_are_refused(tower: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_siglip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ModelError, match="'clip'"):
        load_siglip(tmp_path)


def test_patches_are_one_linear_map_of_each_square() -> None:
    layer = PatchProjection(Patches(image=8, patch=4, width=5, fit="resize")).double()
    seen = pixels(2, 8)
    found = layer(seen)
    for row in range(2):
        for column in range(2):
            square = scaled(seen, torch.float64)[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            wanted = square.flatten(1) @ layer.conv.weight.flatten(1).T
            torch.testing.assert_close(found[:, 2 * row + column], wanted)
