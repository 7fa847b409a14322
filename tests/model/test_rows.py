"""Laws of packed rows: a document's numbers do not depend on its neighbours, its row or the padding."""

from __future__ import annotations

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from tests.conftest import DEVICE
from tests.model.tiny_models import EACH, PATCHED, PLAIN, SEEING, SHIFTED, grown, packed

SLOTS: list[int | None] = [None] * EACH


def pictures(count: int, spec: VLMSpec) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    if spec is PATCHED:
        return torch.randint(256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return torch.randn(count, EACH, 6, generator=generator).half()


@pytest.mark.parametrize("spec", [PLAIN, SHIFTED], ids=["openlm", "token shift"])
def test_packed_documents_are_as_in_rows_of_their_own(spec: LMSpec) -> None:
    model = grown(spec)
    texts = [[3, 1, 4], [1, 5, 9, 2], [6, 5]]
    together = model(packed([texts], length=12))[0]
    alone = [model(packed([[text]], length=len(text)))[0] for text in texts]
    torch.testing.assert_close(together[:9], torch.cat(alone))
    assert together.isfinite().all(), "padding must stay finite"


@pytest.mark.parametrize("spec", [SEEING, PATCHED], ids=["features", "patches"])
def test_packed_pictures_are_as_in_rows_of_their_own(spec: VLMSpec) -> None:
    model, images = grown(spec), pictures(2, spec)
    first, second = [*SLOTS, 1, 5], [*SLOTS, 9, 2, 6]
    together = model(packed([[first, [7, 7], second]], length=16, images=images))[0]
    alone = [model(packed([[first]], length=6, images=images[:1]))[0]]
    alone += [model(packed([[[7, 7]]], length=2))[0]]
    alone += [model(packed([[second]], length=7, images=images[1:]))[0]]
    torch.testing.assert_close(together[:15], torch.cat(alone))


@pytest.mark.parametrize("spec", [SEEING, PATCHED], ids=["features", "patches"])
def test_words_after_a_picture_see_it_and_words_before_do_not(spec: VLMSpec) -> None:
    model, images = grown(spec), pictures(2, spec)
    rows = [packed([[[8, 8, *SLOTS, 3]]], length=7, images=image[None]) for image in images]
    one, other = (model(row)[0] for row in rows)
    assert torch.equal(one[:2], other[:2])
    assert not torch.isclose(one[6], other[6]).all()


@pytest.mark.parametrize("spec", [SEEING, PATCHED], ids=["features", "patches"])
def test_without_images_sight_has_zero_gradients_and_words_the_text_models_bits(spec: VLMSpec) -> None:
    model, text = VLM(spec), VLM(spec.lm)
    model.initialise(3)
    text.initialise(3)
    model, text = model.to(DEVICE), text.to(DEVICE)
    rows = packed([[[3, 1, 4], [1, 5]]], length=6)
    for each in (model, text):
        each.lm.logits(each(rows)).square().mean().backward()
    plain = dict(text.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name in plain:
            theirs = plain[name].grad
            assert theirs is not None, name
            assert torch.equal(parameter, plain[name]), name
            assert torch.equal(parameter.grad, theirs), name
        else:
            assert not parameter.grad.any(), name


def test_a_text_model_refuses_pictures() -> None:
    with pytest.raises(ModelError, match="text-only model"):
        grown(PLAIN)(packed([[[*SLOTS, 1]]], length=5, images=pictures(1, SEEING)))
