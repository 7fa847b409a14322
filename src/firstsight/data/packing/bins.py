"""Which row each piece goes into.

Legend: P pieces.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int32, Int64

from firstsight.recipe.mixture import PackingMode

FIT_WINDOW = 8192
"""Pieces that are sorted and fitted together; rows never mix records from further apart."""
MAX_WASTE = 0.03
"""Share of padding above which it pays to look for the fullest rows there can be, at three times the work."""
MIN_ROW_SAVING = 0.01
"""Share of the rows that must be saved for these to be taken."""

RowAssignment = tuple[list[int], int]
"""Row of each piece of a window, and how many rows there are by then."""


def assign_rows(
    segment_sizes: Int32[np.ndarray, "P"], has_image: Bool[np.ndarray, "P"], length: int, *, packing: PackingMode
) -> tuple[Int64[np.ndarray, "P"], int]:
    """(row of each piece, number of rows); what has no picture is always fitted."""
    if packing == "best_fit":
        return best_fit(segment_sizes, length)
    row_ids = np.zeros(len(segment_sizes), dtype=np.int64)
    image_row_count = int(has_image.sum())
    row_ids[has_image] = np.arange(image_row_count)
    text_row_ids, text_row_count = best_fit(segment_sizes[~has_image], length)
    row_ids[~has_image] = image_row_count + text_row_ids
    return row_ids, image_row_count + text_row_count


def best_fit(segment_sizes: Int32[np.ndarray, "P"], length: int) -> tuple[Int64[np.ndarray, "P"], int]:
    """(row of each piece, number of rows): in each window the longest first, into the fullest row with room.

    Where that leaves more than WASTE of the room empty, the fullest rows are looked for, and taken if they save GAIN.
    """
    row_ids, row_count = _fit_windows(segment_sizes, length, fuller=False)
    if row_count and 1 - float(segment_sizes.sum(dtype=np.int64)) / (row_count * length) > MAX_WASTE:
        fuller_row_ids, fuller_row_count = _fit_windows(segment_sizes, length, fuller=True)
        if row_count - fuller_row_count >= row_count * MIN_ROW_SAVING:
            return fuller_row_ids, fuller_row_count
    return row_ids, row_count


def _fit_windows(
    segment_sizes: Int32[np.ndarray, "P"], length: int, *, fuller: bool
) -> tuple[Int64[np.ndarray, "P"], int]:
    row_ids, row_count = np.zeros(len(segment_sizes), dtype=np.int64), 0
    for start in range(0, len(segment_sizes), FIT_WINDOW):
        window = segment_sizes[start : start + FIT_WINDOW]
        order = np.argsort(-window, kind="stable")
        window_sizes = window[order].tolist()
        assignment = _best_fit_decreasing(window_sizes, length, row_count)
        if fuller:
            assignment = min(
                assignment, _fullest_rows_first(window_sizes, length, row_count), key=lambda candidate: candidate[1]
            )
        row_ids[start + order], row_count = assignment
    return row_ids, row_count


def _best_fit_decreasing(sizes: list[int], length: int, row_count: int) -> RowAssignment:
    """Rows for pieces of falling size; open rows wait by their room, and the bits of `free` say which rooms exist."""
    rows_by_room: list[list[int]] = [[] for _ in range(length + 1)]
    row_ids, room_bits = [0] * len(sizes), 0
    for segment, size in enumerate(sizes):
        fitting_bits = room_bits >> size
        if fitting_bits:
            room = size + (fitting_bits & -fitting_bits).bit_length() - 1
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                room_bits ^= 1 << room
        else:
            room, row, row_count = length, row_count, row_count + 1
        row_ids[segment] = row
        if remaining_room := room - size:
            rows_by_room[remaining_room].append(row)
            room_bits |= 1 << remaining_room
    return row_ids, row_count


def _fullest_rows_first(sizes: list[int], length: int, row_count: int) -> RowAssignment:
    """Rows for pieces of falling size: the longest left with those that fill its row best, again and again."""
    segments_by_size: dict[int, list[int]] = {}
    for segment, size in enumerate(sizes):
        segments_by_size.setdefault(size, []).append(segment)
    row_ids = [0] * len(sizes)
    while segments_by_size:
        longest = next(iter(segments_by_size))
        counts_by_size = _fullest_combination(segments_by_size, longest, length - longest)
        repeat_count = min(len(segments_by_size[size]) // count for size, count in counts_by_size.items())
        for size, count in counts_by_size.items():
            for copy_number in range(repeat_count * count):
                row_ids[segments_by_size[size].pop()] = row_count + copy_number // count
            if not segments_by_size[size]:
                del segments_by_size[size]
        row_count += repeat_count
    return row_ids, row_count


def _fullest_combination(segments_by_size: dict[int, list[int]], longest: int, room: int) -> dict[int, int]:
    """How many of each size, `longest` among them, make the fullest row; the bits of `sums` say what can be reached."""
    room_mask, sums, steps = (1 << room + 1) - 1, 1, list[tuple[int, int]]()
    for size in reversed(segments_by_size):
        for _ in range(min(len(segments_by_size[size]) - (size == longest), room // size)):
            next_sums = sums | sums << size & room_mask
            if next_sums == sums:
                break
            steps.append((size, sums))
            sums = next_sums
    target_sum, counts_by_size = sums.bit_length() - 1, {longest: 1}
    for size, sums_before in reversed(steps):
        if not sums_before >> target_sum & 1:
            counts_by_size[size] = counts_by_size.get(size, 0) + 1
            target_sum -= size
    return counts_by_size
