"""Exports in transformers have the logits and answers of their checkpoint, and are imported bit for bit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import firstsight.hub.hf_classes
from firstsight.hub.export import export_checkpoint
from firstsight.model.checkpoint_io import load
from firstsight.model.generate import generate
from firstsight.model.tensors import read_tensors
from firstsight.model.vision import extract_features
from firstsight.recipe.model import LMSpec, VLMSpec
from tests.conftest import DEVICE
from tests.hub.checkpoints import ALL, FALLBACK, NATIVE, Reference, import_weights, png_bytes, write_checkpoint

QUESTIONS = ("what is the cat ?", "where is a red dog left of the blue cat ?", "what ?")
NATIVE_CLASSES = {"llama": "LlamaForCausalLM", "llava": "LlavaForConditionalGeneration"}
VISION_NAMES = [name for name, spec in ALL.items() if isinstance(spec, VLMSpec)]
TEXT_NAMES = [name for name, spec in ALL.items() if isinstance(spec, LMSpec)]


@pytest.fixture(scope="module")
def make_export(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(checkpoint, export) of a spec's name, made once."""
    folders: dict[str, tuple[Path, Path]] = {}

    def export_by_name(name: str) -> tuple[Path, Path]:
        if name not in folders:
            folder = tmp_path_factory.mktemp(name)
            checkpoint = write_checkpoint(folder / "kept", ALL[name])
            export_checkpoint(checkpoint, folder / "out", dtype="float32")
            folders[name] = checkpoint, folder / "out"
        return folders[name]

    return export_by_name


def load_model(folder: Path, dtype: torch.dtype, *, has_vision: bool) -> Any:
    """The model by its Auto class, on the tests' device; every weight must be wanted and there."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto_class = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    model, expected = auto_class.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(expected.values()), expected
    return model.to(DEVICE).eval()


def make_inputs(folder: Path, image_bytes: list[bytes | None]) -> Any:
    """A ragged batch of questions with and without pictures, padded by the folder's own processor."""
    from transformers import AutoProcessor

    dialogues = []
    for question, data in zip(QUESTIONS, image_bytes, strict=True):
        image_part = [{"type": "image", "image": Image.open(io.BytesIO(data))}] if data else []
        dialogues.append([{"role": "user", "content": [*image_part, {"type": "text", "text": question}]}])
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
    processor = AutoProcessor.from_pretrained(folder, backend="pil")  # torchvision rounds otherwise
    return processor.apply_chat_template(dialogues, **options).to(DEVICE)


def tolerance(name: str, dtype: torch.dtype) -> float:
    """How far logits may differ, in parts of the largest; transformers' Llama norms and turns in float32 even so."""
    return 1e-10 if dtype == torch.float64 and name in FALLBACK else 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", VISION_NAMES)
def test_vision_language_models_have_equal_logits_and_answers(make_export: Any, name: str, dtype: torch.dtype) -> None:
    checkpoint, out = make_export(name)
    model, reference = load_model(out, dtype, has_vision=True), Reference(checkpoint, dtype)
    assert type(model).__name__ == (NATIVE_CLASSES["llava"] if name in NATIVE else "FirstsightForConditionalGeneration")
    image_bytes = [png_bytes(0), None, png_bytes(1, size=(9, 30))]
    inputs = make_inputs(out, image_bytes)
    with torch.no_grad():
        logits = model(**inputs).logits
    half = name in FALLBACK and dtype == torch.float32
    image_inputs = [None if data is None else reference.image_input(data, is_half=half) for data in image_bytes]
    prompts = [
        reference.prompt(words, has_image=data is not None) for words, data in zip(QUESTIONS, image_bytes, strict=True)
    ]
    for row, ids in enumerate(prompts):
        expected = reference.logits(ids, image_inputs[row])
        assert (logits[row, -len(ids) :] - expected).abs().max() < tolerance(name, dtype) * expected.abs().max(), name
    output = model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    assert until_stop(output, reference) == reference.answers(prompts, image_inputs, limit=6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", TEXT_NAMES)
def test_text_models_have_equal_logits_and_answers(make_export: Any, name: str, dtype: torch.dtype) -> None:
    from transformers import AutoTokenizer

    checkpoint, out = make_export(name)
    model, reference = load_model(out, dtype, has_vision=False), Reference(checkpoint, dtype)
    assert type(model).__name__ == (NATIVE_CLASSES["llama"] if name in NATIVE else "FirstsightForCausalLM")
    tokenizer = AutoTokenizer.from_pretrained(out)
    inputs = tokenizer([tokenizer.eos_token + text for text in QUESTIONS], padding=True, return_tensors="pt").to(DEVICE)
    with torch.no_grad():
        logits = model(**inputs).logits
    prompts = [[reference.tokenizer.special_ids.end, *reference.tokenizer.encode([text])[0]] for text in QUESTIONS]
    for row, ids in enumerate(prompts):
        assert inputs["input_ids"][row, -len(ids) :].tolist() == ids
        expected = reference.logits(ids, None)
        assert (logits[row, -len(ids) :] - expected).abs().max() < tolerance(name, dtype) * expected.abs().max(), name
    inputs.pop("token_type_ids", None)
    output = model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    end = {reference.tokenizer.special_ids.end}
    answers = generate(reference.loaded.model, prompts, stop=end, max_new_tokens=6)
    assert [before_stop(row.tolist(), end) for row in output] == answers


def until_stop(output: torch.Tensor, reference: Reference) -> list[list[int]]:
    return [
        before_stop(row.tolist(), {reference.tokenizer.special_ids.end, reference.tokenizer.special_ids.answer})
        for row in output
    ]


def before_stop(ids: list[int], stop: set[int]) -> list[int]:
    """What comes before the first stop."""
    return ids[: next((location for location, tensor in enumerate(ids) if tensor in stop), len(ids))]


@pytest.mark.parametrize("name", ALL)
def test_import_of_an_export_restores_every_bit(make_export: Any, name: str, tmp_path: Path) -> None:
    checkpoint, out = make_export(name)
    import_weights(out, tmp_path / "back")
    first, second = read_tensors(checkpoint), read_tensors(tmp_path / "back")
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    original, imported = load(checkpoint), load(tmp_path / "back")
    assert imported.spec == original.spec
    assert imported.tokenizer.read_bytes() == original.tokenizer.read_bytes()
    if original.encoder is not None and imported.encoder is not None:
        pixels = torch.randint(256, (2, 12, 12, 3), dtype=torch.uint8)
        assert torch.equal(extract_features(original.encoder, pixels), extract_features(imported.encoder, pixels))
        export_checkpoint(tmp_path / "back", tmp_path / "again", dtype="float32")
        assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_model_saved_by_transformers_loads_again(make_export: Any, tmp_path: Path) -> None:
    for name in ("shifted", "fused", "llava"):
        _, out = make_export(name)
        model = load_model(out, torch.float32, has_vision=name != "shifted")
        model.save_pretrained(tmp_path / name)
        again = load_model(tmp_path / name, torch.float32, has_vision=name != "shifted").state_dict()
        assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())


def test_one_import_registers_the_classes() -> None:
    from transformers import AutoConfig

    assert AutoConfig.for_model("firstsight").__class__ is firstsight.hub.hf_classes.FirstsightConfig
