"""Answers and choices of a native checkpoint against logits of the training layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from firstsight.data.tokenizer import encode_prompt
from firstsight.errors import DataError, ModelError
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest
from firstsight.evaluate.models.native import NativeModel, load_native_model
from firstsight.site import Site
from tests.evaluate.conftest import MakeCheckpoint, random_png
from tests.model.tiny_models import pack_rows


def training_logits(native: NativeModel, ids: Sequence[int | None], images: torch.Tensor | None = None) -> torch.Tensor:
    """[T, V] logits of one row in the training layout, run through VLM.forward."""
    model = native.checkpoint.model
    with torch.no_grad():
        return model.lm.logits(model(pack_rows([[ids]], length=len(ids), images=images)))[0]


def test_the_likeliest_choice_is_lm_evals(checkpoint: MakeCheckpoint) -> None:
    model = load_native_model(checkpoint("lm"), site=Site())
    choices = ("a cat", "dog", "the red dog", "no")
    totals = []
    for choice in choices:
        ids = [model.tokenizer.special_ids.end, *model.tokenizer.encode([f"what is it ? {choice}"])[0]]
        logs = training_logits(model, ids).log_softmax(-1)
        totals.append(sum(float(logs[position - 1, ids[position]]) for position in range(5, len(ids))))
    request = ChoiceRequest(text="what is it ?", image=None, choices=choices, is_chat_turn=False)
    [answer] = model.rank_choices([request])
    assert answer.text == str(np.argmax(totals))
    np.testing.assert_allclose(np.array(answer.log_likelihoods), totals, rtol=1e-4)


def test_the_first_generated_word_is_what_a_training_row_predicts(checkpoint: MakeCheckpoint) -> None:
    model = load_native_model(checkpoint("siglip"), site=Site())
    [image] = model.encode_images([("x.png", random_png(3))])
    assert isinstance(image, torch.Tensor)
    prompt = encode_prompt(model.tokenizer, "what is it ?", image_tokens=4)
    likeliest = int(training_logits(model, [*[None] * 4, *prompt[4:]], images=image[None])[-1].argmax())
    [answer] = model.generate([GenerationRequest(text="\nwhat is it ?", image=image)], max_new_tokens=1)
    is_stop = likeliest in (model.tokenizer.special_ids.end, model.tokenizer.special_ids.answer)
    assert answer.text == ("" if is_stop else model.tokenizer.decode([likeliest]))


def test_images_are_refused_by_a_text_model_and_broken_ones_by_any(checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(ModelError, match="text model"):
        load_native_model(checkpoint("lm"), site=Site()).encode_images([("x.png", random_png(3))])
    with pytest.raises(DataError, match=r"x\.png: wanted an image"):
        load_native_model(checkpoint("patches"), site=Site()).encode_images([("x.png", b"no picture")])
