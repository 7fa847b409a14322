"""The processes of one training step: started by the step's worker and ended together, or by torchrun.

The worker starts a `worker_process.WorkerProcess` for each rank, hosts the store at which they meet, passes progress
of rank 0 on, and ends all of them as soon as one has failed. Under torchrun it is rank 0 (`firstsight.launch`).
"""

from __future__ import annotations

import pkgutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FunctionType
from typing import Any

from firstsight.errors import FirstsightError, StepFailed, Stopped, describe_error
from firstsight.launch import Launch, announce, announced, launched
from firstsight.limits import apply_limits
from firstsight.site import Progress, ProgressCallback, Site
from firstsight.train import parallel
from firstsight.train.stop_signals import stop_signals
from firstsight.worker_process import WorkerProcess

FAILURE_SECONDS = 2.0
"""After the first failure, seconds to wait for others: a rank that was killed breaks the connections of its peers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankJob:
    """What a rank does: a handler without its processes, and where the ranks meet if the worker starts them."""

    handler: str
    """`module:function`, decorated by `in_processes`."""
    spec: Any
    inputs: Mapping[str, Path]
    out: Path
    site: Site
    rank: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class RankFailure:
    """Why a rank ended early. A rank of a lower order is the likelier cause of the others' failures."""

    order: int
    reason: str
    is_saved: bool = False
    """Whether all ranks got a signal and saved their state."""


def in_processes(handler: FunctionType) -> Callable[..., None]:
    """`handler`, run by `site.processes` processes; by the caller's own if that is one.

    Raises StepFailed with the reason of the rank that failed first; the ranks have ended then. Signals to the caller's
    process are passed on to all.
    """
    name = f"{handler.__module__}:{handler.__name__}"

    @wraps(handler)
    def run(spec: Any, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
        if site.processes == 1:
            handler(spec, inputs=inputs, out=out, site=site, on_progress=on_progress)
            return
        parallel.check_processes(site)
        if (launch := launched()) is not None:
            store = launch.connect()
            job = RankJob(handler=name, spec=spec, inputs=inputs, out=out, site=site)
            _run_launched(job, launch, store, announce(store, job), on_progress)
            return
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        jobs = [
            RankJob(handler=name, spec=spec, inputs=inputs, out=out, site=site, rank=rank, port=store.port)
            for rank in range(site.processes)
        ]
        _run_ranks(jobs, on_progress)

    return run


def _run_ranks(jobs: Sequence[RankJob], on_progress: ProgressCallback) -> None:
    ranks = [WorkerProcess("firstsight.train.ranks:serve_rank", environment={}) for _ in jobs]

    def stop(_: int) -> None:
        for worker in ranks:
            worker.terminate()

    try:
        for worker, job in zip(ranks, jobs, strict=True):
            worker.send(job)
        with stop_signals(stop):
            _wait_for_ranks(ranks, on_progress)
    finally:
        for worker in ranks:
            worker.kill()


def _wait_for_ranks(ranks: Sequence[WorkerProcess], on_progress: ProgressCallback) -> None:
    """Pass progress on until all ranks are done; StepFailed with the likeliest cause if one fails."""
    running, failures, deadline = dict(enumerate(ranks)), list[RankFailure](), None
    while running and (deadline is None or time.monotonic() < deadline):
        wait([worker.connection for worker in running.values()], FAILURE_SECONDS)
        for rank, worker in tuple(running.items()):
            if (end := _receive(rank, worker, on_progress)) is None:
                continue
            del running[rank]
            if isinstance(end, RankFailure):
                failures.append(end)
                deadline = deadline or time.monotonic() + FAILURE_SECONDS
    if failures:
        cause = min(failures, key=lambda failure: failure.order)
        raise (Stopped if cause.is_saved else StepFailed)(cause.reason)


def _receive(rank: int, worker: WorkerProcess, on_progress: ProgressCallback) -> RankFailure | bool | None:
    """Pass a rank's progress on; True once it is done, its failure if it has failed, else None."""
    is_alive = worker.is_alive()  # checked before reading, so that the last messages of a dead rank are read
    for message in worker.receive():
        if not isinstance(message, Progress):
            return message
        on_progress(message)
    if is_alive:
        return None
    reason = f"rank {rank} of its processes {worker.exit_description()}; the others were ended with it."
    return RankFailure(0, f"{reason} The same command continues from the last resume point.")


def serve_rank(connection: Connection) -> None:
    """The main function of a rank: join the group, run the handler, and send how it ended."""
    job: RankJob = connection.recv()
    try:
        _run_rank(job, connection.send if job.rank == 0 else _ignore_progress)
    except BaseException as error:
        is_cause = isinstance(error, (FirstsightError, OSError, MemoryError))
        with suppress(OSError):  # of a full disk, or of a worker that has ended
            traceback.print_exception(error)
            reason, is_saved = describe_error(error, place=job.out), isinstance(error, Stopped)
            connection.send(RankFailure(1 if is_cause else 2, reason, is_saved))
        raise SystemExit(1) from error
    connection.send(True)


def serve_launched(launch: Launch) -> None:
    """Do this rank's part of every training step of rank 0 until its command ends.

    An error that all ranks have, such as a loss that is not finite, ends its step only; others are raised, and torchrun
    ends all processes.
    """
    store = launch.connect()
    for number, job in announced(store):
        try:
            _run_launched(job, launch, store, number, _ignore_progress)
        except Stopped:
            return
        except FirstsightError:
            traceback.print_exc()


def _run_launched(job: RankJob, launch: Launch, store: Any, number: int, on_progress: ProgressCallback) -> None:
    from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]

    job = replace(job, rank=launch.rank)
    _run_in_group(job, PrefixStore(f"group/{number}", store), launch.local_rank, on_progress)


def _run_rank(job: RankJob, on_progress: ProgressCallback) -> None:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    _run_in_group(job, TCPStore("127.0.0.1", job.port, is_master=False), job.rank, on_progress)


def _run_in_group(job: RankJob, store: Any, local_rank: int, on_progress: ProgressCallback) -> None:
    apply_limits(job.site.limits)
    with parallel.process_group(job.site, store, rank=job.rank, local_rank=local_rank) as site:
        handler = pkgutil.resolve_name(job.handler).__wrapped__
        handler(job.spec, inputs=job.inputs, out=job.out, site=site, on_progress=on_progress)


def _ignore_progress(_: Progress) -> None:
    pass
