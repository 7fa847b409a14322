"""Training that met a loss or gradient that is not finite, or a spike: which rows cause it, and what can be done."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from firstsight.data.loader import Batch, BatchStream
from firstsight.errors import FEW, Diverged, LossSpike
from firstsight.leases import owned_name
from firstsight.train.loop import measure_gradients
from firstsight.train.state import TrainState

ADVICE = "Lower the peak learning rate, warm up for longer, or take the records out of their source"


def explain_divergence(
    error: Diverged, state: TrainState, stream: BatchStream, *, out: Path, prepare: Callable[[Batch], Batch]
) -> Diverged:
    """The error of a step of `train` with the step's address, its rows, the state that is kept, and what to do.

    `state` is that before the update. Each row of the batch is computed once more alone, to find those that diverge, or
    those of the largest losses.
    """
    step = int(state.tokens_seen) // int(stream.row_shape.tokens_per_step)
    size, names = stream.row_shape.batch_size, stream.source_names
    batches = (prepare(stream.batch(step, (row, size))) for row in range(size))
    losses, norms = zip(*(measure_gradients(state, batch) for batch in batches), strict=True)
    records = stream.step_records(step)
    described = [
        f"row {row} ({', '.join(f'{names[source]} record {record:,}' for source, record in records[row])})"
        for row in range(size)
    ]
    if isinstance(error, LossSpike):
        largest = sorted(range(size), key=lambda row: -losses[row])[:FEW]
        cause = f"most of it in {'; '.join(f'{described[row]}: {losses[row]:.6g}' for row in largest)}"
        advice = f"{ADVICE}; raise or remove spike in [machine] of the site file, and the same command makes the update"
    else:
        rows = [row for row in range(size) if not math.isfinite(losses[row] + norms[row])]
        cause = {0: "in no row alone, only in their sum:", size: f"in each of the {size} rows:"}.get(len(rows), "in")
        cause, advice = f"{cause} {shorten([described[row] for row in rows or range(size)])}", ADVICE
    folder = out.with_name(owned_name(out))  # its name once this process has ended
    return type(error)(
        f"{folder.name}: wanted {error}, {cause}. The update was not made; the weights after "
        f"{state.tokens_seen:,} tokens are kept in {folder / 'resume'}. {advice}. The same command stops here again; "
        "other arms are not affected."
    )


def shorten(texts: Sequence[str]) -> str:
    """At most FEW of the texts, and the number of the others."""
    rest = f" and {len(texts) - FEW:,} more" if len(texts) > FEW else ""
    return "; ".join(texts[:FEW]) + rest
