"""CIDEr-D: TF-IDF weighted n-gram similarity of a caption with several references (Vedantam et al. 2015)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from firstsight.errors import DataError
from firstsight.evaluate.metrics.metric import Metric, Truth, is_nonempty
from firstsight.evaluate.metrics.ptb_tokenizer import ptb_tokenize

NGram = tuple[str, ...]
"""One to four consecutive words."""

_MAX_NGRAM = 4
_SIGMA = 6.0
"""Standard deviation of the Gaussian length penalty, in bigrams."""
_SCALE = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _TfidfVector:
    """A caption's TF-IDF weights by n-gram length, their norms, and its number of bigrams."""

    weights: tuple[Mapping[NGram, float], ...]
    norms: tuple[float, ...]
    num_bigrams: int


def cider(answers: Sequence[str], truths: Sequence[Truth]) -> list[float]:
    """The CIDEr-D of each caption, 0 to 10; the corpus score is their mean.

    The document frequency of an n-gram is the number of images with it in a reference, over all of `truths`; so a
    single image scores 0, and a subset's scores differ from the whole's. DataError for an image without references.
    """
    references = [_reference_ngrams(truth, index) for index, truth in enumerate(truths)]
    document_frequency = Counter(ngram for texts in references for ngram in {ngram for text in texts for ngram in text})
    idf = {ngram: math.log(len(references)) - math.log(frequency) for ngram, frequency in document_frequency.items()}
    default_idf = math.log(max(len(references), 1))
    vector = partial(_tfidf_vector, idf=idf, default_idf=default_idf)
    pairs = zip(map(_count_ngrams, answers), references, strict=True)
    return [_cider_score(vector(answer), [vector(text) for text in texts]) for answer, texts in pairs]


def _reference_ngrams(truth: Truth, index: int) -> list[Counter[NGram]]:
    texts = truth if isinstance(truth, tuple) else (truth,)
    if not texts:
        raise DataError(f"caption {index + 1}: wanted a reference to compare it with. Got none. Leave the image out.")
    return [_count_ngrams(str(text)) for text in texts]


def _count_ngrams(text: str) -> Counter[NGram]:
    words = ptb_tokenize(text)
    lengths = range(1, _MAX_NGRAM + 1)
    return Counter(tuple(words[i : i + length]) for length in lengths for i in range(len(words) - length + 1))


def _tfidf_vector(counts: Mapping[NGram, int], idf: Mapping[NGram, float], default_idf: float) -> _TfidfVector:
    weights_by_length: tuple[dict[NGram, float], ...] = tuple({} for _ in range(_MAX_NGRAM))
    for ngram, count in counts.items():
        weights_by_length[len(ngram) - 1][ngram] = count * idf.get(ngram, default_idf)
    norms = tuple(math.sqrt(sum(weight * weight for weight in weights.values())) for weights in weights_by_length)
    num_bigrams = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return _TfidfVector(weights=weights_by_length, norms=norms, num_bigrams=num_bigrams)


def _cider_score(candidate: _TfidfVector, references: Sequence[_TfidfVector]) -> float:
    """The mean over references and n-gram lengths of the clipped cosine, with the length penalty."""
    total = 0.0
    for reference in references:
        length_difference = candidate.num_bigrams - reference.num_bigrams
        similarity = sum(map(_cosine, candidate.weights, candidate.norms, reference.weights, reference.norms))
        total += math.exp(-(length_difference**2) / (2 * _SIGMA**2)) * similarity
    return _SCALE * total / (_MAX_NGRAM * len(references))


def _cosine(candidate: Mapping[NGram, float], norm: float, reference: Mapping[NGram, float], ref_norm: float) -> float:
    if not (norm and ref_norm):
        return 0.0
    pairs = ((weight, reference[ngram]) for ngram, weight in candidate.items() if reference.get(ngram))
    return sum(min(weight, other) * other for weight, other in pairs) / (norm * ref_norm)


CIDER = Metric(name="cider", compute=cider, is_readable=is_nonempty)
"""COCO and NoCaps captions, in the official scorer's scale: 120 in papers is 1.2 here."""
