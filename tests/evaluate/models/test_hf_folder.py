"""What lies in other people's folders: what is judged, and what is refused with a reason."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from firstsight.errors import ModelError
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.harness import EvalConfig, evaluate_checkpoint
from firstsight.evaluate.models import hf_folder
from firstsight.evaluate.models.hf_model import load_hf_model
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest
from firstsight.evaluate.models.native import load_eval_model
from firstsight.site import Site
from tests.evaluate.models import hf_folders as made

LIMIT = 128


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.llava(tmp_path_factory.mktemp("foreign") / "llava")


@pytest.fixture
def llava(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "llava"
    copy.mkdir()
    for file in whole.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        load_eval_model(folder, site=Site())


def test_pickles_are_not_opened(llava: Path) -> None:
    (llava / "model.safetensors").rename(llava / "pytorch_model.bin")
    refused(llava, "wanted weights in .*safetensors. Got .*pytorch_model.bin.*not opened")


def test_weights_that_lack_are_named_and_not_drawn(llava: Path) -> None:
    tensors = load_file(llava / "model.safetensors")
    name = next(name for name in tensors if "linear_1.weight" in name)
    save_file({key: one for key, one in tensors.items() if key != name}, llava / "model.safetensors", {"format": "pt"})
    refused(llava, "wanted all weights. Got none for .*linear_1.weight")


def test_a_model_that_nobody_taught_turns_is_refused(llava: Path) -> None:
    (llava / "chat_template.jinja").unlink()
    refused(llava, "llava: wanted a chat template.*chat_template.jinja")


def test_code_of_a_folder_is_never_run(llava: Path) -> None:
    config = json.loads((llava / "config.json").read_text())
    config |= {"model_type": "prismatic", "auto_map": {"AutoConfig": "evil.Config"}}
    (llava / "config.json").write_text(json.dumps(config))
    (llava / "evil.py").write_text("raise SystemExit('run')")
    refused(llava, "wanted a model that transformers loads by itself")


@pytest.mark.parametrize(
    ("kind", "reason"), [("t5", "a decoder-only model"), ("siglip", "an image-text-to-text model")]
)
def test_models_that_do_not_answer_are_refused(kind: str, reason: str, llava: Path) -> None:
    (llava / "config.json").write_text(json.dumps({"model_type": kind}))
    refused(llava, reason)


def test_a_folder_of_nobody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path, r"wanted .*spec.json .*config.json.*notes.txt")


def test_a_hub_name_is_brought(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hf_folder, "resolve_hub_path", lambda place: asked.append(place) or whole)
    assert load_hf_model(Path("llava-hf/llava-tiny"), site=Site()).components.model_type == "llava"
    assert asked == ["llava-hf/llava-tiny"]


def test_a_missing_package_is_named(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoProcessor

    def lacks(*args: Any, **kwargs: Any) -> None:
        raise ImportError("X requires the Torchvision library but it was not found in your environment.")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", lacks)
    refused(llava, re.escape("pip install torchvision"))


def test_a_text_model_is_asked_blind(tmp_path: Path) -> None:
    """Text choices against one whole read a choice; words against plain `generate`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = made.words([])
    torch.manual_seed(0)
    kind: Any = LlamaForCausalLM
    model = kind(LlamaConfig(**{**made.LLAMA, "vocab_size": len(words)}, eos_token_id=257, bos_token_id=256))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.ndim > 1 else 1)
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    who = load_eval_model(tmp_path, site=Site())
    assert not who.has_vision
    with pytest.raises(ModelError, match="text model"):
        who.encode_images([])
    asked = ["what is it ?", "why"]
    for text, told in zip(
        asked, who.generate([GenerationRequest(text=text, image=None) for text in asked], max_new_tokens=6), strict=True
    ):
        inputs = words(text, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
        assert told == words.decode(ids, skip_special_tokens=True).strip()
    choices = ("a cat", "dog", "a car", "no dog at all")
    totals: list[float] = []
    for choice in choices:
        ids = torch.tensor([words(f"what is it ? {choice}")["input_ids"]])
        begun = len(words("what is it ?")["input_ids"])
        with torch.no_grad():
            likely = model(ids).logits[0, begun - 1 : -1].log_softmax(-1)
        totals.append(float(likely.gather(1, ids[0, begun:, None]).sum()))
    offered = ChoiceRequest(text="what is it ?", image=None, choices=choices, is_chat_turn=False)
    np.testing.assert_allclose(
        next(load_hf_model(tmp_path, site=Site()).choice_loglikelihoods([offered])), totals, atol=1e-3
    )
    assert list(who.rank_choices([offered])) == [totals.index(max(totals))]


def test_a_stranger_is_judged_like_a_checkpoint(llava: Path, benchmarks: Path) -> None:
    """Every answer that the harness keeps is the one of a single direct question."""
    from transformers import GenerationConfig

    GenerationConfig(eos_token_id=list(range(0, 256, 11)), pad_token_id=257).save_pretrained(llava)  # short answers
    names = ("vqav2", "pope", "refcoco")
    asking = EvalConfig(tasks=names, image_mode="both", prompt_style="paper")
    verdict = evaluate_checkpoint(llava, benchmarks, config=asking, site=Site(), on_progress=lambda _: None)
    assert {name: task["n"] for name, task in verdict.scores["tasks"].items()} == dict.fromkeys(names, 12)
    who, pictures = load_hf_model(llava, site=Site()), BenchmarkImages(benchmarks)

    @cache
    def alone(prompt: str, image: str | None) -> str:
        [picture] = [None] if image is None else who.encode_images([(image, pictures.read(image))])
        return next(who.generate([GenerationRequest(text=prompt, image=picture)], max_new_tokens=LIMIT))

    for row in verdict.answers[::5]:
        assert row.answer == alone(row.prompt, None if row.is_blind else row.question.image)
    assert len({row.answer for row in verdict.answers}) > 3
    assert verdict.answers[0].prompt == "\nwhat is it ?\nAnswer the question using a single word or phrase."
