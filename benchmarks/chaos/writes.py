"""Faults at the n-th write to the store, in the processes of a command: kills, and a disk that fails or is slow."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

SLOW_SECONDS = 0.05
_ERROR_NUMBERS = {"full": errno.ENOSPC, "read-only": errno.EROFS}
Role = Literal["command", "worker"]
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PATH_ARGUMENT = {"os.rename": 1, "os.link": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.truncate": 0}
"""Audit events of writes besides `open`, and which of their arguments is the path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteFault:
    """What happens at the n-th write of a kind, in the first process of a role that gets there."""

    role: Role
    event: str
    """open (for writing), rename, link, mkdir, remove, rmdir, truncate or fsync; or any of them."""
    path: str
    """A pattern of paths relative to the store."""
    number: int = 1
    action: Literal["signal", "full", "read-only", "slow"] = "signal"
    """full, read-only: this write and all later ones that match fail with ENOSPC or EROFS, in all processes. slow: each
    of them takes SLOW_SECONDS more."""
    target: Literal["self", "parent", "both"] = "self"
    signal: int = int(signal.SIGKILL)
    delay: float = 0.0
    """Seconds after the write's start; the process is then ended by SIGALRM, wherever it is."""


@dataclass(frozen=True, slots=True)
class WritePlan:
    """The faults of one command; a fault acts once, and claims a file in `claims`."""

    store: Path
    claims: Path
    faults: Sequence[WriteFault] = ()
    record: Path | None = None
    """A file to which role, event and path of every write are appended."""
    clock_seed: int | None = None
    """Of the jumps of the command's clock; None for the machine's."""

    def has_acted(self, fault: WriteFault) -> bool:
        """Whether a fault of this plan has acted."""
        return self.claim(self.faults.index(fault)).exists()

    def claim(self, number: int) -> Path:
        """The file that says that a fault has acted."""
        return self.claims / str(number)

    def install(self) -> Callable[[Role], None]:
        """Observe the writes of this process from now on; returns a function that sets the role of a forked one."""
        observer, sync = _Observer(self), os.fsync

        def observed_fsync(descriptor: int) -> None:
            observer.observe("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
            sync(descriptor)

        os.fsync = observed_fsync
        sys.addaudithook(observer.audit)
        return observer.set_role


OWNER = re.compile(r"[0-9a-f]{8}-\d+-[0-9a-f]{8}")
"""The owner in the name of a lock or a working folder, which is another one in each run."""


class _Observer:
    """Counts the writes of this process below the store, and carries out the faults of its role."""

    def __init__(self, plan: WritePlan) -> None:
        self.plan, self.root, self.is_busy = plan, f"{plan.store}/", False
        self.set_role("command")

    def set_role(self, role: Role) -> None:
        """Count from 0, for the faults of that role."""
        self.role, self.is_busy = role, False
        self.faults = [(number, fault) for number, fault in enumerate(self.plan.faults) if fault.role == role]
        self.counts = dict.fromkeys((number for number, _ in self.faults), 0)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if arguments[2] & _WRITE_FLAGS and isinstance(arguments[0], str):
                self.observe("open", arguments[0])
        elif event in _PATH_ARGUMENT:
            path = arguments[_PATH_ARGUMENT[event]]
            if isinstance(path, str | os.PathLike):
                self.observe(event.removeprefix("os."), os.fspath(path))

    def observe(self, event: str, path: str) -> None:
        path = os.path.abspath(path)  # noqa: PTH100
        if self.is_busy or not path.startswith(self.root):
            return
        self.is_busy = True
        try:
            self._observe(event, OWNER.sub("owner", path.removeprefix(self.root)))
        finally:
            self.is_busy = False

    def _observe(self, event: str, path: str) -> None:
        if self.plan.record:
            with self.plan.record.open("a") as file:
                file.write(f"{self.role}\t{event}\t{path}\n")
        for number, fault in self.faults:
            if fault.event not in (event, "any") or not fnmatchcase(path, fault.path):
                continue
            self.counts[number] += 1
            starts = self.counts[number] == fault.number and self._claims(number)
            if starts or (fault.action != "signal" and self.plan.claim(number).exists()):
                self._act(fault, path)

    def _claims(self, number: int) -> bool:
        try:
            self.plan.claim(number).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _act(self, fault: WriteFault, path: str) -> None:
        if fault.action == "slow":
            time.sleep(SLOW_SECONDS)
            return
        if number := _ERROR_NUMBERS.get(fault.action):
            raise OSError(number, os.strerror(number), self.root + path)
        if fault.delay:
            signal.setitimer(signal.ITIMER_REAL, fault.delay)
            return
        if fault.target in ("parent", "both"):
            os.kill(os.getppid(), fault.signal)
        if fault.target in ("self", "both"):
            os.kill(os.getpid(), fault.signal)
