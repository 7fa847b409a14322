"""The executor: reused worker processes that run one job at a time and end with their parent.

A worker owns its step's lock and publishes the result itself. So even if the parent is killed, no other process can
work on a step while a worker still writes to it, and hashing and syncing run in parallel too.
"""

from __future__ import annotations

import gc
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from firstsight.errors import LeaseLost, Stopped, describe_error
from firstsight.leases import Lease, LockState
from firstsight.limits import apply_limits
from firstsight.plan.step import Step
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import Store
from firstsight.site import Progress, Site
from firstsight.track import MetricsWriter
from firstsight.worker_process import WorkerProcess

REPORT_INTERVAL = 0.2


KERNEL_CACHE_SHAPES = 64
"""Shapes whose kernels torch and oneDNN keep on a CPU. Both keep 1,024 by default, and the number of loss tokens
differs from step to step, so that a worker would grow with each of its first thousand steps."""


@dataclass(frozen=True, slots=True)
class StepJob:
    """The arguments of a worker for one step."""

    step: Step
    handler: StepHandler
    inputs: Mapping[str, Path]
    site: Site
    store_root: Path
    expired: LockState | None = None
    """What the scheduler has seen for so long in the step's lock that its lease has expired."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """Progress or end of a step, sent by its worker."""

    address: str
    state: Literal["progress", "published", "already_published", "busy", "saved", "failed"]
    """already_published: the store had it before this job began; busy: another process owns the step; saved: a signal
    ended it at a point from which the same command continues."""
    progress: Progress | None = None
    reason: str = ""


@runtime_checkable
class StepExecutor(Protocol):
    """What runs steps: worker processes of this machine, or jobs of a cluster that start such a process elsewhere."""

    workers: int
    """At most so many steps run at once."""

    def submit(self, job: StepJob) -> None:
        """Start `job`, at the latest in the next call of `wait`."""

    def wait(self, timeout: float) -> list[StepReport]:
        """The reports since the last call; waits about `timeout` seconds where there is none."""
        ...

    def stop(self) -> list[StepReport]:
        """End all running steps, those that train once they are saved where that can be waited for; their reports."""
        ...


class LocalExecutor:
    """Worker processes on this machine. Use it in a `with` statement, which kills them at its end."""

    def __init__(self, workers: int, site: Site) -> None:
        self.workers = workers
        self._site = site
        self._idle: list[WorkerProcess] = []
        self._busy: dict[str, WorkerProcess] = {}
        self._slots: dict[WorkerProcess, int] = {}
        """The number of each living worker, below `workers`: the share of the GPUs that it has."""

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._idle, *self._busy.values()):
            self._end_worker(worker)
        self._idle.clear()
        self._busy.clear()

    def submit(self, job: StepJob) -> None:
        """Start `job`; the caller never has more than `workers` running."""
        while self._idle and not self._idle[-1].is_alive():
            self._end_worker(self._idle.pop())
        worker = self._idle.pop() if self._idle else self._start_worker(job)
        self._busy[job.step.address] = worker
        worker.send(job)

    def wait(self, timeout: float) -> list[StepReport]:
        """The reports since the last call; returns at the first report, at the latest after `timeout` seconds."""
        if self._busy:
            wait([worker.connection for worker in self._busy.values()], timeout)
        else:
            time.sleep(timeout)
        return [report for address in tuple(self._busy) for report in self._receive(address)]

    def stop(self) -> list[StepReport]:
        """End all running steps. Those that train save first, if that takes less than `Site.stop_seconds`.

        Returns the reports until then, but none of workers that ended without one.
        """
        for worker in self._busy.values():
            worker.terminate()
        reports, deadline = list[StepReport](), time.monotonic() + self._site.stop_seconds
        while self._busy and (left := deadline - time.monotonic()) > 0:
            reports += [report for report in self.wait(left) if report.state != "failed"]
        return reports

    def pids(self) -> dict[str, int]:
        """The process that runs each step, by address."""
        return {address: worker.pid for address, worker in self._busy.items()}

    def _start_worker(self, job: StepJob) -> WorkerProcess:
        slot = min(set(range(self.workers)) - set(self._slots.values()))
        environment = worker_environment(self._site) | gpu_environment(self._site, slot)
        target, log_path = "firstsight.plan.executor:serve_jobs", Store(job.store_root).log_path(job.step.address)
        worker = WorkerProcess(target, environment=environment, new_session=True, log_path=log_path)
        self._slots[worker] = slot
        return worker

    def _end_worker(self, worker: WorkerProcess) -> None:
        worker.kill()
        self._slots.pop(worker, None)

    def _receive(self, address: str) -> list[StepReport]:
        worker = self._busy[address]
        is_alive = worker.is_alive()  # checked before reading, so that the last messages of a dead worker are read
        reports: list[StepReport] = worker.receive()
        if reports and reports[-1].state == "saved":  # by a signal to the worker: it is to end
            self._end_worker(self._busy.pop(address))
        elif reports and reports[-1].state != "progress":
            self._idle.append(self._busy.pop(address))
        elif not is_alive:
            self._end_worker(self._busy.pop(address))
            advice = " Try fewer --jobs." if worker.exit_code() == -signal.SIGKILL else ""
            reports.append(StepReport(address, "failed", reason=f"its worker {worker.exit_description()}.{advice}"))
        return reports


def worker_environment(site: Site) -> dict[str, str]:
    """A worker's variables: thread pools of the site's size that do not spin when idle, small caches of kernels, and a
    fixed hash seed."""
    libraries = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "RAYON_NUM", "POLARS_MAX")
    environment = {f"{library}_THREADS": str(site.threads) for library in libraries}
    environment |= dict.fromkeys(("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"), str(KERNEL_CACHE_SHAPES))
    return environment | {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}


def gpu_environment(site: Site, slot: int) -> dict[str, str]:
    """The variable that shows the worker number `slot` its own GPUs, where the site shares them out."""
    if not site.gpus:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(site.gpus)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot * site.processes : (slot + 1) * site.processes])}


def serve_jobs(connection: Connection) -> None:
    """The worker's loop: run each job that arrives and send its report, until the pipe closes."""
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_run_logged(job, connection))
        gc.collect()


def _run_logged(job: StepJob, connection: Connection) -> StepReport:
    """Run a job with its output in the step's log; a log that cannot be written fails the step."""
    try:
        log_file = Store(job.store_root).log_path(job.step.address).open("ab")
    except OSError as error:
        return StepReport(job.step.address, "failed", reason=f"its log: {describe_error(error)}")
    with log_file:
        _redirect_output(log_file.fileno())
        report = _run_job(job, connection)
        _redirect_output(log_file.fileno())
    return report


def _redirect_output(log_fd: int) -> None:
    for stream, stream_fd in ((sys.stdout, 1), (sys.stderr, 2)):
        with suppress(OSError):  # of a full disk
            stream.flush()
        os.dup2(log_fd, stream_fd)


def _run_job(job: StepJob, connection: Connection) -> StepReport:
    store, address = Store(job.store_root), job.step.address
    error_capture = _ErrorCapture(store.root)
    with error_capture, store.lock(address, expired=job.expired) as lease:
        if lease is None:
            return StepReport(address, "busy")
        if store.has(address):
            return StepReport(address, "already_published")
        started = datetime.now(UTC)
        print(f"--- {address} at {started.isoformat()}", flush=True)  # noqa: T201 - into the step's log
        apply_limits(job.site.limits)
        for path in job.inputs.values():
            if path.parent == store.root / "steps":
                store.check_result(path.name)
        function: Callable[..., None] = pkgutil.resolve_name(job.handler.function)
        out = store.work_folder(lease, address)
        job.handler.clear(out)
        with MetricsWriter(store.root, address, job.site.track) as metrics:
            on_progress = _ProgressSender(connection, address, lease=lease, metrics=metrics)
            function(job.step.spec, inputs=job.inputs, out=out, site=job.site, on_progress=on_progress)
        store.publish(lease, job.step, job.handler, started=started)
        return StepReport(address, "published")
    return StepReport(address, error_capture.state, reason=error_capture.reason)


class _ErrorCapture:
    """Catches the error of a handler: its traceback goes to the log, its message into `reason`."""

    def __init__(self, place: Path) -> None:
        self.reason, self._place = "", place
        self.state: Literal["busy", "saved", "failed"] = "failed"

    def __enter__(self) -> _ErrorCapture:
        return self

    def __exit__(self, error_type: object, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            if isinstance(error, LeaseLost | Stopped):
                self.state = "busy" if isinstance(error, LeaseLost) else "saved"
            self.reason = describe_error(error, place=self._place)
            with suppress(OSError):  # of a full disk
                traceback.print_exception(error)
        return True


class _ProgressSender:
    """Sends progress to the parent, at most every REPORT_INTERVAL seconds, always the last one and notes; records of
    metrics are written here. LeaseLost once another process has taken the step over."""

    def __init__(self, connection: Connection, address: str, *, lease: Lease, metrics: MetricsWriter) -> None:
        self._connection, self._address, self._lease, self._metrics = connection, address, lease, metrics
        self._last_sent = 0.0

    def __call__(self, progress: Progress) -> None:
        if self._lease.is_lost:
            self._lease.check()
        if progress.record:
            self._metrics.write(progress.record)
            progress = replace(progress, record={})
        timestamp = time.monotonic()
        is_due = timestamp - self._last_sent >= REPORT_INTERVAL
        if is_due or progress.note or progress.done >= progress.total:
            self._last_sent = timestamp
            self._connection.send(StepReport(self._address, "progress", progress=progress))
