"""Generation with a cache against generation without, and batches against single prompts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from firstsight.errors import ModelError, QuantityError
from firstsight.model.generate import continuation_likelihoods, generate
from firstsight.model.inference import InferenceDecoder
from firstsight.model.sampling import Sampling
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, VLMSpec
from tests.model.tiny_models import (
    FEATURE_VLM,
    IMAGE_PROMPTS,
    IMAGE_TOKENS,
    LLAMA_LM,
    PATCH_VLM,
    PLAIN_LM,
    PREFIX_VLM,
    PROMPTS,
    SHIFTED_LM,
    pack_rows,
    prompt_images,
    random_model,
    record_calls,
)


def generate_without_cache(model: VLM, prompt: list[int], image: Tensor | None, count: int) -> list[int]:
    """Greedy tokens, the whole row computed again for every token."""
    row: list[int | None] = list(prompt)
    if image is not None:
        row[:IMAGE_TOKENS] = [None] * IMAGE_TOKENS
    for _ in range(count):
        batch = pack_rows([[row]], length=len(row), images=None if image is None else image[None])
        row.append(int(model.lm.logits(model(batch))[0, -1].argmax()))
    return [token for token in row[len(prompt) :] if token is not None]


@pytest.mark.parametrize("spec", [PLAIN_LM, SHIFTED_LM, LLAMA_LM], ids=["openlm", "token shift", "llama"])
def test_cached_decoding_equals_decoding_without_cache(spec: LMSpec) -> None:
    model = random_model(spec)
    expected = [generate_without_cache(model, prompt, None, 6) for prompt in PROMPTS]
    assert generate(model, PROMPTS, stop=(), max_new_tokens=6) == expected
    assert len({tuple(answer) for answer in expected}) > 1, "equal answers would prove nothing"


@pytest.mark.parametrize("spec", [FEATURE_VLM, PREFIX_VLM, PATCH_VLM], ids=["features", "prefix attention", "pixels"])
def test_cached_decoding_with_images_equals_decoding_without_cache(spec: VLMSpec) -> None:
    model, encoded = random_model(spec), prompt_images(spec)
    expected = [
        generate_without_cache(model, prompt, image, 5) for prompt, image in zip(IMAGE_PROMPTS, encoded, strict=True)
    ]
    assert generate(model, IMAGE_PROMPTS, encoded, stop=(), max_new_tokens=5) == expected


@pytest.mark.parametrize("spec", [SHIFTED_LM, LLAMA_LM], ids=["token shift", "llama"])
def test_batched_answers_equal_single_answers(spec: LMSpec) -> None:
    model = random_model(spec)
    prompts = [[*prompt, extra] for prompt in PROMPTS for extra in range(17)]
    indices = range(0, len(prompts), 5)
    alone = [generate(model, [prompts[n]], stop=[5], max_new_tokens=6)[0] for n in indices]
    together = generate(model, prompts, stop=[5], max_new_tokens=6)
    assert [together[n] for n in indices] == alone
    assert len({len(answer) for answer in together}) > 2, "the rows must finish at different steps"


def test_answer_ends_before_its_first_stop() -> None:
    """Stops are ids or sequences; the longest that matches is cut off."""
    model = random_model(PLAIN_LM)
    free = generate(model, PROMPTS, stop=(), max_new_tokens=8)
    generated = free[1]
    assert generate(model, PROMPTS, stop={generated[3]}, max_new_tokens=8) == [
        answer[: answer.index(generated[3])] if generated[3] in answer else answer for answer in free
    ]
    start = next(at for at in range(1, 6) if generated[at : at + 3] not in [generated[n : n + 3] for n in range(at)])
    three = tuple(generated[start : start + 3])
    assert generate(model, [PROMPTS[1]], stop=[three], max_new_tokens=8) == [generated[:start]]
    assert generate(model, [PROMPTS[1]], stop=[three[1:], three], max_new_tokens=8)[0] in (
        generated[:start],
        generated[: start - 1],
    )
    assert generate(model, [PROMPTS[1]], stop=[three], max_new_tokens=start + 2) == [generated[: start + 2]], (
        "only its beginning"
    )
    assert generate(model, [PROMPTS[1]], stop=[(PROMPTS[1][-1], generated[0])], max_new_tokens=8) == [generated], (
        "prompts do not count"
    )


def test_finished_rows_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(9):  # until no answer contains the stop of another
        model = random_model(PLAIN_LM, seed=seed)
        free = generate(model, PROMPTS, stop=(), max_new_tokens=12)
        early = [tuple(answer[:3]) for answer in free[:3]]
        if not any(tuple(free[3][at : at + 3]) in early for at in range(10)):
            break
    extended = record_calls(monkeypatch, InferenceDecoder, "extend")
    assert generate(model, PROMPTS, stop=early, max_new_tokens=12) == [[], [], [], free[3]]
    assert [len(x) for x in extended] == [4, 4, 4, *[1] * 9], "the last token of an answer is not prefilled"
    extended.clear()
    assert generate(model, PROMPTS, stop=[*early, tuple(free[3][:5])], max_new_tokens=12) == [[], [], [], []]
    assert [len(x) for x in extended] == [4, 4, 4, 1, 1]


def test_no_prompts_or_no_new_tokens_run_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_calls(monkeypatch, InferenceDecoder, "extend")
    assert generate(random_model(PLAIN_LM), PROMPTS, stop=(), max_new_tokens=0) == [[], [], [], []]
    assert generate(random_model(PLAIN_LM), [], stop=(), max_new_tokens=3) == []
    assert not calls


def test_repeated_image_is_encoded_and_prefilled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (first, _, second, _) = random_model(FEATURE_VLM), prompt_images()
    prompts = [[0] * IMAGE_TOKENS + [number % 20, number // 20] for number in range(150)]
    row_images = [first if number % 2 else second for number in range(150)]
    alone = [generate(model, [prompts[n]], [row_images[n]], stop=(), max_new_tokens=3)[0] for n in (0, 1, 77, 149)]
    encoded, extended = (
        record_calls(monkeypatch, VLM, "encode_images"),
        record_calls(monkeypatch, InferenceDecoder, "extend"),
    )
    answers = generate(model, prompts, row_images, stop=(), max_new_tokens=3)
    assert sum(len(batch) for batch in encoded) == 2
    assert sum(len(x) for x in extended if x.shape[1] == IMAGE_TOKENS) <= 4, "prefilled again only in another batch"
    assert [answers[n] for n in (0, 1, 77, 149)] == alone


def test_repeated_prompt_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(PLAIN_LM)
    [expected] = generate(model, [PROMPTS[2]], stop=(), max_new_tokens=3)
    extended = record_calls(monkeypatch, InferenceDecoder, "extend")
    assert generate(model, [PROMPTS[2]] * 5, stop=(), max_new_tokens=3) == [expected] * 5
    assert [x.shape[:2] for x in extended] == [(1, 6), (1, 1), (1, 1)]


def test_invalid_arguments_are_errors() -> None:
    with pytest.raises(ModelError, match="4 tokens"):
        generate(random_model(FEATURE_VLM), [[0, 0]], [torch.zeros(IMAGE_TOKENS, 6).half()], stop=(), max_new_tokens=1)
    with pytest.raises(ModelError, match="Got 0 tokens"):
        generate(random_model(PLAIN_LM), [[3], []], stop=(), max_new_tokens=1)
    with pytest.raises(ModelError, match="text-only model"):
        generate(random_model(PLAIN_LM), [[3]], [torch.zeros(IMAGE_TOKENS, 6).half()], stop=(), max_new_tokens=1)
    with pytest.raises(ModelError, match="empty sequence"):
        generate(random_model(PLAIN_LM), [[3]], stop=[()], max_new_tokens=1)
    with pytest.raises(QuantityError, match="max_new_tokens"):
        generate(random_model(PLAIN_LM), [[3]], stop=(), max_new_tokens=-1)


@pytest.mark.parametrize("spec", [LLAMA_LM, PREFIX_VLM], ids=["llama", "images"])
def test_generation_does_not_change_later_gradients(spec: LMSpec | VLMSpec) -> None:
    """No cached tensor of generation reaches training."""
    has_images = isinstance(spec, VLMSpec)
    row_images = prompt_images() if has_images else None
    drawn = torch.stack([image for image in prompt_images()[:1] if image is not None])
    row: list[int | None] = [*([None] * IMAGE_TOKENS if has_images else []), 9, 2, 6]
    gradients = []
    for ask in (True, False):
        model = random_model(spec).requires_grad_()
        if ask:
            generate(model, IMAGE_PROMPTS if has_images else PROMPTS, row_images, stop=(), max_new_tokens=2)
        batch = pack_rows([[row]], length=len(row), images=None if row_images is None else drawn)
        model.lm.logits(model(batch)).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None)
    assert (
        sum(gradient is not None for gradient in gradients[0])
        == sum(gradient is not None for gradient in gradients[1])
        > 9
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [None, {}, {"top_k": 3}])
def test_logits_that_are_not_finite_are_an_error(options: dict[str, int] | None, value: float) -> None:
    sampling = None if options is None else Sampling(temperature=1.0, seed=0, **options)
    model = random_model(PLAIN_LM)
    with torch.no_grad():
        model.lm.output.weight[3, 0] = value
    with pytest.raises(ModelError, match="logits: wanted finite numbers"):
        generate(model, PROMPTS, stop=set(), max_new_tokens=3, sampling=sampling)
    with pytest.raises(ModelError, match="logits: wanted finite numbers"):
        continuation_likelihoods(model, PROMPTS, [[1, 2]] * len(PROMPTS))
