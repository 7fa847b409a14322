"""Folders in transformers' layout: which are loaded, and why the others are refused."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from firstsight.errors import LimitExceeded, ModelError
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.harness import EvalConfig, evaluate_checkpoint
from firstsight.evaluate.models import hf_folder
from firstsight.evaluate.models.hf_model import load_hf_model
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest
from firstsight.evaluate.models.native import load_eval_model
from firstsight.site import Site
from tests.evaluate.models import tiny_hf_models
from tests.evaluate.models.conftest import MakeFolder

MAX_TOKENS = 128


@pytest.fixture
def llava(hf_folder: MakeFolder, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(hf_folder("llava"), tmp_path / "llava"))


def check_refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        load_eval_model(folder, site=Site())


def test_pickles_are_not_opened(llava: Path) -> None:
    (llava / "model.safetensors").rename(llava / "pytorch_model.bin")
    check_refused(llava, "wanted weights in .*safetensors. Got .*pytorch_model.bin.*not opened")


def test_missing_weights_are_named(llava: Path) -> None:
    tensors = load_file(llava / "model.safetensors")
    name = next(name for name in tensors if "linear_1.weight" in name)
    save_file(
        {key: tensor for key, tensor in tensors.items() if key != name}, llava / "model.safetensors", {"format": "pt"}
    )
    check_refused(llava, "wanted all weights. Got none for .*linear_1.weight")


def test_a_model_without_a_chat_template_is_refused(llava: Path) -> None:
    (llava / "chat_template.jinja").unlink()
    check_refused(llava, "llava: wanted a chat template.*chat_template.jinja")


def damaged_bytes(data: bytes) -> dict[str, bytes]:
    return {"cut": data[: len(data) // 2], "empty": b"", "other": b"\xff\xfe{\x00", "list": b"[1]", "null": b"null"}


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "list", "null", "folder"])
def test_a_damaged_file_is_refused_with_its_folder_or_not_needed(llava: Path, damage: str) -> None:
    """Of any file: no other exception than ModelError, which names the folder."""
    for file in sorted(path for path in llava.iterdir() if path.is_file()):
        data = file.read_bytes()
        file.unlink()
        if damage == "folder":
            file.mkdir()
        else:
            file.write_bytes(damaged_bytes(data)[damage])
        try:
            load_eval_model(llava, site=Site())
            assert file.name not in ("config.json", "model.safetensors", "tokenizer.json")
        except ModelError as error:
            assert str(llava) in str(error) or str(error).startswith("llava: wanted a chat template"), file
        file.rmdir() if damage == "folder" else file.unlink()
        file.write_bytes(data)
    load_eval_model(llava, site=Site())


TEMPLATES = {
    "SecurityError": "{{ messages.__class__.__mro__ }}",
    "TemplateSyntaxError": "{% for %}",
    "UndefinedError": "{{ nothing.at.all }}",
    "TemplateError": "{{ raise_exception('\x1b[2J') }}",
    "ZeroDivisionError": "{{ 1 / 0 }}",
    "OverflowError": "{{ range(10 ** 9) }}",
    "TypeError": "{{ 1 + 'a' }}",
    "RecursionError": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize(("name", "template"), TEMPLATES.items())
def test_a_chat_template_that_fails_is_an_error_with_its_type(llava: Path, name: str, template: str) -> None:
    (llava / "chat_template.jinja").write_text(template)
    chat_format = load_hf_model(llava, site=Site()).chat_format
    with pytest.raises(ModelError, match=rf"llava: wanted a prompt from the chat template.*Got: {name}: "):
        chat_format.render("what is it ?", has_image=True)


def test_a_prompt_of_a_chat_template_is_limited(llava: Path) -> None:
    (llava / "chat_template.jinja").write_text("{{ 'a' * 3000000 }}")
    chat_format = load_hf_model(llava, site=Site()).chat_format
    with pytest.raises(
        LimitExceeded, match=r"llava.*at most 1,000,000 characters. Got 3,000,000.*set prompt = 3000000"
    ):
        chat_format.render("what is it ?", has_image=True)
    (llava / "chat_template.jinja").write_text("{{ 'a' * 1000000 }}")
    assert load_hf_model(llava, site=Site()).chat_format.render("", has_image=False) == "a" * 1_000_000


def test_code_in_a_folder_is_not_run(llava: Path) -> None:
    config = json.loads((llava / "config.json").read_text())
    config |= {"model_type": "prismatic", "auto_map": {"AutoConfig": "evil.Config"}}
    (llava / "config.json").write_text(json.dumps(config))
    (llava / "evil.py").write_text("raise SystemExit('run')")
    check_refused(llava, "wanted a model that transformers loads by itself")


@pytest.mark.parametrize(
    ("kind", "reason"), [("t5", "a decoder-only model"), ("siglip", "an image-text-to-text model")]
)
def test_models_of_other_kinds_are_refused(kind: str, reason: str, llava: Path) -> None:
    (llava / "config.json").write_text(json.dumps({"model_type": kind}))
    check_refused(llava, reason)


def test_a_folder_in_neither_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    check_refused(tmp_path, r"wanted .*spec.json .*config.json.*notes.txt")


def test_a_hub_name_is_downloaded(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(hf_folder, "resolve_hub_path", lambda name: names.append(name) or llava)
    assert load_hf_model(Path("llava-hf/llava-tiny"), site=Site()).components.model_type == "llava"
    assert names == ["llava-hf/llava-tiny"]


def test_a_missing_package_is_named(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoProcessor

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ImportError("X requires the Torchvision library but it was not found in your environment.")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", fail)
    check_refused(llava, re.escape("pip install torchvision"))


def test_a_text_model_answers_without_images(tmp_path: Path) -> None:
    """Text choices against one forward pass for each choice; answers against `generate`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_hf_models.byte_tokenizer([])
    torch.manual_seed(0)
    kind: Any = LlamaForCausalLM
    model = kind(
        LlamaConfig(**{**tiny_hf_models.LLAMA, "vocab_size": len(tokenizer)}, eos_token_id=257, bos_token_id=256)
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.ndim > 1 else 1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_eval_model(tmp_path, site=Site())
    assert not loaded.has_vision
    with pytest.raises(ModelError, match="text model"):
        loaded.encode_images([])
    texts = ["what is it ?", "why"]
    answers = loaded.generate([GenerationRequest(text=text, image=None) for text in texts], max_new_tokens=6)
    for text, answer in zip(texts, answers, strict=True):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True).strip()
    choices = ("a cat", "dog", "a car", "no dog at all")
    totals: list[float] = []
    for choice in choices:
        ids = torch.tensor([tokenizer(f"what is it ? {choice}")["input_ids"]])
        start = len(tokenizer("what is it ?")["input_ids"])
        with torch.no_grad():
            log_probs = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        totals.append(float(log_probs.gather(1, ids[0, start:, None]).sum()))
    request = ChoiceRequest(text="what is it ?", image=None, choices=choices, is_chat_turn=False)
    np.testing.assert_allclose(
        next(load_hf_model(tmp_path, site=Site()).choice_loglikelihoods([request])), totals, atol=1e-3
    )
    assert [answer.text for answer in loaded.rank_choices([request])] == [str(totals.index(max(totals)))]


def test_stored_answers_are_those_of_single_questions(llava: Path, benchmarks: Path) -> None:
    """Every answer of the harness equals the one to a single request."""
    from transformers import GenerationConfig

    GenerationConfig(eos_token_id=list(range(0, 256, 11)), pad_token_id=257).save_pretrained(llava)  # short answers
    names = ("vqav2", "pope", "refcoco")
    config = EvalConfig(tasks=names, image_mode="both", prompt_style="paper")
    result = evaluate_checkpoint(llava, benchmarks, config=config, site=Site(), on_progress=lambda _: None)
    assert {name: task.n for name, task in result.scores.tasks.items()} == dict.fromkeys(names, 12)
    model, images = load_hf_model(llava, site=Site()), BenchmarkImages(benchmarks)

    @cache
    def answer_once(prompt: str, image: str | None) -> str:
        [encoded] = [None] if image is None else model.encode_images([(image, images.read(image))])
        return next(model.generate([GenerationRequest(text=prompt, image=encoded)], max_new_tokens=MAX_TOKENS)).text

    for row in result.answers[::5]:
        assert row.answer == answer_once(row.prompt, None if row.is_blind else row.question.image)
    assert len({row.answer for row in result.answers}) > 3
    assert result.answers[0].prompt == "\nwhat is it ?\nAnswer the question using a single word or phrase."
