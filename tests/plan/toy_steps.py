"""Handlers and graphs for the scheduler's tests: files, pauses, failures, and work that resumes where it stopped."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from firstsight.errors import DataError, Stopped
from firstsight.limits import Limits, current_limits
from firstsight.plan.executor import LocalExecutor
from firstsight.plan.graph import Graph
from firstsight.plan.scheduler import RunSummary, StepEvent, run
from firstsight.plan.step import Step
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import Store
from firstsight.recipe.mixture import External
from firstsight.recipe.serialize import to_json
from firstsight.site import Progress, ProgressCallback, Site
from firstsight.train.stop_signals import stop_signals
from firstsight.units import Tokens

HANDLERS = {
    kind: StepHandler(function=f"toy_steps:{kind}", outputs=(output,))
    for kind, output in (
        *(("write", "text"), ("slow", "slices"), ("fail", "none"), ("die", "none"), ("empty", "none")),
        *(("facts", "facts.json"), ("shout", "none"), ("lost", "text"), ("preempted", "text")),
    )
} | {
    "litter": StepHandler(function="toy_steps:litter", outputs=("text",), unfinished=("resume/**",)),
    "pause": StepHandler(function="toy_steps:pause", outputs=("text",), unfinished=("point",)),
}
SLICES = 30


def step(kind: str, name: str, **needs: Step) -> Step:
    spec = External(name=name, form="text", tokens=Tokens(0))
    return Step(kind=kind, spec=spec, needs=tuple(needs.items()), version=1)


def make_graph(**arms: Step) -> Graph:
    lists = {label: tuple(dict.fromkeys(_with_ancestors(final))) for label, final in arms.items()}
    steps = tuple(dict.fromkeys(step for steps in lists.values() for step in steps))
    return Graph(title="small", steps=steps, arms=lists, seeds=dict.fromkeys(lists, 0))


def diamond() -> Graph:
    """A shared slow trunk of two segments, and three arms that branch from it."""
    first = step("slow", "first")
    second = step("slow", "second", previous=first)
    arms = {
        f"arm{n}": step("write", f"end{n}", checkpoint=step("slow", f"branch{n}", trunk=parent))
        for n, parent in enumerate((first, second, second))
    }
    return make_graph(**arms)


def run_graph(graph: Graph, root: Path, *, workers: int = 2, events_out: list[StepEvent] | None = None) -> RunSummary:
    site = Site(cache=root / "cache", limits=Limits(record=1000))
    events = events_out if events_out is not None else []
    with LocalExecutor(workers, site) as executor:
        return run(graph, Store(root), site=site, executor=executor, handlers=HANDLERS, on_event=events.append)


def published_digests(root: Path) -> dict[str, str]:
    """Every published byte, by path."""
    folder = root / "steps"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _with_ancestors(step: Step) -> list[Step]:
    return [*(ancestor for _, parent in step.needs for ancestor in _with_ancestors(parent)), step]


def _text(spec: External, inputs: Mapping[str, Path]) -> str:
    read = {role: sorted((path.name, path.read_text()) for path in folder.iterdir()) for role, folder in inputs.items()}
    return json.dumps([to_json(spec), read], sort_keys=True)


def write(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    (out / "text").write_text(_text(spec, inputs))
    sys.stdout.write(f"wrote {spec.name}\n")


def slow(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Thirty slices of a long file, one at a time; continues after the slices that exist."""
    done = out / "slices"
    with done.open("a") as ledger:  # no other process may write here: every slice comes once and in order
        for number in range(len(done.read_text().splitlines()), SLICES):
            time.sleep(0.003)
            ledger.write(f"{number} {hashlib.sha256(_text(spec, inputs).encode() + bytes([number])).hexdigest()}\n")
            ledger.flush()
            on_progress(Progress(done=number + 1, total=SLICES, unit="slices", metrics={"loss": 1 / (number + 1)}))


def litter(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """The first attempt dies and leaves files; the second says what it finds."""
    leftovers = sorted(path.relative_to(out).as_posix() for path in out.rglob("*"))
    if not (out / "resume").exists():
        for name in ("text", "notes", ".tmpF3x", ".text.0123abcd.tmp", "resume/point"):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text("half")
        (out / "link").symlink_to(out / "text")
        os.kill(os.getpid(), signal.SIGKILL)
    (out / "text").write_text(json.dumps(leftovers))


def fail(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    sys.stdout.write("about to fail\n")
    raise DataError(f"{spec.name}: wanted bread, got stones. Bake.")


def shout(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Write control characters to the log, then fail like a full disk."""
    sys.stderr.writelines(["\r 50%", "\r100%", "\n\x1b[2Jcleared \u202e \udcff\n"])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{out}/\x1b[2J.npy")


def pause(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Train until a signal comes; the second attempt goes on from there."""
    signals, point = list[int](), out / "point"
    with stop_signals(signals.append):
        on_progress(Progress(done=1, total=2, unit="steps"))
        while not signals and not point.exists():
            time.sleep(0.01)
    if signals:
        point.touch()
        raise Stopped("saved at step 1 of 2; the same command continues")
    (out / "text").write_text("done")


def die(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def empty(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    pass


def facts(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Write the worker's process id, environment and limits."""
    variables = {"omp": "OMP_NUM_THREADS", "wait": "OMP_WAIT_POLICY", "kernels": "LRU_CACHE_CAPACITY"}
    environment = {name: os.environ[variable] for name, variable in variables.items()}
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    facts = {"pid": os.getpid(), "record": current_limits().record, "gpus": gpus, **environment}
    (out / "facts.json").write_text(json.dumps(facts))


def lost(spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """The first attempt ends the process that started this worker, and with it the worker, as a lost machine does."""
    _end_parent_once(out, signal.SIGKILL)
    (out / "text").write_text(spec.name)


def preempted(
    spec: External, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """The first attempt sends the signal by which SLURM announces the end of a job."""
    _end_parent_once(out, signal.SIGUSR2)
    (out / "text").write_text(spec.name)


def _end_parent_once(out: Path, number: signal.Signals) -> None:
    marker = out.parents[1] / "logs" / "attempted"
    if not marker.exists():
        marker.touch()
        os.kill(os.getppid(), number)
        time.sleep(600)


if __name__ == "__main__":
    sys.exit(0 if run_graph(diamond(), Path(sys.argv[1])).ok else 1)
