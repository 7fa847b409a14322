"""Commands and their workers as forks of this process, which has imported everything: a start takes no time.

`WorkerProcess` starts workers through `subprocess.Popen`; in a forked command they are forks too, with the same code,
environment, session and open files. So a command differs from one in a terminal by the start of the interpreter, and by
the figures of its report, which are not drawn.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn
from unittest.mock import patch

from benchmarks.chaos.drawing import without_drawing
from benchmarks.chaos.writes import Role, WritePlan

_MODULES = (
    *("firstsight.cli.app", "firstsight.report.pages.report_page", "firstsight.synthetic", "firstsight.data.prepare"),
    *("firstsight.train.handlers", "firstsight.train.encoder", "firstsight.evaluate.harness"),
    *("transformers.models.siglip.modeling_siglip", "transformers.models.auto.modeling_auto"),
)
for _module in _MODULES:
    import_module(_module)
gc.collect()
gc.freeze()  # a collection in a fork would copy everything that was imported


class ForkedProcess:
    """A process that runs a function, with the methods of subprocess.Popen that are needed here."""

    def __init__(self, function: Callable[[], object], *, new_session: bool) -> None:
        self.returncode: int | None = None
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if not self.pid:
            if new_session:
                os.setsid()
            _run_and_exit(function)

    def poll(self) -> int | None:
        """The exit code, -n after signal n; None while the process runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; TimeoutExpired if the process still runs after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is None:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            elif time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("fork", timeout or 0.0)
            else:
                time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End the process."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _run_and_exit(function: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        function()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as an interpreter ends
        traceback.print_exc()
        raise
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def start_command(
    words: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    output: int,
    plan: WritePlan,
) -> ForkedProcess:
    """Start the command `firstsight` in a session of its own; both output streams go to the descriptor `output`."""

    def run() -> None:
        from benchmarks.chaos import clock

        from firstsight.cli import main

        if plan.clock_seed is not None:
            clock.install(plan.clock_seed)
        os.chdir(folder)
        os.environ.update(environment)
        _redirect(os.open(os.devnull, os.O_RDONLY), output)
        sys.argv = ["firstsight", *words]
        popen, set_role = subprocess.Popen, plan.install()

        def start(words: Sequence[str], **options: Any) -> Any:
            if len(words) != 3 or "run_worker" not in words[2]:
                return popen(words, **options)
            return _start_worker(words[2], set_role=set_role, **options)

        with patch("subprocess.Popen", start), without_drawing():
            main()

    return ForkedProcess(run, new_session=True)


def _redirect(source: int, target: int) -> None:
    """Make descriptors standard input and both outputs, with new stream objects, as an interpreter starts."""
    for descriptor, stream in ((source, 0), (target, 1), (target, 2)):
        os.dup2(descriptor, stream)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _start_worker(
    code: str,
    *,
    set_role: Callable[[Role], None],
    env: Mapping[str, str],
    pass_fds: Sequence[int],
    start_new_session: bool,
    stdout: IO[bytes] | None,
    **_: object,
) -> ForkedProcess:
    output = stdout.fileno() if stdout else 1

    def run() -> None:
        set_role("worker")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(env)
        _redirect(os.open(os.devnull, os.O_RDONLY), output)
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            if descriptor > 2 and descriptor not in pass_fds:
                with suppress(OSError):
                    os.close(descriptor)
        exec(code, {})  # the program of `python -c`

    return ForkedProcess(run, new_session=start_new_session)
