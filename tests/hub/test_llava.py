"""Llava folders: configurations of other publishers, tensor names of all versions, settings that are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import firstsight.hub.hf_classes  # noqa: F401
from firstsight.errors import ModelError
from firstsight.hub import llava
from firstsight.recipe.model import VLMSpec
from tests.hub.checkpoints import (
    LLAVA,
    import_weights,
)
from tests.model.tiny_models import random_model


@pytest.mark.parametrize("value", ["x", [3], True, 0, -1], ids=repr)
@pytest.mark.parametrize("name", ["text_config", "vision_config", "hidden_size", "patch_size", "num_attention_heads"])
def test_a_llavas_settings_of_the_wrong_kind_are_refused(name: str, value: Any) -> None:
    expected = llava.llava_config(LLAVA)
    change = {"vision_config": expected["vision_config"] | {name: value}}
    if name.endswith("config"):
        change = {name: value}
    if value == 0 and name == "text_config":
        return  # nothing expected: the sizes are missing, as another test says
    with pytest.raises(ModelError):
        llava.llava_spec(expected | change)


@pytest.mark.parametrize(
    "expected", [{}, {"type": "x"}, {"type": "Rope", "base": 1.0}, {"type": "LMSpec"}, 3], ids=repr
)
def test_an_export_without_a_spec_says_so(tmp_path: Path, expected: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": llava.SPEC_KEY, llava.SPEC_KEY: expected}))
    save_file({"one": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{tmp_path}: config\.json: firstsight: wanted"):
        import_weights(tmp_path, tmp_path / "out")


def test_a_published_llava_is_read_with_a_trained_tower() -> None:
    expected = llava.llava_config(LLAVA)
    assert llava.llava_spec(expected) == replace(LLAVA, encoder="included", vision=renamed_vision(LLAVA))
    with_last_block = expected | {
        "vision_feature_layer": -2,
        "vision_config": expected["vision_config"] | {"num_hidden_layers": 3},
    }
    assert llava.llava_spec(with_last_block) == llava.llava_spec(expected)
    changes: dict[str, Mapping[str, Any]] = {
        "vision_feature_select_strategy": {"vision_feature_select_strategy": "default"},
        "siglip_vision_model": {"vision_config": {"model_type": "clip_vision_model"}},
        "one negative number": {"vision_feature_layer": [-2, -3]},
        "projector_hidden_act": {"projector_hidden_act": "relu"},
    }
    for message, change in changes.items():
        with pytest.raises(ModelError, match=message):
            llava.llava_spec(expected | change)


def renamed_vision(spec: VLMSpec) -> Any:
    """The vision of a spec with the weights' name that a folder of others gets."""
    vision: Any = spec.vision
    return replace(vision, weights=replace(vision.weights, name="llava"))


def test_tensors_of_newer_and_whole_llavas_are_read() -> None:
    spec = replace(LLAVA, encoder="included")
    original = dict(random_model(spec, dtype=torch.float32).state_dict())
    exported = llava.to_llava(original, spec)
    newer_names = {
        "model."
        + name.replace("language_model.model.", "language_model.").replace(
            "vision_tower.vision_model.", "vision_tower."
        ): t
        for name, t in exported.items()
        if "lm_head" not in name
    }
    newer_names |= {"lm_head.weight": exported["language_model.lm_head.weight"]}
    newer_names |= {
        "model.vision_tower.encoder.layers.2.mlp.fc1.bias": torch.ones(16),
        "model.vision_tower.head.probe": torch.ones(1),
    }
    for expected in (exported, newer_names):
        back = llava.from_llava(expected, spec)
        assert back.keys() == original.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in original.items())
    with pytest.raises(ModelError, match=r"image_newline"):
        llava.from_llava(exported | {"image_newline": torch.ones(1)}, spec)
