"""A model that trains its own encoder, prefix attention over pictures, and batches without any."""

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
from tests.model.tiny_encoders import REGISTERED, SIGLIP, registered, siglip_tower
from tests.model.tiny_models import EACH, PATCHED, PLAIN, SEEING, SHIFTED, grown, packed

SLOTS: list[int | None] = [None] * EACH
PAIR = FusedEncoders(first=SIGLIP, second=REGISTERED)
TRAINED = replace(
    SEEING,
    vision=PAIR,
    encoder="trained",
    projector=replace(SEEING.projector, pixel_shuffle=2, has_position_embeddings=False),
)
"""16 tokens a picture of 4 x 4 patches, shuffled by 2 into EACH."""
FROZEN = replace(TRAINED, encoder="frozen")
PREFIXED = replace(SEEING, lm=PLAIN, attention="prefix")
CAUSAL = replace(PREFIXED, attention="causal")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both towers of PAIR as transformers saves them."""
    made = [tmp_path_factory.mktemp("seeing") / name for name in ("siglip", "dinov2")]
    for folder, whole in zip(made, (siglip_tower(), registered()), strict=True):
        whole.save_pretrained(folder)
    return made


def pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(256, (count, 16, 16, 3), dtype=torch.uint8, generator=generator).to(DEVICE)


def given(spec: VLMSpec, folders: list[Path]) -> VLM:
    """A model with the published weights in its eyes, as training begins."""
    model = VLM(spec)
    if isinstance(model.vision, Encoder):
        model.vision.load_state_dict(load_encoder(PAIR, folders).state_dict())
    model.initialise(1)
    return model.to(DEVICE)


def frozen(folders: list[Path]) -> Encoder:
    """The published weights in eyes beside the model."""
    return load_encoder(PAIR, folders).to(DEVICE)


def test_eyes_are_part_of_the_model_only_where_they_train() -> None:
    assert isinstance(VLM(TRAINED).vision, Encoder)
    assert isinstance(VLM(PATCHED).vision, PatchProjection)
    assert VLM(FROZEN).vision is None
    names = [name for name, _ in VLM(TRAINED).named_parameters() if name.startswith("vision.")]
    assert any(name.startswith("vision.towers.1.encoder.layer.1.") for name in names)
    assert any(name == "vision.towers.0.embeddings.patch_embedding.weight" for name in names)
    with pytest.raises(QuantityError, match="always trains"):
        replace(PATCHED, encoder="trained")


def test_a_trained_encoder_begins_as_the_frozen_one(folders: list[Path]) -> None:
    own, beside, seen = given(TRAINED, folders), given(FROZEN, folders), pixels(2)
    shown = extract_features(frozen(folders), seen)
    assert torch.equal(own.encode_images(seen), beside.encode_images(shown))
    for name, parameter in beside.named_parameters():
        assert torch.equal(parameter, own.get_parameter(name)), "eyes do not move the rest's first values"


def test_first_values_leave_a_given_encoder_alone(folders: list[Path]) -> None:
    model = given(TRAINED, folders).cpu()
    model.initialise(2)
    model.initialise_vision(3)
    for name, tensor in load_encoder(PAIR, folders).state_dict().items():
        assert torch.equal(model.get_parameter(f"vision.{name}"), tensor)


def test_rows_with_pixels_are_rows_with_their_features(folders: list[Path]) -> None:
    own, beside, seen = given(TRAINED, folders).double(), given(FROZEN, folders).double(), pixels(2)
    own.lm.compute_dtype = beside.lm.compute_dtype = torch.float64
    document = [[*SLOTS, 1, 5], [7, 7], [*SLOTS, 9]]
    shown = extract_features(frozen(folders).double(), seen)
    found = own(packed([document], length=14, images=seen))
    torch.testing.assert_close(found, beside(packed([document], length=14, images=shown)))


def test_gradients_reach_every_part_of_a_trained_encoder(folders: list[Path]) -> None:
    model = given(TRAINED, folders)
    model(packed([[[*SLOTS, 1, 5]]], length=6, images=pixels(1))).square().sum().backward()
    assert model.vision is not None
    for name, parameter in model.vision.named_parameters():
        assert parameter.grad is not None, name
        if "k_proj.bias" not in name:  # softmax does not see what all scores of a query have in common
            assert parameter.grad.any(), name


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_without_images_eyes_get_zero_and_not_missing_gradients(compute: torch.dtype, folders: list[Path]) -> None:
    model = given(TRAINED, folders)
    model.lm.compute_dtype = compute
    model(packed([[[3, 1, 4], [1, 5]]], length=6)).float().square().sum().backward()
    sight = [(name, one) for name, one in model.named_parameters() if not name.startswith("lm.")]
    assert len(sight) > 50
    for name, parameter in sight:
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_narrow_products_reach_the_eyes_and_their_weights_stay_wide(folders: list[Path]) -> None:
    model, seen = given(TRAINED, folders), pixels(2)
    exact = model.encode_images(seen).float()
    products = list[torch.dtype]()
    for name, part in model.named_modules():
        if name.startswith("vision.") and isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_hook(lambda _, given, made: products.append(made.dtype))
    model.lm.compute_dtype = torch.bfloat16
    narrow = model.encode_images(seen)
    assert len(products) > 20 and set(products) == {torch.bfloat16}
    assert narrow.dtype == torch.bfloat16
    off = ((narrow.float() - exact).norm() / exact.norm()).item()
    assert 1e-4 < off < 0.1
    narrow.float().square().sum().backward()
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.dtype == torch.float32 for p in _eyes(model))


def _eyes(model: VLM) -> list[Tensor]:
    assert model.vision is not None
    return list(model.vision.parameters())


def test_built_hollow_it_is_filled_by_assignment(folders: list[Path]) -> None:
    model = given(TRAINED, folders)
    with torch.device("meta"):
        hollow = VLM(TRAINED)
    assert not [name for name, _ in hollow.named_buffers()]
    hollow.load_state_dict(model.state_dict(), assign=True)
    rows = packed([[[*SLOTS, 1, 5]]], length=6, images=pixels(1))
    assert torch.equal(hollow(rows), model(rows))


def test_a_trained_encoder_is_saved_with_the_model(folders: list[Path], tmp_path: Path) -> None:
    model, words = given(TRAINED, folders), tmp_path / "tokenizer.json"
    words.write_text("{}")
    save(tmp_path / "kept", model, tokens_seen=0, tokenizer=words, encoders=())
    loaded = load(tmp_path / "kept", device=DEVICE)
    assert loaded.encoder is None and loaded.spec == TRAINED
    rows = packed([[[*SLOTS, 1, 5]]], length=6, images=pixels(1))
    assert torch.equal(loaded.model(rows), model(rows))


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        (SEEING, torch.zeros(1, 5, 6, dtype=torch.float16)),
        (SEEING, torch.zeros(1, 4, 7, dtype=torch.float16)),
        (SEEING, torch.zeros(1, 8, 8, 3, dtype=torch.uint8)),
        (PATCHED, torch.zeros(1, 4, 4, 3, dtype=torch.uint8)),
        (TRAINED, torch.zeros(1, 17, 17, 3, dtype=torch.uint8)),
    ],
)
def test_pictures_of_another_shape_are_refused(spec: VLMSpec, wrong: Tensor) -> None:
    model = VLM(spec)
    model.initialise(0)
    with pytest.raises(ModelError, match="the model wants images of shape"):
        model.encode_images(wrong)
    assert model.encode_images(model.blank_image()).shape == (EACH, spec.lm.width)


def stream(model: VLM, documents: Any, length: int, images: Tensor) -> Tensor:
    return model(packed([documents], length=length, images=images))[0]


def changed(spec: VLMSpec, documents: Any, length: int, *, picture: int, token: int) -> list[int]:
    """Places whose states move when one feature vector of one picture does."""
    model = grown(spec)
    count = sum(each is None for text in documents for each in text) // EACH
    images = torch.randn(count, EACH, 6, generator=torch.Generator().manual_seed(8)).half()
    other = images.clone()
    other[picture, token] += 1
    one, two = (stream(model, documents, length, each) for each in (images, other))
    return (one != two).any(dim=-1).nonzero().flatten().tolist()


BEFORE, AFTER = [8, 3], [1, 5]
ONE = [[*BEFORE, *SLOTS, *AFTER]]
TWO = [[*BEFORE, *SLOTS, 7, *SLOTS, *AFTER], [9, 9]]


def test_under_prefix_a_picture_looks_ahead_in_itself() -> None:
    """Its last token moves its first; words before it stay, words behind it move; causal, only what follows moves."""
    assert changed(PREFIXED, ONE, 8, picture=0, token=3) == [2, 3, 4, 5, 6, 7]
    assert changed(CAUSAL, ONE, 8, picture=0, token=3) == [5, 6, 7]
    assert changed(CAUSAL, ONE, 8, picture=0, token=0) == [2, 3, 4, 5, 6, 7]


def test_two_pictures_of_a_document_do_not_look_ahead_into_each_other() -> None:
    second, first = [7, 8, 9, 10], [2, 3, 4, 5]
    assert changed(PREFIXED, TWO, 16, picture=1, token=3) == [*second, 11, 12]
    assert changed(PREFIXED, TWO, 16, picture=0, token=3) == [*first, 6, *second, 11, 12]
    assert changed(CAUSAL, TWO, 16, picture=1, token=3) == [10, 11, 12]


def test_neighbouring_pictures_are_two_pictures() -> None:
    """No word stands between them, and still the first does not see the second."""
    assert changed(PREFIXED, [[*SLOTS, *SLOTS, 5]], 9, picture=1, token=3) == [4, 5, 6, 7, 8]


def test_prefix_changes_pictures_and_nothing_for_words_alone() -> None:
    images = torch.randn(1, EACH, 6, generator=torch.Generator().manual_seed(8)).half()
    ahead, back = grown(PREFIXED), grown(CAUSAL)
    none = torch.zeros(0, 0, 0, dtype=torch.float16)
    assert torch.equal(stream(ahead, [[3, 1, 4, 1]], 6, none), stream(back, [[3, 1, 4, 1]], 6, none))
    one, two = (stream(model, [[*SLOTS, 5]], 5, images) for model in (ahead, back))
    assert not torch.isclose(one[0], two[0]).all()


def test_prefix_and_token_shift_agree_on_packed_rows() -> None:
    """A packed document is as in a row of its own, under prefix too."""
    spec = replace(SEEING, lm=SHIFTED, attention="prefix")
    model = grown(spec)
    images = torch.randn(2, EACH, 6, generator=torch.Generator().manual_seed(8)).half()
    first, second = [*SLOTS, 1, 5], [*SLOTS, 9, 2, 6]
    together = stream(model, [first, [7, 7], second], 16, images)
    alone = [stream(model, [first], 6, images[:1]), stream(model, [second], 7, images[1:])]
    torch.testing.assert_close(together[:6], alone[0])
    torch.testing.assert_close(together[8:15], alone[1])
