"""How many targets carry which loss, counted without holding the token store.

Legend: P pieces.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt8

from firstsight.data.tokenizer import LOSS_ALWAYS, LOSS_BEFORE_FINETUNING

TOKENS_PER_BLOCK = 1 << 22
"""Tokens that are counted at a time."""


def count_loss_targets(
    loss: UInt8[np.ndarray, "tokens"], begins: Int64[np.ndarray, "P"], stops: Int64[np.ndarray, "P"]
) -> tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]]:
    """How many of the tokens [begin, stop) of each piece carry loss always, and how many only before fine-tuning."""
    loss_always, loss_before_finetuning = np.zeros(len(begins), dtype=np.int64), np.zeros(len(begins), dtype=np.int64)
    order = np.argsort(begins, kind="stable")
    sorted_begins, sorted_stops = begins[order], stops[order]
    first = 0
    while first < len(sorted_begins):
        last = max(first + 1, int(np.searchsorted(sorted_begins, sorted_begins[first] + TOKENS_PER_BLOCK)))
        segment_ids, block_start = order[first:last], int(sorted_begins[first])
        block_loss = loss[block_start : int(sorted_stops[first:last].max(initial=block_start))]
        for loss_kind, counts in ((LOSS_ALWAYS, loss_always), (LOSS_BEFORE_FINETUNING, loss_before_finetuning)):
            cumulative_counts = np.zeros(len(block_loss) + 1, dtype=np.int64)
            np.cumsum(block_loss == loss_kind, out=cumulative_counts[1:])
            counts[segment_ids] = (
                cumulative_counts[stops[segment_ids] - block_start]
                - cumulative_counts[begins[segment_ids] - block_start]
            )
        first = last
    return loss_always, loss_before_finetuning
