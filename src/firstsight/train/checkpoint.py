"""Resume points of a running step, and the checkpoint folder that it leaves.

A resume point consists of tensor files and `point.json`, which contains their digests and is replaced atomically last:
a kill leaves the old point or the new one, and a damaged point is not used.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import ModelError
from firstsight.files import file_sha256, write_atomic
from firstsight.model.checkpoint_io import save
from firstsight.model.tensors import StoredTensors, load_weights, write_tensors
from firstsight.train.state import TrainState, assign_moments, collect_moments
from firstsight.units import Tokens

RESUME_FILE = "point.json"


def save_resume_point(folder: Path, state: TrainState, extra_state: dict[str, Any]) -> None:
    """Make `state` and `extra_state` (plain JSON) the folder's resume point; deletes older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, moments = _tensor_file_names(state.tokens_seen)
    files = write_tensors(folder, state.model.state_dict(), name=weights)
    files += write_tensors(folder, collect_moments(state), name=moments)
    for file in files:
        _fsync(file)
    digests = {file.name: file_sha256(file) for file in files}
    record = {"digests": digests, "seen": state.tokens_seen, "notes": extra_state}
    write_atomic(folder / RESUME_FILE, json.dumps(record), sync=True)
    _fsync(folder)
    for stale in folder.glob("*.safetensors*"):
        if stale not in files:
            stale.unlink()


def load_resume_point(folder: Path, state: TrainState) -> dict[str, Any] | None:
    """Set `state` to the folder's resume point and return its `extra_state`; None if there is none.

    A damaged point counts as none; a line on stderr says so.
    """
    path = folder / RESUME_FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        tokens_seen, extra_state = int(record["seen"]), record["notes"]
        for file, digest in record["digests"].items():
            if file_sha256(folder / file) != digest:
                raise ModelError(f"{folder / file}: its digest is not the one in {RESUME_FILE}.")
        weights, moments = (StoredTensors(folder, name) for name in _tensor_file_names(tokens_seen))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError) as error:
        sys.stderr.write(f"{folder}: the resume point is damaged ({error}); the step starts over.\n")
        return None
    load_weights(state.model, weights, location=folder)
    assign_moments(state, moments)
    state.tokens_seen = Tokens(tokens_seen)
    return extra_state


def write_checkpoint(folder: Path, state: TrainState, *, tokenizer: Path, encoders: Sequence[Path]) -> None:
    """Write a checkpoint folder: weights, optimizer moments, spec, tokenizer and a frozen encoder's folders."""
    save(folder, state.model, tokens_seen=state.tokens_seen, tokenizer=tokenizer, encoders=encoders)
    write_tensors(folder, collect_moments(state), name="optimizer")


def _tensor_file_names(tokens_seen: int) -> tuple[str, str]:
    """Names of the weights and the moments of a resume point."""
    return f"{tokens_seen:015d}-model", f"{tokens_seen:015d}-optimizer"


def _fsync(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
