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

from firstsight.data.prepare.part import Maker, Reach
from firstsight.data.prepare.task import Task
from firstsight.data.sources import Shard
from firstsight.errors import DataError, FirstsightError, StepFailed

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says when nothing more can be written."""
_START = "import sys; sys.path[:] = {path!r}; from firstsight.data.prepare.crew import serve; serve({line}, {life})"
_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""A process of a crew is one of many: each computes on one thread."""


def make_all(task: Task, shards: Sequence[Shard], *, jobs: int) -> Iterator[tuple[Shard, Reach]]:
    """Make the parts of `shards` in as many processes as `jobs`, one being this one; gives how far each shard is.

    Raises what a reader raised; parts that were finished by then stay.
    """
    if jobs > 1 and len(shards) > 1:
        with Crew(task, min(jobs, len(shards))) as crew:
            yield from crew.make(shards)
        return
    maker = Maker(task)
    for shard in shards:
        for reach in maker.make(shard):
            yield shard, reach


class Crew:
    """Processes with a maker each. Use it in a `with`: they are killed on the way out, whatever the way."""

    def __init__(self, task: Task, size: int) -> None:
        self._task, self._size = task, size
        self._workers: list[_Worker] = []

    def __enter__(self) -> Crew:
        try:
            for _ in range(self._size):
                self._workers.append(_Worker(self._task))
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def make(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, Reach]]:
        """Hand out the largest shard first, so that no process is left alone with it at the end."""
        waiting = sorted(shards, key=lambda shard: shard.start - shard.stop)
        busy: dict[Connection, tuple[_Worker, Shard]] = {}
        idle = list(self._workers)
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                shard = waiting.pop(0)
                worker.send(shard)
                busy[worker.line] = worker, shard
            for line in wait(list(busy)):
                worker, shard = busy[line]  # type: ignore[index] - only lines were waited for
                reach = worker.heard(shard)
                if reach is None:
                    idle.append(busy.pop(worker.line)[0])
                else:
                    yield shard, reach


class _Worker:
    """A process of a crew, seen from its parent."""

    def __init__(self, task: Task) -> None:
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        start = _START.format(path=sys.path, line=theirs.fileno(), life=life)
        self._process = subprocess.Popen(
            [sys.executable, "-c", start],
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), life),
        )
        theirs.close()
        os.close(life)
        self.line = Connection(ours.detach())
        self.send(task)

    def send(self, what: Task | Shard) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: `heard` will say so
            self.line.send(what)

    def heard(self, shard: Shard) -> Reach | None:
        """How far it is; None when the shard is done. Raises what the process could not do."""
        try:
            told = self.line.recv()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            advice = "Most often memory ran out: try fewer readers" if code == -signal.SIGKILL else "Its log says why"
            raise StepFailed(f"{shard.name}: a reader process {how} before it was done. {advice}.") from None
        if isinstance(told, Exception):
            raise told
        return told

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.line.close()
        os.close(self._life)


def serve(line: int, life: int) -> None:
    """The life of a process in a crew: make parts of what `line` names until it closes; die when `life` does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose death is ours
    threading.Thread(target=_die_with, args=(life,), daemon=True).start()
    reports = Connection(line)
    task: Task = reports.recv()
    maker: Maker | None = None
    while True:
        try:
            shard: Shard = reports.recv()
        except EOFError:
            return
        try:
            maker = maker or Maker(task)
            for reach in maker.make(shard):
                reports.send(reach)
            reports.send(None)
        except FirstsightError as error:
            reports.send(DataError(str(error)))
        except OSError as error:
            reports.send(OSError(error.errno, error.strerror, error.filename))


def _die_with(life: int) -> None:
    """Wait for the pipe whose other end only the parent holds: the kernel closes it with the parent."""
    os.read(life, 1)
    os.kill(os.getpid(), signal.SIGKILL)
