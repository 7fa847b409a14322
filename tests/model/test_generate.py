"""Decoding with a cache against reading everything anew; many prompts at once against one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from firstsight.errors import ModelError, QuantityError
from firstsight.model.generate import generate
from firstsight.model.inference import InferenceDecoder
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from tests.model.tiny_models import (
    EACH,
    LLAMA,
    PATCHED,
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


def read_anew(model: VLM, prompt: list[int], image: Tensor | None, count: int) -> list[int]:
    """Greedy tokens without any cache: the whole row again for every token."""
    row: list[int | None] = list(prompt)
    if image is not None:
        row[:EACH] = [None] * EACH
    for _ in range(count):
        batch = packed([[row]], length=len(row), images=None if image is None else image[None])
        row.append(int(model.lm.logits(model(batch))[0, -1].argmax()))
    return [token for token in row[len(prompt) :] if token is not None]


@pytest.mark.parametrize("spec", [PLAIN, SHIFTED, LLAMA], ids=["openlm", "token shift", "llama"])
def test_cached_decoding_says_what_reading_anew_says(spec: LMSpec) -> None:
    model = grown(spec)
    wanted = [read_anew(model, prompt, None, 6) for prompt in PROMPTS]
    assert generate(model, PROMPTS, stop=(), max_new_tokens=6) == wanted
    assert len({tuple(answer) for answer in wanted}) > 1, "prompts that all end alike prove nothing"


@pytest.mark.parametrize("spec", [SEEING, PREFIX, PATCHED], ids=["features", "prefix attention", "pixels"])
def test_pictures_take_their_places_in_cached_decoding(spec: VLMSpec) -> None:
    model, seen = grown(spec), images(spec)
    wanted = [read_anew(model, prompt, image, 5) for prompt, image in zip(SEEN, seen, strict=True)]
    assert generate(model, SEEN, seen, stop=(), max_new_tokens=5) == wanted


@pytest.mark.parametrize("spec", [SHIFTED, LLAMA], ids=["token shift", "llama"])
def test_a_batch_says_what_each_prompt_says_alone(spec: LMSpec) -> None:
    model = grown(spec)
    prompts = [[*prompt, extra] for prompt in PROMPTS for extra in range(17)]
    some = range(0, len(prompts), 5)
    alone = [generate(model, [prompts[n]], stop=[5], max_new_tokens=6)[0] for n in some]
    together = generate(model, prompts, stop=[5], max_new_tokens=6)
    assert [together[n] for n in some] == alone
    assert len({len(answer) for answer in together}) > 2, "rows that all end together never leave"


def test_an_answer_ends_before_its_first_stop() -> None:
    """Ids and sequences, those that straddle steps too; the longest of those that end together is left out."""
    model = grown(PLAIN)
    free = generate(model, PROMPTS, stop=(), max_new_tokens=8)
    said = free[1]
    assert generate(model, PROMPTS, stop={said[3]}, max_new_tokens=8) == [
        answer[: answer.index(said[3])] if said[3] in answer else answer for answer in free
    ]
    start = next(at for at in range(1, 6) if said[at : at + 3] not in [said[n : n + 3] for n in range(at)])
    three = tuple(said[start : start + 3])
    assert generate(model, [PROMPTS[1]], stop=[three], max_new_tokens=8) == [said[:start]]
    assert generate(model, [PROMPTS[1]], stop=[three[1:], three], max_new_tokens=8)[0] in (
        said[:start],
        said[: start - 1],
    )
    assert generate(model, [PROMPTS[1]], stop=[three], max_new_tokens=start + 2) == [said[: start + 2]], (
        "only its beginning"
    )
    assert generate(model, [PROMPTS[1]], stop=[(PROMPTS[1][-1], said[0])], max_new_tokens=8) == [said], (
        "prompts do not count"
    )


def test_rows_that_ended_leave_and_work_stops_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(9):  # until the last answer says nothing that ends another: first values are torch's to choose
        model = grown(PLAIN, seed=seed)
        free = generate(model, PROMPTS, stop=(), max_new_tokens=12)
        early = [tuple(answer[:3]) for answer in free[:3]]
        if not any(tuple(free[3][at : at + 3]) in early for at in range(10)):
            break
    read = counting(monkeypatch, InferenceDecoder, "extend")
    assert generate(model, PROMPTS, stop=early, max_new_tokens=12) == [[], [], [], free[3]]
    assert [len(x) for x in read] == [4, 4, 4, *[1] * 9], "the last token of an answer need not be read"
    read.clear()
    assert generate(model, PROMPTS, stop=[*early, tuple(free[3][:5])], max_new_tokens=12) == [[], [], [], []]
    assert [len(x) for x in read] == [4, 4, 4, 1, 1]


def test_a_limit_of_nothing_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(monkeypatch, InferenceDecoder, "extend")
    assert generate(grown(PLAIN), PROMPTS, stop=(), max_new_tokens=0) == [[], [], [], []]
    assert generate(grown(PLAIN), [], stop=(), max_new_tokens=3) == []
    assert not calls


def test_a_picture_is_encoded_and_read_once_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (one, _, other, _) = grown(SEEING), images()
    prompts = [[0] * EACH + [number % 20, number // 20] for number in range(150)]
    shown = [one if number % 2 else other for number in range(150)]
    alone = [generate(model, [prompts[n]], [shown[n]], stop=(), max_new_tokens=3)[0] for n in (0, 1, 77, 149)]
    seen, read = counting(monkeypatch, VLM, "encode_images"), counting(monkeypatch, InferenceDecoder, "extend")
    answers = generate(model, prompts, shown, stop=(), max_new_tokens=3)
    assert sum(len(pictures) for pictures in seen) == 2
    assert sum(len(x) for x in read if x.shape[1] == EACH) <= 4, "read again only where a batch ends"
    assert [answers[n] for n in (0, 1, 77, 149)] == alone


def test_a_prompt_asked_twice_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = grown(PLAIN)
    [wanted] = generate(model, [PROMPTS[2]], stop=(), max_new_tokens=3)
    read = counting(monkeypatch, InferenceDecoder, "extend")
    assert generate(model, [PROMPTS[2]] * 5, stop=(), max_new_tokens=3) == [wanted] * 5
    assert [x.shape[:2] for x in read] == [(1, 6), (5, 1), (5, 1)]


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ModelError, match="4 tokens"):
        generate(grown(SEEING), [[0, 0]], [torch.zeros(EACH, 6).half()], stop=(), max_new_tokens=1)
    with pytest.raises(ModelError, match="Got 0 tokens"):
        generate(grown(PLAIN), [[3], []], stop=(), max_new_tokens=1)
    with pytest.raises(ModelError, match="text-only model"):
        generate(grown(PLAIN), [[3]], [torch.zeros(EACH, 6).half()], stop=(), max_new_tokens=1)
    with pytest.raises(ModelError, match="empty sequence"):
        generate(grown(PLAIN), [[3]], stop=[()], max_new_tokens=1)
    with pytest.raises(QuantityError, match="max_new_tokens"):
        generate(grown(PLAIN), [[3]], stop=(), max_new_tokens=-1)


@pytest.mark.parametrize("spec", [LLAMA, PREFIX], ids=["llama", "pictures"])
def test_a_model_that_was_asked_learns_as_one_that_was_not(spec: LMSpec | VLMSpec) -> None:
    """Nothing that answering made stays behind in what training reads."""
    sees = isinstance(spec, VLMSpec)
    shown = images() if sees else None
    drawn = torch.stack([image for image in images()[:1] if image is not None])
    row: list[int | None] = [*([None] * EACH if sees else []), 9, 2, 6]
    found = []
    for ask in (True, False):
        model = grown(spec).requires_grad_()
        if ask:
            generate(model, SEEN if sees else PROMPTS, shown, stop=(), max_new_tokens=2)
        batch = packed([[row]], length=len(row), images=None if shown is None else drawn)
        model.lm.logits(model(batch)).sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None)
    assert sum(gradient is not None for gradient in found[0]) == sum(gradient is not None for gradient in found[1]) > 9
