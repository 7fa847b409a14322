"""N-grams of evaluation texts, and where they are in a token array.

Legend: N tokens of an n-gram, G n-grams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import numpy as np
from jaxtyping import Int64, Integer, UInt32
from numpy.lib.stride_tricks import sliding_window_view

from firstsight.data.index import ragged_ranges

NGRAM_SIZE = 13
"""Consecutive tokens that count as overlap; Brown et al. 2020 (appendix C) use 13 words."""
NgramHits = tuple[Int64[np.ndarray, "hits"], Int64[np.ndarray, "hits"]]
"""Positions in a token array where n-grams begin, ascending, and the number of the n-gram at each."""
_BASE, _SECOND_BASE = np.uint32(0x9E3779B3), np.uint32(0xC2B2AE35)
_FILTER_FACTOR = np.uint32(0x85EBCA6B)
_CHUNK = 1 << 15
"""Tokens at a time, so that their hashes stay in the processor's cache."""
_SLOTS_PER_NGRAM = 16
"""Bits of a filter for every n-gram: one in 16 other hashes passes; small enough to stay in the processor's cache."""
_FILTER_BITS = (16, 29)
"""Bits of a hash that the smallest and the largest filter use."""


class NgramFilter:
    """A bit for each value of the leading bits of a hash: passes all hashes of a set, and 1/_SLOTS_PER_NGRAM others."""

    def __init__(self, hashes: UInt32[np.ndarray, "G"]) -> None:
        bits = int(np.clip(np.ceil(np.log2(max(len(hashes) * _SLOTS_PER_NGRAM, 1))), *_FILTER_BITS))
        self._shift = np.uint32(32 - bits)
        slots = np.zeros(1 << bits, dtype=np.bool_)
        slots[hashes >> self._shift] = True
        self._bitset = np.packbits(slots, bitorder="little")

    def candidates(self, hashes: UInt32[np.ndarray, "n"]) -> Int64[np.ndarray, "passed"]:
        """Indices of the hashes that may be in the set."""
        slots = hashes >> self._shift
        bits = self._bitset.take(slots >> np.uint32(3)) >> (slots & np.uint32(7)).astype(np.uint8)
        return np.flatnonzero(bits & np.uint8(1))


def rolling_hashes(tokens: UInt32[np.ndarray, "n"], base: np.uint32 = _BASE) -> UInt32[np.ndarray, "windows"]:
    """The hash of every N consecutive tokens: a polynomial modulo 2**32, combined from shorter ones by doubling."""
    hashes, length = tokens, 1
    for bit in f"{NGRAM_SIZE:b}"[1:]:
        head = hashes[:-length] * np.uint32(pow(int(base), length, 1 << 32))
        head += hashes[length:]
        hashes, length = head, 2 * length
        if bit == "1":
            hashes = hashes[:-1] * base
            hashes += tokens[length:]
            length += 1
    return hashes


class NgramSet:
    """The distinct n-grams of tokenized texts, in the order of their hashes.

    `text_numbers` is the number of the text that each of `texts` tokenizes, ascending; `.texts` has for each n-gram
    the number of the first text with it.
    """

    def __init__(self, texts: Sequence[Sequence[int]], text_numbers: Sequence[int]) -> None:
        flat = np.fromiter(chain(*texts, repeat(0, NGRAM_SIZE)), dtype=np.uint32)  # padded to at least a window
        counts = np.array([len(ids) for ids in texts], dtype=np.int64)
        starts, text_ids, _ = ragged_ranges(np.cumsum(counts) - counts, np.maximum(counts - NGRAM_SIZE + 1, 0))
        hashes, second_hashes = (rolling_hashes(flat, base)[starts] for base in (_BASE, _SECOND_BASE))
        ngrams = sliding_window_view(flat, NGRAM_SIZE)[starts]
        order = np.lexsort((second_hashes, hashes))  # stable: among equals the first text stays first
        is_new = np.ones(len(order), dtype=np.bool_)
        is_new[1:] = (ngrams[order][1:] != ngrams[order][:-1]).any(axis=1)
        first = order[is_new]
        self.tokens: UInt32[np.ndarray, "G N"] = ngrams[first]
        self.texts: Int64[np.ndarray, "G"] = np.asarray(text_numbers, dtype=np.int64)[text_ids[first]]
        self.hashes: UInt32[np.ndarray, "G"] = hashes[first]
        self.filters = NgramFilter(self.hashes), NgramFilter(self.hashes * _FILTER_FACTOR)


def find_ngrams(tokens: Integer[np.ndarray, "tokens"], ngrams: NgramSet) -> Iterator[NgramHits]:
    """Where `tokens` contain the n-grams, chunk by chunk; every hit is compared token by token."""
    first, second = ngrams.filters
    for start in range(0, max(len(tokens) - NGRAM_SIZE + 1, 0), _CHUNK):
        chunk = tokens[start : start + _CHUNK + NGRAM_SIZE - 1].astype(np.uint32)
        hashes = rolling_hashes(chunk)
        candidates = first.candidates(hashes)
        candidates = candidates[second.candidates(hashes[candidates] * _FILTER_FACTOR)]
        if len(candidates):
            low, high = (np.searchsorted(ngrams.hashes, hashes[candidates], side=side) for side in ("left", "right"))
            ids, owners, _ = ragged_ranges(low, high - low)
            positions = candidates[owners]
            is_equal = (sliding_window_view(chunk, NGRAM_SIZE)[positions] == ngrams.tokens[ids]).all(axis=1)
            yield positions[is_equal] + start, ids[is_equal]
