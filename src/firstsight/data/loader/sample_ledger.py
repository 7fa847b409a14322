"""The ledger of a training step: which row of which source was trained on at every position.

ledger.npy     source (u1) and row of its table (u4), one record a position, in order
ledger.json    what the numbers mean: sources with digest, rows, share and passes, spans, seed, where the text began
"""

from __future__ import annotations

import hashlib
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from firstsight.data.loader.mixture import LoaderMixture
from firstsight.data.loader.stream import BatchStream
from firstsight.data.sampling import Indices

LEDGER_DTYPE = np.dtype([("source", "u1"), ("row", "<u4")])
_FORMAT = 1
_CHUNK = 1 << 18


class SampleLedgerWriter:
    """Writes ledger.npy while a step trains; its whole state is how many rows lie in the file.

    Rows are written a block at a time: drawing them is arithmetic, and what a kill cuts off is drawn again.
    """

    def __init__(self, folder: Path, stream: BatchStream, *, first_step: int) -> None:
        self.array_path, self.metadata_path, self.stream = folder / "ledger.npy", folder / "ledger.json", stream
        self.first_position, self.position_count = (
            first_step * stream.row_shape.batch_size,
            (stream.steps - first_step) * stream.row_shape.batch_size,
        )
        self.written_rows = self.trained_rows = 0

    def open(self, state: dict[str, Any] | None) -> None:
        """Go on from `notes` and cut the file back to where they were taken, or start over."""
        self.written_rows = self.trained_rows = 0 if state is None else state["rows"]
        with self.array_path.open("ab") as file:
            if state is None:
                file.truncate(0)
                header = {
                    "descr": np.lib.format.dtype_to_descr(LEDGER_DTYPE),
                    "fortran_order": False,
                    "shape": (self.position_count,),
                }
                np.lib.format.write_array_header_1_0(file, header)
            else:
                file.truncate(state["size"])

    def mark_trained(self, step: int) -> None:
        """Note that every step before `step` has been trained on."""
        self.trained_rows = step * self.stream.row_shape.batch_size - self.first_position
        if self.trained_rows - self.written_rows >= _CHUNK:
            self._write()

    def state_dict(self) -> dict[str, Any]:
        """All that `open` needs, as plain JSON; by then the file holds it."""
        size = self._write()
        return {"rows": self.written_rows, "size": size}

    def close(self) -> None:
        """Write what is left, and the note beside it."""
        self._write()
        text = json.dumps(
            describe_ledger(self.stream, self.first_position) | {"sha256": _file_digest(self.array_path)},
            sort_keys=True,
            indent=1,
        )
        self.metadata_path.write_text(text + "\n")

    def _write(self) -> int:
        with self.array_path.open("ab") as file:
            while self.written_rows < self.trained_rows:
                stop = min(self.trained_rows, self.written_rows + _CHUNK)
                file.write(
                    ledger_entries(
                        self.stream, np.arange(self.first_position + self.written_rows, self.first_position + stop)
                    ).tobytes()
                )
                self.written_rows = stop
            file.flush()
            os.fsync(file.fileno())
            return file.tell()


def ledger_entries(stream: BatchStream, positions: Indices) -> np.ndarray:
    """Source and row at each position."""
    entries = np.zeros(len(positions), dtype=LEDGER_DTYPE)
    for source_id, (indices, rows) in enumerate(stream.source_rows(positions)):
        entries["source"][indices], entries["row"][indices] = source_id, rows
    return entries


def describe_ledger(stream: BatchStream, first_position: int) -> dict[str, Any]:
    """What the ledger of a stream from position `first` on needs, so that it can be read without what drew it."""
    image_mixture = stream.image_mixture
    mixtures = [("text", stream.text_mixture)] + ([] if image_mixture is None else [("image", image_mixture)])
    stage_start_draws, ledger_start_draws = stream.draw_counts(0), stream.draw_counts(first_position)
    sources = [
        _describe_source(role, mixture, source_id)
        for role, mixture in mixtures
        for source_id in range(len(mixture.sources))
    ]
    for source, ledger_draws, stage_draws in zip(sources, ledger_start_draws, stage_start_draws, strict=True):
        source |= {"before": ledger_draws, "begun": stage_draws}
    return {
        "format": _FORMAT,
        "first": first_position,
        "positions": stream.total_rows - first_position,
        "sources": sources,
        "text_counted_in": stream.text_mixture.counted_in,
        "images_counted_in": None if image_mixture is None else image_mixture.counted_in,
        "counted_in": stream.counted_in,
        "spans": [[rows, str(Fraction(share))] for rows, share in stream.spans],
        "seed": stream.seed,
        "text_seed": stream.text_seed,
        "row_length": stream.row_shape.length,
        "text_rows_seen": stream.text_row_offset,
    }


def _describe_source(role: str, mixture: LoaderMixture, source_id: int) -> dict[str, Any]:
    """A source of a ledger; `begun` and `before` say how often it was drawn from before the stage and the ledger."""
    source = mixture.sources[source_id]
    return {
        "name": source.name,
        "role": role,
        "digest": source.index.digest,
        "rows": source.packed_rows.row_count,
        "cut": source.group_size,
        "share": str(Fraction(mixture.shares[source_id])),
        "epochs": mixture.epochs[source_id],
    }


def _file_digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
