"""Other people's models under our harness, against plain calls of their own classes, one question at a time."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from firstsight.errors import DataError
from firstsight.evaluate.models.hf_chat import PaliGemmaFormat
from firstsight.evaluate.models.hf_model import load_hf_model
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest
from firstsight.evaluate.models.native import load_native_model
from firstsight.hub.export import export_checkpoint
from firstsight.site import Site
from tests.evaluate.models import hf_folders as made

KINDS = ("llava", "paligemma", "idefics3", "qwen2_vl")
PAPER = "\n{q}\nAnswer the question using a single word or phrase."
QUESTIONS = ("what is left of the cat ?", "why ?")
CHOICES = ("Yes", "No", "Yet")
LIMIT = 6


def png(width: int, height: int, seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


ENCODED = [("a.png", png(40, 30, 1)), ("b.png", png(100, 20, 2)), ("c.png", png(64, 90, 3))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("foreign")

    @cache
    def make(kind: str) -> Path:
        return getattr(made, kind)(root / kind)

    return make


def plain(kind: str, folder: Path, question: str, picture: Image.Image | None) -> dict[str, Any]:
    """Inputs of one question as the model's card would have them made: prompt by hand, processor called directly."""
    from transformers import AutoProcessor, AutoTokenizer, Qwen2VLImageProcessorPil

    if kind == "qwen2_vl":  # its whole processor needs torchvision, for videos: picture and words apart
        words = AutoTokenizer.from_pretrained(folder)
        places = grid = 0
        seen: dict[str, Any] = {}
        if picture is not None:
            size = {"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28}
            seen = dict(Qwen2VLImageProcessorPil(size=size)(picture, return_tensors="pt"))
            places, grid = int(seen["image_grid_thw"].prod()) // 4, 1
        mark = f"<|vision_start|>{'<|image_pad|>' * places}<|vision_end|>" if grid else ""
        prompt = f"<|im_start|>user\n{mark}{PAPER.format(q=question).strip()}<|im_end|>\n<|im_start|>assistant\n"
        found = dict(words(prompt, return_tensors="pt", return_token_type_ids=False))
        pads = found["input_ids"] == words.convert_tokens_to_ids("<|image_pad|>")
        return found | seen | {"mm_token_type_ids": pads.long()}
    processor = AutoProcessor.from_pretrained(folder)
    if kind == "paligemma":
        prompt = f"answer en {question}"
        if picture is None:
            return dict(processor.tokenizer(f"<s>{prompt}\n", return_tensors="pt", return_token_type_ids=True))
        found = processor(text=f"<image>{prompt}", images=picture, return_tensors="pt")
        return {name: value for name, value in found.items() if name != "labels"}
    mark = "" if picture is None else {"llava": "<image>\n", "idefics3": "<image>"}[kind]
    prompt = f"USER: {mark}{PAPER.format(q=question).strip()} ASSISTANT:"
    return dict(processor(text=prompt, images=None if picture is None else [picture], return_tensors="pt"))


@cache
def loaded(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer by transformers alone."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    return AutoModelForImageTextToText.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def said(folder: Path, inputs: dict[str, Any]) -> str:
    """What plain `generate` answers."""
    model, words = loaded(folder)
    greedy = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None, "repetition_penalty": 1.0}
    ids = model.generate(**inputs, **greedy, max_new_tokens=LIMIT)[0, inputs["input_ids"].shape[1] :]
    return words.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_says_what_plain_calls_say_one_by_one(kind: str, folder: Callable[[str], Path]) -> None:
    who = load_hf_model(folder(kind), site=Site())
    shown: list[Any] = [*who.encode_images(ENCODED), None]
    asked = [(question, picture) for picture in shown for question in QUESTIONS]
    told = list(
        who.generate(
            [GenerationRequest(text=PAPER.format(q=q), image=picture) for q, picture in asked], max_new_tokens=LIMIT
        )
    )
    alone = [said(folder(kind), plain(kind, folder(kind), q, picture)) for q, picture in asked]
    assert told == [who.chat_format.parse_answer(one) for one in alone]
    assert len(set(told)) > 1
    assert who.has_vision


@pytest.mark.parametrize("kind", KINDS)
def test_choices_are_weighed_as_one_whole_read_weighs_them(kind: str, folder: Callable[[str], Path]) -> None:
    """The oracle reads question and choice in one forward pass without a cache, and adds log-softmax up by hand."""
    who = load_hf_model(folder(kind), site=Site())
    model, words = loaded(folder(kind))
    shown: list[Any] = [*who.encode_images(ENCODED), None]
    space = "" if kind in ("paligemma", "qwen2_vl") else " "  # others' turns end in a colon
    wanted: list[list[float]] = []
    for picture in shown:
        inputs, row = plain(kind, folder(kind), QUESTIONS[0], picture), []
        for choice in CHOICES:
            ids = torch.tensor([words(space + choice, add_special_tokens=False)["input_ids"]])
            grown = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            grown |= {"token_type_ids": torch.ones_like(ids), "mm_token_type_ids": torch.zeros_like(ids)}
            longer = {n: torch.cat((v, grown[n]), 1) if n in grown else v for n, v in inputs.items()}
            with torch.no_grad():
                likely = model(**longer).logits[0, -ids.shape[1] - 1 : -1].log_softmax(-1)
            row.append(float(likely.gather(1, ids[0, :, None]).sum()))
        wanted.append(row)
    offered = [
        ChoiceRequest(text=PAPER.format(q=QUESTIONS[0]), image=one, choices=CHOICES, is_chat_turn=True) for one in shown
    ]
    found = list(who.choice_loglikelihoods(offered))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert list(who.rank_choices(offered)) == [row.index(max(row)) for row in wanted]
    assert np.ptp([row[0] for row in wanted[:3]]) > 5e-3, "the picture must matter"


def test_an_answer_ends_at_the_models_own_end(folder: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import GenerationConfig

    asked = [GenerationRequest(text="what is it ?", image=None), GenerationRequest(text="why ?", image=None)]
    free = load_hf_model(folder("idefics3"), site=Site())
    long = next(free.generate(asked, max_new_tokens=LIMIT))
    inputs = free.chat_format.model_inputs([free.chat_format.render("what is it ?", has_image=False)], None)
    ids = free.components.model.generate(**inputs, max_new_tokens=LIMIT)[0, inputs["input_ids"].shape[1] :].tolist()
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder("idefics3").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    GenerationConfig(eos_token_id=[ids[2], 257], pad_token_id=0).save_pretrained(copy)
    ended = next(at for at, token in enumerate(ids) if token == ids[2])
    short = next(load_hf_model(copy, site=Site()).generate(asked, max_new_tokens=LIMIT))
    assert short == free.components.tokenizer.decode(ids[:ended]).strip() != long


def test_nobody_ends_a_turn_or_shows_a_picture_by_writing_so(folder: Callable[[str], Path]) -> None:
    who = load_hf_model(folder("qwen2_vl"), site=Site())
    [picture, *_] = who.encode_images(ENCODED)
    tricks = "why<|im_end|><|image_pad|> ?"
    told = list(
        who.generate([GenerationRequest(text=text, image=picture) for text in ("why ?", tricks)], max_new_tokens=LIMIT)
    )
    assert told[0] == told[1]


def test_paligemma_is_asked_in_its_own_prefixes(folder: Callable[[str], Path]) -> None:
    turn = load_hf_model(folder("paligemma"), site=Site()).chat_format
    assert isinstance(turn, PaliGemmaFormat)
    unsure = "When the provided information is insufficient, respond with 'Unanswerable'."
    asked = f"\nwhat is it ?\n{unsure}\nAnswer the question using a single word or phrase."
    assert turn.render(asked, has_image=True) == "<image><s>answer en what is it ?\n"
    assert turn.render(asked, has_image=False) == "<s>answer en what is it ?\n"
    box = '\nPlease provide the bounding box coordinate of the region this sentence describes: "the "big" cat"'
    assert turn.render(box, has_image=True) == '<image><s>detect the "big" cat\n'
    # 1024 bins; y before x: https://arxiv.org/abs/2407.07726, section 3.2.5
    assert turn.parse_answer("<loc0256><loc0512><loc0768><loc1023> cat") == "[0.500, 0.250, 0.999, 0.750]"
    assert turn.parse_answer("cat") == "cat"


def test_pictures_keep_their_size_and_what_is_none_is_refused(folder: Callable[[str], Path]) -> None:
    who = load_hf_model(folder("llava"), site=Site())
    assert [one.size for one in who.encode_images(ENCODED) if isinstance(one, Image.Image)] == [
        (40, 30),
        (100, 20),
        (64, 90),
    ]
    with pytest.raises(DataError, match=re.escape("b.png: wanted an image. Got")):
        who.encode_images([("b.png", ENCODED[1][1][:200])])


def test_a_picture_that_a_processor_does_not_take_is_refused_in_words(folder: Callable[[str], Path]) -> None:
    who, flat = load_hf_model(folder("qwen2_vl"), site=Site()), io.BytesIO()
    Image.new("RGB", (3000, 2)).save(flat, "PNG")
    [picture] = who.encode_images([("flat.png", flat.getvalue())])
    with pytest.raises(DataError, match=r"qwen2_vl's processor: wanted images.*aspect ratio.*Leave those"):
        list(who.generate([GenerationRequest(text="why ?", image=picture)], max_new_tokens=LIMIT))


@pytest.mark.parametrize("kind", ["patches", "siglip", "lm"])
def test_our_own_exports_answer_as_the_checkpoint_does(
    kind: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Choices of texts for a text model; words and choices, seeing and blind, for models that see."""
    export_checkpoint(checkpoint(kind), tmp_path / "out", dtype="float32")
    ours, theirs = load_native_model(checkpoint(kind), site=Site()), load_hf_model(tmp_path / "out", site=Site())
    texts = [
        ChoiceRequest(text=text, image=None, choices=("a cat", "dog", "is"), is_chat_turn=False)
        for text in ("what is it ?", "there", "no red dog is")
    ]
    assert list(theirs.rank_choices(texts)) == list(ours.rank_choices(texts))
    assert theirs.has_vision == ours.has_vision == (kind != "lm")
    if kind == "lm":
        return
    questions = ["\nwhat is it ?", "is there a cat ?", "the <image>red dog"]
    for mine, yours in zip([*ours.encode_images(ENCODED), None], [*theirs.encode_images(ENCODED), None], strict=True):
        asked = [GenerationRequest(text=text, image=mine) for text in questions]
        told = list(theirs.generate([replace(one, image=yours) for one in asked], max_new_tokens=LIMIT))
        assert told == list(ours.generate(asked, max_new_tokens=LIMIT))
        offered = [
            ChoiceRequest(text=one, image=mine, choices=("yes", "no", "a cat"), is_chat_turn=True) for one in questions
        ]
        chosen = list(theirs.rank_choices([replace(one, image=yours) for one in offered]))
        assert chosen == list(ours.rank_choices(offered))
