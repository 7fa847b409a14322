"""firstsight's transformers classes: cache, padding, loss, gradients, and errors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from firstsight.errors import ModelError
from firstsight.hub.hf_classes import FirstsightConfig, FirstsightForCausalLM, FirstsightForConditionalGeneration
from firstsight.recipe import serialize
from firstsight.recipe.model import LMSpec, VLMSpec
from tests.conftest import DEVICE
from tests.hub.checkpoints import FALLBACK
from tests.model.tiny_models import random_model

IMAGE_ID = 3


def build_model(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """A model with every parameter off its starting value."""
    spec = FALLBACK[name]
    config = FirstsightConfig(
        firstsight=serialize.to_json(spec), image_token_id=IMAGE_ID, eos_token_id=None, pad_token_id=1
    )
    model_class = FirstsightForConditionalGeneration if isinstance(spec, VLMSpec) else FirstsightForCausalLM
    model = model_class(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.model.load_state_dict(random_model(spec, dtype=torch.float32).state_dict())
    return model.to(DEVICE, dtype).eval()


def make_inputs(name: str) -> dict[str, torch.Tensor]:
    """Two rows, the second shorter; with a picture each where the model sees, at the rows' beginning."""
    spec, generator = FALLBACK[name], torch.Generator().manual_seed(1)
    options = torch.randint(8, 20, (2, 7), generator=generator).to(DEVICE)
    if isinstance(spec, LMSpec):
        return {"input_ids": options}
    pixels = torch.randint(256, (2, 12, 12, 3), dtype=torch.uint8, generator=generator).to(DEVICE)
    image_ids = options.new_full((2, spec.image_tokens), IMAGE_ID)
    return {"input_ids": torch.cat((image_ids, options), 1), "pixel_values": pixels}


@pytest.mark.parametrize("name", ["openlm", "shifted", "vision", "prefix", "fused"])
def test_the_cache_and_padding_change_nothing(name: str) -> None:
    model, inputs = build_model(name), make_inputs(name)
    ids = inputs.pop("input_ids")
    full = model(ids, use_cache=False, **inputs).logits
    start = model(ids[:, :-3], use_cache=True, **inputs)
    parts, cache = [start.logits], start.past_key_values
    for column in range(ids.shape[1] - 3, ids.shape[1]):
        parts.append(model(ids[:, column : column + 1], past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-10)
    for left, right in ((4, 0), (0, 4)):
        padded = torch.nn.functional.pad(ids, (left, right), value=1)
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        output = model(padded, attention_mask=mask, **inputs).logits[:, left : left + ids.shape[1]]
        torch.testing.assert_close(output, full, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["shifted", "vision"])
def test_generation_is_the_same_with_and_without_a_cache_and_beams_run(name: str) -> None:
    model, inputs = build_model(name), make_inputs(name)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [IMAGE_ID]}
    cached, plain = model.generate(**inputs, **options), model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached, plain)
    best = model.generate(**inputs, **options, num_beams=3)
    assert best.shape == cached.shape

    def likelihood(ids: torch.Tensor) -> torch.Tensor:
        image_inputs = {key: value for key, value in inputs.items() if key != "input_ids"}
        logits = model(ids, use_cache=False, **image_inputs).logits[:, -6:-1].log_softmax(-1)
        return logits.gather(2, ids[:, -5:, None]).sum(dim=(1, 2))

    assert bool((likelihood(best) >= likelihood(cached) - 1e-9).all())


@pytest.mark.parametrize("name", ["openlm", "shifted", "vision"])
def test_assisted_decoding_changes_nothing(name: str) -> None:
    """Tokens looked up in the prompt are tried first; most are wrong, and some are right."""
    model, inputs = build_model(name), {key: value[:1] for key, value in make_inputs(name).items()}
    inputs["input_ids"] = torch.cat((inputs["input_ids"], inputs["input_ids"][:, -5:]), 1)
    options: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False, "suppress_tokens": [IMAGE_ID]}
    assisted = model.generate(**inputs, **options, prompt_lookup_num_tokens=3)
    assert torch.equal(assisted, model.generate(**inputs, **options))


def test_the_loss_is_the_mean_over_targets_and_has_gradients() -> None:
    model, inputs = build_model("vision"), make_inputs("vision")
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    output = model(**inputs, labels=labels)
    expected = cross_entropy(output.logits[:, -5:-1].flatten(0, 1), inputs["input_ids"][:, -4:].flatten())
    torch.testing.assert_close(output.loss.double(), expected, rtol=0, atol=1e-6)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.model.parameters())
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


def test_the_last_logits_alone() -> None:
    model, inputs = build_model("openlm"), make_inputs("openlm")
    output = model(**inputs, logits_to_keep=2).logits
    torch.testing.assert_close(output, model(**inputs).logits[:, -2:], rtol=0, atol=1e-12)


def test_images_and_image_tokens_must_match() -> None:
    model, inputs = build_model("vision"), make_inputs("vision")
    with pytest.raises(ModelError, match=r"wanted 27 image tokens, 27 for each of 1 images\. Got 54"):
        model(**inputs | {"pixel_values": inputs["pixel_values"][:1]})
    with pytest.raises(ModelError, match=r"of 0 images\. Got 54"):
        model(inputs["input_ids"])
    with pytest.raises(ModelError, match="attention_mask: wanted"):
        model(**inputs, attention_mask=torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ModelError, match="a text-only model"):
        build_model("openlm")(make_inputs("openlm")["input_ids"], pixel_values=inputs["pixel_values"])


def test_a_static_cache_is_refused() -> None:
    with pytest.raises(ModelError, match="Leave cache_implementation out"):
        build_model("openlm").generate(**make_inputs("openlm"), max_new_tokens=3, cache_implementation="static")


def test_models_go_to_their_own_class() -> None:
    for name, model_class in (("vision", FirstsightForCausalLM), ("openlm", FirstsightForConditionalGeneration)):
        with pytest.raises(ModelError, match="Load it with AutoModel"):
            model_class(FirstsightConfig(firstsight=serialize.to_json(FALLBACK[name])))
    with pytest.raises(ModelError, match="wanted a spec"):
        FirstsightForCausalLM(FirstsightConfig())


def test_the_package_imports_neither_torch_nor_transformers() -> None:
    expected = "import sys, firstsight.hub; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", expected], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
