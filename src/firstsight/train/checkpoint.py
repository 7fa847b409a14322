"""Resume points while a step works, and the checkpoint folder that it leaves.

A resume point is one tensor file and `point.json`, which names it with its digest and is replaced atomically last:
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
from firstsight.model.weights import fill, read_tensors, save, write_tensors
from firstsight.train.state import TrainState, give_moments, take_moments
from firstsight.units import Tokens

POINT = "point.json"


def keep(folder: Path, state: TrainState, notes: dict[str, Any]) -> None:
    """Make `state` and `notes` (plain JSON) the folder's resume point; older points go."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in take_moments(state).items()}
    file = folder / f"{state.seen:015d}.safetensors"
    write_tensors(file, tensors)
    _settle(file)
    body = {"file": file.name, "digest": _digest(file), "seen": state.seen, "notes": notes}
    fresh = folder / f"{POINT}.new"
    fresh.write_text(json.dumps(body))
    _settle(fresh)
    fresh.replace(folder / POINT)
    _settle(folder)
    for old in folder.glob("*.safetensors"):
        if old != file:
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
        file, digest, seen, notes = folder / body["file"], body["digest"], int(body["seen"]), body["notes"]
        if _digest(file) != digest:
            raise ModelError(f"{file}: its digest is not the one that {POINT} names.")
        tensors = read_tensors(file)
    except (OSError, ValueError, KeyError, TypeError, ModelError) as problem:
        sys.stderr.write(f"{folder}: the resume point is damaged ({problem}); the step starts over.\n")
        return None
    fill(state.model, {name[6:]: t for name, t in tensors.items() if name.startswith("model.")}, where=file)
    give_moments(state, {name[10:]: t for name, t in tensors.items() if name.startswith("optimizer.")})
    state.seen = Tokens(seen)
    return notes


def finish(folder: Path, state: TrainState, *, tokenizer: Path, encoders: Sequence[Path]) -> None:
    """Write the checkpoint folder's weights, optimizer, spec, tokenizer and encoder."""
    save(folder, state.model, seen=state.seen, tokenizer=tokenizer, encoders=encoders)
    write_tensors(folder / "optimizer.safetensors", take_moments(state))


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
