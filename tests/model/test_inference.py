"""The inference decoder and its cache against the model without a cache."""

from __future__ import annotations

import pytest
import torch

from firstsight.model.generate import generate
from firstsight.model.inference import InferenceDecoder, empty_cache, inference_decoder, prepare_linear
from tests.conftest import DEVICE
from tests.model.tiny_models import (
    LLAMA,
    PLAIN,
    grown,
    packed,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_with_a_cache_are_logits_without_one(dtype: torch.dtype) -> None:
    """In both precisions, in which weights are laid out anew on a CPU."""
    model = grown(LLAMA, dtype=torch.float32)
    row: list[int | None] = [3, 1, 4, 1, 5, 9, 2, 6]
    with torch.no_grad():
        exact = model.lm.logits(model(packed([[row]], length=8)))
        model.lm.compute_dtype = dtype
        plain = model.lm.logits(model(packed([[row]], length=8)))
        reader = InferenceDecoder(model.lm, 8)
        cache = empty_cache(model.lm, 1, 8)
        ids = torch.tensor([row], device=DEVICE)
        parts = [reader.extend(model.lm.embed(ids[:, a:b]), None, cache) for a, b in ((0, 4), (4, 5), (5, 8))]
        found = reader.logits(torch.cat(parts, dim=1))
    assert found.dtype == torch.float32
    rounding = (plain - exact).abs().max() if dtype == torch.bfloat16 else torch.tensor(1e-4)
    assert (found - exact).abs().max() <= 2 * rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_product_is_the_linear_map(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(33, 20, generator=generator), torch.randn(3, 5, 20, generator=generator)
    exact = x.to(dtype).double() @ weight.to(dtype).double().T
    found = prepare_linear(weight, dtype)(x.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


def test_what_was_made_ready_is_used_until_a_weight_changes() -> None:
    model = grown(PLAIN, dtype=torch.float32).requires_grad_(False)
    first = inference_decoder(model.lm, 8)
    assert inference_decoder(model.lm, 6) is first
    assert inference_decoder(model.lm, 9) is not first
    before = generate(model, [[1, 2, 3]], stop=(), max_new_tokens=3)
    other = grown(PLAIN, seed=1, dtype=torch.float32)
    model.load_state_dict(other.state_dict())
    assert (
        before
        != generate(model, [[1, 2, 3]], stop=(), max_new_tokens=3)
        == generate(other, [[1, 2, 3]], stop=(), max_new_tokens=3)
    )
    held = inference_decoder(model.lm, 8)
    model.lm.compute_dtype = torch.float64
    assert inference_decoder(model.lm.double(), 8) is not held


def test_a_model_in_training_is_read_as_it_is_now() -> None:
    model = grown(PLAIN, dtype=torch.float32)
    generate(model, [[1, 2, 3]], stop=(), max_new_tokens=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    optimizer.step()
    other = grown(PLAIN, dtype=torch.float32)
    other.load_state_dict(model.state_dict())
    assert generate(model, [[1, 2, 3]], stop=(), max_new_tokens=3) == generate(
        other, [[1, 2, 3]], stop=(), max_new_tokens=3
    )
