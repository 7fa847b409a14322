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

REPORT_INTERVAL = 0.2
"""Seconds between two reports of progress that a worker passes on."""

_WORKER_COMMAND = (
    "import sys; sys.path[:] = {path!r}; "
    "from firstsight.plan.executor import serve_jobs; serve_jobs({line}, {life}, parent_pid={pid})"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepJob:
    """All that a worker needs to do one step."""

    step: Step
    handler: str
    """`module:function`, imported in the worker."""
    inputs: Mapping[str, Path]
    site: Site
    store_root: Path
    """Of the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What a worker says about a step: how far it is, or how it ended."""

    address: str
    state: Literal["progress", "published", "found", "busy", "failed"]
    """found: somebody had published it already; busy: somebody else is at it."""
    progress: Progress | None = None
    reason: str = ""


@runtime_checkable
class Executor(Protocol):
    """Takes as many jobs at once as it has workers."""

    workers: int

    def submit(self, job: StepJob) -> None:
        """Start `job`; the caller never has more than `workers` under way."""
        ...

    def wait(self, timeout: float) -> list[StepReport]:
        """What was reported since the last call; returns early with the first report."""
        ...


class LocalExecutor:
    """Processes on this machine. Use it in a `with`: they are killed on the way out, whatever the way."""

    def __init__(self, workers: int, site: Site) -> None:
        self.workers = workers
        self._site = site
        self._idle: list[_Worker] = []
        self._busy: dict[str, _Worker] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.kill()
        self._idle.clear()
        self._busy.clear()

    def submit(self, job: StepJob) -> None:
        while self._idle and not self._idle[-1].is_alive():
            self._idle.pop().kill()
        log_path = Store(job.store_root).log_path(job.step.address)
        worker = self._idle.pop() if self._idle else _Worker(self._site, log_path)
        self._busy[job.step.address] = worker
        worker.send(job)

    def wait(self, timeout: float) -> list[StepReport]:
        if self._busy:
            wait([worker.connection for worker in self._busy.values()], timeout)
        else:
            time.sleep(timeout)
        return [report for address in tuple(self._busy) for report in self._receive_reports(address)]

    def pids(self) -> dict[str, int]:
        """The process at work on each step, by address."""
        return {address: worker.pid for address, worker in self._busy.items()}

    def _receive_reports(self, address: str) -> list[StepReport]:
        worker = self._busy[address]
        is_alive = worker.is_alive()  # asked before listening, so that the last words of a dead worker are heard
        reports = worker.receive()
        if reports and reports[-1].state != "progress":
            self._idle.append(self._busy.pop(address))
        elif not is_alive:
            self._busy.pop(address).kill()
            reports.append(StepReport(address=address, state="failed", reason=worker.death_reason()))
        return reports


class _Worker:
    """A process, seen from its parent."""

    def __init__(self, site: Site, log_path: Path) -> None:
        parent_socket, child_socket = socket.socketpair()
        lifeline_fd, self._lifeline_fd = os.pipe()
        command = _WORKER_COMMAND.format(path=sys.path, line=child_socket.fileno(), life=lifeline_fd, pid=os.getpid())
        with log_path.open("ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                env={**os.environ, **_worker_environment(site)},
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                pass_fds=(child_socket.fileno(), lifeline_fd),
                start_new_session=True,  # Ctrl-C is for the parent, which kills its workers
            )
        child_socket.close()
        os.close(lifeline_fd)
        self.connection = Connection(parent_socket.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        if self._process.returncode is None and self._process.poll() is not None:
            self._kill_group()
        return self._process.returncode is None

    def send(self, job: StepJob) -> None:
        try:
            self.connection.send(job)
        except OSError:
            self._process.wait()  # it died between two jobs: `wait` will say so

    def receive(self) -> list[StepReport]:
        reports: list[StepReport] = []
        try:
            while self.connection.poll():
                reports.append(self.connection.recv())
        except (EOFError, OSError):
            self._process.wait()
        return reports

    def death_reason(self) -> str:
        exit_code = self._process.wait()
        if exit_code == -signal.SIGKILL:
            return "its worker was killed by the system (signal 9): most often memory ran out. Try fewer --jobs."
        if exit_code < 0:
            return f"its worker was ended by signal {-exit_code} ({signal.Signals(-exit_code).name})."
        return f"its worker ended with code {exit_code} before the step did."

    def kill(self) -> None:
        """End the process and everything that it started."""
        if self.is_alive():
            self._kill_group()
            self._process.wait()
        if not self.connection.closed:
            self.connection.close()
            os.close(self._lifeline_fd)

    def _kill_group(self) -> None:
        """Kill the worker's whole group: what a dead worker started must not go on writing."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _worker_environment(site: Site) -> dict[str, str]:
    """Set before the worker imports anything: thread pools of the site's size that sleep when idle, fixed hashing."""
    thread_variables = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "RAYON_NUM_THREADS",
        "POLARS_MAX_THREADS",
    )
    fixed_variables = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    return {**dict.fromkeys(thread_variables, str(site.threads)), **fixed_variables}


def serve_jobs(connection_fd: int, lifeline_fd: int, *, parent_pid: int) -> None:
    """The life of a worker: take jobs from `line` until it closes; die at once when `life` does."""
    _exit_with_parent(parent_pid, lifeline_fd)
    connection = Connection(connection_fd)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        with Store(job.store_root).log_path(job.step.address).open("ab") as log_file:
            _redirect_output(log_file.fileno())
            report = _run_job(job, connection)
            _redirect_output(log_file.fileno())
        connection.send(report)
        gc.collect()


def _exit_with_parent(parent_pid: int, lifeline_fd: int) -> None:
    """No orphan may go on writing: the kernel ends us with our parent (Linux), and a closed pipe does anywhere."""

    def wait_for_lifeline() -> None:
        os.read(lifeline_fd, 1)
        os.killpg(0, signal.SIGKILL)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=wait_for_lifeline, daemon=True).start()


def _redirect_output(log_fd: int) -> None:
    """Everything printed from here on, by C code too, goes to `log`."""
    for stream, stream_fd in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(log_fd, stream_fd)


def _run_job(job: StepJob, connection: Connection) -> StepReport:
    """Run one step to its publication; whatever goes wrong becomes a report."""
    store, address = Store(job.store_root), job.step.address
    error_capture = _ErrorCapture()
    with error_capture, store.lock(address) as has_lock:
        if not has_lock:
            return StepReport(address=address, state="busy")
        if store.has(address):
            return StepReport(address=address, state="found")
        started = datetime.now(UTC)
        print(f"--- {address} at {started.isoformat()}", flush=True)  # noqa: T201 - into the step's log
        module_name, _, function_name = job.handler.partition(":")
        handler = getattr(importlib.import_module(module_name), function_name)
        send_progress = _ProgressSender(connection, address)
        handler(
            job.step.spec, inputs=job.inputs, out=store.work_folder(address), site=job.site, on_progress=send_progress
        )
        store.publish(job.step, started=started)
        return StepReport(address=address, state="published")
    return StepReport(address=address, state="failed", reason=error_capture.reason)


class _ErrorCapture:
    """Where anything that a handler raises stops being an exception: its trace goes to the log, its words on."""

    reason = ""

    def __enter__(self) -> _ErrorCapture:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            traceback.print_exception(error)
            self.reason = str(error) if isinstance(error, FirstsightError) else f"{type(error).__name__}: {error}"
        return True


class _ProgressSender:
    """Passes progress on, at most every `EVERY` seconds and always the last."""

    def __init__(self, connection: Connection, address: str) -> None:
        self._connection, self._address, self._last_sent = connection, address, 0.0

    def __call__(self, progress: Progress) -> None:
        current_time = time.monotonic()
        if current_time - self._last_sent >= REPORT_INTERVAL or progress.done >= progress.total:
            self._last_sent = current_time
            self._connection.send(StepReport(address=self._address, state="progress", progress=progress))
