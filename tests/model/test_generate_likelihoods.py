"""Likelihoods of choices whose context is read once, against reading every whole row."""

from __future__ import annotations

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model import generate as module
from firstsight.model.generate import continuation_likelihoods
from firstsight.model.inference import InferenceDecoder
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from tests.model.tiny_models import (
    EACH,
    LLAMA,
    PLAIN,
    PREFIX,
    PROMPTS,
    SEEING,
    SEEN,
    SHIFTED,
    counting,
    grown,
    images,
    packed,
)

OFFERED = [[4, 4], [5], [1, 2, 3], [1, 2, 7], []]


@pytest.mark.parametrize("states", [512, 2], ids=["at once", "few logits at a time"])
@pytest.mark.parametrize(
    "spec", [PLAIN, SHIFTED, LLAMA, SEEING, PREFIX], ids=["openlm", "token shift", "llama", "pictures", "prefix"]
)
def test_likelihoods_are_those_of_whole_rows(
    spec: LMSpec | VLMSpec, states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOGIT_STATES", states)
    model = grown(spec)
    sees = isinstance(spec, VLMSpec)
    contexts = [context for context in (SEEN if sees else PROMPTS) for _ in OFFERED]
    shown = [image for image in images() for _ in OFFERED] if sees else [None] * len(contexts)
    found = continuation_likelihoods(model, contexts, OFFERED * 4, shown if sees else None)
    for context, continuation, image, likelihood in zip(contexts, OFFERED * 4, shown, found, strict=True):
        row: list[int | None] = [*context, *continuation]
        if image is not None:
            row[:EACH] = [None] * EACH
        logits = model.lm.logits(model(packed([[row]], length=len(row), images=None if image is None else image[None])))
        likely = logits[0].log_softmax(dim=-1)
        wanted = sum(likely[len(context) - 1 + n, token].item() for n, token in enumerate(continuation))
        assert likelihood.log_likelihood == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        assert likelihood.token_count == len(continuation)


def test_likelihoods_of_all_next_tokens_sum_to_one() -> None:
    found = continuation_likelihoods(grown(SHIFTED), [[3, 1, 4]] * 20, [[token] for token in range(20)])
    assert sum(torch.tensor(one.log_likelihood).exp().item() for one in found) == pytest.approx(1)


def test_a_context_is_read_once_and_so_are_choices_that_part_at_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read = counting(monkeypatch, InferenceDecoder, "extend")
    contexts = [PROMPTS[2]] * 5 + [PROMPTS[1]] * 5
    continuation_likelihoods(grown(LLAMA), [list(context) for context in contexts], OFFERED * 2)
    assert [tuple(x.shape[:2]) for x in read] == [(2, 6), (4, 2)]


def test_nothing_asked_is_nothing_found_and_a_context_needs_a_token() -> None:
    assert continuation_likelihoods(grown(PLAIN), [], []) == []
    with pytest.raises(ModelError, match="Got 0 tokens"):
        continuation_likelihoods(grown(PLAIN), [[]], [[1]])
