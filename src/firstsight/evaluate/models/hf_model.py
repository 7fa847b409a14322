"""Transformers models under evaluation: any folder that transformers loads, with its own processor.

Decoding is greedy, whatever sampling or penalties the folder's generation settings ask for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from firstsight.data import images
from firstsight.errors import DataError, ModelError
from firstsight.evaluate.models.hf_chat import ChatFormat, chat_format_of, special_token_strings
from firstsight.evaluate.models.hf_folder import HFComponents, load_hf_components
from firstsight.evaluate.models.interface import (
    ChoiceRequest,
    EvalModel,
    GenerationRequest,
    RawAnswer,
    image_errors,
    is_decoded,
    rank,
)
from firstsight.model.sampling import UNCHANGED, TokenSampler, inverse_cdf_sampler
from firstsight.site import Site

_BATCH_SIZE = 16
_IMAGE_BATCH = 64
"""Images in memory at once: 256 MiB if each has 4 MiB."""


class _ChoiceRow(NamedTuple):
    """One row of a batch: the choices of a request that differ only in their last token."""

    rendered: str
    image: object | None
    prefix: tuple[int, ...]
    """All tokens but the last."""
    last_tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HFModel:
    """A transformers model as an EvalModel. Encoded images are PIL images in their original size."""

    components: HFComponents
    chat_format: ChatFormat

    @property
    def has_vision(self) -> bool:
        return self.components.processor is not None

    @property
    def image_batch(self) -> int:
        return _IMAGE_BATCH

    def check_vocabulary(self, texts: Sequence[str], *, location: str) -> None:
        """Nothing: these tokenizers encode any text."""

    def encode_images(self, named_images: Sequence[tuple[str, bytes]]) -> list[object]:
        """An upright RGB PIL image in original size for each (name, encoded image file)."""
        if not self.has_vision:
            raise ModelError("a text model does not accept images. Evaluate it blind, or name a vision-language model.")
        pil_images: list[object] = []
        for name, data in named_images:
            with image_errors(name):
                pil_images.append(images.decode_rgb(data))
        return pil_images

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[RawAnswer]:
        """Greedy answers, in order, up to the model's end token, with likelihoods of references and samples."""
        config = self._greedy_config(max_new_tokens)
        for has_image, group in groupby(requests, key=lambda request: request.image is not None):
            for batch in _batches(list(group)):
                rendered = [self.chat_format.render(request.text, has_image=has_image) for request in batch]
                inputs = self._model_inputs(rendered, [request.image for request in batch])
                logits_check = _LogitsCheck()
                generated = self._run_generate(inputs, config, logits_check)
                logits_check.raise_if_invalid(self.components.model_type)
                likelihoods = self._reference_loglikelihoods(batch, rendered)
                texts, samples = self._answer_texts(inputs, generated), self._samples(batch, rendered, config)
                yield from map(RawAnswer, texts, likelihoods, samples)

    def _answer_texts(self, inputs: Any, generated: Int[Tensor, "B S"]) -> list[str]:
        """The text of each answer after its prompt, up to an end token."""
        eos_token_ids, decode = self._eos_token_ids(), self.components.tokenizer.decode
        answers = generated[:, inputs["input_ids"].shape[1] :].tolist()
        ended = [list(takewhile(lambda token: token not in eos_token_ids, ids)) for ids in answers]
        return [self.chat_format.parse_answer(decode(ids, skip_special_tokens=True).strip()) for ids in ended]

    def _samples(
        self, batch: Sequence[GenerationRequest], rendered: Sequence[str], config: Any
    ) -> list[tuple[str, ...]]:
        """The sampled answers of each request, drawn with the random numbers that native models use."""
        rows = [(index, key) for index, request in enumerate(batch) for key in request.sample_keys]
        samples: list[list[str]] = [[] for _ in batch]
        for row_batch in _batches(rows):
            indices: list[int] = [index for index, _ in row_batch]
            inputs = self._model_inputs([rendered[index] for index in indices], [batch[i].image for i in indices])
            sampled = _SampledDecoding([key for _, key in row_batch], config.max_new_tokens)
            texts = self._answer_texts(inputs, self._run_generate(inputs, config, sampled))
            for index, text in zip(indices, texts, strict=True):
                samples[index].append(text)
        return [tuple(texts) for texts in samples]

    def _reference_loglikelihoods(
        self, batch: Sequence[GenerationRequest], rendered: Sequence[str]
    ) -> list[tuple[float | None, ...]]:
        """For each request the log-likelihood of each reference followed by any one of the end tokens."""
        ends, decode = tuple(self._eos_token_ids()), self.components.tokenizer.decode
        rows: dict[tuple[int, tuple[int, ...]], int] = {}
        for index, (request, prompt) in enumerate(zip(batch, rendered, strict=True)):
            for position, text in enumerate(request.references):
                tokens = self._choice_tokens(prompt, text, is_chat_turn=True)
                if is_decoded(decode(tokens, skip_special_tokens=True), text):
                    rows.setdefault((index, tokens), position)
        forced = [_ChoiceRow(rendered[index], batch[index].image, tokens, ends) for index, tokens in rows]
        scores = [scores for row_batch in _batches(forced) for scores in self._score_rows(row_batch)]
        values: list[list[float | None]] = [[None] * len(request.references) for request in batch]
        for ((index, _), position), by_end in zip(rows.items(), scores, strict=True):
            total = float(torch.tensor(list(by_end.values()), dtype=torch.float64).logsumexp(0))
            values[index][position] = total if isfinite(total) else None
        return [tuple(row) for row in values]

    def rank_choices(self, requests: Sequence[ChoiceRequest]) -> Iterator[RawAnswer]:
        """The index of the choice with the highest summed log-likelihood, by request; the first one on a tie."""
        return map(rank, self.choice_loglikelihoods(requests))

    def choice_loglikelihoods(self, requests: Sequence[ChoiceRequest]) -> Iterator[list[float]]:
        """The log-likelihood of each request's choices: `generate` with the choice's tokens forced.

        So positions, attention masks and image inputs are the same as in generation.
        """
        for has_image, group in groupby(requests, key=lambda request: request.image is not None):
            for batch in _batches(list(group)):
                yield from self._batch_loglikelihoods(batch, has_image=has_image)

    def _batch_loglikelihoods(self, batch: Sequence[ChoiceRequest], *, has_image: bool) -> Iterator[list[float]]:
        prompts = [self._render(request, has_image=has_image) for request in batch]
        choices = [
            [self._choice_tokens(prompt, choice, is_chat_turn=request.is_chat_turn) for choice in request.choices]
            for prompt, request in zip(prompts, batch, strict=True)
        ]
        last_tokens: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for index, request_choices in enumerate(choices):
            for tokens in request_choices:
                last_tokens.setdefault((index, tokens[:-1]), []).append(tokens[-1])
        items = last_tokens.items()
        rows = [_ChoiceRow(prompts[i], batch[i].image, prefix, tuple(tokens)) for (i, prefix), tokens in items]
        row_scores = [scores for row_batch in _batches(rows) for scores in self._score_rows(row_batch)]
        scores = dict(zip(last_tokens, row_scores, strict=True))
        for index, request_choices in enumerate(choices):
            yield [scores[index, tokens[:-1]][tokens[-1]] for tokens in request_choices]

    def _render(self, request: ChoiceRequest, *, has_image: bool) -> str:
        if request.is_chat_turn:
            return self.chat_format.render(request.text, has_image=has_image)
        if has_image:
            raise ModelError("wanted a text to continue. Got an image with it. Use is_chat_turn=True.")
        return self.components.text_prefix + request.text

    def _choice_tokens(self, rendered: str, choice: str, *, is_chat_turn: bool) -> tuple[int, ...]:
        """Tokens of a choice after a space; without the space if a chat turn ends in white space or a special token."""
        tokenizer = self.components.tokenizer
        ends_with_special = rendered.endswith(tuple(special_token_strings(self.components)))
        choice = choice if is_chat_turn and (ends_with_special or rendered[-1:].isspace()) else f" {choice}"
        texts = rendered, rendered + choice
        prompt_tokens, full_tokens = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        if full_tokens[: len(prompt_tokens)] == prompt_tokens and len(full_tokens) > len(prompt_tokens):
            return tuple(full_tokens[len(prompt_tokens) :])
        return tuple(tokenizer(choice, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def _score_rows(self, rows: Sequence[_ChoiceRow]) -> list[dict[int, float]]:
        """For each row: the log-likelihood of its prefix followed by each of its last tokens."""
        inputs = self._model_inputs([row.rendered for row in rows], [row.image for row in rows])
        forced = _ForcedDecoding(rows, eos_token_id=self._eos_token_ids()[0])
        config = self._greedy_config(max(len(row.prefix) for row in rows) + 1)
        logits_check = _LogitsCheck()
        self._run_generate(inputs, config, logits_check, forced)
        logits_check.raise_if_invalid(self.components.model_type)
        return forced.loglikelihoods

    def _run_generate(self, inputs: Any, config: Any, *processors: Any) -> Tensor:
        from transformers import LogitsProcessorList

        processor_list = LogitsProcessorList(processors)
        return self.components.model.generate(**inputs, generation_config=config, logits_processor=processor_list)

    def _model_inputs(self, rendered: Sequence[str], row_images: Sequence[object | None]) -> Any:
        pil_images = [image for image in row_images if isinstance(image, Image.Image)]
        model = self.components.model
        try:
            inputs = self.chat_format.model_inputs(rendered, pil_images or None)
        except ValueError as error:  # for example Qwen2-VL's, for an image 1,500 times as wide as high
            raise DataError(
                f"{self.components.model_type}'s processor: wanted images that it accepts. Got {error}. "
                "Leave those questions out."
            ) from error
        # images in the weights' dtype; ids and masks stay integers
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in inputs.items()
        }

    def _eos_token_ids(self) -> list[int]:
        eos_token_id = self.components.model.generation_config.eos_token_id
        eos_token_id = self.components.tokenizer.eos_token_id if eos_token_id is None else eos_token_id
        if eos_token_id is None:
            raise ModelError("generation_config.json: wanted eos_token_id, which ends an answer. Got none. Add it.")
        return [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)

    def _greedy_config(self, max_new_tokens: int) -> Any:
        from transformers import GenerationConfig

        pad_token_id = self.components.tokenizer.pad_token_id
        eos_token_ids = self._eos_token_ids()
        pad = eos_token_ids[0] if pad_token_id is None else pad_token_id
        stop = {"max_new_tokens": max_new_tokens, "eos_token_id": eos_token_ids, "pad_token_id": pad}
        return GenerationConfig(do_sample=False, num_beams=1, **stop)


class _LogitsCheck:
    """A logits processor that changes nothing and remembers whether any logit was NaN or plus infinity."""

    def __init__(self) -> None:
        self._is_valid: Tensor | None = None

    def __call__(self, input_ids: Int[Tensor, "B S"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        is_valid = (scores.amax(dim=-1) < float("inf")).all()  # no GPU synchronisation
        self._is_valid = is_valid if self._is_valid is None else self._is_valid & is_valid
        return scores

    def raise_if_invalid(self, name: str) -> None:
        """ModelError if a logit was; minus infinity excludes a token and is valid."""
        if self._is_valid is not None and not self._is_valid:
            raise ModelError(
                f"{name}'s logits: wanted numbers. Got NaN or infinity: its weights overflow in their dtype, or are "
                "damaged. Store them in a wider dtype, or use another checkpoint."
            )


class _SampledDecoding:
    """A logits processor that leaves each row one token, drawn from the model's own distribution.

    ModelError for logits that are NaN or infinite.
    """

    def __init__(self, keys: Sequence[int], num_steps: int) -> None:
        self._keys, self._num_steps, self._step = keys, num_steps, 0
        self._sampler: TokenSampler | None = None

    def __call__(self, input_ids: Int[Tensor, "B S"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Scores in which only the drawn token of each row is possible."""
        rows = torch.arange(len(scores), device=scores.device)
        if self._sampler is None:
            self._sampler = inverse_cdf_sampler(UNCHANGED, self._keys, self._num_steps, scores.device)
        tokens = self._sampler(scores.float(), rows, rows.tolist(), self._step)
        self._step += 1
        masked_scores = torch.full_like(scores, float("-inf"))
        masked_scores[rows, tokens] = 0.0
        return masked_scores


class _ForcedDecoding:
    """A logits processor that forces each row's prefix and then its end, and sums the log-likelihoods."""

    def __init__(self, rows: Sequence[_ChoiceRow], *, eos_token_id: int) -> None:
        self._rows, self._eos_token_id = rows, eos_token_id
        self._step = 0
        self._prefix_loglikelihoods = [0.0] * len(rows)
        self.loglikelihoods: list[dict[int, float]] = [{} for _ in rows]

    def __call__(self, input_ids: Int[Tensor, "B S"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Scores in which only the forced token of each row is possible."""
        log_probs, row_indices = scores.float().log_softmax(dim=-1), range(len(self._rows))
        forced_tokens = [(*row.prefix, self._eos_token_id)[min(self._step, len(row.prefix))] for row in self._rows]
        forced_log_probs = log_probs[row_indices, forced_tokens].tolist()  # one GPU synchronisation per step
        for row_index, row in enumerate(self._rows):
            if self._step < len(row.prefix):
                self._prefix_loglikelihoods[row_index] += forced_log_probs[row_index]
            elif self._step == len(row.prefix):
                last_log_probs = log_probs[row_index, list(row.last_tokens)].tolist()
                prefix = self._prefix_loglikelihoods[row_index]
                pairs = zip(row.last_tokens, last_log_probs, strict=True)
                self.loglikelihoods[row_index] = {token: prefix + log_prob for token, log_prob in pairs}
        self._step += 1
        masked_scores = torch.full_like(scores, float("-inf"))
        masked_scores[row_indices, forced_tokens] = 0.0
        return masked_scores


def load_hf_model(folder: Path, *, site: Site) -> HFModel:
    """The model of a folder in transformers' layout, on the site's device and threads; see load_hf_components."""
    torch.set_num_threads(site.threads)
    components = load_hf_components(folder, site=site)
    model = HFModel(components=components, chat_format=chat_format_of(components))
    # the folder's settings for sampling and penalties must not affect greedy decoding
    components.model.generation_config = model._greedy_config(1)
    return model


def processed_image_size(model: EvalModel, image: object | None) -> tuple[float, float] | None:
    """Width and height in pixels of an image scaled by a Qwen-VL's processor; None without image or processor."""
    if image is None or not isinstance(model, HFModel) or model.components.processor is None:
        return None
    image_processor: Any = model.components.processor.image_processor
    _, grid_height, grid_width = image_processor(images=[image], return_tensors="pt")["image_grid_thw"][0].tolist()
    return float(grid_width * image_processor.patch_size), float(grid_height * image_processor.patch_size)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _BATCH_SIZE):
        yield items[start : start + _BATCH_SIZE]
