"""Which row comes at which position: arithmetic on one integer, so resume and scale-out need no state.

Legend: n positions asked for at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from firstsight.errors import MixError

Indices = Int64[np.ndarray, "n"]
SHUFFLE_BLOCK = 256
"""Neighbouring rows that stay near each other in the order of a long source."""
SHUFFLE_WINDOW = 256 * SHUFFLE_BLOCK
"""Draws that come out of at most 256 blocks; up to here rows are shuffled freely."""
_FEISTEL_ROUNDS = 6
"""Even, so that both halves end where they began."""


def source_at(row: int, share: Fraction) -> tuple[bool, int]:
    """Whether an image row comes at `row`, and which of its kind it is; n rows hold floor(n * share) image rows."""
    images_before = row * share.numerator // share.denominator
    images_through = (row + 1) * share.numerator // share.denominator
    return (True, images_before) if images_through > images_before else (False, row - images_before)


def sources_at(rows: Indices, share: Fraction) -> tuple[Bool[np.ndarray, "n"], Indices]:
    """`pick` for many rows at once."""
    images_before = rows * share.numerator // share.denominator
    images_through = (rows + 1) * share.numerator // share.denominator
    is_image = images_through > images_before
    return is_image, np.where(is_image, images_before, rows - images_before)


def assign_sources(positions: Indices, shares: Sequence[Fraction]) -> tuple[Indices, Indices]:
    """Which part the nth row belongs to and which of that part's rows it is: `pick` of each part against the rest."""
    if sum(shares, Fraction(0)) != 1:
        raise MixError(f"shares of the parts must sum to 1. Got {', '.join(map(str, shares))}.")
    source_ids, draws = np.full_like(positions, len(shares) - 1), positions.copy()
    unassigned, remaining_share = np.arange(len(positions)), Fraction(1)
    for source_id, share in enumerate(shares):
        if remaining_share == 0:
            break
        is_chosen, draws[unassigned] = sources_at(draws[unassigned], share / remaining_share)
        source_ids[unassigned[is_chosen]] = source_id
        unassigned, remaining_share = unassigned[~is_chosen], remaining_share - share
    return source_ids, draws


def source_counts(rows: int, shares: Sequence[Fraction]) -> list[int]:
    """How many of the first `rows` rows `split` gives to each part."""
    counts, remaining_share = list[int](), Fraction(1)
    for share in shares:
        relative_share = share / remaining_share if remaining_share else Fraction(0)
        counts.append(rows * relative_share.numerator // relative_share.denominator)
        rows, remaining_share = rows - counts[-1], remaining_share - share
    return counts


def epoch_permutation(draws: Indices | int, *, count: int, seed: int) -> tuple[Indices, Indices]:
    """(epoch, row) of the nth draw: every epoch visits each of `count` rows once, in an order of its own.

    Above WINDOW rows, draws w * WINDOW to (w + 1) * WINDOW of an epoch hold the rows of at most 256 whole blocks
    of neighbours, so that what is read together lies near each other in a remote file.
    """
    if count <= 0:
        raise MixError(f"cannot draw rows from a source of {count} rows.")
    epoch, positions = np.divmod(np.atleast_1d(np.asarray(draws, dtype=np.int64)), count)
    keys = _splitmix64(_splitmix64(np.full(len(positions), seed % 2**64, dtype=np.uint64)) + epoch.astype(np.uint64))
    permute = _feistel_permutation if count <= SHUFFLE_WINDOW else _blockwise_permutation
    return epoch, permute(positions.astype(np.uint64), count, keys).astype(np.int64)


def grouped_permutation(draws: Indices, *, count: int, group_size: int, seed: int) -> Indices:
    """The row of the nth draw where `cut` consecutive rows are drawn together, as one row that they were cut from."""
    if group_size == 1:
        return epoch_permutation(draws, count=count, seed=seed)[1]
    if count % group_size:
        raise MixError(f"wanted rows in whole groups of {group_size}. Got {count} rows. Report this as a bug.")
    return (
        epoch_permutation(draws // group_size, count=count // group_size, seed=seed)[1] * group_size
        + draws % group_size
    )


def permutation_at(position: int, count: int, seed: int) -> int:
    """Where a seeded bijection of 0..count-1 sends `nth`, in O(1)."""
    if not 0 <= position < count:
        raise MixError(f"wanted a position from 0 to {count - 1}. Got {position}.")
    return int(epoch_permutation(position, count=count, seed=seed)[1][0])


def _feistel_permutation(
    positions: UInt64[np.ndarray, "n"], count: int, keys: UInt64[np.ndarray, "n"]
) -> UInt64[np.ndarray, "n"]:
    """A Feistel network on the next power of two, walked until it lands inside `count` (under two steps on average)."""
    bits = max(2, (count - 1).bit_length())
    permuted = _feistel_network(positions, bits, keys)
    outside = np.flatnonzero(permuted >= count)
    while len(outside):
        permuted[outside] = _feistel_network(permuted[outside], bits, keys[outside])
        outside = outside[permuted[outside] >= count]
    return permuted


def _blockwise_permutation(
    positions: UInt64[np.ndarray, "n"], count: int, keys: UInt64[np.ndarray, "n"]
) -> UInt64[np.ndarray, "n"]:
    """Blocks of neighbours in an order of their own, then the rows of every 256 blocks in one.

    The last block, where it is ragged, always comes in the last window: so every window but that one is whole.
    """
    block_count, ragged = -(-count // SHUFFLE_BLOCK), -count % SHUFFLE_BLOCK
    window = positions // np.uint64(SHUFFLE_WINDOW)
    offsets, last_window = positions % np.uint64(SHUFFLE_WINDOW), (count - 1) // SHUFFLE_WINDOW
    is_whole_window = window < last_window
    permuted, window_keys = np.empty_like(positions), _splitmix64(keys ^ np.uint64(0x5851F42D4C957F2D)) + window
    for mask, size in ((is_whole_window, SHUFFLE_WINDOW), (~is_whole_window, count - last_window * SHUFFLE_WINDOW)):
        permuted[mask] = _feistel_permutation(offsets[mask], size, _splitmix64(window_keys[mask]))
    source_blocks = window * np.uint64(SHUFFLE_WINDOW // SHUFFLE_BLOCK) + permuted // np.uint64(SHUFFLE_BLOCK)
    permuted_blocks = (
        _permutation_fixing_last(source_blocks, block_count, keys)
        if ragged
        else _feistel_permutation(source_blocks, block_count, keys)
    )
    return permuted_blocks * np.uint64(SHUFFLE_BLOCK) + permuted % np.uint64(SHUFFLE_BLOCK)


def _permutation_fixing_last(
    positions: UInt64[np.ndarray, "n"], count: int, keys: UInt64[np.ndarray, "n"]
) -> UInt64[np.ndarray, "n"]:
    """A bijection of 0..count-1 that leaves the last where it is."""
    permuted = positions.copy()
    is_moving = positions < count - 1
    permuted[is_moving] = _feistel_permutation(positions[is_moving], count - 1, keys[is_moving])
    return permuted


def _feistel_network(
    value: UInt64[np.ndarray, "n"], bits: int, keys: UInt64[np.ndarray, "n"]
) -> UInt64[np.ndarray, "n"]:
    """A bijection of 0..2^bits-1; the halves differ by one bit where `bits` is odd and trade places every round."""
    low_bits, high_bits = bits - bits // 2, bits // 2
    left, right = value >> np.uint64(low_bits), value & np.uint64((1 << low_bits) - 1)
    for round_number in range(_FEISTEL_ROUNDS):
        left, right = (
            right,
            left ^ (_splitmix64(right ^ (keys + np.uint64(round_number))) & np.uint64((1 << high_bits) - 1)),
        )
        low_bits, high_bits = high_bits, low_bits
    return (left << np.uint64(low_bits)) | right


def _splitmix64(value: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
