"""N-grams: hashes against their definition, and hits against sets of tuples."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.audit import contamination
from tests.data.audit.audit_data import ngrams_of, stores


@given(values=st.lists(st.integers(0, 2**16 - 1), min_size=contamination.NGRAM_SIZE, max_size=40))
def test_rolling_hashes_equal_the_polynomial(values: list[int]) -> None:
    base = int(contamination._BASE)
    expected = []
    for start in range(len(values) - contamination.NGRAM_SIZE + 1):
        value = 0
        for token in values[start : start + contamination.NGRAM_SIZE]:
            value = (value * base + token) % 2**32
        expected.append(value)
    assert contamination.rolling_hashes(np.array(values, dtype=np.uint32)).tolist() == expected


@given(data=stores(), chunk=st.integers(1, 60))
@settings(max_examples=80)
def test_exactly_the_planted_ngrams_are_found(data: tuple[list[list[int]], list[list[int]]], chunk: int) -> None:
    texts, documents = data
    flat = [token for part in documents for token in part]
    expected = set[tuple[int, ...]]().union(*map(ngrams_of, texts))
    chunk_size = contamination._CHUNK
    contamination._CHUNK = chunk
    try:
        ngram_set = contamination.NgramSet(texts, range(len(texts)))
        hits = list(contamination.find_ngrams(np.array(flat, dtype=np.uint16), ngram_set))
    finally:
        contamination._CHUNK = chunk_size
    assert len(ngram_set.hashes) == len(expected)
    assert [position for positions, _ in hits for position in positions.tolist()] == [
        start
        for start in range(len(flat) - contamination.NGRAM_SIZE + 1)
        if tuple(flat[start : start + contamination.NGRAM_SIZE]) in expected
    ]
    for hit in hits:
        for position, gram in zip(*hit, strict=True):
            assert ngram_set.tokens[gram].tolist() == flat[position : position + contamination.NGRAM_SIZE]
            assert tuple(flat[position : position + contamination.NGRAM_SIZE]) in ngrams_of(
                texts[ngram_set.texts[gram]]
            )
