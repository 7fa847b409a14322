"""Sampled tokens against the softmax, and their independence of other prompts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from firstsight.errors import QuantityError
from firstsight.model.generate import generate
from firstsight.model.inference import InferenceDecoder
from firstsight.model.sampling import Sampling, sampling_distribution
from tests.model.tiny_models import PLAIN_LM, PROMPTS, pack_rows, random_model, record_calls

WARM = Sampling(temperature=1.3, seed=3)


def shares_of(sampling: Sampling) -> torch.Tensor:
    """Probabilities of one prompt's next token by definition: softmax, sorted, cut."""
    model = random_model(PLAIN_LM)
    with torch.no_grad():
        logits = model.lm.logits(model(pack_rows([[PROMPTS[1]]], length=4)))[0, -1]
    shares = (logits / sampling.temperature).softmax(dim=-1)
    order = shares.argsort(descending=True).tolist()
    expected_ids = order[: sampling.top_k or len(order)]
    if sampling.top_p is not None:
        whole, total = sum(float(shares[token]) for token in expected_ids), 0.0
        for count, token in enumerate(expected_ids, start=1):
            total += float(shares[token]) / whole
            if total >= sampling.top_p:
                expected_ids = expected_ids[:count]
                break
    cut = torch.zeros_like(shares)
    cut[expected_ids] = shares[expected_ids]
    return cut / cut.sum()


@pytest.mark.parametrize(
    "sampling",
    [WARM, replace(WARM, top_k=4), replace(WARM, top_p=0.7), replace(WARM, top_k=9, top_p=0.8)],
    ids=["softmax", "top_k", "top_p", "both"],
)
def test_sampled_frequencies_match_the_softmax(sampling: Sampling) -> None:
    count = 2_000
    text = generate(random_model(PLAIN_LM), [PROMPTS[1]] * count, stop=(), max_new_tokens=1, sampling=sampling)
    drawn, expected = Counter(answer[0] for answer in text), shares_of(sampling)
    possible = [token for token in range(20) if expected[token] > 0]
    assert set(drawn) <= set(possible), "a token outside the cut was sampled"
    assert len(possible) > 2
    test = chisquare([drawn[token] for token in possible], [count * float(expected[token]) for token in possible])
    assert test.pvalue > 1e-3


def test_top_k_and_top_p_are_exact() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    for cut, expected_ids in (
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 3, 2}),
        ({"top_k": 9}, {0, 1, 2, 3}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_p": 0.71}, {1, 3, 2}),
        ({"top_p": 1.0}, {0, 1, 2, 3}),
        ({"top_k": 2, "top_p": 0.56}, {1}),  # 4/7 of what top_k left
        ({"top_k": 2, "top_p": 0.58}, {1, 3}),
    ):
        shares, ids = sampling_distribution(logits, Sampling(temperature=1.0, seed=0, **cut))
        assert ids is not None
        assert {int(token) for token, share in zip(ids[0], shares[0], strict=True) if share > 0} == expected_ids, cut


def test_samples_do_not_depend_on_other_prompts() -> None:
    model = random_model(PLAIN_LM)
    prompts = PROMPTS * 40
    together = generate(model, prompts, stop=[7], max_new_tokens=6, sampling=WARM)
    assert generate(model, prompts[:3], stop=[7], max_new_tokens=6, sampling=WARM) == together[:3]
    for number in (1, 63, 64, 159):
        alone = generate(
            model, [prompts[number]], stop=[7], max_new_tokens=6, sampling=replace(WARM, first_index=number)
        )
        assert alone == [together[number]]
    shorter = generate(model, prompts, stop=[7], max_new_tokens=4, sampling=WARM)
    assert shorter == [answer[:4] for answer in together], "samples must not depend on max_new_tokens"


def test_equal_beginnings_of_the_samples_of_a_prompt_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    extended = record_calls(monkeypatch, InferenceDecoder, "extend")
    answers = generate(random_model(PLAIN_LM), [PROMPTS[1]] * 30, stop=(), max_new_tokens=4, sampling=WARM)
    beginnings = [len({tuple(answer[:length]) for answer in answers}) for length in (1, 2, 3)]
    assert [x.shape[0] for x in extended] == [1, *beginnings]
    assert 1 < beginnings[0] < beginnings[1] < 30


def test_prompt_index_and_seed_change_samples_and_top_1_is_greedy() -> None:
    model = random_model(PLAIN_LM)
    same = generate(model, [PROMPTS[1]] * 30, stop=(), max_new_tokens=5, sampling=WARM)
    assert len({tuple(answer) for answer in same}) > 10
    assert generate(model, [PROMPTS[1]] * 30, stop=(), max_new_tokens=5, sampling=replace(WARM, seed=4)) != same
    greedy = generate(model, PROMPTS, stop=(), max_new_tokens=5)
    assert generate(model, PROMPTS, stop=(), max_new_tokens=5, sampling=replace(WARM, top_k=1)) == greedy
    assert generate(model, PROMPTS, stop=(), max_new_tokens=5, sampling=Sampling(temperature=1e-6, seed=1)) == greedy


@pytest.mark.parametrize(
    ("named", "value"), [("temperature", 0.0), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.5), ("first_index", -1)]
)
def test_invalid_sampling_is_an_error(named: str, value: float) -> None:
    with pytest.raises(QuantityError, match=named):
        replace(WARM, **{named: value})
