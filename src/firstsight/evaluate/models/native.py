"""A checkpoint of firstsight as one who is asked: pictures and wordings in, answers out.

Shapes: I tokens a picture, W vision width, S pixels a side.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from firstsight.data import images
from firstsight.data.records import IMAGE_PLACEHOLDER, RecordError, strip_image_placeholder
from firstsight.data.tokenizer import Tokenizer, encode_context, encode_prompt
from firstsight.data.tokenizer import load_tokenizer as load_tokenizer
from firstsight.errors import DataError, ModelError, RequestError
from firstsight.evaluate.models.interface import ChoiceRequest, EvalModel, GenerationRequest, list_checkpoint_files
from firstsight.model.checkpoint_io import LoadedCheckpoint, load
from firstsight.model.generate import continuation_likelihoods, generate
from firstsight.model.vision import extract_features
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import VisionSpec
from firstsight.site import Site

_BATCH_SIZE = 64
_IMAGE_MEMORY_BYTES = 1 << 28
"""Bytes of pictures held at once, as features or pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeModel:
    """A checkpoint that can be asked; see Speaker. Pictures become float16 [I, W] of a frozen encoder, else pixels."""

    checkpoint: LoadedCheckpoint
    tokenizer: Tokenizer
    device: str
    decode_threads: int = 1
    """Threads that open pictures."""

    @property
    def vision(self) -> VisionSpec | None:
        """How it sees; None for a text model."""
        spec = self.checkpoint.spec
        return spec.vision if isinstance(spec, VLMSpec) else None

    @property
    def has_vision(self) -> bool:
        """Whether it has eyes."""
        return self.vision is not None

    @property
    def image_batch(self) -> int:
        """How many pictures to hold at once."""
        vision = self.vision
        if vision is None:
            return _BATCH_SIZE
        uses_pixels = self.checkpoint.encoder is None
        return max(
            _BATCH_SIZE,
            _IMAGE_MEMORY_BYTES // (3 * vision.image_size**2 if uses_pixels else 2 * vision.tokens * vision.width),
        )

    def check_vocabulary(self, texts: Sequence[str], *, location: str) -> None:
        """RequestError that names words outside a small vocabulary."""
        check_words_in_vocabulary(self.tokenizer, texts, location=location)

    @torch.no_grad()
    def encode_images(self, named_images: Sequence[tuple[str, bytes]]) -> list[object]:
        """One tensor a (name, bytes): features float16 [I, W] of a frozen encoder, else pixels uint8 [S, S, 3]."""
        vision = self.vision
        if vision is None:
            raise ModelError("a text model cannot look at pictures. Judge it blind, or mid-train it first.")
        with ThreadPoolExecutor(self.decode_threads) as executor:
            decoded = executor.map(
                lambda image_data: _decode_pixels(image_data[0], image_data[1], vision), named_images
            )
            pixels = [torch.from_numpy(image_data) for image_data in decoded]
        if self.checkpoint.encoder is None:
            return list(pixels)
        encoded_images: list[object] = []
        for start in range(0, len(pixels), _BATCH_SIZE):
            pixel_batch = torch.stack(pixels[start : start + _BATCH_SIZE]).to(self.device)
            encoded_images.extend(extract_features(self.checkpoint.encoder, pixel_batch).half().unbind(0))
        return encoded_images

    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[str]:
        """Greedy answers in order, worked out in portions that fit."""
        special_tokens = self.tokenizer.special_ids
        prompts = [self._prompt_tokens(request) for request in requests]
        for start in range(0, len(prompts), 4 * _BATCH_SIZE):
            batch = slice(start, start + 4 * _BATCH_SIZE)
            answers = generate(
                self.checkpoint.model,
                prompts[batch],
                [_as_tensor(request.image) for request in requests[batch]],
                stop={special_tokens.end, special_tokens.answer},
                max_new_tokens=max_new_tokens,
            )
            yield from (self.tokenizer.decode(ids).strip() for ids in answers)

    def _prompt_tokens(self, request: GenerationRequest | ChoiceRequest) -> list[int]:
        """A training dialogue's first turn: the picture's places or <|endoftext|>, then the question."""
        spec = self.checkpoint.spec
        num_image_tokens = spec.image_tokens if request.image is not None and isinstance(spec, VLMSpec) else 0
        return encode_prompt(
            self.tokenizer, strip_image_placeholder(IMAGE_PLACEHOLDER + request.text), image_tokens=num_image_tokens
        )

    def rank_choices(self, requests: Sequence[ChoiceRequest]) -> Iterator[int]:
        """The number of the likeliest choice of each, in order; the first one where two are equal.

        As lm-eval's `acc`: log-likelihoods summed over tokens, a space before the choice, no weighing by length.
        """
        for start in range(0, len(requests), _BATCH_SIZE):
            batch = requests[start : start + _BATCH_SIZE]
            pairs = [pair for request in batch for pair in self._choice_pairs(request)]
            likelihoods = continuation_likelihoods(
                self.checkpoint.model,
                [context_tokens for context_tokens, _ in pairs],
                [continuation_tokens for _, continuation_tokens in pairs],
                [_as_tensor(request.image) for request in batch for _ in request.choices],
            )
            totals = iter([likelihood.log_likelihood for likelihood in likelihoods])
            yield from (_argmax([next(totals) for _ in request.choices]) for request in batch)

    def _choice_pairs(self, request: ChoiceRequest) -> list[tuple[list[int], list[int]]]:
        """(what stands before, what may follow) for each choice."""
        if request.is_chat_turn:
            context_tokens = self._prompt_tokens(request)
            return [(context_tokens, ids) for ids in self.tokenizer.encode(request.choices)]
        context_tokens = encode_context(self.tokenizer, request.text)
        # Encoded as a whole, because a tokenizer may join the space to the choice's first word.
        return [
            (context_tokens, encode_context(self.tokenizer, f"{request.text} {choice}")[len(context_tokens) :])
            for choice in request.choices
        ]


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
    loaded_checkpoint = load(checkpoint, device=site.device)
    return NativeModel(
        checkpoint=loaded_checkpoint,
        tokenizer=load_tokenizer(loaded_checkpoint.tokenizer),
        device=site.device,
        decode_threads=site.readers,
    )


def _as_tensor(image: object | None) -> torch.Tensor | None:
    assert image is None or isinstance(image, torch.Tensor)
    return image


def check_words_in_vocabulary(tokenizer: Tokenizer, texts: Sequence[str], *, location: str) -> None:
    """RequestError that names the words which the tokenizer cannot hold; free of cost for byte-level tokenizers."""
    special_token_ids = ([tokenizer.special_ids.human], [tokenizer.special_ids.answer], [tokenizer.special_ids.end])
    unique_words = sorted({word for text in texts for word in text.split()})
    pairs = zip(unique_words, tokenizer.encode(unique_words), strict=True)
    unknown = [
        word
        for word, ids in pairs
        if ids not in special_token_ids and _fold_text(tokenizer.decode(ids)) != _fold_text(word)
    ]
    if unknown:
        examples = ", ".join(repr(word) for word in unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        raise RequestError(
            f"{location}: the checkpoint's vocabulary of {tokenizer.vocab_size} tokens lacks {len(unknown)} of the words: {examples}. "
            "Ask with words that its training data holds, or another checkpoint, whose tokenizer reads any text."
        )


def _fold_text(text: str) -> str:
    """What a tokenizer that knows all words gives back: case, spaces, composition and all marks aside."""
    characters = (character for character in unicodedata.normalize("NFKC", text.lower()) if not character.isspace())
    return "".join(character for character in characters if unicodedata.category(character)[0] not in "CP")


def _decode_pixels(name: str, data: bytes, vision: VisionSpec) -> UInt8[np.ndarray, "S S 3"]:
    try:
        return images.decode_image(data, vision.image_size, vision.fit, pad_color=vision.pad_color).copy()
    except RecordError as error:
        raise DataError(f"{name}: wanted a picture. Got {error.detail}. Give a PNG, JPEG or WebP file.") from error


def _argmax(loglikelihoods: list[float]) -> int:
    return max(range(len(loglikelihoods)), key=loglikelihoods.__getitem__)
