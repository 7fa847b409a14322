"""Checkpoints of firstsight as models under evaluation, and a loader for any model folder.

Shapes: I tokens per image, W vision width, S pixels per side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from firstsight.data import images
from firstsight.data.records import IMAGE_PLACEHOLDER, strip_image_placeholder
from firstsight.data.tokenizer import Tokenizer, encode_context, encode_prompt, load_tokenizer
from firstsight.errors import ModelError, RequestError
from firstsight.evaluate.models.interface import (
    ChoiceRequest,
    EvalModel,
    GenerationRequest,
    RawAnswer,
    image_errors,
    is_decoded,
    list_checkpoint_files,
    rank,
)
from firstsight.model.checkpoint_io import LoadedCheckpoint, load
from firstsight.model.generate import continuation_likelihoods, generate_and_score
from firstsight.model.vision import extract_features
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import VisionSpec
from firstsight.site import Site

_BATCH_SIZE = 64
_IMAGE_MEMORY_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeModel:
    """A checkpoint as an EvalModel. Encoded images are float16 features [I, W] of an external encoder, else pixels."""

    checkpoint: LoadedCheckpoint
    tokenizer: Tokenizer
    device: str
    decode_threads: int = 1

    @property
    def vision(self) -> VisionSpec | None:
        """The vision spec; None for a text model."""
        spec = self.checkpoint.spec
        return spec.vision if isinstance(spec, VLMSpec) else None

    @property
    def has_vision(self) -> bool:
        return self.vision is not None

    @property
    def image_batch(self) -> int:
        vision = self.vision
        if vision is None:
            return _BATCH_SIZE
        uses_pixels = self.checkpoint.encoder is None
        image_bytes = 3 * vision.image_size**2 if uses_pixels else 2 * vision.tokens * vision.width
        return max(_BATCH_SIZE, _IMAGE_MEMORY_BYTES // image_bytes)

    def check_vocabulary(self, texts: Sequence[str], *, location: str) -> None:
        check_words_in_vocabulary(self.tokenizer, texts, location=location)

    @torch.no_grad()
    def encode_images(self, named_images: Sequence[tuple[str, bytes]]) -> list[object]:
        """For each (name, file): float16 features [I, W] of an external encoder, else uint8 pixels [S, S, 3]."""
        vision = self.vision
        if vision is None:
            raise ModelError("a text model does not accept images. Evaluate it blind, or mid-train it first.")
        with ThreadPoolExecutor(self.decode_threads) as executor:
            decoded = executor.map(lambda named: _decode_pixels(named[0], named[1], vision), named_images)
            pixels = [torch.from_numpy(image) for image in decoded]
        if self.checkpoint.encoder is None:
            return list(pixels)
        features: list[object] = []
        for start in range(0, len(pixels), _BATCH_SIZE):
            batch = torch.stack(pixels[start : start + _BATCH_SIZE]).to(self.device)
            features.extend(extract_features(self.checkpoint.encoder, batch).half().unbind(0))
        return features

    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[RawAnswer]:
        """Greedy answers, in order, generated in batches; references and samples continue the same prefill."""
        special_tokens, decode = self.tokenizer.special_ids, self.tokenizer.decode
        for start in range(0, len(requests), 4 * _BATCH_SIZE):
            batch = requests[start : start + 4 * _BATCH_SIZE]
            tokens = self._reference_tokens([text for request in batch for text in request.references])
            references = [_without_repetitions([tokens[text] for text in request.references]) for request in batch]
            answers = generate_and_score(
                self.checkpoint.model,
                [self._prompt_tokens(request) for request in batch],
                [_as_tensor(request.image) for request in batch],
                continuations=[[ids for ids in row if ids] for row in references],
                sample_keys=[request.sample_keys for request in batch],
                stop={special_tokens.end, special_tokens.answer},
                max_new_tokens=max_new_tokens,
            )
            for answer, row in zip(answers, references, strict=True):
                likelihoods = iter(answer.log_likelihoods)
                yield RawAnswer(
                    decode(answer.tokens).strip(),
                    tuple([next(likelihoods) if ids else None for ids in row]),
                    tuple([decode(sample).strip() for sample in answer.samples]),
                )

    def _reference_tokens(self, references: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The tokens of each reference; none for one that the tokenizer cannot represent."""
        distinct, decode = list(dict.fromkeys(references)), self.tokenizer.decode
        pairs = zip(distinct, self.tokenizer.encode(distinct), strict=True)
        return {text: tuple(ids) if is_decoded(decode(ids), text) else () for text, ids in pairs}

    def _prompt_tokens(self, request: GenerationRequest | ChoiceRequest) -> list[int]:
        """The first turn of a training dialogue: the image's placeholders or <|endoftext|>, then the question."""
        spec = self.checkpoint.spec
        image_tokens = spec.image_tokens if request.image is not None and isinstance(spec, VLMSpec) else 0
        text = strip_image_placeholder(IMAGE_PLACEHOLDER + request.text)
        return encode_prompt(self.tokenizer, text, image_tokens=image_tokens)

    def rank_choices(self, requests: Sequence[ChoiceRequest]) -> Iterator[RawAnswer]:
        """The likeliest choices, in order. A choice that continues a text has a space before it, as in lm-eval."""
        for start in range(0, len(requests), _BATCH_SIZE):
            batch = requests[start : start + _BATCH_SIZE]
            pairs = [pair for request in batch for pair in self._choice_pairs(request)]
            contexts, endings = [context for context, _ in pairs], [continuation for _, continuation in pairs]
            inputs = [_as_tensor(request.image) for request in batch for _ in request.choices]
            likelihoods = continuation_likelihoods(self.checkpoint.model, contexts, endings, inputs)
            log_likelihoods = iter([likelihood.log_likelihood for likelihood in likelihoods])
            yield from (rank([next(log_likelihoods) for _ in request.choices]) for request in batch)

    def _choice_pairs(self, request: ChoiceRequest) -> list[tuple[list[int], list[int]]]:
        if request.is_chat_turn:
            context = self._prompt_tokens(request)
            return [(context, ids) for ids in self.tokenizer.encode(request.choices)]
        context = encode_context(self.tokenizer, request.text)
        # Text and choice are encoded together, because a tokenizer may join the space to the choice's first word.
        texts = [f"{request.text} {choice}" for choice in request.choices]
        return [(context, encode_context(self.tokenizer, text)[len(context) :]) for text in texts]


def _without_repetitions(sequences: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The sequences, with an empty one in place of each that is equal to an earlier one."""
    return [() if sequence in sequences[:index] else sequence for index, sequence in enumerate(sequences)]


def load_eval_model(checkpoint: Path, *, site: Site) -> EvalModel:
    """The model in a folder in firstsight's or transformers' layout; ModelError for any other folder."""
    if (checkpoint / "spec.json").is_file():
        return load_native_model(checkpoint, site=site)
    list_checkpoint_files(checkpoint)  # raises for a folder in neither layout
    from firstsight.evaluate.models.hf_model import load_hf_model  # importing transformers takes a second

    return load_hf_model(checkpoint, site=site)


def load_native_model(checkpoint: Path, *, site: Site) -> NativeModel:
    """The checkpoint of a folder with its own tokenizer, on the site's device and threads."""
    torch.set_num_threads(site.threads)
    loaded = load(checkpoint, device=site.device)
    tokenizer = load_tokenizer(loaded.tokenizer)
    return NativeModel(checkpoint=loaded, tokenizer=tokenizer, device=site.device, decode_threads=site.readers)


def _as_tensor(image: object | None) -> torch.Tensor | None:
    assert image is None or isinstance(image, torch.Tensor)
    return image


def check_words_in_vocabulary(tokenizer: Tokenizer, texts: Sequence[str], *, location: str) -> None:
    """RequestError with the words that the tokenizer cannot reproduce; byte-level tokenizers reproduce all."""
    special_ids = ([tokenizer.special_ids.human], [tokenizer.special_ids.answer], [tokenizer.special_ids.end])
    words = sorted({word for text in texts for word in text.split()})
    unknown = [
        word
        for word, ids in zip(words, tokenizer.encode(words), strict=True)
        if ids not in special_ids and not is_decoded(tokenizer.decode(ids), word)
    ]
    if unknown:
        examples = ", ".join(map(repr, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        raise RequestError(
            f"{location}: the checkpoint's vocabulary of {tokenizer.vocab_size} tokens lacks {len(unknown)} of the "
            f"words: {examples}. Use words of its training data, or a checkpoint whose tokenizer encodes any text."
        )


def _decode_pixels(name: str, data: bytes, vision: VisionSpec) -> UInt8[np.ndarray, "S S 3"]:
    with image_errors(name):
        return images.decode_image(data, vision.image_size, vision.fit, pad_color=vision.pad_color).copy()
