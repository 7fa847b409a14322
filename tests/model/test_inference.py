"""The inference decoder and its cache against the model without a cache."""

from __future__ import annotations

import pytest
import torch

from firstsight.model import inference
from firstsight.model.generate import generate
from firstsight.model.inference import InferenceDecoder, empty_cache, inference_decoder, prepare_linear
from tests.conftest import DEVICE
from tests.model.tiny_models import (
    LLAMA_LM,
    PLAIN_LM,
    pack_rows,
    random_model,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_with_cache_equal_logits_without(dtype: torch.dtype) -> None:
    """In both dtypes whose weights are laid out anew on a CPU."""
    model = random_model(LLAMA_LM, dtype=torch.float32)
    row: list[int | None] = [3, 1, 4, 1, 5, 9, 2, 6]
    with torch.no_grad():
        exact = model.lm.logits(model(pack_rows([[row]], length=8)))
        model.lm.compute_dtype = dtype
        plain = model.lm.logits(model(pack_rows([[row]], length=8)))
        reader = InferenceDecoder(model.lm, 8)
        cache = empty_cache(model.lm, 1, 8)
        ids = torch.tensor([row], device=DEVICE)
        parts = [reader.extend(model.lm.embed(ids[:, a:b]), None, cache) for a, b in ((0, 4), (4, 5), (5, 8))]
        actual = reader.logits(torch.cat(parts, dim=1))
    assert actual.dtype == torch.float32
    rounding = (plain - exact).abs().max() if dtype == torch.bfloat16 else torch.tensor(1e-4)
    assert (actual - exact).abs().max() <= 2 * rounding


@pytest.mark.parametrize("rows", [(3, 5), (1, 1), (40, 1), (15,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_prepare_linear_multiplies_by_the_weight(
    dtype: torch.dtype, rows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For few and many rows, and with a weight in blocks, the last of which is not full."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(33, 20, generator=generator), torch.randn(*rows, 20, generator=generator)
    exact = x.to(dtype).double() @ weight.to(dtype).double().T
    for largest in (33 * 20, 33 * 20 - 1):
        monkeypatch.setattr(inference, "MAX_WHOLE_WEIGHT", largest)
        monkeypatch.setattr(inference, "BLOCK_OUTPUTS", 8)
        actual = prepare_linear(weight, dtype)(x.to(dtype))
        assert actual.dtype == dtype
        assert torch.allclose(actual.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


def test_decoder_is_reused_until_a_weight_changes() -> None:
    model = random_model(PLAIN_LM, dtype=torch.float32).requires_grad_(False)
    first = inference_decoder(model.lm, 8)
    assert inference_decoder(model.lm, 6) is first
    assert inference_decoder(model.lm, 9) is not first
    before = generate(model, [[1, 2, 3]], stop=(), max_new_tokens=3)
    changed = random_model(PLAIN_LM, seed=1, dtype=torch.float32)
    model.load_state_dict(changed.state_dict())
    assert (
        before
        != generate(model, [[1, 2, 3]], stop=(), max_new_tokens=3)
        == generate(changed, [[1, 2, 3]], stop=(), max_new_tokens=3)
    )
    cached = inference_decoder(model.lm, 8)
    model.lm.compute_dtype = torch.float64
    assert inference_decoder(model.lm.double(), 8) is not cached


def test_trainable_model_uses_current_weights() -> None:
    model = random_model(PLAIN_LM, dtype=torch.float32)
    generate(model, [[1, 2, 3]], stop=(), max_new_tokens=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    optimizer.step()
    changed = random_model(PLAIN_LM, dtype=torch.float32)
    changed.load_state_dict(model.state_dict())
    assert generate(model, [[1, 2, 3]], stop=(), max_new_tokens=3) == generate(
        changed, [[1, 2, 3]], stop=(), max_new_tokens=3
    )
