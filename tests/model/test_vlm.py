"""The VLM: included encoders, prefix attention over images, batches without images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from firstsight.errors import ModelError, QuantityError
from firstsight.model.checkpoint_io import load, save
from firstsight.model.vision import Encoder, PatchProjection, extract_features, load_encoder
from firstsight.model.vlm import VLM
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import FusedEncoders
from tests.conftest import DEVICE
from tests.model.tiny_encoders import DINOV2_REGISTERS, SIGLIP, dinov2_registers_model, siglip_vision_model
from tests.model.tiny_models import FEATURE_VLM, IMAGE_TOKENS, PATCH_VLM, PLAIN_LM, SHIFTED_LM, pack_rows, random_model

SLOTS: list[int | None] = [None] * IMAGE_TOKENS
PAIR = FusedEncoders(first=SIGLIP, second=DINOV2_REGISTERS)
INCLUDED = replace(
    FEATURE_VLM,
    vision=PAIR,
    encoder="included",
    projector=replace(FEATURE_VLM.projector, pixel_shuffle=2, has_position_embeddings=False),
)
"""16 tokens an image of 4 x 4 patches, pixel-shuffled by 2 into IMAGE_TOKENS."""
EXTERNAL = replace(INCLUDED, encoder="external")
PREFIXED = replace(FEATURE_VLM, lm=PLAIN_LM, attention="prefix")
CAUSAL = replace(PREFIXED, attention="causal")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of both towers of PAIR."""
    paths = [tmp_path_factory.mktemp("seeing") / name for name in ("siglip", "dinov2")]
    for folder, whole in zip(paths, (siglip_vision_model(), dinov2_registers_model()), strict=True):
        whole.save_pretrained(folder)
    return paths


def pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(256, (count, 16, 16, 3), dtype=torch.uint8, generator=generator).to(DEVICE)


def initial_vlm(spec: VLMSpec, folders: list[Path]) -> VLM:
    """A model at the start of training, a trained encoder with the published weights."""
    model = VLM(spec)
    if isinstance(model.vision, Encoder):
        model.vision.load_state_dict(load_encoder(PAIR, folders).state_dict())
    model.initialise(1)
    return model.to(DEVICE)


def load_frozen(folders: list[Path]) -> Encoder:
    """A frozen encoder with the published weights."""
    return load_encoder(PAIR, folders).to(DEVICE)


def test_vision_module_is_part_of_the_model_only_if_included() -> None:
    assert isinstance(VLM(INCLUDED).vision, Encoder)
    assert isinstance(VLM(PATCH_VLM).vision, PatchProjection)
    assert VLM(EXTERNAL).vision is None
    names = [name for name, _ in VLM(INCLUDED).named_parameters() if name.startswith("vision.")]
    assert any(name.startswith("vision.towers.1.encoder.layer.1.") for name in names)
    assert any(name == "vision.towers.0.embeddings.patch_embedding.weight" for name in names)
    with pytest.raises(QuantityError, match="trains with the projector"):
        replace(PATCH_VLM, encoder="included")


def test_trained_encoder_starts_equal_to_the_frozen_one(folders: list[Path]) -> None:
    trained, frozen_vlm, pixel_batch = initial_vlm(INCLUDED, folders), initial_vlm(EXTERNAL, folders), pixels(2)
    features = extract_features(load_frozen(folders), pixel_batch)
    assert torch.equal(trained.encode_images(pixel_batch), frozen_vlm.encode_images(features))
    for name, parameter in frozen_vlm.named_parameters():
        assert torch.equal(parameter, trained.get_parameter(name)), "the encoder must not change other initial values"


def test_initialise_does_not_change_an_encoder(folders: list[Path]) -> None:
    model = initial_vlm(INCLUDED, folders).cpu()
    model.initialise(2)
    model.initialise_vision(3)
    for name, tensor in load_encoder(PAIR, folders).state_dict().items():
        assert torch.equal(model.get_parameter(f"vision.{name}"), tensor)


def test_rows_with_pixels_equal_rows_with_features(folders: list[Path]) -> None:
    trained, frozen_vlm, pixel_batch = (
        initial_vlm(INCLUDED, folders).double(),
        initial_vlm(EXTERNAL, folders).double(),
        pixels(2),
    )
    trained.lm.compute_dtype = frozen_vlm.lm.compute_dtype = torch.float64
    document = [[*SLOTS, 1, 5], [7, 7], [*SLOTS, 9]]
    features = extract_features(load_frozen(folders).double(), pixel_batch)
    actual = trained(pack_rows([document], length=14, images=pixel_batch))
    torch.testing.assert_close(actual, frozen_vlm(pack_rows([document], length=14, images=features)))


def test_gradients_reach_every_part_of_a_trained_encoder(folders: list[Path]) -> None:
    model = initial_vlm(INCLUDED, folders)
    model(pack_rows([[[*SLOTS, 1, 5]]], length=6, images=pixels(1))).square().sum().backward()
    assert model.vision is not None
    for name, parameter in model.vision.named_parameters():
        assert parameter.grad is not None, name
        if "k_proj.bias" not in name:  # softmax does not see what all scores of a query have in common
            assert parameter.grad.any(), name


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_without_images_vision_gradients_are_zero_not_missing(compute: torch.dtype, folders: list[Path]) -> None:
    model = initial_vlm(INCLUDED, folders)
    model.lm.compute_dtype = compute
    model(pack_rows([[[3, 1, 4], [1, 5]]], length=6)).float().square().sum().backward()
    vision_parameters = [(name, left) for name, left in model.named_parameters() if not name.startswith("lm.")]
    assert len(vision_parameters) > 50
    for name, parameter in vision_parameters:
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_encoder_runs_in_compute_dtype_with_float32_weights(folders: list[Path]) -> None:
    model, pixel_batch = initial_vlm(INCLUDED, folders), pixels(2)
    exact = model.encode_images(pixel_batch).float()
    products = list[torch.dtype]()
    for name, part in model.named_modules():
        if name.startswith("vision.") and isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_hook(lambda _, initial_vlm, paths: products.append(paths.dtype))
    model.lm.compute_dtype = torch.bfloat16
    narrow = model.encode_images(pixel_batch)
    assert len(products) > 20 and set(products) == {torch.bfloat16}
    assert narrow.dtype == torch.bfloat16
    off = ((narrow.float() - exact).norm() / exact.norm()).item()
    assert 1e-4 < off < 0.1
    narrow.float().square().sum().backward()
    assert all(
        p.dtype == torch.float32 and p.grad is not None and p.grad.dtype == torch.float32
        for p in _vision_outputs(model)
    )


def _vision_outputs(model: VLM) -> list[Tensor]:
    assert model.vision is not None
    return list(model.vision.parameters())


def test_meta_model_takes_assigned_weights(folders: list[Path]) -> None:
    model = initial_vlm(INCLUDED, folders)
    with torch.device("meta"):
        hollow = VLM(INCLUDED)
    assert not [name for name, _ in hollow.named_buffers()]
    hollow.load_state_dict(model.state_dict(), assign=True)
    rows = pack_rows([[[*SLOTS, 1, 5]]], length=6, images=pixels(1))
    assert torch.equal(hollow(rows), model(rows))


def test_trained_encoder_is_saved_with_the_model(folders: list[Path], tmp_path: Path) -> None:
    model, words = initial_vlm(INCLUDED, folders), tmp_path / "tokenizer.json"
    words.write_text("{}")
    save(tmp_path / "kept", model, tokens_seen=0, tokenizer=words, encoders=())
    loaded = load(tmp_path / "kept", device=DEVICE)
    assert loaded.encoder is None and loaded.spec == INCLUDED
    rows = pack_rows([[[*SLOTS, 1, 5]]], length=6, images=pixels(1))
    assert torch.equal(loaded.model(rows), model(rows))


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        (FEATURE_VLM, torch.zeros(1, 5, 6, dtype=torch.float16)),
        (FEATURE_VLM, torch.zeros(1, 4, 7, dtype=torch.float16)),
        (FEATURE_VLM, torch.zeros(1, 8, 8, 3, dtype=torch.uint8)),
        (PATCH_VLM, torch.zeros(1, 4, 4, 3, dtype=torch.uint8)),
        (INCLUDED, torch.zeros(1, 17, 17, 3, dtype=torch.uint8)),
    ],
)
def test_images_of_another_shape_are_an_error(spec: VLMSpec, wrong: Tensor) -> None:
    model = VLM(spec)
    model.initialise(0)
    with pytest.raises(ModelError, match="the model wants images of shape"):
        model.encode_images(wrong)
    assert model.encode_images(model.blank_image()).shape == (IMAGE_TOKENS, spec.lm.width)


def hidden_states(model: VLM, documents: Any, length: int, images: Tensor) -> Tensor:
    return model(pack_rows([documents], length=length, images=images))[0]


def moved_positions(spec: VLMSpec, documents: Any, length: int, *, image: int, token: int) -> list[int]:
    """Positions whose hidden states change with one feature vector of one image."""
    model = random_model(spec)
    count = sum(entry is None for text in documents for entry in text) // IMAGE_TOKENS
    images = torch.randn(count, IMAGE_TOKENS, 6, generator=torch.Generator().manual_seed(8)).half()
    right = images.clone()
    right[image, token] += 1
    left, two = (hidden_states(model, documents, length, entry) for entry in (images, right))
    return (left != two).any(dim=-1).nonzero().flatten().tolist()


TEXT_BEFORE, TEXT_AFTER = [8, 3], [1, 5]
ONE_IMAGE = [[*TEXT_BEFORE, *SLOTS, *TEXT_AFTER]]
TWO_IMAGES = [[*TEXT_BEFORE, *SLOTS, 7, *SLOTS, *TEXT_AFTER], [9, 9]]


def test_prefix_attention_is_bidirectional_within_an_image() -> None:
    """The last image token affects the first; with causal attention only later positions."""
    assert moved_positions(PREFIXED, ONE_IMAGE, 8, image=0, token=3) == [2, 3, 4, 5, 6, 7]
    assert moved_positions(CAUSAL, ONE_IMAGE, 8, image=0, token=3) == [5, 6, 7]
    assert moved_positions(CAUSAL, ONE_IMAGE, 8, image=0, token=0) == [2, 3, 4, 5, 6, 7]


def test_prefix_attention_is_causal_between_images() -> None:
    second, first = [7, 8, 9, 10], [2, 3, 4, 5]
    assert moved_positions(PREFIXED, TWO_IMAGES, 16, image=1, token=3) == [*second, 11, 12]
    assert moved_positions(PREFIXED, TWO_IMAGES, 16, image=0, token=3) == [*first, 6, *second, 11, 12]
    assert moved_positions(CAUSAL, TWO_IMAGES, 16, image=1, token=3) == [10, 11, 12]


def test_adjacent_images_are_separate() -> None:
    """Without text between them the first image still does not attend to the second."""
    assert moved_positions(PREFIXED, [[*SLOTS, *SLOTS, 5]], 9, image=1, token=3) == [4, 5, 6, 7, 8]


def test_prefix_attention_changes_rows_with_images_only() -> None:
    images = torch.randn(1, IMAGE_TOKENS, 6, generator=torch.Generator().manual_seed(8)).half()
    prefix, causal = random_model(PREFIXED), random_model(CAUSAL)
    none = torch.zeros(0, 0, 0, dtype=torch.float16)
    assert torch.equal(hidden_states(prefix, [[3, 1, 4, 1]], 6, none), hidden_states(causal, [[3, 1, 4, 1]], 6, none))
    left, two = (hidden_states(model, [[*SLOTS, 5]], 5, images) for model in (prefix, causal))
    assert not torch.isclose(left[0], two[0]).all()


def test_packed_images_equal_single_rows_with_prefix_and_token_shift() -> None:
    """Packed documents equal single rows with prefix attention and token shift."""
    spec = replace(FEATURE_VLM, lm=SHIFTED_LM, attention="prefix")
    model = random_model(spec)
    images = torch.randn(2, IMAGE_TOKENS, 6, generator=torch.Generator().manual_seed(8)).half()
    first, second = [*SLOTS, 1, 5], [*SLOTS, 9, 2, 6]
    together = hidden_states(model, [first, [7, 7], second], 16, images)
    alone = [hidden_states(model, [first], 6, images[:1]), hidden_states(model, [second], 7, images[1:])]
    torch.testing.assert_close(together[:6], alone[0])
    torch.testing.assert_close(together[8:15], alone[1])
