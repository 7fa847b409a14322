"""lm-eval's requests are answered as its own model, its own splitting rule and the plain forward pass answer them."""

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
from firstsight.errors import DataError, RequestError
from firstsight.evaluate.lm_eval.adapter import (
    Firstsight,
    LmEvalAdapter,
    _GenerationOptions,
)
from firstsight.evaluate.models.native import NativeModel
from firstsight.hub.export import export_checkpoint
from firstsight.model.generate import generate
from firstsight.site import Progress
from tests.conftest import DEVICE
from tests.evaluate.lm_eval.conftest import MARKS, native_model
from tests.model.tiny_models import packed

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


def silent(_: Progress) -> None:
    """Progress that nobody watches."""


def adapter(who: NativeModel, *, batch: int | None = None, longest: int = 256) -> LmEvalAdapter:
    return LmEvalAdapter(who, batch_contexts=batch, max_length=longest, on_progress=silent)


def instances(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def by_hand(who: NativeModel, begun: Sequence[int], more: Sequence[int]) -> tuple[float, bool]:
    """The forward pass of training over everything at once."""
    model, ids = who.checkpoint.model, [*begun, *more]
    with torch.no_grad():
        logits = model.lm.logits(model(packed([[ids]], length=len(ids))))
    logs = logits.log_softmax(-1)[0, len(begun) - 1 : -1].cpu()
    target = torch.tensor(list(more))
    return float(logs[range(len(more)), target].sum()), bool((logs.argmax(-1) == target).all())


def encoded(who: NativeModel, text: str) -> list[int]:
    return who.tokenizer.encode([text])[0]


def test_log_likelihoods_are_those_of_the_forward_pass(who: NativeModel) -> None:
    end = who.tokenizer.special_ids.end
    found = adapter(who).loglikelihood(instances("loglikelihood", *PAIRS))
    for (context, continuation), (total, same) in zip(PAIRS, found, strict=True):
        begun = [end, *encoded(who, context.rstrip())]
        wanted = by_hand(who, begun, [end, *encoded(who, context + continuation)][len(begun) :])
        assert total == pytest.approx(wanted[0], abs=1e-4)
        assert same == wanted[1]


def test_greedy_is_what_greedy_decoding_says(who: NativeModel) -> None:
    begun = [who.tokenizer.special_ids.end, *encoded(who, "the cat")]
    [said] = generate(who.checkpoint.model, [begun], stop=(), max_new_tokens=4)
    others = [said, said[:1], said[:3], [*said[:2], said[2] ^ 1], [said[0] ^ 1, *said[1:]]]
    found = adapter(who)._loglikelihood_tokens([(None, begun, more) for more in others])
    assert [same for _, same in found] == [by_hand(who, begun, more)[1] for more in others]
    assert [same for _, same in found] == [True, True, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "openlm"])
def test_log_likelihoods_are_those_of_lm_evals_own_model(
    kind: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """HFLM over the exported folder, told to begin texts with <|endoftext|>, which a tokenizer must do for it."""
    pytest.importorskip("accelerate", reason="lm-eval's own model needs it")
    from lm_eval.models.huggingface import HFLM
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    importlib.import_module("firstsight.hub.hf_classes")  # makes them known to transformers
    export_checkpoint(folder(kind), tmp_path / "hf", dtype="float32")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).to(DEVICE)
    model.generation_config.max_new_tokens = None  # an export's own limit, which would go before the task's
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "hf")
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", end)]
    )
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=True, batch_size=2, max_length=64)
    ours = adapter(native_model(folder(kind)), longest=64)
    long = ("the cat is not there, " * 20, " no")
    asked_of = instances("loglikelihood", *PAIRS, long)
    for (mine, greedy), (wanted, same) in zip(
        ours.loglikelihood(asked_of), theirs.loglikelihood(asked_of, disable_tqdm=True), strict=True
    ):
        assert mine == pytest.approx(wanted, abs=2e-4)
        assert greedy == same
    said = instances(
        "generate_until",
        ("Question: what", {"until": ["\n"], "max_gen_toks": 12}),
        ("the cat", {"until": ["zzz", "e"], "max_gen_toks": 12, "do_sample": False}),
    )
    assert ours.generate_until(said) == theirs.generate_until(said, disable_tqdm=True)
    theirs.add_bos_token = False  # else it predicts the <|endoftext|> that it begins a whole text with
    whole = instances("loglikelihood_rolling", ("a man, a plan; the end.",), (long[0],))
    assert ours.loglikelihood_rolling(whole) == pytest.approx(
        theirs.loglikelihood_rolling(whole, disable_tqdm=True), abs=2e-3
    )


def test_the_batch_size_changes_nothing(who: NativeModel) -> None:
    one, many = (adapter(who, batch=size).loglikelihood(instances("loglikelihood", *PAIRS)) for size in (1, 16))
    assert [total for total, _ in one] == pytest.approx([total for total, _ in many], abs=1e-4)
    assert [greedy for _, greedy in one] == [greedy for _, greedy in many]


@runs(max_examples=60, deadline=None)
@given(
    context=st.text(st.sampled_from("ab \n?"), min_size=1, max_size=8),
    continuation=st.text(st.sampled_from("ab \n?"), min_size=1, max_size=4),
)
def test_texts_are_split_as_lm_eval_splits_them(folder: Callable[[str], Path], context: str, continuation: str) -> None:
    model = adapter(native_model(folder("openlm")))
    requests: list[Any] = []
    model._loglikelihood_tokens = lambda rows, **_: requests.extend(rows) or []  # type: ignore[method-assign]
    model.loglikelihood(instances("loglikelihood", (context, continuation)))
    assert requests == [((context, continuation), *TemplateLM._encode_pair(model, context, continuation))]


def test_what_does_not_fit_is_cut_off_at_the_left(who: NativeModel) -> None:
    [(total, _)] = adapter(who, longest=6).loglikelihood(instances("loglikelihood", ("the cat is not there,", " no")))
    more = encoded(who, "the cat is not there, no")[len(encoded(who, "the cat is not there,")) :]
    begun = encoded(who, "the cat is not there,")[-(7 - len(more)) :]
    assert total == pytest.approx(by_hand(who, begun, more)[0], abs=1e-4)


def test_choices_that_cannot_be_read_are_refused(who: NativeModel) -> None:
    with pytest.raises(DataError, match="without tokens"):
        adapter(who).loglikelihood(instances("loglikelihood", ("the cat", "")))
    with pytest.raises(DataError, match="Raise max_length"):
        adapter(who, longest=2).loglikelihood(instances("loglikelihood", ("the cat", " zebra zebra")))


def test_a_whole_text_is_what_its_tokens_sum_to(who: NativeModel) -> None:
    """In one window as after an empty context; in many, each token is predicted once, from what its window holds."""
    text, end = "a man, a plan; the end.", who.tokenizer.special_ids.end
    [whole] = adapter(who).loglikelihood_rolling(instances("loglikelihood_rolling", (text,)))
    ids = encoded(who, text)
    assert whole == pytest.approx(by_hand(who, [end], ids)[0], abs=1e-4)
    cut = adapter(who, longest=4).loglikelihood_rolling(instances("loglikelihood_rolling", (text,), ("no",)))
    wanted = by_hand(who, [end], ids[:4])[0]
    for start in range(4, len(ids), 4):
        stop = min(start + 4, len(ids))
        wanted += by_hand(who, ids[stop - 5 : start], ids[start:stop])[0]
    assert cut == pytest.approx([wanted, by_hand(who, [end], encoded(who, "no"))[0]], abs=1e-4)


def test_an_answer_ends_before_the_first_stop(who: NativeModel) -> None:
    def says(begin: str, **how: Any) -> str:
        [text] = adapter(who).generate_until(instances("generate_until", (begin, {"max_gen_toks": 24, **how})))
        return text

    begin = max(("the cat", "a man", "Question: what", "yes", "no", "it is"), key=lambda one: len(says(one)))
    said = partial(says, begin)
    free = said(until=[])
    stop = free[len(free) // 2 :][:2]
    assert len(free) > 12
    assert said(until=[stop]) == said(until=stop) == free[: free.index(stop)]
    assert said(until=[], max_gen_toks=2) == free[: len(said(until=[], max_gen_toks=2))] != free
    assert said(do_sample=False, temperature=1.0) == free
    drawn = said(do_sample=True, temperature=1.0)
    assert drawn != free
    assert drawn == said(do_sample=True, temperature=1.0)
    with pytest.raises(RequestError, match="num_beams"):
        said(num_beams=4)


@pytest.mark.parametrize(
    "told",
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
def test_how_to_generate_is_understood_as_lm_evals_own_models_do(told: dict[str, Any]) -> None:
    wanted, found = normalize_gen_kwargs(told, default_max_gen_toks=256), _GenerationOptions.from_kwargs(told)
    drawn = found.sampling(0, 0)
    assert (found.max_tokens, list(found.until)) == (wanted["max_gen_toks"], wanted["until"])
    assert (0.0 if drawn is None else drawn.temperature) == wanted.get("temperature", 0.0)


@pytest.mark.parametrize(
    ("arguments", "more", "match"),
    [
        ("path=x,dtype=float32,pretrained=y", {}, r"wanted path, and.*Got dtype, pretrained\. Write"),
        ("seed=1", {}, "Got no path"),
        ("path=x,max_length=1", {}, "at least 2 tokens. Got 1"),
        ("path=x", {"batch_size": "two"}, "auto or a number from 1. Got two"),
        ("path=x", {"batch_size": 0}, "auto or a number from 1. Got 0"),
        ("path=x", {"batch_size": "-4"}, "auto or a number from 1. Got -4"),
    ],
)
def test_arguments_that_are_none_are_refused_before_a_checkpoint_is_read(
    arguments: str, more: dict[str, Any], match: str
) -> None:
    with pytest.raises(RequestError, match=match):
        get_model("firstsight").create_from_arg_string(arguments, more)


def test_words_that_a_small_vocabulary_lacks_are_refused_whatever_is_asked(who: NativeModel, tmp_path: Path) -> None:
    words = models.WordLevel({text: at for at, text in enumerate([*MARKS, "<unk>", "the", "cat"])}, unk_token="<unk>")
    made = Tokenizer(words)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    made.add_special_tokens([*MARKS])
    made.save(str(tmp_path / "tokenizer.json"))
    small = adapter(replace(who, tokenizer=load_tokenizer(tmp_path)))
    tiny_study.loglikelihood_rolling(instances("loglikelihood_rolling", ("the cat",)))
    with pytest.raises(RequestError, match="lacks 1 of the words: 'zebra'"):
        tiny_study.loglikelihood(instances("loglikelihood", ("the cat", " zebra")))
    with pytest.raises(RequestError, match="lacks 1 of the words: 'zebra'"):
        tiny_study.loglikelihood_rolling(instances("loglikelihood_rolling", ("the zebra",)))
    with pytest.raises(RequestError, match="lacks 1 of the words: 'zebra'"):
        tiny_study.generate_until(instances("generate_until", ("the zebra", {"until": ["."]})))


def test_lm_eval_knows_the_model_by_name_and_entry_point(folder: Callable[[str], Path]) -> None:
    from importlib.metadata import entry_points

    assert get_model("firstsight") is Firstsight
    [point] = entry_points(group="lm_eval.models", name="firstsight")
    assert point.load() is Firstsight
    made = get_model("firstsight").create_from_arg_string(
        f"path={folder('llama')},max_length=32", {"batch_size": "auto"}
    )
    assert (made.max_length, made.rank, made.world_size) == (32, 0, 1)  # pyright: ignore[reportAttributeAccessIssue]
