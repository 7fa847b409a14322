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
from firstsight.model.checkpoint_io import StoredTensors, load_weights, save, write_tensors
from firstsight.train.state import TrainState, assign_moments, collect_moments
from firstsight.units import Tokens

RESUME_FILE = "point.json"


def save_resume_point(folder: Path, state: TrainState, extra_state: dict[str, Any]) -> None:
    """Make `state` and `notes` (plain JSON) the folder's resume point; older points go."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, moments = _tensor_file_names(state.tokens_seen)
    files = write_tensors(folder, state.model.state_dict(), name=weights)
    files += write_tensors(folder, collect_moments(state), name=moments)
    for file in files:
        _fsync(file)
    record = {"digests": {file.name: _digest(file) for file in files}, "seen": state.tokens_seen, "notes": extra_state}
    new_file = folder / f"{RESUME_FILE}.new"
    new_file.write_text(json.dumps(record))
    _fsync(new_file)
    new_file.replace(folder / RESUME_FILE)
    _fsync(folder)
    for stale_file in folder.glob("*.safetensors*"):
        if stale_file not in files:
            stale_file.unlink()


def load_resume_point(folder: Path, state: TrainState) -> dict[str, Any] | None:
    """Bring `state` to the folder's resume point and return its notes; None where there is none.

    A damaged point counts as none, and is said aloud.
    """
    resume_file = folder / RESUME_FILE
    if not resume_file.is_file():
        return None
    try:
        record = json.loads(resume_file.read_text())
        tokens_seen, extra_state = int(record["seen"]), record["notes"]
        for file, digest in record["digests"].items():
            if _digest(folder / file) != digest:
                raise ModelError(f"{folder / file}: its digest is not the one that {RESUME_FILE} names.")
        weights, moments = (StoredTensors(folder, name) for name in _tensor_file_names(tokens_seen))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError) as error:
        sys.stderr.write(f"{folder}: the resume point is damaged ({error}); the step starts over.\n")
        return None
    load_weights(state.model, weights, location=folder)
    assign_moments(state, moments)
    state.tokens_seen = Tokens(tokens_seen)
    return extra_state


def write_checkpoint(folder: Path, state: TrainState, *, tokenizer: Path, encoders: Sequence[Path]) -> None:
    """Write the checkpoint folder's weights, optimizer, spec, tokenizer and frozen encoder."""
    save(folder, state.model, tokens_seen=state.tokens_seen, tokenizer=tokenizer, encoders=encoders)
    write_tensors(folder, collect_moments(state), name="optimizer")


def _tensor_file_names(tokens_seen: int) -> tuple[str, str]:
    """What the weights and the moments of a resume point are called."""
    return f"{tokens_seen:015d}-model", f"{tokens_seen:015d}-optimizer"


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    """Have the disk hold what was written."""
    file_descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file_descriptor)
    finally:
        os.close(file_descriptor)
