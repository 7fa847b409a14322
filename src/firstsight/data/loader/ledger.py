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

from firstsight.data.loader.blend import Blended
from firstsight.data.loader.stream import Stream
from firstsight.data.order import Places

RECORD = np.dtype([("source", "u1"), ("row", "<u4")])
_FORMAT = 1
_CHUNK = 1 << 18


class Draws:
    """Writes ledger.npy while a step trains; its whole state is how many rows lie in the file.

    Rows are written a block at a time: drawing them is arithmetic, and what a kill cuts off is drawn again.
    """

    def __init__(self, out: Path, stream: Stream, *, first: int) -> None:
        self.file, self.note, self.stream = out / "ledger.npy", out / "ledger.json", stream
        self.first, self.total = first * stream.rows.batch, (stream.steps - first) * stream.rows.batch
        self.written = self.reached = 0

    def open(self, notes: dict[str, Any] | None) -> None:
        """Go on from `notes` and cut the file back to where they were taken, or start over."""
        self.written = self.reached = 0 if notes is None else notes["rows"]
        with self.file.open("ab") as data:
            if notes is None:
                data.truncate(0)
                shape = {"descr": np.lib.format.dtype_to_descr(RECORD), "fortran_order": False, "shape": (self.total,)}
                np.lib.format.write_array_header_1_0(data, shape)
            else:
                data.truncate(notes["size"])

    def reach(self, step: int) -> None:
        """Note that every step before `step` has been trained on."""
        self.reached = step * self.stream.rows.batch - self.first
        if self.reached - self.written >= _CHUNK:
            self._write()

    def notes(self) -> dict[str, Any]:
        """All that `open` needs, as plain JSON; by then the file holds it."""
        size = self._write()
        return {"rows": self.written, "size": size}

    def close(self) -> None:
        """Write what is left, and the note beside it."""
        self._write()
        text = json.dumps(describe(self.stream, self.first) | {"sha256": _digest(self.file)}, sort_keys=True, indent=1)
        self.note.write_text(text + "\n")

    def _write(self) -> int:
        with self.file.open("ab") as data:
            while self.written < self.reached:
                stop = min(self.reached, self.written + _CHUNK)
                data.write(records(self.stream, np.arange(self.first + self.written, self.first + stop)).tobytes())
                self.written = stop
            data.flush()
            os.fsync(data.fileno())
            return data.tell()


def records(stream: Stream, positions: Places) -> np.ndarray:
    """Source and row at each position."""
    found = np.zeros(len(positions), dtype=RECORD)
    for kind, (places, rows) in enumerate(stream.drawn(positions)):
        found["source"][places], found["row"][places] = kind, rows
    return found


def describe(stream: Stream, first: int) -> dict[str, Any]:
    """What the ledger of a stream from position `first` on needs, so that it can be read without what drew it."""
    images = stream.images
    blends = [("text", stream.text)] + ([] if images is None else [("image", images)])
    begun, before = stream.draws(0), stream.draws(first)
    sources = [_source(role, blend, number) for role, blend in blends for number in range(len(blend.feeds))]
    for source, at_first, at_start in zip(sources, before, begun, strict=True):
        source |= {"before": at_first, "begun": at_start}
    return {
        "format": _FORMAT,
        "first": first,
        "positions": stream.total - first,
        "sources": sources,
        "text_counted_in": stream.text.counted_in,
        "images_counted_in": None if images is None else images.counted_in,
        "counted_in": stream.counted_in,
        "spans": [[rows, str(Fraction(share))] for rows, share in stream.spans],
        "seed": stream.seed,
        "text_seed": stream.text_seed,
        "row_length": stream.rows.length,
        "text_rows_seen": stream.text_rows_seen,
    }


def _source(role: str, blend: Blended, number: int) -> dict[str, Any]:
    """A source of a ledger; `begun` and `before` say how often it was drawn from before the stage and the ledger."""
    feed = blend.feeds[number]
    return {
        "name": feed.name,
        "role": role,
        "digest": feed.index.digest,
        "rows": feed.table.rows,
        "cut": feed.cut,
        "share": str(Fraction(blend.shares[number])),
        "epochs": blend.epochs[number],
    }


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
