"""The adapter agrees with lm-eval's own HFLM, its rule for splitting texts, and the plain forward pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import get_model
from lm_eval.models.utils import normalize_gen_kwargs
from tokenizers import Tokenizer, models, pre_tokenizers

from firstsight.data.tokenizer import load_tokenizer
from firstsight.errors import DamagedResult, DataError, RequestError
from firstsight.evaluate.lm_eval.adapter import (
    Firstsight,
    LmEvalAdapter,
    _generation_options,
)
from firstsight.evaluate.models.native import NativeModel
from firstsight.hub.export import export_checkpoint
from firstsight.model.generate import generate
from firstsight.site import Progress
from tests.conftest import DEVICE
from tests.evaluate.lm_eval.conftest import MARKS, native_model
from tests.model.tiny_models import pack_rows
from tests.plan.test_verification import publish

PAIRS = [
    ("Question: what is the cat\nAnswer:", " the cat is red."),
    ("Question: what is the cat\nAnswer:", " no"),
    ("Question: what is the cat\nAnswer:", " a plan"),
    ("Question: what is the cat\nAnswer: ", "a plan"),
    ("", "the end."),
    ("   ", "the end."),
    ("a man, a plan", "ned"),
    ("ein Käfer 🐞 the", " käfer"),
    ("the cat", " is not  there?"),
]


def ignore_progress(_: Progress) -> None:
    """Discard progress reports."""


def adapter(model: NativeModel, *, batch: int | None = None, max_length: int = 256) -> LmEvalAdapter:
    return LmEvalAdapter(model, batch_contexts=batch, max_length=max_length, on_progress=ignore_progress)


def instances(family: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=family, doc={}, arguments=item, idx=0) for item in arguments]


def forward_loglikelihood(
    model: NativeModel, context_ids: Sequence[int], continuation_ids: Sequence[int]
) -> tuple[float, bool]:
    """Log-likelihood by training's forward pass over the whole row."""
    model, ids = model.checkpoint.model, [*context_ids, *continuation_ids]
    with torch.no_grad():
        logits = model.lm.logits(model(pack_rows([[ids]], length=len(ids))))
    logs = logits.log_softmax(-1)[0, len(context_ids) - 1 : -1].cpu()
    target = torch.tensor(list(continuation_ids))
    return float(logs[range(len(continuation_ids)), target].sum()), bool((logs.argmax(-1) == target).all())


def encode(model: NativeModel, text: str) -> list[int]:
    return model.tokenizer.encode([text])[0]


def test_log_likelihoods_are_those_of_the_forward_pass(model: NativeModel) -> None:
    end = model.tokenizer.special_ids.end
    results = adapter(model).loglikelihood(instances("loglikelihood", *PAIRS))
    for (context, continuation), (total, is_greedy) in zip(PAIRS, results, strict=True):
        context_ids = [end, *encode(model, context.rstrip())]
        expected = forward_loglikelihood(
            model, context_ids, [end, *encode(model, context + continuation)][len(context_ids) :]
        )
        assert total == pytest.approx(expected[0], abs=1e-4)
        assert is_greedy == expected[1]


def test_is_greedy_agrees_with_greedy_decoding(model: NativeModel) -> None:
    context_ids = [model.tokenizer.special_ids.end, *encode(model, "the cat")]
    [answer] = generate(model.checkpoint.model, [context_ids], stop=(), max_new_tokens=4)
    continuations = [answer, answer[:1], answer[:3], [*answer[:2], answer[2] ^ 1], [answer[0] ^ 1, *answer[1:]]]
    results = adapter(model)._loglikelihood_tokens(
        [(None, context_ids, continuation_ids) for continuation_ids in continuations]
    )
    assert [is_greedy for _, is_greedy in results] == [
        forward_loglikelihood(model, context_ids, continuation_ids)[1] for continuation_ids in continuations
    ]
    assert [is_greedy for _, is_greedy in results] == [True, True, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "openlm"])
def test_log_likelihoods_are_those_of_lm_evals_own_model(
    family: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """HFLM over the exported folder, with a tokenizer that begins texts with <|endoftext|>."""
    pytest.importorskip("accelerate", reason="lm-eval's own model needs it")
    from lm_eval.models.huggingface import HFLM
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    importlib.import_module("firstsight.hub.hf_classes")  # registers the classes with transformers
    export_checkpoint(checkpoint_folder(family), tmp_path / "hf", dtype="float32")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).to(DEVICE)
    model.generation_config.max_new_tokens = None  # an export's own limit, which would override the task's
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "hf")
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", end)]
    )
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=True, batch_size=2, max_length=64)
    adapter_model = adapter(native_model(checkpoint_folder(family)), max_length=64)
    long = ("the cat is not there, " * 20, " no")
    requests = instances("loglikelihood", *PAIRS, long)
    for (ours, greedy), (expected, is_greedy) in zip(
        adapter_model.loglikelihood(requests), hflm.loglikelihood(requests, disable_tqdm=True), strict=True
    ):
        assert ours == pytest.approx(expected, abs=2e-4)
        assert greedy == is_greedy
    answer = instances(
        "generate_until",
        ("Question: what", {"until": ["\n"], "max_gen_toks": 12}),
        ("the cat", {"until": ["zzz", "e"], "max_gen_toks": 12, "do_sample": False}),
    )
    assert adapter_model.generate_until(answer) == hflm.generate_until(answer, disable_tqdm=True)
    hflm.add_bos_token = False  # otherwise it also scores the <|endoftext|> at the beginning
    texts = instances("loglikelihood_rolling", ("a man, a plan; the end.",), (long[0],))
    assert adapter_model.loglikelihood_rolling(texts) == pytest.approx(
        hflm.loglikelihood_rolling(texts, disable_tqdm=True), abs=2e-3
    )


def test_the_batch_size_does_not_change_results(model: NativeModel) -> None:
    item, many = (adapter(model, batch=size).loglikelihood(instances("loglikelihood", *PAIRS)) for size in (1, 16))
    assert [total for total, _ in item] == pytest.approx([total for total, _ in many], abs=1e-4)
    assert [greedy for _, greedy in item] == [greedy for _, greedy in many]


@runs(max_examples=60, deadline=None)
@given(
    context=st.text(st.sampled_from("ab \n?"), min_size=1, max_size=8),
    continuation=st.text(st.sampled_from("ab \n?"), min_size=1, max_size=4),
)
def test_texts_are_split_as_lm_eval_splits_them(
    checkpoint_folder: Callable[[str], Path], context: str, continuation: str
) -> None:
    model = adapter(native_model(checkpoint_folder("openlm")))
    requests: list[Any] = []
    model._loglikelihood_tokens = lambda rows, **_: requests.extend(rows) or []  # type: ignore[method-assign]
    model.loglikelihood(instances("loglikelihood", (context, continuation)))
    assert requests == [((context, continuation), *TemplateLM._encode_pair(model, context, continuation))]


def test_long_contexts_are_truncated_at_the_left(model: NativeModel) -> None:
    [(total, _)] = adapter(model, max_length=6).loglikelihood(
        instances("loglikelihood", ("the cat is not there,", " no"))
    )
    continuation_ids = encode(model, "the cat is not there, no")[len(encode(model, "the cat is not there,")) :]
    context_ids = encode(model, "the cat is not there,")[-(7 - len(continuation_ids)) :]
    assert total == pytest.approx(forward_loglikelihood(model, context_ids, continuation_ids)[0], abs=1e-4)


def test_empty_and_too_long_continuations_are_refused(model: NativeModel) -> None:
    with pytest.raises(DataError, match="without tokens"):
        adapter(model).loglikelihood(instances("loglikelihood", ("the cat", "")))
    with pytest.raises(DataError, match="Raise max_length"):
        adapter(model, max_length=2).loglikelihood(instances("loglikelihood", ("the cat", " zebra zebra")))


def test_rolling_loglikelihood_is_the_sum_over_tokens(model: NativeModel) -> None:
    """In one window as after an empty context; in several, each token is predicted once, from its window's tokens."""
    text, end = "a man, a plan; the end.", model.tokenizer.special_ids.end
    [texts] = adapter(model).loglikelihood_rolling(instances("loglikelihood_rolling", (text,)))
    ids = encode(model, text)
    assert texts == pytest.approx(forward_loglikelihood(model, [end], ids)[0], abs=1e-4)
    cut = adapter(model, max_length=4).loglikelihood_rolling(instances("loglikelihood_rolling", (text,), ("no",)))
    expected = forward_loglikelihood(model, [end], ids[:4])[0]
    for start in range(4, len(ids), 4):
        stop = min(start + 4, len(ids))
        expected += forward_loglikelihood(model, ids[stop - 5 : start], ids[start:stop])[0]
    assert cut == pytest.approx([expected, forward_loglikelihood(model, [end], encode(model, "no"))[0]], abs=1e-4)


def test_an_answer_ends_before_the_first_stop(model: NativeModel) -> None:
    def generate_text(prompt: str, **gen_kwargs: Any) -> str:
        [text] = adapter(model).generate_until(
            instances("generate_until", (prompt, {"max_gen_toks": 24, **gen_kwargs}))
        )
        return text

    prompt = max(
        ("the cat", "a man", "Question: what", "yes", "no", "it is"), key=lambda item: len(generate_text(item))
    )
    generate_answer = partial(generate_text, prompt)
    answer = generate_answer(until=[])
    stop = answer[len(answer) // 2 :][:2]
    assert len(answer) > 12
    assert generate_answer(until=[stop]) == generate_answer(until=stop) == answer[: answer.index(stop)]
    assert (
        generate_answer(until=[], max_gen_toks=2) == answer[: len(generate_answer(until=[], max_gen_toks=2))] != answer
    )
    assert generate_answer(do_sample=False, temperature=1.0) == answer
    sampled = generate_answer(do_sample=True, temperature=1.0)
    assert sampled != answer
    assert sampled == generate_answer(do_sample=True, temperature=1.0)
    with pytest.raises(RequestError, match="num_beams"):
        generate_answer(num_beams=4)


@pytest.mark.parametrize(
    "gen_kwargs",
    [
        {},
        {"max_new_tokens": 2},
        {"max_tokens": 2},
        {"max_completion_tokens": 2, "max_gen_toks": None},
        {"max_tokens": 3, "max_gen_toks": 2},
        {"temperature": 0.7},
        {"temperature": 0.7, "do_sample": True},
        {"temperature": 0.7, "do_sample": False},
        {"temperature": 0.0, "do_sample": True},
        {"num_beams": 1, "top_k": 0, "until": "x"},
    ],
)
def test_generation_options_are_those_of_lm_evals_own_models(gen_kwargs: dict[str, Any]) -> None:
    expected = normalize_gen_kwargs(gen_kwargs, default_max_gen_toks=256)
    until, max_tokens, sampling = _generation_options(gen_kwargs, seed=0)
    assert (max_tokens, list(until)) == (expected["max_gen_toks"], expected["until"])
    assert (0.0 if sampling is None else sampling.temperature) == expected.get("temperature", 0.0)


@pytest.mark.parametrize(
    ("arguments", "continuation_ids", "match"),
    [
        ("path=x,dtype=float32,pretrained=y", {}, r"wanted path, and.*Got dtype, pretrained\. Write"),
        ("seed=1", {}, "Got no path"),
        ("path=x,max_length=1", {}, "at least 2 tokens. Got 1"),
        ("path=x", {"batch_size": "two"}, "auto or a number from 1. Got two"),
        ("path=x", {"batch_size": 0}, "auto or a number from 1. Got 0"),
        ("path=x", {"batch_size": "-4"}, "auto or a number from 1. Got -4"),
    ],
)
def test_invalid_arguments_are_refused_before_a_checkpoint_is_loaded(
    arguments: str, continuation_ids: dict[str, Any], match: str
) -> None:
    with pytest.raises(RequestError, match=match):
        get_model("firstsight").create_from_arg_string(arguments, continuation_ids)


def test_words_outside_a_small_vocabulary_are_refused(model: NativeModel, tmp_path: Path) -> None:
    words = models.WordLevel(
        {text: index for index, text in enumerate([*MARKS, "<unk>", "the", "cat"])}, unk_token="<unk>"
    )
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([*MARKS])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    small_model = adapter(replace(model, tokenizer=load_tokenizer(tmp_path)))
    small_model.loglikelihood_rolling(instances("loglikelihood_rolling", ("the cat",)))
    with pytest.raises(RequestError, match="lacks 1 of the words: 'zebra'"):
        small_model.loglikelihood(instances("loglikelihood", ("the cat", " zebra")))
    with pytest.raises(RequestError, match="lacks 1 of the words: 'zebra'"):
        small_model.loglikelihood_rolling(instances("loglikelihood_rolling", ("the zebra",)))
    with pytest.raises(RequestError, match="lacks 1 of the words: 'zebra'"):
        small_model.generate_until(instances("generate_until", ("the zebra", {"until": ["."]})))


def test_the_model_is_registered_by_name_and_entry_point(checkpoint_folder: Callable[[str], Path]) -> None:
    from importlib.metadata import entry_points

    assert get_model("firstsight") is Firstsight
    [entry_point] = entry_points(group="lm_eval.models", name="firstsight")
    assert entry_point.load() is Firstsight
    tokenizer = get_model("firstsight").create_from_arg_string(
        f"path={checkpoint_folder('llama')},max_length=32", {"batch_size": "auto"}
    )
    assert (tokenizer.max_length, tokenizer.rank, tokenizer.world_size) == (32, 0, 1)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_damaged_result_of_a_store_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "steps" / publish(tmp_path, {"spec.json": b"{}"}).address
    (folder / "spec.json").write_bytes(b"[]")
    with pytest.raises(DamagedResult, match=r"spec\.json: changed"):
        Firstsight(path=folder)
