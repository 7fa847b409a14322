"""The row at each of n positions: arithmetic on the position, so that resuming and scaling out need no state."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from firstsight.errors import MixError

Indices = Int64[np.ndarray, "n"]
Keys = UInt64[np.ndarray, "n"]
SHUFFLE_BLOCK = 256
"""Consecutive rows that stay close together in the order of a long source."""
SHUFFLE_WINDOW = 256 * SHUFFLE_BLOCK
"""Draws that come from at most 256 blocks. A source of at most this many rows is shuffled without blocks."""
_FEISTEL_ROUNDS = 6
"""Even, so that both halves have their original sizes at the end."""


def sources_at(rows: Indices, share: Fraction) -> tuple[Bool[np.ndarray, "n"], Indices]:
    """(is it an image row, its number among the rows of its kind): the first n rows have floor(n * share) images."""
    before = rows * share.numerator // share.denominator
    is_image = (rows + 1) * share.numerator // share.denominator > before
    return is_image, np.where(is_image, before, rows - before)


def assign_sources(positions: Indices, shares: Sequence[Fraction]) -> tuple[Indices, Indices]:
    """(source, number among the rows of that source) of each position: `sources_at` of each source against the rest."""
    if sum(shares, Fraction(0)) != 1:
        raise MixError(f"shares of the parts must sum to 1. Got {', '.join(map(str, shares))}.")
    source_ids, draws = np.full_like(positions, len(shares) - 1), positions.copy()
    unassigned, rest = np.arange(len(positions)), Fraction(1)
    for source_id, share in enumerate(shares):
        if rest == 0:
            break
        is_chosen, draws[unassigned] = sources_at(draws[unassigned], share / rest)
        source_ids[unassigned[is_chosen]] = source_id
        unassigned, rest = unassigned[~is_chosen], rest - share
    return source_ids, draws


def source_counts(rows: int, shares: Sequence[Fraction]) -> list[int]:
    """How many of the first `rows` rows `assign_sources` gives to each source."""
    counts, rest = list[int](), Fraction(1)
    for share in shares:
        relative = share / rest if rest else Fraction(0)
        counts.append(rows * relative.numerator // relative.denominator)
        rows, rest = rows - counts[-1], rest - share
    return counts


def epoch_permutation(draws: Indices | int, *, count: int, seed: int) -> tuple[Indices, Indices]:
    """(epoch, row) of each draw: every epoch visits each of `count` rows once, in an order that differs by epoch.

    Above SHUFFLE_WINDOW rows, draws w * SHUFFLE_WINDOW to (w + 1) * SHUFFLE_WINDOW of an epoch are the rows of at most
    256 whole blocks of consecutive rows, so that rows that are read together are close together in a remote file.
    """
    if count <= 0:
        raise MixError(f"cannot draw rows from a source of {count} rows.")
    epoch, positions = np.divmod(np.atleast_1d(np.asarray(draws, dtype=np.int64)), count)
    keys = _splitmix64(_splitmix64(np.full(len(positions), seed % 2**64, dtype=np.uint64)) + epoch.astype(np.uint64))
    permute = _feistel_permutation if count <= SHUFFLE_WINDOW else _blockwise_permutation
    return epoch, permute(positions.astype(np.uint64), count, keys).astype(np.int64)


def grouped_permutation(draws: Indices, *, count: int, group_size: int, seed: int) -> Indices:
    """The row of each draw if every `group_size` consecutive rows are parts of a longer row, and drawn together."""
    if group_size == 1:
        return epoch_permutation(draws, count=count, seed=seed)[1]
    if count % group_size:
        raise MixError(f"wanted rows in whole groups of {group_size}. Got {count} rows. Report this as a bug.")
    groups = epoch_permutation(draws // group_size, count=count // group_size, seed=seed)[1]
    return groups * group_size + draws % group_size


def _feistel_permutation(positions: Keys, count: int, keys: Keys) -> Keys:
    """A bijection of 0..count-1: a Feistel network on the next power of two, repeated until the result is in range.

    Fewer than two repetitions are needed on average (cycle walking).
    """
    bits = max(2, (count - 1).bit_length())
    permuted = _feistel_network(positions, bits, keys)
    outside = np.flatnonzero(permuted >= count)
    while len(outside):
        permuted[outside] = _feistel_network(permuted[outside], bits, keys[outside])
        outside = outside[permuted[outside] >= count]
    return permuted


def _blockwise_permutation(positions: Keys, count: int, keys: Keys) -> Keys:
    """Permuted blocks of consecutive rows, then the rows of every 256 blocks permuted together.

    The last block, if it is shorter, is always in the last window, so that all other windows have their full size.
    """
    block, window_size = np.uint64(SHUFFLE_BLOCK), np.uint64(SHUFFLE_WINDOW)
    blocks, last_window = -(-count // SHUFFLE_BLOCK), (count - 1) // SHUFFLE_WINDOW
    windows, offsets = np.divmod(positions, window_size)
    is_full = windows < last_window
    permuted, window_keys = np.empty_like(positions), _splitmix64(keys ^ np.uint64(0x5851F42D4C957F2D)) + windows
    for mask, size in ((is_full, SHUFFLE_WINDOW), (~is_full, count - last_window * SHUFFLE_WINDOW)):
        permuted[mask] = _feistel_permutation(offsets[mask], size, _splitmix64(window_keys[mask]))
    source_blocks = windows * (window_size // block) + permuted // block
    is_moving = np.ones(len(positions), dtype=bool)
    if count % SHUFFLE_BLOCK:
        blocks, is_moving = blocks - 1, source_blocks < blocks - 1
    source_blocks[is_moving] = _feistel_permutation(source_blocks[is_moving], blocks, keys[is_moving])
    return source_blocks * block + permuted % block


def _feistel_network(values: Keys, bits: int, keys: Keys) -> Keys:
    """A bijection of 0..2^bits-1; the halves differ by one bit if `bits` is odd, and swap sizes every round."""
    low_bits, high_bits = bits - bits // 2, bits // 2
    left, right = values >> np.uint64(low_bits), values & np.uint64((1 << low_bits) - 1)
    for number in range(_FEISTEL_ROUNDS):
        left, right = right, left ^ (_splitmix64(right ^ (keys + np.uint64(number))) & np.uint64((1 << high_bits) - 1))
        low_bits, high_bits = high_bits, low_bits
    return (left << np.uint64(low_bits)) | right


def _splitmix64(values: Keys) -> Keys:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit affects every output bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
