"""The ledger of a training step: the source and row at every position of its batches.

ledger.npy     source (u1) and row of the source's packed rows (u4), a record for each position, in order
ledger.json    what the numbers mean: sources with digest, rows, share and passes, spans, seeds, where the text began
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from firstsight.data.index import npy_header
from firstsight.data.loader.stream import BatchStream
from firstsight.files import write_json
from firstsight.resume_folder import AppendedFile

LEDGER_DTYPE = np.dtype([("source", "u1"), ("row", "<u4")])
_CHUNK = 1 << 18


class SampleLedgerWriter:
    """Writes ledger.npy in blocks during training; rows that a killed process did not write are computed again."""

    def __init__(
        self, file: AppendedFile | None, stream: BatchStream, *, first_step: int, state: Mapping[str, Any] | None
    ) -> None:
        """`state`: that of the point from which `file` continues; None for an empty file. Without a file nothing is
        written."""
        self.file, self.stream = file, stream
        self.first_position = first_step * stream.row_shape.batch_size
        self.written_rows = self.trained_rows = 0 if state is None else state["rows"]
        if state is None and file is not None:
            file.append(npy_header(LEDGER_DTYPE, (stream.total_rows - self.first_position,)))

    def mark_trained(self, step: int) -> None:
        """All steps before `step` have been trained on."""
        self.trained_rows = step * self.stream.row_shape.batch_size - self.first_position
        if self.trained_rows - self.written_rows >= _CHUNK:
            self._write()

    def state_dict(self) -> dict[str, Any]:
        """The state as plain JSON; the file is complete up to it."""
        self._write()
        return {"rows": self.written_rows}

    def close(self, metadata_path: Path) -> None:
        """Write the remaining rows, and ledger.json with the digest of what was written."""
        self._write()
        assert self.file is not None
        metadata = describe_ledger(self.stream, self.first_position) | {"sha256": self.file.sha256}
        write_json(metadata_path, metadata)

    def _write(self) -> None:
        while self.file is not None and self.written_rows < self.trained_rows:
            stop = min(self.trained_rows, self.written_rows + _CHUNK)
            positions = np.arange(self.first_position + self.written_rows, self.first_position + stop)
            entries = np.zeros(len(positions), dtype=LEDGER_DTYPE)
            for source_id, (indices, rows) in enumerate(self.stream.source_rows(positions)):
                entries["source"][indices], entries["row"][indices] = source_id, rows
            self.file.append(entries.tobytes())
            self.written_rows = stop


def describe_ledger(stream: BatchStream, first_position: int) -> dict[str, Any]:
    """The contents of ledger.json for a ledger from `first_position` on: all that is needed to read it."""
    text, images = stream.text_mixture, stream.image_mixture
    mixtures = [("text", text)] if images is None else [("text", text), ("image", images)]
    parts = [(role, *part) for role, m in mixtures for part in zip(m.sources, m.shares, m.epochs, strict=True)]
    # Draws from each source before the stage, and before the ledger.
    draws = zip(stream.draw_counts(0), stream.draw_counts(first_position), strict=True)
    sources = [
        {
            "name": source.name,
            "role": role,
            "digest": source.index.digest,
            "rows": source.packed_rows.row_count,
            "cut": source.group_size,
            "share": str(Fraction(share)),
            "epochs": epochs,
            "begun": begun,
            "before": before,
        }
        for (role, source, share, epochs), (begun, before) in zip(parts, draws, strict=True)
    ]
    return {
        "format": 1,
        "first": first_position,
        "positions": stream.total_rows - first_position,
        "sources": sources,
        "text_counted_in": text.counted_in,
        "images_counted_in": None if images is None else images.counted_in,
        "counted_in": stream.counted_in,
        "spans": [[rows, str(Fraction(share))] for rows, share in stream.spans],
        "seed": stream.seed,
        "text_seed": stream.text_seed,
        "row_length": stream.row_shape.length,
        "text_rows_seen": stream.text_row_offset,
    }
