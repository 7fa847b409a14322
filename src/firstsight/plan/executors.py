"""Where steps run: worker processes that stay warm, die with their parent and fail alone.

A worker takes one job at a time. It holds the step's lock itself, so whatever happens to its parent, nobody else
works on a step while one of its writers lives; it publishes itself, so hashing and syncing run in parallel too.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, runtime_checkable

from firstsight.errors import FirstsightError
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.site import Progress, Site

EVERY = 0.2
"""Seconds between two reports of progress that a worker passes on."""

_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from firstsight.plan.executors import serve; serve({line}, {life}, parent={pid})"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All that a worker needs to do one step."""

    step: Step
    handler: str
    """`module:function`, imported in the worker."""
    inputs: Mapping[str, Path]
    site: Site
    root: Path
    """Of the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a worker says about a step: how far it is, or how it ended."""

    address: str
    state: Literal["progress", "published", "found", "busy", "failed"]
    """found: somebody had published it already; busy: somebody else is at it."""
    progress: Progress | None = None
    why: str = ""


@runtime_checkable
class Executor(Protocol):
    """Takes as many jobs at once as it has workers."""

    workers: int

    def submit(self, job: Job) -> None:
        """Start `job`; the caller never has more than `workers` under way."""
        ...

    def wait(self, timeout: float) -> list[Report]:
        """What was reported since the last call; returns early with the first report."""
        ...


class Local:
    """Processes on this machine. Use it in a `with`: they are killed on the way out, whatever the way."""

    def __init__(self, workers: int, site: Site) -> None:
        self.workers = workers
        self._site = site
        self._idle: list[_Worker] = []
        self._busy: dict[str, _Worker] = {}

    def __enter__(self) -> Local:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.kill()
        self._idle.clear()
        self._busy.clear()

    def submit(self, job: Job) -> None:
        while self._idle and not self._idle[-1].alive():
            self._idle.pop().kill()
        log = Store(job.root).log(job.step.address)
        worker = self._idle.pop() if self._idle else _Worker(self._site, log)
        self._busy[job.step.address] = worker
        worker.send(job)

    def wait(self, timeout: float) -> list[Report]:
        if self._busy:
            wait([worker.line for worker in self._busy.values()], timeout)
        else:
            time.sleep(timeout)
        return [report for address in tuple(self._busy) for report in self._hear(address)]

    def pids(self) -> dict[str, int]:
        """The process at work on each step, by address."""
        return {address: worker.pid for address, worker in self._busy.items()}

    def _hear(self, address: str) -> list[Report]:
        worker = self._busy[address]
        alive = worker.alive()  # asked before listening, so that the last words of a dead worker are heard
        reports = worker.heard()
        if reports and reports[-1].state != "progress":
            self._idle.append(self._busy.pop(address))
        elif not alive:
            self._busy.pop(address).kill()
            reports.append(Report(address=address, state="failed", why=worker.death()))
        return reports


class _Worker:
    """A process, seen from its parent."""

    def __init__(self, site: Site, log: Path) -> None:
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        start = _START.format(path=sys.path, line=theirs.fileno(), life=life, pid=os.getpid())
        with log.open("ab") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-c", start],
                env={**os.environ, **_environment(site)},
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                pass_fds=(theirs.fileno(), life),
                start_new_session=True,  # Ctrl-C is for the parent, which kills its workers
            )
        theirs.close()
        os.close(life)
        self.line = Connection(ours.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        if self._process.returncode is None and self._process.poll() is not None:
            self._sweep()
        return self._process.returncode is None

    def send(self, job: Job) -> None:
        try:
            self.line.send(job)
        except OSError:
            self._process.wait()  # it died between two jobs: `wait` will say so

    def heard(self) -> list[Report]:
        reports: list[Report] = []
        try:
            while self.line.poll():
                reports.append(self.line.recv())
        except (EOFError, OSError):
            self._process.wait()
        return reports

    def death(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "its worker was killed by the system (signal 9): most often memory ran out. Try fewer --jobs."
        if code < 0:
            return f"its worker was ended by signal {-code} ({signal.Signals(-code).name})."
        return f"its worker ended with code {code} before the step did."

    def kill(self) -> None:
        """End the process and everything that it started."""
        if self.alive():
            self._sweep()
            self._process.wait()
        if not self.line.closed:
            self.line.close()
            os.close(self._life)

    def _sweep(self) -> None:
        """Kill the worker's whole group: what a dead worker started must not go on writing."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _environment(site: Site) -> dict[str, str]:
    """Set before the worker imports anything: thread pools of the site's size that sleep when idle, fixed hashing."""
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")
    fixed = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    return {**dict.fromkeys(pools, str(site.threads)), **fixed}


def serve(line: int, life: int, *, parent: int) -> None:
    """The life of a worker: take jobs from `line` until it closes; die at once when `life` does."""
    _die_with(parent, life)
    reports = Connection(line)
    while True:
        try:
            job = reports.recv()
        except EOFError:
            return
        with Store(job.root).log(job.step.address).open("ab") as log:
            _print_to(log.fileno())
            report = _do(job, reports)
            _print_to(log.fileno())
        reports.send(report)
        gc.collect()


def _die_with(parent: int, life: int) -> None:
    """No orphan may go on writing: the kernel ends us with our parent (Linux), and a closed pipe does anywhere."""

    def watch() -> None:
        os.read(life, 1)
        os.killpg(0, signal.SIGKILL)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()


def _print_to(log: int) -> None:
    """Everything printed from here on, by C code too, goes to `log`."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(log, number)


def _do(job: Job, reports: Connection) -> Report:
    """Run one step to its publication; whatever goes wrong becomes a report."""
    store, address = Store(job.root), job.step.address
    border = _Border()
    with border, store.lock(address) as free:
        if not free:
            return Report(address=address, state="busy")
        if store.has(address):
            return Report(address=address, state="found")
        started = datetime.now(UTC)
        print(f"--- {address} at {started.isoformat()}", flush=True)  # noqa: T201 - into the step's log
        module, _, name = job.handler.partition(":")
        handler = getattr(importlib.import_module(module), name)
        tell = _Teller(reports, address)
        handler(job.step.spec, inputs=job.inputs, out=store.work(address), site=job.site, tell=tell)
        store.publish(job.step, started=started)
        return Report(address=address, state="published")
    return Report(address=address, state="failed", why=border.why)


class _Border:
    """Where anything that a handler raises stops being an exception: its trace goes to the log, its words on."""

    why = ""

    def __enter__(self) -> _Border:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            traceback.print_exception(error)
            self.why = str(error) if isinstance(error, FirstsightError) else f"{type(error).__name__}: {error}"
        return True


class _Teller:
    """Passes progress on, at most every `EVERY` seconds and always the last."""

    def __init__(self, reports: Connection, address: str) -> None:
        self._reports, self._address, self._last = reports, address, 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last >= EVERY or progress.done >= progress.total:
            self._last = now
            self._reports.send(Report(address=self._address, state="progress", progress=progress))
