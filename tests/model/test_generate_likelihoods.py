"""Likelihoods of choices with a shared context against those of whole rows."""

from __future__ import annotations

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model import generate as generate_module
from firstsight.model.generate import continuation_likelihoods
from firstsight.model.inference import InferenceDecoder
from firstsight.recipe.model import LMSpec, VLMSpec
from tests.model.tiny_models import (
    FEATURE_VLM,
    IMAGE_PROMPTS,
    IMAGE_TOKENS,
    LLAMA_LM,
    PLAIN_LM,
    PREFIX_VLM,
    PROMPTS,
    SHIFTED_LM,
    pack_rows,
    prompt_images,
    random_model,
    record_calls,
)

CHOICES = [[4, 4], [5], [1, 2, 3], [1, 2, 7], []]


@pytest.mark.parametrize("states", [512, 2], ids=["at once", "few logits at a time"])
@pytest.mark.parametrize(
    "spec",
    [PLAIN_LM, SHIFTED_LM, LLAMA_LM, FEATURE_VLM, PREFIX_VLM],
    ids=["openlm", "token shift", "llama", "images", "prefix"],
)
def test_likelihoods_equal_those_of_whole_rows(
    spec: LMSpec | VLMSpec, states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate_module, "MAX_LOGIT_STATES", states)
    model = random_model(spec)
    has_images = isinstance(spec, VLMSpec)
    contexts = [context for context in (IMAGE_PROMPTS if has_images else PROMPTS) for _ in CHOICES]
    row_images = [image for image in prompt_images() for _ in CHOICES] if has_images else [None] * len(contexts)
    actual = continuation_likelihoods(model, contexts, CHOICES * 4, row_images if has_images else None)
    for context, continuation, image, likelihood in zip(contexts, CHOICES * 4, row_images, actual, strict=True):
        row: list[int | None] = [*context, *continuation]
        if image is not None:
            row[:IMAGE_TOKENS] = [None] * IMAGE_TOKENS
        logits = model.lm.logits(
            model(pack_rows([[row]], length=len(row), images=None if image is None else image[None]))
        )
        log_probs = logits[0].log_softmax(dim=-1)
        expected = sum(log_probs[len(context) - 1 + n, token].item() for n, token in enumerate(continuation))
        assert likelihood.log_likelihood == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert likelihood.token_count == len(continuation)


def test_likelihoods_of_all_next_tokens_sum_to_one() -> None:
    actual = continuation_likelihoods(random_model(SHIFTED_LM), [[3, 1, 4]] * 20, [[token] for token in range(20)])
    assert sum(torch.tensor(item.log_likelihood).exp().item() for item in actual) == pytest.approx(1)


def test_context_and_shared_prefixes_of_choices_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    extended = record_calls(monkeypatch, InferenceDecoder, "extend")
    contexts = [PROMPTS[2]] * 5 + [PROMPTS[1]] * 5
    continuation_likelihoods(random_model(LLAMA_LM), [list(context) for context in contexts], CHOICES * 2)
    assert [tuple(x.shape[:2]) for x in extended] == [(2, 6), (4, 2)]


def test_no_contexts_give_no_likelihoods_and_empty_context_is_an_error() -> None:
    assert continuation_likelihoods(random_model(PLAIN_LM), [], []) == []
    with pytest.raises(ModelError, match="Got 0 tokens"):
        continuation_likelihoods(random_model(PLAIN_LM), [[]], [[1]])
