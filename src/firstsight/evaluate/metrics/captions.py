"""CIDEr-D: how much a caption shares with several references, in runs of words that are rare among all references."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from firstsight.errors import DataError
from firstsight.evaluate.metrics.metric import Metric, Truth, said
from firstsight.evaluate.metrics.penn import tokens

Run = tuple[str, ...]
"""One to four words in a row."""

_LONGEST = 4
_SIGMA = 6.0
"""How far lengths may lie apart: the spread of the Gaussian that punishes it, in word pairs."""
_SCALE = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weighed:
    """A caption's runs by length, each with its count times its rarity; the norms; the number of word pairs."""

    runs: tuple[Mapping[Run, float], ...]
    norms: tuple[float, ...]
    pairs: int


def cider(answers: Sequence[str], truths: Sequence[Truth]) -> list[float]:
    """Every caption's CIDEr-D, 0 to 10; the corpus score is their mean.

    A run's rarity is the log of pictures over pictures whose references hold it, counted over all of `truths`; so one
    picture alone scores 0, and the score of a part is not the part of a score. DataError: a picture without references.
    """
    references = [[_runs(str(reference)) for reference in _given(truth, place)] for place, truth in enumerate(truths)]
    held = Counter(run for texts in references for run in {run for text in texts for run in text})
    rarity = {run: math.log(len(references)) - math.log(pictures) for run, pictures in held.items()}
    unheard = math.log(max(len(references), 1))
    return [
        _likeness(_weighed(_runs(answer), rarity, unheard), [_weighed(text, rarity, unheard) for text in texts])
        for answer, texts in zip(answers, references, strict=True)
    ]


def _given(truth: Truth, place: int) -> Sequence[object]:
    texts = truth if isinstance(truth, tuple) else (truth,)
    if not texts:
        raise DataError(f"caption {place + 1}: wanted a reference to compare it with. Got none. Leave the picture out.")
    return texts


def _runs(text: str) -> Counter[Run]:
    words = tokens(text)
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, _LONGEST + 1)
        for start in range(len(words) - length + 1)
    )


def _weighed(counts: Mapping[Run, int], rarity: Mapping[Run, float], unheard: float) -> _Weighed:
    runs: tuple[dict[Run, float], ...] = tuple({} for _ in range(_LONGEST))
    for run, count in counts.items():
        runs[len(run) - 1][run] = count * rarity.get(run, unheard)
    norms = tuple(math.sqrt(sum(weight * weight for weight in some.values())) for some in runs)
    return _Weighed(runs=runs, norms=norms, pairs=sum(count for run, count in counts.items() if len(run) == 2))


def _likeness(said: _Weighed, references: Sequence[_Weighed]) -> float:
    """The mean over references and run lengths of the clipped cosine, less where lengths differ."""
    total = 0.0
    for reference in references:
        apart = said.pairs - reference.pairs
        total += math.exp(-(apart**2) / (2 * _SIGMA**2)) * sum(map(_cosine, *_sides(said), *_sides(reference)))
    return _SCALE * total / (_LONGEST * len(references))


def _sides(one: _Weighed) -> tuple[tuple[Mapping[Run, float], ...], tuple[float, ...]]:
    return one.runs, one.norms


def _cosine(said: Mapping[Run, float], length: float, reference: Mapping[Run, float], other: float) -> float:
    """A run counts for no more than the reference has of it."""
    if not (length and other):
        return 0.0
    return sum(min(weight, met) * met for run, weight in said.items() if (met := reference.get(run, 0.0))) / (
        length * other
    )


CIDER = Metric(name="cider", marks=cider, readable=said)
"""COCO and NoCaps captions, in the official scorer's scale: what papers print as 120 is 1.2 here."""
