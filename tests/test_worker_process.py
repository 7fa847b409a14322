"""Workers start, answer, die with their parent, and take with them what they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

import pytest

from firstsight.worker_process import WorkerProcess

sys.path.insert(0, str(Path(__file__).parent))  # the workers import their targets from here

PATIENCE = 20
"""Seconds that a loaded machine may need."""
Start = Callable[..., WorkerProcess]


def echo(connection: Connection) -> None:
    """Send back (pid, group, variable, message) until the parent sends None."""
    while (message := connection.recv()) is not None:
        if message == "print":
            print("to the log", flush=True)  # noqa: T201 - what the log is tested with
        connection.send((os.getpid(), os.getpgrp(), os.environ.get("FIRSTSIGHT_TEST"), message))


def start_child(connection: Connection) -> None:
    """Start a process that sleeps, send its pid, and wait."""
    connection.send(subprocess.Popen(["sleep", "60"]).pid)
    connection.recv()


@pytest.fixture(name="start")
def _start() -> Iterator[Start]:
    workers: list[WorkerProcess] = []

    def start(function: str, *, new_session: bool = False, log_path: Path | None = None) -> WorkerProcess:
        target, environment = f"test_worker_process:{function}", {"FIRSTSIGHT_TEST": "set"}
        workers.append(WorkerProcess(target, environment=environment, new_session=new_session, log_path=log_path))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def test_messages_go_both_ways_until_the_target_returns(start: Start) -> None:
    worker = start("echo")
    worker.send("hello")
    assert wait([worker.connection], PATIENCE)
    assert worker.receive() == [(worker.pid, os.getpgrp(), "set", "hello")]
    assert worker.is_alive()
    worker.send(None)
    assert worker.exit_code() == 0 and not worker.is_alive() and worker.receive() == []
    assert worker.exit_description() == "ended with code 0"
    worker.send("nobody reads this")


def test_output_goes_to_the_log(start: Start, tmp_path: Path) -> None:
    worker = start("echo", new_session=True, log_path=tmp_path / "log")
    worker.send("print")
    assert wait([worker.connection], PATIENCE)
    assert worker.receive() == [(worker.pid, worker.pid, "set", "print")]
    assert (tmp_path / "log").read_text() == "to the log\n"


@pytest.mark.parametrize(
    ("number", "description"),
    [
        (signal.SIGKILL, "was ended by signal 9 (SIGKILL), most often because memory ran out"),
        (signal.SIGTERM, "was ended by signal 15 (SIGTERM)"),
    ],
)
def test_a_signal_is_described(start: Start, number: signal.Signals, description: str) -> None:
    worker = start("echo")
    os.kill(worker.pid, number)
    assert worker.exit_code() == -number and worker.exit_description() == description


@pytest.mark.parametrize("death", ["kill", "killed by the system"])
def test_what_a_worker_started_is_killed_with_it(start: Start, death: str) -> None:
    worker = start("start_child", new_session=True)
    (child_pid,) = _receive(worker)
    if death == "kill":
        worker.kill()
    else:
        os.kill(worker.pid, signal.SIGKILL)
        assert wait([worker.connection], PATIENCE) and worker.receive() == []
    assert _ends(child_pid) and not worker.is_alive()


def test_ctrl_c_does_not_end_a_worker(start: Start) -> None:
    worker = start("echo")
    worker.send("started")
    _receive(worker)
    os.kill(worker.pid, signal.SIGINT)
    worker.send("still there")
    assert _receive(worker)[0][3] == "still there"


@pytest.mark.parametrize("new_session", [True, False])
def test_a_worker_dies_with_its_parent(new_session: bool) -> None:
    parent = (
        "import sys, time; from firstsight.worker_process import WorkerProcess\n"
        f"worker = WorkerProcess('test_worker_process:echo', environment={{}}, new_session={new_session})\n"
        "worker.send('started'); print(worker.connection.recv()[0], flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        worker_pid = int(process.stdout.readline())
        process.kill()
    assert _ends(worker_pid)


def _receive(worker: WorkerProcess) -> list[tuple[int, int, str, str]]:
    assert wait([worker.connection], PATIENCE)
    return worker.receive()


def _ends(pid: int) -> bool:
    """Whether the process ends soon; one that nobody has waited for yet counts as ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
