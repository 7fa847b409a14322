"""Decoding with a cache against reading everything anew; many prompts at once against one at a time."""

from __future__ import annotations

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model.generate import choices, greedy
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import LMSpec
from tests.model.rows import EACH, PLAIN, SEEING, SHIFTED, grown, packed

PROMPTS = [[3], [1, 4, 1, 5], [9, 2, 6, 5, 3, 5], [8, 9]]
SEEN = [[0] * EACH + [7], [1, 4], [0] * EACH + [9, 2, 6], [0] * EACH]


def images() -> list[torch.Tensor | None]:
    drawn = torch.randn(3, EACH, 6, generator=torch.Generator().manual_seed(2)).half()
    return [drawn[0], None, drawn[1], drawn[2]]


def read_anew(model: VLM, prompt: list[int], image: torch.Tensor | None, count: int) -> list[int]:
    """Greedy tokens without any cache: the whole row again for every token."""
    row: list[int | None] = list(prompt)
    if image is not None:
        row[:EACH] = [None] * EACH
    for _ in range(count):
        batch = packed([[row]], length=len(row), images=None if image is None else image[None])
        row.append(int(model.lm.logits(model(batch))[0, -1].argmax()))
    return [token for token in row[len(prompt) :] if token is not None]


@pytest.mark.parametrize("spec", [PLAIN, SHIFTED], ids=["openlm", "token shift"])
def test_cached_decoding_says_what_reading_anew_says(spec: LMSpec) -> None:
    model = grown(spec)
    wanted = [read_anew(model, prompt, None, 6) for prompt in PROMPTS]
    assert greedy(model, PROMPTS, stop=set(), limit=6) == wanted
    assert len({tuple(answer) for answer in wanted}) > 1, "prompts that all end alike prove nothing"


def test_pictures_take_their_places_in_cached_decoding() -> None:
    model = grown(SEEING)
    wanted = [read_anew(model, prompt, image, 5) for prompt, image in zip(SEEN, images(), strict=True)]
    assert greedy(model, SEEN, images(), stop=set(), limit=5, batch=3) == wanted


def test_a_batch_says_what_each_prompt_says_alone() -> None:
    model = grown(SHIFTED)
    alone = [greedy(model, [prompt], stop={5}, limit=6)[0] for prompt in PROMPTS]
    for batch in (2, 64):
        assert greedy(model, PROMPTS, stop={5}, limit=6, batch=batch) == alone


def test_an_answer_ends_before_its_first_stop_token() -> None:
    model = grown(PLAIN)
    free = greedy(model, PROMPTS, stop=set(), limit=8)
    stop = free[1][3]
    ended = greedy(model, PROMPTS, stop={stop}, limit=8)
    assert ended == [answer[: answer.index(stop)] if stop in answer else answer for answer in free]


def test_likelihoods_are_sums_over_the_continuations_own_tokens() -> None:
    model = grown(SEEING)
    more = [[4, 4], [5], [1, 2, 3], [6]]
    found = choices(model, SEEN, more, images(), batch=3)
    for prompt, continuation, image, likelihood in zip(SEEN, more, images(), found, strict=True):
        row: list[int | None] = [*prompt, *continuation]
        if image is not None:
            row[:EACH] = [None] * EACH
        logits = model.lm.logits(model(packed([[row]], length=len(row), images=None if image is None else image[None])))
        shares = logits[0].softmax(dim=-1)
        wanted = sum(shares[len(prompt) - 1 + n, token].log().item() for n, token in enumerate(continuation))
        assert likelihood.total == pytest.approx(wanted)
        assert likelihood.tokens == len(continuation)


def test_likelihoods_of_all_next_tokens_sum_to_one() -> None:
    model = grown(SHIFTED)
    found = choices(model, [[3, 1, 4]] * 20, [[token] for token in range(20)])
    assert sum(torch.tensor(one.total).exp().item() for one in found) == pytest.approx(1)


def test_prompts_without_room_are_refused() -> None:
    with pytest.raises(ModelError, match="4 places"):
        greedy(grown(SEEING), [[0, 0]], [torch.zeros(EACH, 6).half()], stop=set(), limit=1)
    with pytest.raises(ModelError, match="Got 0 tokens"):
        greedy(grown(PLAIN), [[]], stop=set(), limit=1)
