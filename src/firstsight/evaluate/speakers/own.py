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

from firstsight.data import pictures
from firstsight.data.pack import context, prompt
from firstsight.data.records import PLACEHOLDER, Refused, without_placeholder
from firstsight.data.tokenizer import Tokenizer
from firstsight.data.tokenizer import load as load_tokenizer
from firstsight.errors import DataError, ModelError, RequestError
from firstsight.evaluate.speakers.speaker import Asked, Offered
from firstsight.model.generate import choices, generate
from firstsight.model.vision import features
from firstsight.model.weights import Loaded, load
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import VisionSpec
from firstsight.site import Site

_BATCH = 64
_HELD = 1 << 28
"""Bytes of pictures held at once, as features or pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Own:
    """A checkpoint that can be asked; see Speaker. Pictures become float16 [I, W] of a frozen encoder, else pixels."""

    loaded: Loaded
    words: Tokenizer
    device: str
    readers: int = 1
    """Threads that open pictures."""

    @property
    def vision(self) -> VisionSpec | None:
        """How it sees; None for a text model."""
        spec = self.loaded.spec
        return spec.vision if isinstance(spec, VLMSpec) else None

    @property
    def sees(self) -> bool:
        """Whether it has eyes."""
        return self.vision is not None

    @property
    def held(self) -> int:
        """How many pictures to hold at once."""
        vision = self.vision
        if vision is None:
            return _BATCH
        own = self.loaded.encoder is None
        return max(_BATCH, _HELD // (3 * vision.image**2 if own else 2 * vision.tokens * vision.width))

    def refuse_unknown(self, texts: Sequence[str], *, where: str) -> None:
        """RequestError that names words outside a small vocabulary."""
        refuse_unknown_words(self.words, texts, where=where)

    @torch.no_grad()
    def see(self, encoded: Sequence[tuple[str, bytes]]) -> list[object]:
        """One tensor a (name, bytes): features float16 [I, W] of a frozen encoder, else pixels uint8 [S, S, 3]."""
        vision = self.vision
        if vision is None:
            raise ModelError("a text model cannot look at pictures. Judge it blind, or mid-train it first.")
        with ThreadPoolExecutor(self.readers) as readers:
            opened = readers.map(lambda one: _pixels(one[0], one[1], vision), encoded)
            pixels = [torch.from_numpy(one) for one in opened]
        if self.loaded.encoder is None:
            return list(pixels)
        seen: list[object] = []
        for start in range(0, len(pixels), _BATCH):
            some = torch.stack(pixels[start : start + _BATCH]).to(self.device)
            seen.extend(features(self.loaded.encoder, some).half().unbind(0))
        return seen

    def say(self, asked: Sequence[Asked], *, limit: int) -> Iterator[str]:
        """Greedy answers in order, worked out in portions that fit."""
        special = self.words.special
        prompts = [self._prompt(one) for one in asked]
        for start in range(0, len(prompts), 4 * _BATCH):
            some = slice(start, start + 4 * _BATCH)
            answers = generate(
                self.loaded.model,
                prompts[some],
                [_tensor(one.picture) for one in asked[some]],
                stop={special.end, special.answer},
                limit=limit,
            )
            yield from (self.words.decode(ids).strip() for ids in answers)

    def _prompt(self, asked: Asked | Offered) -> list[int]:
        """A training dialogue's first turn: the picture's places or <|endoftext|>, then the question."""
        spec = self.loaded.spec
        slots = spec.image_tokens if asked.picture is not None and isinstance(spec, VLMSpec) else 0
        return prompt(self.words, without_placeholder(PLACEHOLDER + asked.text), image_tokens=slots)

    def choose(self, offered: Sequence[Offered]) -> Iterator[int]:
        """The number of the likeliest choice of each, in order; the first one where two are equal.

        As lm-eval's `acc`: log-likelihoods summed over tokens, a space before the choice, no weighing by length.
        """
        for start in range(0, len(offered), _BATCH):
            some = offered[start : start + _BATCH]
            pairs = [pair for one in some for pair in self._pairs(one)]
            found = choices(
                self.loaded.model,
                [begun for begun, _ in pairs],
                [more for _, more in pairs],
                [_tensor(one.picture) for one in some for _ in one.choices],
            )
            totals = iter([likelihood.total for likelihood in found])
            yield from (_likeliest([next(totals) for _ in one.choices]) for one in some)

    def _pairs(self, one: Offered) -> list[tuple[list[int], list[int]]]:
        """(what stands before, what may follow) for each choice."""
        if one.turn:
            begun = self._prompt(one)
            return [(begun, ids) for ids in self.words.encode(one.choices)]
        begun = context(self.words, one.text)
        # Encoded as a whole, because a tokenizer may join the space to the choice's first word.
        return [(begun, context(self.words, f"{one.text} {choice}")[len(begun) :]) for choice in one.choices]


def own(checkpoint: Path, *, site: Site) -> Own:
    """The checkpoint of a folder with its own tokenizer, on the site's device and threads."""
    torch.set_num_threads(site.threads)
    loaded = load(checkpoint, device=site.device)
    return Own(loaded=loaded, words=load_tokenizer(loaded.tokenizer), device=site.device, readers=site.readers)


def _tensor(picture: object | None) -> torch.Tensor | None:
    assert picture is None or isinstance(picture, torch.Tensor)
    return picture


def refuse_unknown_words(words: Tokenizer, texts: Sequence[str], *, where: str) -> None:
    """RequestError that names the words which the tokenizer cannot hold; free of cost for byte-level tokenizers."""
    marks = ([words.special.human], [words.special.answer], [words.special.end])
    wanted = sorted({word for text in texts for word in text.split()})
    pairs = zip(wanted, words.encode(wanted), strict=True)
    unknown = [word for word, ids in pairs if ids not in marks and _folded(words.decode(ids)) != _folded(word)]
    if unknown:
        shown = ", ".join(repr(word) for word in unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        raise RequestError(
            f"{where}: the checkpoint's vocabulary of {words.size} tokens lacks {len(unknown)} of the words: {shown}. "
            "Ask with words that its training data holds, or another checkpoint, whose tokenizer reads any text."
        )


def _folded(text: str) -> str:
    """What a tokenizer that knows all words gives back: case, spaces, composition and all marks aside."""
    seen = (mark for mark in unicodedata.normalize("NFKC", text.lower()) if not mark.isspace())
    return "".join(mark for mark in seen if unicodedata.category(mark)[0] not in "CP")


def _pixels(name: str, data: bytes, vision: VisionSpec) -> UInt8[np.ndarray, "S S 3"]:
    try:
        return pictures.decode(data, vision.image, vision.fit, ground=vision.ground).copy()
    except Refused as refused:
        raise DataError(f"{name}: wanted a picture. Got {refused.detail}. Give a PNG, JPEG or WebP file.") from refused


def _likeliest(totals: list[float]) -> int:
    return max(range(len(totals)), key=totals.__getitem__)
