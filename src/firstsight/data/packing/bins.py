"""Bin packing: the row of each of P segments."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int32, Int64

from firstsight.recipe.mixture import PackingMode

FIT_WINDOW = 8192
"""Segments that are sorted and packed together; no row contains segments that are further apart."""
MAX_WASTE = 0.03
"""Share of padding above which the fullest possible rows are computed too, at three times the work."""
MIN_ROW_SAVING = 0.01
"""Share of the rows that the fullest possible rows must save to be used."""

RowAssignment = tuple[list[int], int]
"""Row of each segment of a window, and the number of rows up to its end."""
Sizes = Int32[np.ndarray, "P"]
HasImage = Bool[np.ndarray, "P"]
RowIds = Int64[np.ndarray, "P"]


def assign_rows(sizes: Sizes, has_image: HasImage, length: int, *, packing: PackingMode) -> tuple[RowIds, int]:
    """(row of each segment, number of rows); segments without an image are always packed by best fit."""
    if packing == "best_fit":
        return best_fit(sizes, length)
    image_rows = int(has_image.sum())
    text_row_ids, text_rows = best_fit(sizes[~has_image], length)
    row_ids = np.zeros(len(sizes), dtype=np.int64)
    row_ids[has_image], row_ids[~has_image] = np.arange(image_rows), image_rows + text_row_ids
    return row_ids, image_rows + text_rows


def best_fit(sizes: Sizes, length: int) -> tuple[RowIds, int]:
    """(row of each segment, number of rows): in each window the longest first, into the fullest row with room for it.

    If more than MAX_WASTE of all positions is padding, the fullest possible rows are computed, and used if they save
    MIN_ROW_SAVING of the rows.
    """
    row_ids, rows = _fit_windows(sizes, length, fullest=False)
    if rows and 1 - float(sizes.sum(dtype=np.int64)) / (rows * length) > MAX_WASTE:
        fullest_ids, fullest_rows = _fit_windows(sizes, length, fullest=True)
        if rows - fullest_rows >= rows * MIN_ROW_SAVING:
            return fullest_ids, fullest_rows
    return row_ids, rows


def _fit_windows(sizes: Sizes, length: int, *, fullest: bool) -> tuple[RowIds, int]:
    row_ids, rows = np.zeros(len(sizes), dtype=np.int64), 0
    for start in range(0, len(sizes), FIT_WINDOW):
        window = sizes[start : start + FIT_WINDOW]
        order = np.argsort(-window, kind="stable")
        falling = window[order].tolist()
        candidates = [_best_fit_decreasing(falling, length, rows)]
        if fullest:
            candidates.append(_fullest_rows_first(falling, length, rows))
        row_ids[start + order], rows = min(candidates, key=lambda candidate: candidate[1])
    return row_ids, rows


def _best_fit_decreasing(sizes: list[int], length: int, rows: int) -> RowAssignment:
    """Rows for segments of falling size; bit n of `room_bits` is set if an open row has room for n tokens."""
    rows_by_room: list[list[int]] = [[] for _ in range(length + 1)]
    row_ids, room_bits = [0] * len(sizes), 0
    for segment, size in enumerate(sizes):
        fitting = room_bits >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                room_bits ^= 1 << room
        else:
            room, row, rows = length, rows, rows + 1
        row_ids[segment] = row
        if rest := room - size:
            rows_by_room[rest].append(row)
            room_bits |= 1 << rest
    return row_ids, rows


def _fullest_rows_first(sizes: list[int], length: int, rows: int) -> RowAssignment:
    """Rows for segments of falling size: the longest remaining one with those that fill its row best, repeatedly."""
    segments_by_size: dict[int, list[int]] = {}
    for segment, size in enumerate(sizes):
        segments_by_size.setdefault(size, []).append(segment)
    row_ids = [0] * len(sizes)
    while segments_by_size:
        longest = next(iter(segments_by_size))
        counts = _fullest_combination(segments_by_size, longest, length - longest)
        repeats = min(len(segments_by_size[size]) // count for size, count in counts.items())
        for size, count in counts.items():
            for number in range(repeats * count):
                row_ids[segments_by_size[size].pop()] = rows + number // count
            if not segments_by_size[size]:
                del segments_by_size[size]
        rows += repeats
    return row_ids, rows


def _fullest_combination(segments_by_size: dict[int, list[int]], longest: int, room: int) -> dict[int, int]:
    """How many of each size make the fullest row with `longest`: a subset sum, bit n of `sums` is set if n is one."""
    mask, sums, steps = (1 << room + 1) - 1, 1, list[tuple[int, int]]()
    for size in reversed(segments_by_size):
        for _ in range(min(len(segments_by_size[size]) - (size == longest), room // size)):
            next_sums = sums | sums << size & mask
            if next_sums == sums:
                break
            steps.append((size, sums))
            sums = next_sums
    target, counts = sums.bit_length() - 1, {longest: 1}
    for size, sums_before in reversed(steps):
        if not sums_before >> target & 1:
            counts[size] = counts.get(size, 0) + 1
            target -= size
    return counts
