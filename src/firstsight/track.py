"""Metrics of a training step for people to watch: logs/<address>.metrics.jsonl, and the trackers that the site names.

They are circumstances: no result depends on them, and what cannot be written costs no step. All trackers write files
below track/ in the folder of results and use no network.

    track/tensorboard/<address>/    event files of TensorBoard
    track/wandb/                    offline runs of Weights & Biases, for `wandb sync`
    track/trackio/                  a database of Trackio
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from firstsight.errors import RequestError

PROJECT = "firstsight"
Tracker = tuple[Callable[[int, Mapping[str, float]], None], Callable[[], None]]
"""A function that takes (step, scalars by name), and one that ends the run."""


def scalars(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a record by name; those of a table are TABLE/NAME. What is unknown (null) is left out."""
    numbers = dict[str, float]()
    for name, value in record.items():
        if isinstance(value, Mapping):
            numbers |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            numbers[prefix + name] = float(value)
    return numbers


def open_tensorboard(folder: Path, address: str, first_step: int) -> Tracker:
    """An event file; TensorBoard drops what earlier files of the run have from `first_step` on."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportMissingImports]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportMissingImports]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # pyright: ignore[reportMissingImports]

    writer = EventFileWriter(str(folder / address))
    start = SessionLog(status=SessionLog.START)
    writer.add_event(Event(wall_time=time.time(), step=first_step, session_log=start))

    def log(step: int, numbers: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        writer.flush()

    return log, writer.close


def open_wandb(folder: Path, address: str, first_step: int) -> Tracker:
    """An offline run; a step that is continued has one for each attempt, with the same id."""
    import wandb  # pyright: ignore[reportMissingImports]

    settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True)
    run = wandb.init(project=PROJECT, id=address, name=address, dir=folder, mode="offline", settings=settings)
    return lambda step, numbers: run.log(dict(numbers), step=step), run.finish


def open_trackio(folder: Path, address: str, first_step: int) -> Tracker:
    """A run of the project's database, continued by the next attempt."""
    os.environ["TRACKIO_DIR"] = str(folder)  # read when trackio is imported
    import trackio  # pyright: ignore[reportMissingImports]

    options = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    run = trackio.init(project=PROJECT, name=address, resume="allow", **options)
    return lambda step, numbers: run.log(dict(numbers), step=step), run.finish


_OPEN: dict[str, Callable[[Path, str, int], Tracker]] = {
    "tensorboard": open_tensorboard,
    "wandb": open_wandb,
    "trackio": open_trackio,
}


def check_trackers(names: Sequence[str]) -> None:
    """RequestError for a tracker that is not installed."""
    if missing := [name for name in dict.fromkeys(names) if find_spec(name) is None]:
        raise RequestError(
            f"track in [machine] of the site file: wanted installed packages. Got {', '.join(missing)}, which is "
            "not installed. Install firstsight[track], or remove it."
        )


class MetricsWriter:
    """Writes the records of one step, in a `with` statement. RequestError for a tracker that is not installed."""

    def __init__(self, root: Path, address: str, names: Sequence[str]) -> None:
        check_trackers(names)
        self._root, self._address, self._names = root, address, names
        self._path = root / "logs" / f"{address}.metrics.jsonl"
        self._trackers: dict[str, Tracker] | None = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for name, (_log, finish) in (self._trackers or {}).items():
            with _FailureNote(name):
                finish()

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record; the first one of an attempt replaces those of earlier attempts from its step on."""
        step, is_first = int(record["step"]), self._trackers is None
        with suppress(OSError), self._path.open("ab") as file:
            if is_first:
                file.truncate(_size_before(self._path, step))
            time_stamped = {**record, "time": datetime.now(UTC).isoformat(timespec="seconds")}
            file.write(json.dumps(time_stamped).encode() + b"\n")
        if self._trackers is None:
            self._trackers = {}
            for name in self._names:
                with _FailureNote(name):
                    folder = self._root / "track" / name
                    folder.mkdir(parents=True, exist_ok=True)
                    self._trackers[name] = _OPEN[name](folder, self._address, step)
        for name, (log, _) in tuple(self._trackers.items()):
            with _FailureNote(name) as note:
                log(step, scalars(record))
            if note.has_failed:
                del self._trackers[name]


def _size_before(path: Path, step: int) -> int:
    """The bytes of the lines of earlier attempts below a step, up to one that a kill or a full disk has cut."""
    size = 0
    with suppress(ValueError, KeyError, TypeError):
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or json.loads(line)["step"] >= step:
                break
            size += len(line)
    return size


class _FailureNote:
    """A context in which a tracker may fail: its error goes to the step's log, as training must not fail by it."""

    def __init__(self, name: str) -> None:
        self._name, self.has_failed = name, False

    def __enter__(self) -> _FailureNote:
        return self

    def __exit__(self, error_type: object, error: BaseException | None, trace: object) -> bool:
        self.has_failed = isinstance(error, Exception)
        if self.has_failed:
            text = f"{self._name} of track in the site file has failed and is left out: {error!r}"
            print(text, file=sys.stderr)  # noqa: T201 - the step's log
        return self.has_failed
