"""Resume points while a step works, and the checkpoint folder that it leaves.

A resume point is tensor files and `point.json`, which names them with their digests and is replaced atomically last:
a kill leaves the old point or the new one, and a damaged one is refused, never half read.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import ModelError
from firstsight.model.weights import Stored, fill, save, write_tensors
from firstsight.train.state import TrainState, give_moments, take_moments
from firstsight.units import Tokens

POINT = "point.json"


def keep(folder: Path, state: TrainState, notes: dict[str, Any]) -> None:
    """Make `state` and `notes` (plain JSON) the folder's resume point; older points go."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, moments = _names(state.seen)
    files = write_tensors(folder, state.model.state_dict(), name=weights)
    files += write_tensors(folder, take_moments(state), name=moments)
    for file in files:
        _settle(file)
    body = {"digests": {file.name: _digest(file) for file in files}, "seen": state.seen, "notes": notes}
    fresh = folder / f"{POINT}.new"
    fresh.write_text(json.dumps(body))
    _settle(fresh)
    fresh.replace(folder / POINT)
    _settle(folder)
    for old in folder.glob("*.safetensors*"):
        if old not in files:
            old.unlink()


def find(folder: Path, state: TrainState) -> dict[str, Any] | None:
    """Bring `state` to the folder's resume point and return its notes; None where there is none.

    A damaged point counts as none, and is said aloud.
    """
    point = folder / POINT
    if not point.is_file():
        return None
    try:
        body = json.loads(point.read_text())
        seen, notes = int(body["seen"]), body["notes"]
        for file, digest in body["digests"].items():
            if _digest(folder / file) != digest:
                raise ModelError(f"{folder / file}: its digest is not the one that {POINT} names.")
        weights, moments = (Stored(folder, name) for name in _names(seen))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError) as problem:
        sys.stderr.write(f"{folder}: the resume point is damaged ({problem}); the step starts over.\n")
        return None
    fill(state.model, weights, where=folder)
    give_moments(state, moments)
    state.seen = Tokens(seen)
    return notes


def finish(folder: Path, state: TrainState, *, tokenizer: Path, encoders: Sequence[Path]) -> None:
    """Write the checkpoint folder's weights, optimizer, spec, tokenizer and frozen encoder."""
    save(folder, state.model, seen=state.seen, tokenizer=tokenizer, encoders=encoders)
    write_tensors(folder, take_moments(state), name="optimizer")


def _names(seen: int) -> tuple[str, str]:
    """What the weights and the moments of a resume point are called."""
    return f"{seen:015d}-model", f"{seen:015d}-optimizer"


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _settle(path: Path) -> None:
    """Have the disk hold what was written."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
