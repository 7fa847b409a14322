"""Stretches of N tokens that evaluation sets hold, and where a token store holds them too.

Legend: N tokens of a stretch, G stretches that are looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer, UInt32
from numpy.lib.stride_tricks import sliding_window_view

N = 13
"""Tokens in a row that count as taken over: the habit of Brown et al. 2020 (appendix C), who count words."""
_BASE = np.uint32(0x9E3779B3)
_CHUNK = 1 << 15
"""Tokens at a time: their hashes stay in the processor's cache."""
_OTHER, _AGAIN = np.uint32(0xC2B2AE35), np.uint32(0x85EBCA6B)
_LOAD = 16
"""Slots of a sieve for every stretch, so that one place in _LOAD passes it by chance; small enough to stay in cache."""
_SLOTS = (16, 29)
"""Bits of a hash that the smallest and the largest sieve look at."""


class Sieve:
    """Lets through every hash of a set, and of others one in _LOAD: one bit for each value of the leading bits."""

    def __init__(self, hashes: UInt32[np.ndarray, "G"]) -> None:
        bits = int(np.clip(np.ceil(np.log2(max(len(hashes) * _LOAD, 1))), *_SLOTS))
        self._shift = np.uint32(32 - bits)
        slots = np.zeros(1 << bits, dtype=np.bool_)
        slots[hashes >> self._shift] = True
        self._packed = np.packbits(slots, bitorder="little")

    def passes(self, hashes: UInt32[np.ndarray, "n"]) -> Int64[np.ndarray, "passed"]:
        """Which of `hashes`, by number, may be in the set."""
        slots = hashes >> self._shift
        held = self._packed.take(slots >> np.uint32(3)) >> (slots & np.uint32(7)).astype(np.uint8)
        return np.flatnonzero(held & np.uint8(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Grams:
    """Distinct stretches, by their hash."""

    tokens: UInt32[np.ndarray, "G N"]
    texts: Int64[np.ndarray, "G"]
    """Number of the first text that holds the stretch."""
    hashes: UInt32[np.ndarray, "G"]
    sieves: tuple[Sieve, Sieve]
    """Which leading bits of a hash occur, and which of its product with _AGAIN."""


def rolled(tokens: UInt32[np.ndarray, "n"], base: np.uint32 = _BASE) -> UInt32[np.ndarray, "windows"]:
    """A hash of every N tokens in a row: a polynomial modulo 2**32, put together from shorter ones by doubling."""
    whole, length = tokens, 1
    for bit in f"{N:b}"[1:]:
        head = whole[:-length] * np.uint32(pow(int(base), length, 1 << 32))
        head += whole[length:]
        whole, length = head, 2 * length
        if bit == "1":
            whole = whole[:-1] * base
            whole += tokens[length:]
            length += 1
    return whole


def grams(texts: Sequence[Sequence[int]], numbers: Sequence[int]) -> Grams:
    """The stretches of tokenized texts; `numbers` says which text each is a tokenization of, ascending."""
    flat = np.concatenate([np.asarray(ids, dtype=np.uint32) for ids in texts] or [np.zeros(0, dtype=np.uint32)])
    counts = np.array([len(ids) for ids in texts], dtype=np.int64)
    windows = sliding_window_view(flat, N) if len(flat) >= N else np.zeros((0, N), dtype=np.uint32)
    inside = np.concatenate([np.arange(count, 0, -1) for count in counts] or [counts])[: len(windows)] >= N
    held, of = windows[inside], np.repeat(np.asarray(numbers, dtype=np.int64), counts)[: len(windows)][inside]
    hashes, others = (rolled(flat, base)[inside] if len(held) else flat[:0] for base in (_BASE, _OTHER))
    order = np.lexsort((others, hashes))  # stable: among equals the first text stays first
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (held[order][1:] != held[order][:-1]).any(axis=1)
    first = order[new]
    hashes = hashes[first]
    return Grams(tokens=held[first], texts=of[first], hashes=hashes, sieves=(Sieve(hashes), Sieve(hashes * _AGAIN)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """Places of a token store where a stretch begins, ascending by place."""

    positions: Int64[np.ndarray, "hits"]
    grams: Int64[np.ndarray, "hits"]


def scan(tokens: Integer[np.ndarray, "tokens"], wanted: Grams) -> Iterator[Hits]:
    """Where `tokens` hold the wanted stretches, chunk by chunk; every hit is compared token by token."""
    first, second = wanted.sieves
    for start in range(0, max(len(tokens) - N + 1, 0), _CHUNK):
        piece = tokens[start : start + _CHUNK + N - 1].astype(np.uint32)
        hashes = rolled(piece)
        maybe = first.passes(hashes)
        maybe = maybe[second.passes(hashes[maybe] * _AGAIN)]
        if len(maybe):
            yield _verified(piece, maybe, hashes[maybe], start, wanted=wanted)


def _verified(piece: np.ndarray, maybe: np.ndarray, hashes: np.ndarray, start: int, *, wanted: Grams) -> Hits:
    first = np.searchsorted(wanted.hashes, hashes, side="left")
    count = np.searchsorted(wanted.hashes, hashes, side="right") - first
    places = np.repeat(maybe, count)
    named = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(len(places))
    equal = (sliding_window_view(piece, N)[places] == wanted.tokens[named]).all(axis=1)
    return Hits(positions=places[equal] + start, grams=named[equal])
