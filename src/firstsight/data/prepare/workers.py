"""Processes that make parts side by side, and die with the one that started them.

They are started by a command line of their own (as the executor starts its workers), so that it does not matter what
`__main__` is: a console script, a test runner, or another worker's one-liner.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from firstsight.data.prepare.job import PrepareJob
from firstsight.data.prepare.shard_writer import ShardProgress, ShardWriter
from firstsight.data.readers import Shard
from firstsight.errors import DataError, FirstsightError, StepFailed

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says when nothing more can be written."""
_WORKER_COMMAND = "import sys; sys.path[:] = {path!r}; from firstsight.data.prepare.workers import serve_shards; serve_shards({line}, {life})"
_WORKER_ENV = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""A process of a crew is one of many: each computes on one thread."""


def write_shards(
    job: PrepareJob, shards: Sequence[Shard], *, worker_count: int
) -> Iterator[tuple[Shard, ShardProgress]]:
    """Make the parts of `shards` in as many processes as `jobs`, one being this one; gives how far each shard is.

    Raises what a reader raised; parts that were finished by then stay.
    """
    if worker_count > 1 and len(shards) > 1:
        with WorkerPool(job, min(worker_count, len(shards))) as pool:
            yield from pool.write(shards)
        return
    writer = ShardWriter(job)
    for shard in shards:
        for shard_progress in writer.write(shard):
            yield shard, shard_progress


class WorkerPool:
    """Processes with a maker each. Use it in a `with`: they are killed on the way out, whatever the way."""

    def __init__(self, job: PrepareJob, worker_count: int) -> None:
        self._job, self._worker_count = job, worker_count
        self._workers: list[_Worker] = []

    def __enter__(self) -> WorkerPool:
        try:
            for _ in range(self._worker_count):
                self._workers.append(_Worker(self._job))
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def write(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, ShardProgress]]:
        """Hand out the largest shard first, so that no process is left alone with it at the end."""
        pending = sorted(shards, key=lambda shard: shard.start - shard.stop)
        active: dict[Connection, tuple[_Worker, Shard]] = {}
        idle = list(self._workers)
        while pending or active:
            while pending and idle:
                worker = idle.pop()
                shard = pending.pop(0)
                worker.send(shard)
                active[worker.connection] = worker, shard
            for connection in wait(list(active)):
                worker, shard = active[connection]  # type: ignore[index] - only lines were waited for
                shard_progress = worker.receive(shard)
                if shard_progress is None:
                    idle.append(active.pop(worker.connection)[0])
                else:
                    yield shard, shard_progress


class _Worker:
    """A process of a crew, seen from its parent."""

    def __init__(self, job: PrepareJob) -> None:
        parent_socket, child_socket = socket.socketpair()
        lifeline_fd, self._lifeline_fd = os.pipe()
        command = _WORKER_COMMAND.format(path=sys.path, line=child_socket.fileno(), life=lifeline_fd)
        self._process = subprocess.Popen(
            [sys.executable, "-c", command],
            env={**os.environ, **_WORKER_ENV},
            stdin=subprocess.DEVNULL,
            pass_fds=(child_socket.fileno(), lifeline_fd),
        )
        child_socket.close()
        os.close(lifeline_fd)
        self.connection = Connection(parent_socket.detach())
        self.send(job)

    def send(self, message: PrepareJob | Shard) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: `heard` will say so
            self.connection.send(message)

    def receive(self, shard: Shard) -> ShardProgress | None:
        """How far it is; None when the shard is done. Raises what the process could not do."""
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            exit_code = self._process.wait()
            outcome = f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with code {exit_code}"
            advice = (
                "Most often memory ran out: try fewer readers" if exit_code == -signal.SIGKILL else "Its log says why"
            )
            raise StepFailed(f"{shard.name}: a reader process {outcome} before it was done. {advice}.") from None
        if isinstance(message, Exception):
            raise message
        return message

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()
        os.close(self._lifeline_fd)


def serve_shards(connection_fd: int, lifeline_fd: int) -> None:
    """The life of a process in a crew: make parts of what `line` names until it closes; die when `life` does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose death is ours
    threading.Thread(target=_exit_with_parent, args=(lifeline_fd,), daemon=True).start()
    connection = Connection(connection_fd)
    job: PrepareJob = connection.recv()
    writer: ShardWriter | None = None
    while True:
        try:
            shard: Shard = connection.recv()
        except EOFError:
            return
        try:
            writer = writer or ShardWriter(job)
            for shard_progress in writer.write(shard):
                connection.send(shard_progress)
            connection.send(None)
        except FirstsightError as error:
            connection.send(DataError(str(error)))
        except OSError as error:
            connection.send(OSError(error.errno, error.strerror, error.filename))


def _exit_with_parent(lifeline_fd: int) -> None:
    """Wait for the pipe whose other end only the parent holds: the kernel closes it with the parent."""
    os.read(lifeline_fd, 1)
    os.kill(os.getpid(), signal.SIGKILL)
