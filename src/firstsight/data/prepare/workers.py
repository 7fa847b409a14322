"""Writes the parts of shards in several processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

from firstsight.data.prepare.shard_writer import PrepareJob, ShardProgress, ShardWriter
from firstsight.data.readers import Shard
from firstsight.errors import DataError, FirstsightError, StepFailed
from firstsight.worker_process import WorkerProcess

_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""There are as many processes as cores, so each computes on one thread."""
_Progress = tuple[Shard, ShardProgress]


def write_shards(job: PrepareJob, shards: Sequence[Shard], *, worker_count: int) -> Iterator[_Progress]:
    """Write the parts of `shards` in `worker_count` processes, or in this one, and yield the progress of each shard.

    Raises the error of the first shard that fails; parts that are finished by then stay.
    """
    if worker_count > 1 and len(shards) > 1:
        yield from _write_in_workers(job, shards, min(worker_count, len(shards)))
        return
    writer = ShardWriter(job)
    for shard in shards:
        for progress in writer.write(shard):
            yield shard, progress


def _write_in_workers(job: PrepareJob, shards: Sequence[Shard], worker_count: int) -> Iterator[_Progress]:
    # The largest shard first, so that no process works on it alone at the end.
    pending = sorted(shards, key=lambda shard: -shard.byte_count)
    workers: list[WorkerProcess] = []
    active: dict[object, tuple[WorkerProcess, Shard]] = {}
    try:
        for _ in range(worker_count):
            workers.append(WorkerProcess("firstsight.data.prepare.workers:serve_shards", environment=_ENVIRONMENT))
            workers[-1].send(job)
        idle = list(workers)
        while pending or active:
            while pending and idle:
                worker, shard = idle.pop(), pending.pop(0)
                worker.send(shard)
                active[worker.connection] = worker, shard
            for connection in wait([worker.connection for worker, _ in active.values()]):
                worker, shard = active[connection]
                for progress in _receive(worker, shard):
                    if progress is None:
                        idle.append(worker)
                        del active[connection]
                    else:
                        yield shard, progress
    finally:
        for worker in workers:
            worker.kill()


def _receive(worker: WorkerProcess, shard: Shard) -> list[ShardProgress | None]:
    """Progress of the shard, and None when its part is complete. Raises the worker's error."""
    messages = worker.receive()
    if not messages:
        advice = "Try fewer readers" if worker.exit_code() == -signal.SIGKILL else "Its log has the reason"
        raise StepFailed(f"{shard.name}: a reader process {worker.exit_description()} before it was done. {advice}.")
    if isinstance(messages[-1], Exception):
        raise messages[-1]
    return messages


def serve_shards(connection: Connection) -> None:
    """A worker's main function: write the part of each shard that arrives, until the pipe closes."""
    job: PrepareJob = connection.recv()
    writer: ShardWriter | None = None
    while True:
        try:
            shard: Shard = connection.recv()
        except EOFError:
            return
        try:
            writer = writer or ShardWriter(job)
            for progress in writer.write(shard):
                connection.send(progress)
            connection.send(None)
        except FirstsightError as error:
            connection.send(DataError(str(error)))
        except OSError as error:
            connection.send(OSError(error.errno, error.strerror, error.filename))
