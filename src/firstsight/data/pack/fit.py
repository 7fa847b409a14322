"""Which row each piece goes into.

Legend: P pieces.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int32, Int64

from firstsight.recipe.mix import Packing

WINDOW = 8192
"""Pieces that are sorted and fitted together; rows never mix records from further apart."""
WASTE = 0.03
"""Share of padding above which it pays to look for the fullest rows there can be, at three times the work."""
GAIN = 0.01
"""Share of the rows that must be saved for these to be taken."""

Rows = tuple[list[int], int]
"""Row of each piece of a window, and how many rows there are by then."""


def placed(
    size: Int32[np.ndarray, "P"], pictured: Bool[np.ndarray, "P"], length: int, *, packing: Packing
) -> tuple[Int64[np.ndarray, "P"], int]:
    """(row of each piece, number of rows); what has no picture is always fitted."""
    if packing == "best_fit":
        return best_fit(size, length)
    row = np.zeros(len(size), dtype=np.int64)
    alone = int(pictured.sum())
    row[pictured] = np.arange(alone)
    fitted, more = best_fit(size[~pictured], length)
    row[~pictured] = alone + fitted
    return row, alone + more


def best_fit(size: Int32[np.ndarray, "P"], length: int) -> tuple[Int64[np.ndarray, "P"], int]:
    """(row of each piece, number of rows): in each window the longest first, into the fullest row with room.

    Where that leaves more than WASTE of the room empty, the fullest rows are looked for, and taken if they save GAIN.
    """
    row, rows = _by_window(size, length, fuller=False)
    if rows and 1 - float(size.sum(dtype=np.int64)) / (rows * length) > WASTE:
        other, fewer = _by_window(size, length, fuller=True)
        if rows - fewer >= rows * GAIN:
            return other, fewer
    return row, rows


def _by_window(size: Int32[np.ndarray, "P"], length: int, *, fuller: bool) -> tuple[Int64[np.ndarray, "P"], int]:
    row, rows = np.zeros(len(size), dtype=np.int64), 0
    for start in range(0, len(size), WINDOW):
        window = size[start : start + WINDOW]
        order = np.argsort(-window, kind="stable")
        sizes = window[order].tolist()
        found = _fitted(sizes, length, rows)
        if fuller:
            found = min(found, _fullest(sizes, length, rows), key=lambda each: each[1])
        row[start + order], rows = found
    return row, rows


def _fitted(sizes: list[int], length: int, rows: int) -> Rows:
    """Rows for pieces of falling size; open rows wait by their room, and the bits of `free` say which rooms exist."""
    waiting: list[list[int]] = [[] for _ in range(length + 1)]
    found, free = [0] * len(sizes), 0
    for number, size in enumerate(sizes):
        fits = free >> size
        if fits:
            room = size + (fits & -fits).bit_length() - 1
            row = waiting[room].pop()
            if not waiting[room]:
                free ^= 1 << room
        else:
            room, row, rows = length, rows, rows + 1
        found[number] = row
        if left := room - size:
            waiting[left].append(row)
            free |= 1 << left
    return found, rows


def _fullest(sizes: list[int], length: int, rows: int) -> Rows:
    """Rows for pieces of falling size: the longest left with those that fill its row best, again and again."""
    left: dict[int, list[int]] = {}
    for number, size in enumerate(sizes):
        left.setdefault(size, []).append(number)
    found = [0] * len(sizes)
    while left:
        longest = next(iter(left))
        chosen = _filling(left, longest, length - longest)
        times = min(len(left[size]) // count for size, count in chosen.items())
        for size, count in chosen.items():
            for nth in range(times * count):
                found[left[size].pop()] = rows + nth // count
            if not left[size]:
                del left[size]
        rows += times
    return found, rows


def _filling(left: dict[int, list[int]], longest: int, room: int) -> dict[int, int]:
    """How many of each size, `longest` among them, make the fullest row; the bits of `sums` say what can be reached."""
    whole, sums, steps = (1 << room + 1) - 1, 1, list[tuple[int, int]]()
    for size in reversed(left):
        for _ in range(min(len(left[size]) - (size == longest), room // size)):
            more = sums | sums << size & whole
            if more == sums:
                break
            steps.append((size, sums))
            sums = more
    rest, chosen = sums.bit_length() - 1, {longest: 1}
    for size, before in reversed(steps):
        if not before >> rest & 1:
            chosen[size] = chosen.get(size, 0) + 1
            rest -= size
    return chosen
