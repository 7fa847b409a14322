"""Locks without fcntl: one owner at a time whatever stalls, and no result of an owner that was taken over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from firstsight import leases
from firstsight.errors import LeaseLost
from firstsight.leases import LEASE_SECONDS, Lease, Owner, acquire, is_owned, owned_folders, remove_if_ended

PROCESSES = st.integers(0, 2)


class LeaseMachine(RuleBasedStateMachine):
    """Three processes on three machines; each may stall at any moment for any time, then goes on as if it were owner.

    The model is the file system's: whose name the working folder has is its owner.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root, self.patch = Path(mkdtemp(prefix="firstsight-leases-")), pytest.MonkeyPatch()
        self.clocks, self.active = [0.0] * 3, 0
        self.memories: list[dict[Path, tuple[tuple[str, int], float]]] = [{}, {}, {}]
        self.leases: list[Lease | None] = [None] * 3
        self.outs: list[Path | None] = [None] * 3
        self.files: list[int | None] = [None] * 3
        self.results: list[Owner] = []
        self.patch.setattr(leases, "monotonic", lambda: self.clocks[self.active])
        self.patch.setattr(Owner, "new", lambda: replace(real_owner(), machine=f"{self.active:08x}"))
        self.patch.setattr(leases, "machine_id", lambda: f"{self.active:08x}")

    def teardown(self) -> None:
        for file in self.files:
            if file is not None:
                os.close(file)
        self.patch.undo()
        shutil.rmtree(self.root)

    def switch(self, process: int) -> None:
        self.memories[self.active], self.active = dict(leases._observed), process
        leases._observed.clear()
        leases._observed.update(self.memories[process])

    @property
    def lock(self) -> Path:
        return self.root / "step.lease"

    @rule(process=PROCESSES, seconds=st.sampled_from([1.0, LEASE_SECONDS / 2, LEASE_SECONDS, 1e6]))
    def wait(self, process: int, seconds: float) -> None:
        self.clocks[process] += seconds

    @rule(process=PROCESSES)
    def begin_lease(self, process: int) -> None:
        self.switch(process)
        if self.leases[process] is None:
            self.leases[process] = leases._acquire(self.lock)

    @rule(process=PROCESSES)
    def renew(self, process: int) -> None:
        self.switch(process)
        if lease := self.leases[process]:
            lease.renew()

    @rule(process=PROCESSES)
    def begin(self, process: int) -> None:
        """Take the working folder over and open a file in it, as a log that stays open."""
        self.switch(process)
        lease = self.leases[process]
        if lease is None or self.outs[process]:
            return
        try:
            out = lease.take_over(self.root / "step")
        except LeaseLost:
            return
        self.outs[process] = out
        self.files[process] = os.open(out / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    @rule(process=PROCESSES)
    def write(self, process: int) -> None:
        """Write to the open file and by the path; a process that was taken over makes its folders again, too."""
        lease, out, file = self.leases[process], self.outs[process], self.files[process]
        if lease and out and file is not None:
            os.write(file, f"{lease.owner}\n".encode())
            (out / "deep").mkdir(parents=True, exist_ok=True)
            (out / "deep" / str(lease.owner)).touch()

    @rule(process=PROCESSES)
    def publish(self, process: int) -> None:
        self.switch(process)
        lease, out = self.leases[process], self.outs[process]
        if lease is None or out is None or (self.root / "result").exists():
            return
        try:
            lease.publish(self.root / "result")
        except LeaseLost:
            return
        self.results.append(lease.owner)
        self.outs[process] = None

    @rule(process=PROCESSES)
    def release(self, process: int) -> None:
        self.switch(process)
        if lease := self.leases[process]:
            lease.release()
            self.leases[process] = self.outs[process] = None

    @invariant()
    def a_result_is_of_one_owner(self) -> None:
        assert len(self.results) <= 1
        if self.results:
            log = (self.root / "result" / "log").read_text().split()
            assert set(log) <= {str(self.results[0])}

    @invariant()
    def the_lock_has_one_owner(self) -> None:
        assert not self.lock.exists() or len(list(self.lock.iterdir())) <= 1


real_owner = Owner.new


def test_never_two_owners_whatever_stalls() -> None:
    case = LeaseMachine.TestCase
    case.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
    case().runTest()
    leases._observed.clear()


HOLD = """
import sys, time
from pathlib import Path
from firstsight import leases
from firstsight.errors import LeaseLost
leases.BEAT_SECONDS = 0.02
with leases.acquire(Path(sys.argv[1]) / "a.lease") as lease:
    out = lease.take_over(Path(sys.argv[1]) / "a")
    log = (out / "log").open("w")
    log.write("first\\n")
    log.flush()
    print("ready", flush=True)
    sys.stdin.readline()
    log.write("late\\n")
    log.flush()
    try:
        lease.publish(Path(sys.argv[1]) / "result")
    except LeaseLost:
        print("lost", flush=True)
"""


def hold(root: Path) -> subprocess.Popen[str]:
    """A process that owns the lock `a` and its working folder until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_a_process_that_sleeps_longer_than_its_lease_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from another machine, which cannot look at its processes."""
    monkeypatch.setattr(leases, "machine_id", lambda: "f" * 8)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.2)
    process = hold(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        lease = None
        while lease is None:
            with acquire(tmp_path / "a.lease") as lease:
                if lease is None:
                    time.sleep(0.05)
                    continue
                out = lease.take_over(tmp_path / "a")
                assert (out / "log").read_text() == "first\n"  # it continues from what the other one wrote
                os.kill(process.pid, signal.SIGCONT)
                answer, _ = process.communicate("go\n")
                assert answer == "lost\n" and process.returncode == 0
                assert not (tmp_path / "result").exists() and (out / "log").read_text() == "first\n"
                lease.publish(tmp_path / "result")
    finally:
        process.kill()
        process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_killed_process_is_replaced_at_once_on_its_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = hold(tmp_path)
    process.kill()
    process.communicate()
    inodes = {path.stat().st_ino for folder in owned_folders(tmp_path / "a") for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(leases, "machine_id", lambda: "f" * 8)
        assert is_owned(tmp_path / "a.lease") and not remove_if_ended(tmp_path / "a.lease")
    assert not is_owned(tmp_path / "a.lease")
    with acquire(tmp_path / "a.lease") as lease:
        assert lease and {path.stat().st_ino for path in lease.take_over(tmp_path / "a").iterdir()} == inodes


@pytest.mark.parametrize("jump", [-1e9, -1.0, 1e6])
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """The owner's time stamps are counts, and others measure how long they stay the same by a clock of their own."""
    clock = [1000.0]
    monkeypatch.setattr(leases, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "time", lambda: time.monotonic() + jump)
    monkeypatch.setattr(leases, "machine_id", lambda: "f" * 8)
    with acquire(tmp_path / "a.lease") as lease:
        monkeypatch.setattr(leases, "machine_id", lambda: "e" * 8)
        assert lease and is_owned(tmp_path / "a.lease")
        for _ in range(5):
            clock[0] += LEASE_SECONDS
            lease.renew()
            assert is_owned(tmp_path / "a.lease")
        clock[0] += LEASE_SECONDS - 1
        assert is_owned(tmp_path / "a.lease")
        clock[0] += 1
        assert not is_owned(tmp_path / "a.lease")


def test_an_error_after_the_loss_is_the_loss(tmp_path: Path) -> None:
    with pytest.raises(LeaseLost, match="taken it over"), acquire(tmp_path / "a.lease") as lease:
        assert lease
        [file] = (tmp_path / "a.lease").iterdir()
        file.rename(file.with_name(str(replace(lease.owner, nonce="0" * 8))))
        raise FileNotFoundError


def test_an_ended_process_that_nobody_has_waited_for_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout and not process.stdout.read()
    owner = replace(Owner.new(), pid=process.pid)
    while not owner.has_ended():
        time.sleep(0.01)
    process.wait()
    assert owner.has_ended() and not Owner.new().has_ended()
    assert not replace(owner, machine="0" * 8).has_ended()
