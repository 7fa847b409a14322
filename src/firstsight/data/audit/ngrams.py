"""Stretches of N tokens that evaluation sets hold, and where a token store holds them too.

Legend: N tokens of a stretch, G stretches that are looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer, UInt32
from numpy.lib.stride_tricks import sliding_window_view

NGRAM_SIZE = 13
"""Tokens in a row that count as taken over: the habit of Brown et al. 2020 (appendix C), who count words."""
_BASE = np.uint32(0x9E3779B3)
_CHUNK = 1 << 15
"""Tokens at a time: their hashes stay in the processor's cache."""
_SECOND_BASE, _FILTER_FACTOR = np.uint32(0xC2B2AE35), np.uint32(0x85EBCA6B)
_SLOTS_PER_NGRAM = 16
"""Slots of a sieve for every stretch, so that one place in _LOAD passes it by chance; small enough to stay in cache."""
_FILTER_BITS = (16, 29)
"""Bits of a hash that the smallest and the largest sieve look at."""


class NgramFilter:
    """Lets through every hash of a set, and of others one in _LOAD: one bit for each value of the leading bits."""

    def __init__(self, hashes: UInt32[np.ndarray, "G"]) -> None:
        bits = int(np.clip(np.ceil(np.log2(max(len(hashes) * _SLOTS_PER_NGRAM, 1))), *_FILTER_BITS))
        self._shift = np.uint32(32 - bits)
        slots = np.zeros(1 << bits, dtype=np.bool_)
        slots[hashes >> self._shift] = True
        self._bitset = np.packbits(slots, bitorder="little")

    def candidates(self, hashes: UInt32[np.ndarray, "n"]) -> Int64[np.ndarray, "passed"]:
        """Which of `hashes`, by number, may be in the set."""
        slots = hashes >> self._shift
        slot_bits = self._bitset.take(slots >> np.uint32(3)) >> (slots & np.uint32(7)).astype(np.uint8)
        return np.flatnonzero(slot_bits & np.uint8(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class NgramSet:
    """Distinct stretches, by their hash."""

    tokens: UInt32[np.ndarray, "G N"]
    texts: Int64[np.ndarray, "G"]
    """Number of the first text that holds the stretch."""
    hashes: UInt32[np.ndarray, "G"]
    filters: tuple[NgramFilter, NgramFilter]
    """Which leading bits of a hash occur, and which of its product with _AGAIN."""


def rolling_hashes(tokens: UInt32[np.ndarray, "n"], base: np.uint32 = _BASE) -> UInt32[np.ndarray, "windows"]:
    """A hash of every N tokens in a row: a polynomial modulo 2**32, put together from shorter ones by doubling."""
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


def build_ngrams(texts: Sequence[Sequence[int]], text_numbers: Sequence[int]) -> NgramSet:
    """The stretches of tokenized texts; `numbers` says which text each is a tokenization of, ascending."""
    flat = np.concatenate([np.asarray(ids, dtype=np.uint32) for ids in texts] or [np.zeros(0, dtype=np.uint32)])
    counts = np.array([len(ids) for ids in texts], dtype=np.int64)
    windows = (
        sliding_window_view(flat, NGRAM_SIZE) if len(flat) >= NGRAM_SIZE else np.zeros((0, NGRAM_SIZE), dtype=np.uint32)
    )
    is_inside = np.concatenate([np.arange(count, 0, -1) for count in counts] or [counts])[: len(windows)] >= NGRAM_SIZE
    ngrams, ngram_texts = (
        windows[is_inside],
        np.repeat(np.asarray(text_numbers, dtype=np.int64), counts)[: len(windows)][is_inside],
    )
    hashes, second_hashes = (
        rolling_hashes(flat, base)[is_inside] if len(ngrams) else flat[:0] for base in (_BASE, _SECOND_BASE)
    )
    order = np.lexsort((second_hashes, hashes))  # stable: among equals the first text stays first
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (ngrams[order][1:] != ngrams[order][:-1]).any(axis=1)
    first = order[is_new]
    hashes = hashes[first]
    return NgramSet(
        tokens=ngrams[first],
        texts=ngram_texts[first],
        hashes=hashes,
        filters=(NgramFilter(hashes), NgramFilter(hashes * _FILTER_FACTOR)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NgramHits:
    """Places of a token store where a stretch begins, ascending by place."""

    positions: Int64[np.ndarray, "hits"]
    ngram_ids: Int64[np.ndarray, "hits"]


def find_ngrams(tokens: Integer[np.ndarray, "tokens"], ngrams: NgramSet) -> Iterator[NgramHits]:
    """Where `tokens` hold the wanted stretches, chunk by chunk; every hit is compared token by token."""
    first, second = ngrams.filters
    for start in range(0, max(len(tokens) - NGRAM_SIZE + 1, 0), _CHUNK):
        chunk = tokens[start : start + _CHUNK + NGRAM_SIZE - 1].astype(np.uint32)
        hashes = rolling_hashes(chunk)
        candidates = first.candidates(hashes)
        candidates = candidates[second.candidates(hashes[candidates] * _FILTER_FACTOR)]
        if len(candidates):
            yield _verify_hits(chunk, candidates, hashes[candidates], start, ngrams=ngrams)


def _verify_hits(
    chunk: np.ndarray, candidates: np.ndarray, hashes: np.ndarray, start: int, *, ngrams: NgramSet
) -> NgramHits:
    first = np.searchsorted(ngrams.hashes, hashes, side="left")
    counts = np.searchsorted(ngrams.hashes, hashes, side="right") - first
    chunk_positions = np.repeat(candidates, counts)
    ngram_ids = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(len(chunk_positions))
    is_equal = (sliding_window_view(chunk, NGRAM_SIZE)[chunk_positions] == ngrams.tokens[ngram_ids]).all(axis=1)
    return NgramHits(positions=chunk_positions[is_equal] + start, ngram_ids=ngram_ids[is_equal])
