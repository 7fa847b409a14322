"""How many targets carry which loss, counted without holding the token store.

Legend: P pieces.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt8

from firstsight.data.tokenizer import ALWAYS, BEFORE

BLOCK = 1 << 22
"""Tokens that are counted at a time."""


def targets(
    loss: UInt8[np.ndarray, "tokens"], begin: Int64[np.ndarray, "P"], stop: Int64[np.ndarray, "P"]
) -> tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]]:
    """How many of the tokens [begin, stop) of each piece carry loss always, and how many only before fine-tuning."""
    always, before = np.zeros(len(begin), dtype=np.int64), np.zeros(len(begin), dtype=np.int64)
    order = np.argsort(begin, kind="stable")
    now, then = begin[order], stop[order]
    here = 0
    while here < len(now):
        there = max(here + 1, int(np.searchsorted(now, now[here] + BLOCK)))
        mine, low = order[here:there], int(now[here])
        part = loss[low : int(then[here:there].max(initial=low))]
        for kind, counts in ((ALWAYS, always), (BEFORE, before)):
            so_far = np.zeros(len(part) + 1, dtype=np.int64)
            np.cumsum(part == kind, out=so_far[1:])
            counts[mine] = so_far[stop[mine] - low] - so_far[begin[mine] - low]
        here = there
    return always, before
