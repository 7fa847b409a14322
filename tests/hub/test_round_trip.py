"""Exported folders in transformers' hands say what the checkpoint says, and come back bit for bit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import firstsight.hub.hf_classes
from firstsight.hub import import_
from firstsight.hub.export import export_checkpoint
from firstsight.model.checkpoint_io import load
from firstsight.model.generate import generate
from firstsight.model.tensors import read_tensors
from firstsight.model.vision import extract_features
from firstsight.recipe.model import LMSpec, VLMSpec
from tests.conftest import DEVICE
from tests.hub.made import ALL, NATIVE, OURS, Own, checkpoint, png

QUESTIONS = ("what is the cat ?", "where is a red dog left of the blue cat ?", "what ?")
CLASS = {"llama": "LlamaForCausalLM", "llava": "LlavaForConditionalGeneration"}
SEEING = [name for name, spec in ALL.items() if isinstance(spec, VLMSpec)]
READING = [name for name, spec in ALL.items() if isinstance(spec, LMSpec)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(checkpoint, export) of a spec's name, made once."""
    held: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in held:
            folder = tmp_path_factory.mktemp(name)
            kept = checkpoint(folder / "kept", ALL[name])
            export_checkpoint(kept, folder / "out", dtype="float32")
            held[name] = kept, folder / "out"
        return held[name]

    return make


def taken(folder: Path, dtype: torch.dtype, *, sees: bool) -> Any:
    """The model by its Auto class, on the tests' device; every weight must be wanted and there."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model, told = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(told.values()), told
    return model.to(DEVICE).eval()


def asked(folder: Path, shown: list[bytes | None]) -> Any:
    """A ragged batch of questions with and without pictures, padded by the folder's own processor."""
    from transformers import AutoProcessor

    talks = []
    for question, data in zip(QUESTIONS, shown, strict=True):
        picture = [{"type": "image", "image": Image.open(io.BytesIO(data))}] if data else []
        talks.append([{"role": "user", "content": [*picture, {"type": "text", "text": question}]}])
    form = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
    processor = AutoProcessor.from_pretrained(folder, backend="pil")  # torchvision rounds otherwise
    return processor.apply_chat_template(talks, **form).to(DEVICE)


def close(name: str, dtype: torch.dtype) -> float:
    """How far logits may differ, in parts of the largest; transformers' Llama norms and turns in float32 even so."""
    return 1e-10 if dtype == torch.float64 and name in OURS else 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", SEEING)
def test_models_that_see_say_the_same(made: Any, name: str, dtype: torch.dtype) -> None:
    kept, out = made(name)
    model, own = taken(out, dtype, sees=True), Own(kept, dtype)
    assert type(model).__name__ == (CLASS["llava"] if name in NATIVE else "FirstsightForConditionalGeneration")
    shown = [png(0), None, png(1, size=(9, 30))]
    inputs = asked(out, shown)
    with torch.no_grad():
        logits = model(**inputs).logits
    half = name in OURS and dtype == torch.float32
    seen = [None if data is None else own.seen(data, half=half) for data in shown]
    prompts = [own.prompt(words, picture=data is not None) for words, data in zip(QUESTIONS, shown, strict=True)]
    for row, ids in enumerate(prompts):
        wanted = own.logits(ids, seen[row])
        assert (logits[row, -len(ids) :] - wanted).abs().max() < close(name, dtype) * wanted.abs().max(), name
    found = model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    assert until_stop(found, own) == own.answers(prompts, seen, limit=6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", READING)
def test_text_models_say_the_same(made: Any, name: str, dtype: torch.dtype) -> None:
    from transformers import AutoTokenizer

    kept, out = made(name)
    model, own = taken(out, dtype, sees=False), Own(kept, dtype)
    assert type(model).__name__ == (CLASS["llama"] if name in NATIVE else "FirstsightForCausalLM")
    tokenizer = AutoTokenizer.from_pretrained(out)
    inputs = tokenizer([tokenizer.eos_token + text for text in QUESTIONS], padding=True, return_tensors="pt").to(DEVICE)
    with torch.no_grad():
        logits = model(**inputs).logits
    prompts = [[own.words.special_ids.end, *own.words.encode([text])[0]] for text in QUESTIONS]
    for row, ids in enumerate(prompts):
        assert inputs["input_ids"][row, -len(ids) :].tolist() == ids
        wanted = own.logits(ids, None)
        assert (logits[row, -len(ids) :] - wanted).abs().max() < close(name, dtype) * wanted.abs().max(), name
    inputs.pop("token_type_ids", None)
    found = model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    end = {own.words.special_ids.end}
    answers = generate(own.loaded.model, prompts, stop=end, max_new_tokens=6)
    assert [cut(row.tolist(), end) for row in found] == answers


def until_stop(found: torch.Tensor, own: Own) -> list[list[int]]:
    return [cut(row.tolist(), {own.words.special_ids.end, own.words.special_ids.answer}) for row in found]


def cut(ids: list[int], stop: set[int]) -> list[int]:
    """What comes before the first stop."""
    return ids[: next((place for place, one in enumerate(ids) if one in stop), len(ids))]


@pytest.mark.parametrize("name", ALL)
def test_an_import_brings_every_bit_back(made: Any, name: str, tmp_path: Path) -> None:
    kept, out = made(name)
    request = import_.ImportRequest(location=str(out), revision=None, tokenizer="", config_path=None, tokens_seen=None)
    import_.import_checkpoint(request, tmp_path / "back", on_progress=lambda _: None)
    first, second = read_tensors(kept), read_tensors(tmp_path / "back")
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    ours, theirs = load(kept), load(tmp_path / "back")
    assert theirs.spec == ours.spec
    assert theirs.tokenizer.read_bytes() == ours.tokenizer.read_bytes()
    if ours.encoder is not None and theirs.encoder is not None:
        pixels = torch.randint(256, (2, 12, 12, 3), dtype=torch.uint8)
        assert torch.equal(extract_features(ours.encoder, pixels), extract_features(theirs.encoder, pixels))
        export_checkpoint(tmp_path / "back", tmp_path / "again", dtype="float32")
        assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_what_transformers_saves_again_loads_again(made: Any, tmp_path: Path) -> None:
    for name in ("shifted", "fused", "llava"):
        _, out = made(name)
        model = taken(out, torch.float32, sees=name != "shifted")
        model.save_pretrained(tmp_path / name)
        again = taken(tmp_path / name, torch.float32, sees=name != "shifted").state_dict()
        assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())


def test_the_classes_are_known_by_one_import() -> None:
    from transformers import AutoConfig

    assert AutoConfig.for_model("firstsight").__class__ is firstsight.hub.hf_classes.FirstsightConfig
