"""Soft scores of an exported model, for each kind of answer, against sums over the logits of transformers' own classes.

The oracle reads prompt and answer in one forward pass without a cache, for each answer apart, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from firstsight.data.records import IMAGE_PLACEHOLDER, strip_image_placeholder
from firstsight.evaluate.models.hf_model import load_hf_model
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest
from firstsight.evaluate.models.native import NativeModel, load_native_model
from firstsight.evaluate.soft_scores import reference_forms, sample_keys, soft_score
from firstsight.evaluate.task import Question
from firstsight.evaluate.tasks import TASKS
from firstsight.hub.export import export_checkpoint
from firstsight.model.checkpoint_io import save
from firstsight.model.vlm import VLM
from firstsight.site import Site
from tests.evaluate.conftest import PATCHES, write_tokenizer
from tests.evaluate.models.conftest import NAMED_IMAGES

BOXES = ("0 0 0.5 1", "0 0 1 1", "0.5 0 1 1", "0.25 0 0.5 1", "0 0 0.25 1", "0 0.5 0.5 1")
"""Each is one word of the vocabulary, so that an untrained model answers with a box now and then."""
WORDS = ("what", "is", "it", "?", "a", "cat", "dog", "yes", "no", *BOXES)
TRUE_BOX = (0.0, 0.0, 0.5, 1.0)
OVERLAPS = (1.0, 0.5, 0.0, 0.5, 0.5, 0.5)
"""Of BOXES with TRUE_BOX, the left half, by hand."""
TEXT = "what is it ?"


class Models:
    """One model three times: native, exported, and as transformers loads the export."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        untrained = VLM(PATCHES)
        untrained.initialise(3)
        tokenizer = write_tokenizer(folder / "tokenizer.json", WORDS)
        save(folder / "native", untrained, tokens_seen=0, tokenizer=tokenizer, encoders=[])
        export_checkpoint(folder / "native", folder / "exported", dtype="float32")
        self.native: NativeModel = load_native_model(folder / "native", site=Site())
        self.exported = load_hf_model(folder / "exported", site=Site())
        self.model = AutoModelForImageTextToText.from_pretrained(folder / "exported")
        self.processor = AutoProcessor.from_pretrained(folder / "exported")
        ids = self.native.tokenizer.special_ids
        self.ends = (ids.end, ids.answer)

    def prompt(self, image: Any) -> dict[str, torch.Tensor]:
        """The processor's inputs of a question."""
        image_part = [] if image is None else [{"type": "image", "image": image}]
        text_part = {"type": "text", "text": strip_image_placeholder(IMAGE_PLACEHOLDER + TEXT)}
        messages = [{"role": "user", "content": [*image_part, text_part]}]
        return self.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )

    @torch.no_grad()
    def log_probs(self, inputs: dict[str, torch.Tensor], suffix: Sequence[int]) -> torch.Tensor:
        """float64 [1 + len(suffix), V]: of the next token after the prompt and after each token of `suffix`."""
        ids = torch.cat((inputs["input_ids"], torch.tensor([list(suffix)], dtype=torch.int64)), dim=1)
        longer = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return self.model(**longer).logits[0, -len(suffix) - 1 :].double().log_softmax(-1)

    def log_probability(self, inputs: dict[str, torch.Tensor], ids: Sequence[int]) -> float:
        """Of the tokens after the prompt."""
        rows = self.log_probs(inputs, ids)
        return sum(float(rows[position, token]) for position, token in enumerate(ids))

    def probability(self, inputs: dict[str, torch.Tensor], text: str) -> float:
        """Of a text as the whole answer, with any end."""
        [ids] = self.native.tokenizer.encode([text])
        return sum(float(np.exp(self.log_probability(inputs, [*ids, end]))) for end in self.ends)

    def sample(self, inputs: dict[str, torch.Tensor], key: int, *, limit: int) -> str | None:
        """An answer by inverse transform sampling from the stream of a key; None for one with an image's placeholder.

        Read in one pass, such a token would stand for a second image.
        """
        stream = np.random.Generator(np.random.Philox(key=np.array([0, key], dtype=np.uint64))).random(limit)
        ids: list[int] = []
        for uniform in stream:
            if self.model.config.image_token_id in ids:
                return None
            cumulative = np.cumsum(self.log_probs(inputs, ids)[-1].exp().numpy())
            ids.append(next(token for token in count() if cumulative[token] > uniform * cumulative[-1]))
        answer = list(takewhile(lambda token: token not in self.ends, ids))
        return self.processor.tokenizer.decode(answer, skip_special_tokens=True).strip()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("parity"))


@pytest.fixture(params=["blind", *range(len(NAMED_IMAGES))])
def image(request: pytest.FixtureRequest, models: Models) -> Any:
    """A PIL image, or None."""
    named = [] if request.param == "blind" else [NAMED_IMAGES[request.param]]
    return models.exported.encode_images(named)[0] if named else None


def question(truth: Any, *, choices: tuple[str, ...] = (), name: str = "1") -> Question:
    return Question(id=name, text=TEXT, truth=truth, choices=choices)


def generated_soft(models: Models, image: Any, task: str, item: Question, *, limit: int = 3) -> float:
    """The exported model's soft score."""
    request = GenerationRequest(
        text=TEXT,
        image=image,
        references=reference_forms(TASKS[task], item),
        sample_keys=sample_keys(TASKS[task], item),
    )
    [answer] = models.exported.generate([request], max_new_tokens=limit)
    soft = soft_score(TASKS[task], item, answer)
    assert soft is not None
    return soft.score


def test_words_with_several_references(models: Models, image: Any) -> None:
    """Of ten annotators eight say cat and two say dog: their accuracies are 1 and .6 (official VQA scorer)."""
    inputs = models.prompt(image)
    expected = models.probability(inputs, "cat") + 0.6 * models.probability(inputs, "dog")
    assert expected > 1e-5
    item = question(("cat",) * 8 + ("dog",) * 2)
    assert generated_soft(models, image, "vqav2", item) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("truth", ["yes", "no"])
def test_yes_or_no(models: Models, image: Any, truth: str) -> None:
    expected = models.probability(models.prompt(image), truth)
    assert generated_soft(models, image, "pope", question(truth)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("truth", ["yes", "no"])
def test_yes_or_no_as_a_choice(models: Models, image: Any, truth: str) -> None:
    inputs, item = models.prompt(image), question(truth, choices=("yes", "no"))
    logs = {text: models.log_probability(inputs, models.native.tokenizer.encode([text])[0]) for text in ("yes", "no")}
    request = ChoiceRequest(text=TEXT, image=image, choices=item.choices, is_chat_turn=True)
    [answer] = models.exported.rank_choices([request])
    soft = soft_score(TASKS["pope_p"], item, answer)
    assert soft is not None
    assert soft.score == pytest.approx(np.exp(logs[truth]) / sum(map(np.exp, logs.values())), rel=1e-4)


@pytest.mark.parametrize("gold", [0, 1, 2])
def test_multiple_choice_of_a_text_task(models: Models, gold: int) -> None:
    choices, special = ("a cat", "dog", "a dog is it"), models.native.tokenizer.special_ids
    [context] = models.native.tokenizer.encode([TEXT])
    inputs = {"input_ids": torch.tensor([[special.end, *context]])}
    logs = [models.log_probability(inputs, models.native.tokenizer.encode([choice])[0]) for choice in choices]
    request = ChoiceRequest(text=TEXT, image=None, choices=choices, is_chat_turn=False)
    [answer] = models.exported.rank_choices([request])
    soft = soft_score(TASKS["arc_easy"], question(gold, choices=choices), answer)
    assert soft is not None
    assert soft.score == pytest.approx(np.exp(logs[gold]) / sum(map(np.exp, logs)), rel=1e-4)


@pytest.mark.parametrize("limit", [1, 3])
def test_boxes(models: Models, image: Any, limit: int) -> None:
    """The mean overlap of the same samples; an answer that is not one box alone overlaps nothing."""
    inputs, task = models.prompt(image), TASKS["refcoco"]
    scores: list[float] = []
    for number in range(8):
        item = question(TRUE_BOX, name=str(number))
        drawn = [models.sample(inputs, key, limit=limit) for key in sample_keys(task, item)]
        samples = [text for text in drawn if text is not None]
        if len(samples) < len(drawn):
            continue
        assert generated_soft(models, image, "refcoco", item, limit=limit) == pytest.approx(overlap(samples), abs=1e-8)
        scores.append(overlap(samples))
    assert len(scores) >= 3 and (limit > 1 or max(scores) > 0)


def overlap(samples: Sequence[str]) -> float:
    return sum(OVERLAPS[BOXES.index(text)] if text in BOXES else 0.0 for text in samples) / len(samples)
