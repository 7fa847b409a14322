"""What a checkpoint says: pictures and wordings in, answers out; nothing here knows which answer is right.

Shapes: I tokens a picture, W vision width, S pixels a side.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
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
from firstsight.evaluate.question import Style
from firstsight.model.generate import choices, generate
from firstsight.model.vision import features
from firstsight.model.weights import Loaded, load
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import VisionSpec
from firstsight.site import Site

LIMIT: dict[Style, int] = {"bare": 8, "paper": 128}
"""Most tokens of an answer: the built-in world says at most four words (a box); the paper's harness stops at 128."""

_BATCH = 64
_HELD = 1 << 28
"""Bytes of pictures held at once, as features or pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speaker:
    """A checkpoint that can be asked."""

    loaded: Loaded
    words: Tokenizer
    device: str

    @property
    def vision(self) -> VisionSpec | None:
        """How it sees; None for a text model."""
        spec = self.loaded.spec
        return spec.vision if isinstance(spec, VLMSpec) else None


def speaker(checkpoint: Path, *, site: Site) -> Speaker:
    """The checkpoint of a folder with its own tokenizer, on the site's device and threads."""
    torch.set_num_threads(site.threads)
    loaded = load(checkpoint, device=site.device)
    return Speaker(loaded=loaded, words=load_tokenizer(loaded.tokenizer), device=site.device)


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
            "Use words that its training data holds."
        )


def _folded(text: str) -> str:
    """What a tokenizer that knows all words gives back: case, spaces, composition and all marks aside."""
    seen = (mark for mark in unicodedata.normalize("NFKC", text.lower()) if not mark.isspace())
    return "".join(mark for mark in seen if unicodedata.category(mark)[0] not in "CP")


@torch.no_grad()
def see(who: Speaker, encoded: Sequence[tuple[str, bytes]]) -> list[torch.Tensor]:
    """One tensor a (name, bytes): features float16 [I, W] of a frozen encoder, else pixels uint8 [S, S, 3]."""
    vision = who.vision
    if vision is None:
        raise ModelError("a text model cannot look at pictures. Judge it blind, or mid-train it first.")
    pixels = [torch.from_numpy(_pixels(name, data, vision)) for name, data in encoded]
    if who.loaded.encoder is None:
        return pixels
    seen: list[torch.Tensor] = []
    for start in range(0, len(pixels), _BATCH):
        some = torch.stack(pixels[start : start + _BATCH]).to(who.device)
        seen.extend(features(who.loaded.encoder, some).half().unbind(0))
    return seen


def _pixels(name: str, data: bytes, vision: VisionSpec) -> UInt8[np.ndarray, "S S 3"]:
    try:
        return pictures.decode(data, vision.image, vision.fit, ground=vision.ground).copy()
    except Refused as refused:
        raise DataError(f"{name}: wanted a picture. Got {refused.detail}. Give a PNG, JPEG or WebP file.") from refused


def pictures_held(who: Speaker) -> int:
    """How many pictures to hold at once."""
    vision = who.vision
    if vision is None:
        return _BATCH
    own = who.loaded.encoder is None
    return max(_BATCH, _HELD // (3 * vision.image**2 if own else 2 * vision.tokens * vision.width))


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A wording and, unless it is asked blind, the picture's tensor."""

    text: str
    picture: torch.Tensor | None


def say(who: Speaker, asked: Sequence[Asked], *, limit: int) -> Iterator[str]:
    """Greedy answers in order, worked out in portions that fit."""
    special = who.words.special
    prompts = [_prompt(who, one) for one in asked]
    for start in range(0, len(prompts), 4 * _BATCH):
        some = slice(start, start + 4 * _BATCH)
        answers = generate(
            who.loaded.model,
            prompts[some],
            [one.picture for one in asked[some]],
            stop={special.end, special.answer},
            limit=limit,
        )
        yield from (who.words.decode(ids).strip() for ids in answers)


def _prompt(who: Speaker, asked: Asked) -> list[int]:
    """A training dialogue's first turn: the picture's places or <|endoftext|>, then the question."""
    spec = who.loaded.spec
    slots = spec.image_tokens if asked.picture is not None and isinstance(spec, VLMSpec) else 0
    return prompt(who.words, without_placeholder(PLACEHOLDER + asked.text), image_tokens=slots)


def choose(who: Speaker, asked: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[int]:
    """The number of the likeliest choice of each (context, choices), in order; the first one where two are equal.

    As lm-eval's `acc`: log-likelihoods summed over tokens, a space before the choice, no weighing by length.
    """
    for start in range(0, len(asked), _BATCH):
        some = asked[start : start + _BATCH]
        pairs = [(text, f"{text} {offered}") for text, every in some for offered in every]
        contexts = [context(who.words, text) for text, _ in pairs]
        wholes = [context(who.words, whole) for _, whole in pairs]
        found = choices(
            who.loaded.model,
            contexts,
            [whole[len(begun) :] for begun, whole in zip(contexts, wholes, strict=True)],
        )
        totals = iter([likelihood.total for likelihood in found])
        yield from (_likeliest([next(totals) for _ in every]) for _, every in some)


def _likeliest(totals: list[float]) -> int:
    return max(range(len(totals)), key=totals.__getitem__)
