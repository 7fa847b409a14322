"""Batched answers of transformers models against direct calls of their own classes, one question at a time."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from firstsight.data.records import IMAGE_PLACEHOLDER, strip_image_placeholder
from firstsight.errors import DataError, ModelError
from firstsight.evaluate.models.hf_model import load_hf_model
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest, RawAnswer
from firstsight.evaluate.models.native import NativeModel, load_native_model
from firstsight.hub.export import export_checkpoint
from firstsight.site import Site
from tests.evaluate.conftest import MakeCheckpoint
from tests.evaluate.models.conftest import NAMED_IMAGES, MakeFolder

KINDS = ("llava", "paligemma", "idefics3", "qwen2_vl")
PAPER = "\n{q}\nAnswer the question using a single word or phrase."
QUESTIONS = ("what is left of the cat ?", "why ?")
CHOICES = ("Yes", "No", "Yet")
MAX_TOKENS = 6


def direct_inputs(kind: str, folder: Path, question: str, image: Image.Image | None) -> dict[str, Any]:
    """Inputs of one question as in the model's card: the prompt written by hand, the processor called directly."""
    from transformers import AutoProcessor, AutoTokenizer, Qwen2VLImageProcessorPil

    if kind == "qwen2_vl":  # its whole processor needs torchvision, for videos: image and text apart
        tokenizer = AutoTokenizer.from_pretrained(folder)
        num_tokens = 0
        image_inputs: dict[str, Any] = {}
        if image is not None:
            size = {"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28}
            image_inputs = dict(Qwen2VLImageProcessorPil(size=size)(image, return_tensors="pt"))
            num_tokens = int(image_inputs["image_grid_thw"].prod()) // 4
        mark = f"<|vision_start|>{'<|image_pad|>' * num_tokens}<|vision_end|>" if image is not None else ""
        prompt = f"<|im_start|>user\n{mark}{PAPER.format(q=question).strip()}<|im_end|>\n<|im_start|>assistant\n"
        inputs = dict(tokenizer(prompt, return_tensors="pt", return_token_type_ids=False))
        is_image = inputs["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")
        return inputs | image_inputs | {"mm_token_type_ids": is_image.long()}
    processor = AutoProcessor.from_pretrained(folder)
    if kind == "paligemma":
        prompt = f"answer en {question}"
        if image is None:
            return dict(processor.tokenizer(f"<s>{prompt}\n", return_tensors="pt", return_token_type_ids=True))
        inputs = processor(text=f"<image>{prompt}", images=image, return_tensors="pt")
        return {name: value for name, value in inputs.items() if name != "labels"}
    mark = "" if image is None else {"llava": "<image>\n", "idefics3": "<image>"}[kind]
    prompt = f"USER: {mark}{PAPER.format(q=question).strip()} ASSISTANT:"
    return dict(processor(text=prompt, images=None if image is None else [image], return_tensors="pt"))


@cache
def load_directly(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer by transformers alone."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    return AutoModelForImageTextToText.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def generate_directly(folder: Path, inputs: dict[str, Any]) -> str:
    """The greedy answer of `generate`."""
    model, tokenizer = load_directly(folder)
    greedy = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None, "repetition_penalty": 1.0}
    ids = model.generate(**inputs, **greedy, max_new_tokens=MAX_TOKENS)[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_batched_answers_are_those_of_single_calls(kind: str, hf_folder: MakeFolder) -> None:
    model = load_hf_model(hf_folder(kind), site=Site())
    images: list[Any] = [*model.encode_images(NAMED_IMAGES), None]
    pairs = [(question, image) for image in images for question in QUESTIONS]
    requests = [GenerationRequest(text=PAPER.format(q=question), image=image) for question, image in pairs]
    answers = [answer.text for answer in model.generate(requests, max_new_tokens=MAX_TOKENS)]
    expected = [generate_directly(hf_folder(kind), direct_inputs(kind, hf_folder(kind), *pair)) for pair in pairs]
    assert answers == [model.chat_format.parse_answer(answer) for answer in expected]
    assert len(set(answers)) > 1
    assert model.has_vision


@pytest.mark.parametrize("kind", KINDS)
def test_choice_loglikelihoods_are_those_of_one_forward_pass(kind: str, hf_folder: MakeFolder) -> None:
    """The oracle reads question and choice in one forward pass without a cache, and sums log-softmax by hand."""
    model = load_hf_model(hf_folder(kind), site=Site())
    direct, tokenizer = load_directly(hf_folder(kind))
    images: list[Any] = [*model.encode_images(NAMED_IMAGES), None]
    space = "" if kind in ("paligemma", "qwen2_vl") else " "  # the other prompts end in a colon
    expected: list[list[float]] = []
    for image in images:
        inputs, row = direct_inputs(kind, hf_folder(kind), QUESTIONS[0], image), []
        for choice in CHOICES:
            ids = torch.tensor([tokenizer(space + choice, add_special_tokens=False)["input_ids"]])
            suffix = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            suffix |= {"token_type_ids": torch.ones_like(ids), "mm_token_type_ids": torch.zeros_like(ids)}
            longer = {n: torch.cat((v, suffix[n]), 1) if n in suffix else v for n, v in inputs.items()}
            with torch.no_grad():
                log_probs = direct(**longer).logits[0, -ids.shape[1] - 1 : -1].log_softmax(-1)
            row.append(float(log_probs.gather(1, ids[0, :, None]).sum()))
        expected.append(row)
    requests = [
        ChoiceRequest(text=PAPER.format(q=QUESTIONS[0]), image=image, choices=CHOICES, is_chat_turn=True)
        for image in images
    ]
    np.testing.assert_allclose(list(model.choice_loglikelihoods(requests)), expected, atol=1e-3)
    assert [answer.text for answer in model.rank_choices(requests)] == [str(row.index(max(row))) for row in expected]
    assert np.ptp([row[0] for row in expected[:3]]) > 5e-3, "the image must matter"


def test_an_answer_ends_at_the_models_end_token(hf_folder: MakeFolder, tmp_path: Path) -> None:
    from transformers import GenerationConfig

    requests = [GenerationRequest(text=text, image=None) for text in ("what is it ?", "why ?")]
    model = load_hf_model(hf_folder("idefics3"), site=Site())
    long = next(model.generate(requests, max_new_tokens=MAX_TOKENS)).text
    inputs = model.chat_format.model_inputs([model.chat_format.render("what is it ?", has_image=False)], None)
    generated = model.components.model.generate(**inputs, max_new_tokens=MAX_TOKENS)
    ids = generated[0, inputs["input_ids"].shape[1] :].tolist()
    copy = Path(shutil.copytree(hf_folder("idefics3"), tmp_path / "copy"))
    GenerationConfig(eos_token_id=[ids[2], 257], pad_token_id=0).save_pretrained(copy)
    short = next(load_hf_model(copy, site=Site()).generate(requests, max_new_tokens=MAX_TOKENS)).text
    assert short == model.components.tokenizer.decode(ids[: ids.index(ids[2])]).strip() != long


def test_images_keep_their_size_and_broken_ones_are_refused(hf_folder: MakeFolder) -> None:
    model = load_hf_model(hf_folder("llava"), site=Site())
    images = model.encode_images(NAMED_IMAGES)
    assert [image.size for image in images if isinstance(image, Image.Image)] == [(40, 30), (100, 20), (64, 90)]
    with pytest.raises(DataError, match=re.escape("b.png: wanted an image. Got")):
        model.encode_images([("b.png", NAMED_IMAGES[1][1][:200])])


def test_an_image_that_the_processor_refuses_is_explained(hf_folder: MakeFolder) -> None:
    model, file = load_hf_model(hf_folder("qwen2_vl"), site=Site()), io.BytesIO()
    Image.new("RGB", (3000, 2)).save(file, "PNG")
    [image] = model.encode_images([("flat.png", file.getvalue())])
    with pytest.raises(DataError, match=r"qwen2_vl's processor: wanted images.*aspect ratio.*Leave those"):
        list(model.generate([GenerationRequest(text="why ?", image=image)], max_new_tokens=MAX_TOKENS))


REFERENCES = ("a cat", "yes", "Yes", "zebra")
"""The word-level vocabulary ignores case and has no zebra, so the last two have no tokens of their own."""


def check_equal_answers(answers: Iterable[RawAnswer], others: Iterable[RawAnswer]) -> None:
    """Equal texts, and log-likelihoods that are equal up to the rounding of float32."""
    for answer, other in zip(answers, others, strict=True):
        assert answer.text == other.text
        assert answer.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4)


def reference_loglikelihoods(
    folder: Path, native: NativeModel, question: str, image: Image.Image | None
) -> list[float | None]:
    """Log-likelihoods of REFERENCES from logits of the exported model, one forward pass for each end token.

    The processor writes the prompt; tokens of references and ends are the tokenizer's, and the sum is in float64.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    image_part = [] if image is None else [{"type": "image", "image": image}]
    text_part = {"type": "text", "text": strip_image_placeholder(IMAGE_PLACEHOLDER + question)}
    messages = [{"role": "user", "content": [*image_part, text_part]}]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    values: list[float | None] = []
    for ids in native.tokenizer.encode(["a cat", "yes"]):
        total = 0.0
        for end in (native.tokenizer.special_ids.end, native.tokenizer.special_ids.answer):
            suffix = torch.tensor([[*ids, end]])
            tokens = torch.cat((inputs["input_ids"], suffix), dim=1)
            longer = {**inputs, "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            with torch.no_grad():
                log_probs = model(**longer).logits[0, -suffix.shape[1] - 1 : -1].double().log_softmax(-1)
            total += float(log_probs.gather(1, suffix[0, :, None]).sum().exp())
        values.append(float(np.log(total)))
    return [*values, None, None]


@pytest.mark.parametrize("kind", ["patches", "siglip", "lm"])
def test_an_exported_checkpoint_answers_like_the_checkpoint(
    kind: str, checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """Text choices for a text model; answers and choices, with image and blind, for vision-language models."""
    export_checkpoint(checkpoint(kind), tmp_path / "out", dtype="float32")
    native, exported = load_native_model(checkpoint(kind), site=Site()), load_hf_model(tmp_path / "out", site=Site())
    texts = [
        ChoiceRequest(text=text, image=None, choices=("a cat", "dog", "is"), is_chat_turn=False)
        for text in ("what is it ?", "there", "no red dog is")
    ]
    check_equal_answers(exported.rank_choices(texts), native.rank_choices(texts))
    assert exported.has_vision == native.has_vision == (kind != "lm")
    if kind == "lm":
        return
    questions = ["\nwhat is it ?", "is there a cat ?", "the <image>red dog"]
    images = zip(
        [*native.encode_images(NAMED_IMAGES), None], [*exported.encode_images(NAMED_IMAGES), None], strict=True
    )
    for features, pil_image in images:
        requests = [GenerationRequest(text=text, image=features, references=REFERENCES) for text in questions]
        exported_requests = [replace(request, image=pil_image) for request in requests]
        answers = list(exported.generate(exported_requests, max_new_tokens=MAX_TOKENS))
        check_equal_answers(answers, native.generate(requests, max_new_tokens=MAX_TOKENS))
        for text, answer in zip(questions, answers, strict=True):
            expected = reference_loglikelihoods(tmp_path / "out", native, text, pil_image)
            assert answer.log_likelihoods == pytest.approx(expected, abs=1e-4)
        choices = [
            ChoiceRequest(text=text, image=features, choices=("yes", "no", "a cat"), is_chat_turn=True)
            for text in questions
        ]
        ranked = exported.rank_choices([replace(request, image=pil_image) for request in choices])
        check_equal_answers(ranked, native.rank_choices(choices))


def test_logits_that_are_not_numbers_are_an_error(hf_folder: MakeFolder) -> None:
    model = load_hf_model(hf_folder("llava"), site=Site())
    with torch.no_grad():
        model.components.model.get_output_embeddings().weight[5] = float("inf")  # after the weights were checked
    with pytest.raises(ModelError, match=r"llava's logits: wanted numbers\. Got NaN or infinity"):
        list(model.generate([GenerationRequest(text="what is it ?", image=None)], max_new_tokens=2))
    choice = ChoiceRequest(text="it is", image=None, choices=("a cat", "a dog"), is_chat_turn=False)
    with pytest.raises(ModelError, match=r"llava's logits: wanted numbers\. Got NaN or infinity"):
        list(model.rank_choices([choice]))


def test_weights_that_are_not_finite_are_refused(hf_folder: MakeFolder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hf_folder("llava"), tmp_path / "llava"))
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"llava: wanted finite numbers in \S+q_proj\.weight\. Got NaN or infinity for 1 "
    ):
        load_hf_model(folder, site=Site())
