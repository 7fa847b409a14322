"""Packed rows: a document's hidden states do not depend on its neighbours, its row or the padding."""

from __future__ import annotations

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, VLMSpec
from tests.conftest import DEVICE
from tests.model.tiny_models import FEATURE_VLM, IMAGE_TOKENS, PATCH_VLM, PLAIN_LM, SHIFTED_LM, pack_rows, random_model

SLOTS: list[int | None] = [None] * IMAGE_TOKENS


def random_images(count: int, spec: VLMSpec) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    if spec is PATCH_VLM:
        return torch.randint(256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return torch.randn(count, IMAGE_TOKENS, 6, generator=generator).half()


@pytest.mark.parametrize("spec", [PLAIN_LM, SHIFTED_LM], ids=["openlm", "token shift"])
def test_packed_documents_equal_single_rows(spec: LMSpec) -> None:
    model = random_model(spec)
    texts = [[3, 1, 4], [1, 5, 9, 2], [6, 5]]
    together = model(pack_rows([texts], length=12))[0]
    alone = [model(pack_rows([[text]], length=len(text)))[0] for text in texts]
    torch.testing.assert_close(together[:9], torch.cat(alone))
    assert together.isfinite().all(), "padding must stay finite"


@pytest.mark.parametrize("spec", [FEATURE_VLM, PATCH_VLM], ids=["features", "patches"])
def test_packed_images_equal_single_rows(spec: VLMSpec) -> None:
    model, images = random_model(spec), random_images(2, spec)
    first, second = [*SLOTS, 1, 5], [*SLOTS, 9, 2, 6]
    together = model(pack_rows([[first, [7, 7], second]], length=16, images=images))[0]
    alone = [model(pack_rows([[first]], length=6, images=images[:1]))[0]]
    alone += [model(pack_rows([[[7, 7]]], length=2))[0]]
    alone += [model(pack_rows([[second]], length=7, images=images[1:]))[0]]
    torch.testing.assert_close(together[:15], torch.cat(alone))


@pytest.mark.parametrize("spec", [FEATURE_VLM, PATCH_VLM], ids=["features", "patches"])
def test_image_changes_later_tokens_only(spec: VLMSpec) -> None:
    model, images = random_model(spec), random_images(2, spec)
    rows = [pack_rows([[[8, 8, *SLOTS, 3]]], length=7, images=image[None]) for image in images]
    left, right = (model(row)[0] for row in rows)
    assert torch.equal(left[:2], right[:2])
    assert not torch.isclose(left[6], right[6]).all()


@pytest.mark.parametrize("spec", [FEATURE_VLM, PATCH_VLM], ids=["features", "patches"])
def test_without_images_vision_gradients_are_zero_and_decoder_bits_are_the_text_models(spec: VLMSpec) -> None:
    model, text = VLM(spec), VLM(spec.lm)
    model.initialise(3)
    text.initialise(3)
    model, text = model.to(DEVICE), text.to(DEVICE)
    rows = pack_rows([[[3, 1, 4], [1, 5]]], length=6)
    for module in (model, text):
        module.lm.logits(module(rows)).square().mean().backward()
    text_parameters = dict(text.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name in text_parameters:
            text_grad = text_parameters[name].grad
            assert text_grad is not None, name
            assert torch.equal(parameter, text_parameters[name]), name
            assert torch.equal(parameter.grad, text_grad), name
        else:
            assert not parameter.grad.any(), name


def test_images_for_a_text_model_are_an_error() -> None:
    with pytest.raises(ModelError, match="text-only model"):
        random_model(PLAIN_LM)(pack_rows([[[*SLOTS, 1]]], length=5, images=random_images(1, FEATURE_VLM)))
