"""Training that met a loss or a gradient that is not finite: which rows of the batch cause it, and what can be done."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from firstsight.data.loader import Batch, BatchStream
from firstsight.errors import FEW, Diverged
from firstsight.train.loop import measure_gradients
from firstsight.train.state import TrainState

ADVICE = "Lower the peak learning rate, warm up for longer, or take the records out of their source"


def explain_divergence(
    error: Diverged, state: TrainState, stream: BatchStream, *, out: Path, prepare: Callable[[Batch], Batch]
) -> Diverged:
    """The error of a step of `train` with the step's address, its rows, the state that is kept, and what to do.

    `state` is that before the update. Each row of the batch is computed once more alone, to find those that diverge.
    """
    step = int(state.tokens_seen) // int(stream.row_shape.tokens_per_step)
    size, names = stream.row_shape.batch_size, stream.source_names
    rows = [row for row in range(size) if _diverges(state, prepare(stream.batch(step, (row, size))))]
    records = stream.step_records(step)
    described = [
        f"row {row} ({', '.join(f'{names[source]} record {record:,}' for source, record in records[row])})"
        for row in (rows or range(size))
    ]
    cause = {0: "in no row alone, only in their sum", size: f"in each of the {size} rows"}.get(len(rows), "")
    return Diverged(
        f"{out.name}: wanted a finite loss and gradient norm. Got {error}, {cause or 'in'}"
        f"{':' if cause else ''} {shorten(described)}. The update was not made; the weights after "
        f"{state.tokens_seen:,} tokens are kept in {out / 'resume'}. {ADVICE}. The same command stops here again; "
        "other arms are not affected."
    )


def shorten(texts: Sequence[str]) -> str:
    """At most FEW of the texts, and the number of the others."""
    rest = f" and {len(texts) - FEW:,} more" if len(texts) > FEW else ""
    return "; ".join(texts[:FEW]) + rest


def _diverges(state: TrainState, row: Batch) -> bool:
    return not math.isfinite(sum(measure_gradients(state, row)))
