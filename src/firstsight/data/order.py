"""Which row comes at which position: arithmetic on one integer, so resume and scale-out need no state.

Legend: n positions asked for at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from firstsight.errors import MixError

Places = Int64[np.ndarray, "n"]
BLOCK = 256
"""Neighbouring rows that stay near each other in the order of a long source."""
WINDOW = 256 * BLOCK
"""Draws that come out of at most 256 blocks; up to here rows are shuffled freely."""
_ROUNDS = 6
"""Even, so that both halves end where they began."""


def pick(row: int, share: Fraction) -> tuple[bool, int]:
    """Whether an image row comes at `row`, and which of its kind it is; n rows hold floor(n * share) image rows."""
    before = row * share.numerator // share.denominator
    after = (row + 1) * share.numerator // share.denominator
    return (True, before) if after > before else (False, row - before)


def picks(rows: Places, share: Fraction) -> tuple[Bool[np.ndarray, "n"], Places]:
    """`pick` for many rows at once."""
    before = rows * share.numerator // share.denominator
    after = (rows + 1) * share.numerator // share.denominator
    chosen = after > before
    return chosen, np.where(chosen, before, rows - before)


def split(nth: Places, shares: Sequence[Fraction]) -> tuple[Places, Places]:
    """Which part the nth row belongs to and which of that part's rows it is: `pick` of each part against the rest."""
    if sum(shares, Fraction(0)) != 1:
        raise MixError(f"shares of the parts must sum to 1. Got {', '.join(map(str, shares))}.")
    part, place = np.full_like(nth, len(shares) - 1), nth.copy()
    waiting, left = np.arange(len(nth)), Fraction(1)
    for number, share in enumerate(shares):
        if left == 0:
            break
        chosen, place[waiting] = picks(place[waiting], share / left)
        part[waiting[chosen]] = number
        waiting, left = waiting[~chosen], left - share
    return part, place


def split_counts(rows: int, shares: Sequence[Fraction]) -> list[int]:
    """How many of the first `rows` rows `split` gives to each part."""
    counts, left = list[int](), Fraction(1)
    for share in shares:
        part = share / left if left else Fraction(0)
        counts.append(rows * part.numerator // part.denominator)
        rows, left = rows - counts[-1], left - share
    return counts


def shuffled(nth: Places | int, *, count: int, seed: int) -> tuple[Places, Places]:
    """(epoch, row) of the nth draw: every epoch visits each of `count` rows once, in an order of its own.

    Above WINDOW rows, draws w * WINDOW to (w + 1) * WINDOW of an epoch hold the rows of at most 256 whole blocks
    of neighbours, so that what is read together lies near each other in a remote file.
    """
    if count <= 0:
        raise MixError(f"cannot draw rows from a source of {count} rows.")
    epoch, place = np.divmod(np.atleast_1d(np.asarray(nth, dtype=np.int64)), count)
    keys = _mixed(_mixed(np.full(len(place), seed % 2**64, dtype=np.uint64)) + epoch.astype(np.uint64))
    order = _permuted if count <= WINDOW else _near
    return epoch, order(place.astype(np.uint64), count, keys).astype(np.int64)


def grouped(nth: Places, *, count: int, cut: int, seed: int) -> Places:
    """The row of the nth draw where `cut` consecutive rows are drawn together, as one row that they were cut from."""
    if cut == 1:
        return shuffled(nth, count=count, seed=seed)[1]
    if count % cut:
        raise MixError(f"wanted rows in whole groups of {cut}. Got {count} rows. Report this as a bug.")
    return shuffled(nth // cut, count=count // cut, seed=seed)[1] * cut + nth % cut


def permuted(nth: int, count: int, seed: int) -> int:
    """Where a seeded bijection of 0..count-1 sends `nth`, in O(1)."""
    if not 0 <= nth < count:
        raise MixError(f"wanted a position from 0 to {count - 1}. Got {nth}.")
    return int(shuffled(nth, count=count, seed=seed)[1][0])


def _permuted(place: UInt64[np.ndarray, "n"], count: int, keys: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """A Feistel network on the next power of two, walked until it lands inside `count` (under two steps on average)."""
    bits = max(2, (count - 1).bit_length())
    found = _feistel(place, bits, keys)
    outside = np.flatnonzero(found >= count)
    while len(outside):
        found[outside] = _feistel(found[outside], bits, keys[outside])
        outside = outside[found[outside] >= count]
    return found


def _near(place: UInt64[np.ndarray, "n"], count: int, keys: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """Blocks of neighbours in an order of their own, then the rows of every 256 blocks in one.

    The last block, where it is ragged, always comes in the last window: so every window but that one is whole.
    """
    blocks, ragged = -(-count // BLOCK), -count % BLOCK
    window = place // np.uint64(WINDOW)
    inside, last = place % np.uint64(WINDOW), (count - 1) // WINDOW
    whole = window < last
    turned, inner = np.empty_like(place), _mixed(keys ^ np.uint64(0x5851F42D4C957F2D)) + window
    for part, size in ((whole, WINDOW), (~whole, count - last * WINDOW)):
        turned[part] = _permuted(inside[part], size, _mixed(inner[part]))
    block = window * np.uint64(WINDOW // BLOCK) + turned // np.uint64(BLOCK)
    moved = _permuted_but_last(block, blocks, keys) if ragged else _permuted(block, blocks, keys)
    return moved * np.uint64(BLOCK) + turned % np.uint64(BLOCK)


def _permuted_but_last(
    place: UInt64[np.ndarray, "n"], count: int, keys: UInt64[np.ndarray, "n"]
) -> UInt64[np.ndarray, "n"]:
    """A bijection of 0..count-1 that leaves the last where it is."""
    found = place.copy()
    moving = place < count - 1
    found[moving] = _permuted(place[moving], count - 1, keys[moving])
    return found


def _feistel(value: UInt64[np.ndarray, "n"], bits: int, keys: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """A bijection of 0..2^bits-1; the halves differ by one bit where `bits` is odd and trade places every round."""
    low, high = bits - bits // 2, bits // 2
    left, right = value >> np.uint64(low), value & np.uint64((1 << low) - 1)
    for turn in range(_ROUNDS):
        left, right = right, left ^ (_mixed(right ^ (keys + np.uint64(turn))) & np.uint64((1 << high) - 1))
        low, high = high, low
    return (left << np.uint64(low)) | right


def _mixed(value: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
