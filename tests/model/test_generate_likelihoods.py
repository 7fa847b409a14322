"""Likelihoods of choices with a shared context against those of whole rows."""

from __future__ import annotations

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model import generate as generate_module
from firstsight.model.generate import continuation_likelihoods, generate, generate_and_score
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


REFERENCES = [[[4, 4], [5], [1, 2, 3]], [], [[6]], [[1, 2, 3], [1, 2, 7]]]
STOP = (11, 12)
KEYS = [[1, 2**64 - 1], [3], [], [1]]


@pytest.mark.parametrize("tokens", [1 << 16, 1], ids=["at once", "one row at a time"])
@pytest.mark.parametrize(
    "spec",
    [PLAIN_LM, SHIFTED_LM, LLAMA_LM, FEATURE_VLM, PREFIX_VLM],
    ids=["openlm", "token shift", "llama", "images", "prefix"],
)
def test_answers_and_likelihoods_of_one_prefill_equal_those_of_calls_of_their_own(
    spec: LMSpec | VLMSpec, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The likelihood of a reference is summed over the stop tokens that may follow it."""
    monkeypatch.setattr(generate_module, "MAX_BATCH_TOKENS", tokens)
    model, has_images = random_model(spec), isinstance(spec, VLMSpec)
    prompts, images = (IMAGE_PROMPTS, prompt_images()) if has_images else (PROMPTS, [None] * 4)
    settings = {"continuations": REFERENCES, "sample_keys": KEYS, "stop": STOP, "max_new_tokens": 6}
    results = generate_and_score(model, prompts, images, **settings)
    assert [result.tokens for result in results] == generate(model, prompts, images, stop=STOP, max_new_tokens=6)
    for prompt, image, references, result in zip(prompts, images, REFERENCES, results, strict=True):
        endings = [[*reference, token] for reference in references for token in STOP]
        repeated = [image] * len(endings) if has_images else None
        likelihoods = continuation_likelihoods(model, [prompt] * len(endings), endings, repeated)
        values = torch.tensor([row.log_likelihood for row in likelihoods], dtype=torch.float64)
        assert result.log_likelihoods == pytest.approx(values.view(-1, 2).logsumexp(1).tolist(), rel=1e-9)
    assert [len(result.samples) for result in results] == [len(keys) for keys in KEYS]
    again = generate_and_score(
        model, prompts[3:], images[3:], **{**settings, "continuations": [[]], "sample_keys": [[1]]}
    )
    assert again[0].samples == results[3].samples, "a sample depends on its prompt and key alone"


def test_samples_have_the_models_distribution() -> None:
    """Frequencies of 4,000 samples of one token against its softmax, within five standard errors."""
    model, count = random_model(SHIFTED_LM), 4000
    settings = {"continuations": [[]], "sample_keys": [list(range(count))], "stop": (), "max_new_tokens": 1}
    [result] = generate_and_score(model, [[3, 1, 4]], **settings)
    frequencies = torch.bincount(torch.tensor(result.samples).flatten(), minlength=20) / count
    tokens = continuation_likelihoods(model, [[3, 1, 4]] * 20, [[token] for token in range(20)])
    expected = torch.tensor([item.log_likelihood for item in tokens]).exp()
    assert ((frequencies - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt()).all()


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
