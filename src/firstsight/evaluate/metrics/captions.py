"""CIDEr-D: how much a caption shares with several references, in runs of words that are rare among all references."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from firstsight.errors import DataError
from firstsight.evaluate.metrics.metric import Metric, Truth, is_nonempty
from firstsight.evaluate.metrics.ptb_tokenizer import ptb_tokenize

NGram = tuple[str, ...]
"""One to four words in a row."""

_MAX_NGRAM = 4
_SIGMA = 6.0
"""How far lengths may lie apart: the spread of the Gaussian that punishes it, in word pairs."""
_SCALE = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _TfidfVector:
    """A caption's runs by length, each with its count times its rarity; the norms; the number of word pairs."""

    weights: tuple[Mapping[NGram, float], ...]
    norms: tuple[float, ...]
    num_bigrams: int


def cider(answers: Sequence[str], truths: Sequence[Truth]) -> list[float]:
    """Every caption's CIDEr-D, 0 to 10; the corpus score is their mean.

    A run's rarity is the log of pictures over pictures whose references hold it, counted over all of `truths`; so one
    picture alone scores 0, and the score of a part is not the part of a score. DataError: a picture without references.
    """
    references = [
        [_count_ngrams(str(reference)) for reference in _reference_texts(truth, index)]
        for index, truth in enumerate(truths)
    ]
    document_frequency = Counter(ngram for texts in references for ngram in {ngram for text in texts for ngram in text})
    idf = {ngram: math.log(len(references)) - math.log(frequency) for ngram, frequency in document_frequency.items()}
    default_idf = math.log(max(len(references), 1))
    return [
        _cider_score(
            _tfidf_vector(_count_ngrams(answer), idf, default_idf),
            [_tfidf_vector(text, idf, default_idf) for text in texts],
        )
        for answer, texts in zip(answers, references, strict=True)
    ]


def _reference_texts(truth: Truth, index: int) -> Sequence[object]:
    texts = truth if isinstance(truth, tuple) else (truth,)
    if not texts:
        raise DataError(f"caption {index + 1}: wanted a reference to compare it with. Got none. Leave the picture out.")
    return texts


def _count_ngrams(text: str) -> Counter[NGram]:
    words = ptb_tokenize(text)
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, _MAX_NGRAM + 1)
        for start in range(len(words) - length + 1)
    )


def _tfidf_vector(counts: Mapping[NGram, int], idf: Mapping[NGram, float], default_idf: float) -> _TfidfVector:
    weights_by_length: tuple[dict[NGram, float], ...] = tuple({} for _ in range(_MAX_NGRAM))
    for ngram, count in counts.items():
        weights_by_length[len(ngram) - 1][ngram] = count * idf.get(ngram, default_idf)
    norms = tuple(math.sqrt(sum(weight * weight for weight in weights.values())) for weights in weights_by_length)
    return _TfidfVector(
        weights=weights_by_length,
        norms=norms,
        num_bigrams=sum(count for ngram, count in counts.items() if len(ngram) == 2),
    )


def _cider_score(candidate: _TfidfVector, references: Sequence[_TfidfVector]) -> float:
    """The mean over references and run lengths of the clipped cosine, less where lengths differ."""
    total = 0.0
    for reference in references:
        length_difference = candidate.num_bigrams - reference.num_bigrams
        total += math.exp(-(length_difference**2) / (2 * _SIGMA**2)) * sum(
            map(_cosine, *_vector_parts(candidate), *_vector_parts(reference))
        )
    return _SCALE * total / (_MAX_NGRAM * len(references))


def _vector_parts(vector: _TfidfVector) -> tuple[tuple[Mapping[NGram, float], ...], tuple[float, ...]]:
    return vector.weights, vector.norms


def _cosine(
    candidate: Mapping[NGram, float], candidate_norm: float, reference: Mapping[NGram, float], reference_norm: float
) -> float:
    """A run counts for no more than the reference has of it."""
    if not (candidate_norm and reference_norm):
        return 0.0
    return sum(
        min(weight, reference_weight) * reference_weight
        for ngram, weight in candidate.items()
        if (reference_weight := reference.get(ngram, 0.0))
    ) / (candidate_norm * reference_norm)


CIDER = Metric(name="cider", compute=cider, is_readable=is_nonempty)
"""COCO and NoCaps captions, in the official scorer's scale: what papers print as 120 is 1.2 here."""
