"""Where steps run: worker processes that stay warm, die with their parent and fail alone.

A worker takes one job at a time. It holds the step's lock itself, so whatever happens to its parent, nobody else
works on a step while one of its writers lives; it publishes itself, so hashing and syncing run in parallel too.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
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
from firstsight.worker_process import WorkerProcess

REPORT_INTERVAL = 0.2
"""Seconds between two reports of progress that a worker passes on."""


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
    """How far a step is, or how it ended; sent by its worker."""

    address: str
    state: Literal["progress", "published", "already_published", "busy", "failed"]
    """already_published: the store had it before this job began; busy: another process holds the step's lock."""
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
        self._idle: list[WorkerProcess] = []
        self._busy: dict[str, WorkerProcess] = {}

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
        worker = self._idle.pop() if self._idle else self._start(Store(job.store_root).log_path(job.step.address))
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

    def _start(self, log_path: Path) -> WorkerProcess:
        return WorkerProcess(
            "firstsight.plan.executor:serve_jobs",
            environment=_worker_environment(self._site),
            new_session=True,
            log_path=log_path,
        )

    def _receive_reports(self, address: str) -> list[StepReport]:
        worker = self._busy[address]
        is_alive = worker.is_alive()  # checked before reading, so that the last messages of a dead worker are read
        reports: list[StepReport] = worker.receive()
        if reports and reports[-1].state != "progress":
            self._idle.append(self._busy.pop(address))
        elif not is_alive:
            self._busy.pop(address).kill()
            reason = f"its worker {worker.exit_description()}."
            if worker.exit_code() == -signal.SIGKILL:
                reason += " Try fewer --jobs."
            reports.append(StepReport(address=address, state="failed", reason=reason))
        return reports


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


def serve_jobs(connection: Connection) -> None:
    """The worker's loop: run each job that arrives and send its report, until the pipe closes."""
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
            return StepReport(address=address, state="already_published")
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
