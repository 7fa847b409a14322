"""A worker process that takes messages over a pipe and never outlives its parent.

It is started by a command line of its own instead of multiprocessing, so that `__main__` may be a console script, a
test runner or another worker.
"""

from __future__ import annotations

import ctypes
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

from firstsight.visible import make_output_visible

_COMMAND = (
    "import sys; sys.path[:] = {path!r}; "
    "from firstsight.worker_process import run_worker; "
    "run_worker({target!r}, {connection}, {lifeline}, parent_pid={parent_pid})"
)
_PR_SET_PDEATHSIG = 1
"""Linux's prctl option: the signal that a process gets when its parent ends."""


class WorkerProcess:
    """The parent's side of a worker: its pipe (`connection`, to wait for messages on), its state and its end.

    target: `module:function`, called in the worker with its end of the pipe; the worker ends when it returns.
    environment: variables that are set before the worker imports anything.
    new_session: the worker leads a process group of its own. Ctrl-C does not reach it, and whatever it starts is killed
    with it. Without one it stays in its parent's group and ignores Ctrl-C.
    log_path: a file to which the worker's output is appended (nowhere, if it cannot be written); its parent's output
    without one. What Python code writes appears there as `visible` text.
    """

    def __init__(
        self, target: str, *, environment: Mapping[str, str], new_session: bool = False, log_path: Path | None = None
    ) -> None:
        parent_socket, child_socket = socket.socketpair()
        lifeline_fd, self._lifeline_fd = os.pipe()
        self._new_session = new_session
        command = _COMMAND.format(
            path=sys.path, target=target, connection=child_socket.fileno(), lifeline=lifeline_fd, parent_pid=os.getpid()
        )
        with ExitStack() as stack:
            stack.callback(os.close, lifeline_fd)
            stack.enter_context(child_socket)
            log_file = stack.enter_context(_open_log(log_path)) if log_path else None
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                pass_fds=(child_socket.fileno(), lifeline_fd),
                start_new_session=new_session,
            )
        self.connection = Connection(parent_socket.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        """False once the worker has ended; processes left in its group are then killed."""
        if self._process.returncode is None and self._process.poll() is not None:
            self._kill_group()
        return self._process.returncode is None

    def send(self, message: Any) -> None:
        """Send a message. No error if the worker has died: `is_alive` and `receive` report it."""
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> list[Any]:
        """The messages that have arrived, without waiting for more."""
        messages: list[Any] = []
        try:
            while self.connection.poll():
                messages.append(self.connection.recv())
        except (EOFError, OSError):
            self.exit_code()
        return messages

    def exit_code(self) -> int:
        """-n after signal n, as in subprocess; waits for the end."""
        has_been_reaped = self._process.returncode is not None
        code = self._process.wait()
        if not has_been_reaped:
            self._kill_group()
        return code

    def exit_description(self) -> str:
        """How the worker ended, as the rest of a sentence; waits for the end."""
        exit_code = self.exit_code()
        if exit_code >= 0:
            return f"ended with code {exit_code}"
        cause = ", most often because memory ran out" if exit_code == -signal.SIGKILL else ""
        return f"was ended by signal {-exit_code} ({signal.Signals(-exit_code).name}){cause}"

    def terminate(self) -> None:
        """Send SIGTERM, which ends the worker at once unless it handles the signal."""
        if self.is_alive():
            os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the worker, and with `new_session` everything that it started."""
        if self.is_alive():
            self._process.kill()
            self.exit_code()
        if not self.connection.closed:
            self.connection.close()
            os.close(self._lifeline_fd)

    def _kill_group(self) -> None:
        if self._new_session:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _open_log(path: Path) -> BinaryIO:
    try:
        return path.open("ab")
    except OSError:
        return Path(os.devnull).open("ab")


def run_worker(target: str, connection_fd: int, lifeline_fd: int, *, parent_pid: int) -> None:
    """The worker's main function: call `target` with the pipe; end at once when the parent does."""
    _exit_with_parent(lifeline_fd, parent_pid)
    if os.getpgrp() != os.getpid():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    make_output_visible(stdout=True)
    pkgutil.resolve_name(target)(Connection(connection_fd))


def _exit_with_parent(lifeline_fd: int, parent_pid: int) -> None:
    """The kernel ends this process with its parent on Linux; anywhere, the lifeline pipe closes with the parent."""

    def wait_for_lifeline() -> None:
        os.read(lifeline_fd, 1)
        os.kill(0 if os.getpgrp() == os.getpid() else os.getpid(), signal.SIGKILL)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=wait_for_lifeline, daemon=True).start()
