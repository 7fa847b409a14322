"""The command under test: started in a session of its own, with faults in its processes, and what it leaves."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from benchmarks.chaos.processes import ForkedProcess, start_command
from benchmarks.chaos.projects import Project
from benchmarks.chaos.writes import WriteFault, WritePlan

TIME_LIMIT = 240.0
"""Seconds after which a command counts as stuck."""
OUTPUT_BYTES = 1 << 20
"""More output than a command ever has."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one command ended: its exit code (-n after signal n) and everything that it printed."""

    code: int
    output: str
    acted: tuple[WriteFault, ...] = ()
    """The faults that have acted."""

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output


Disturbance = Callable[[ForkedProcess], None]
"""What is done to a running command."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A project with the store of its undisturbed run, and the store that faults are applied to."""

    project: Project

    @property
    def store(self) -> Path:
        """Always at the same path, so that results cannot differ by it."""
        return self.project.root / "runs"

    @property
    def reference(self) -> Path:
        return self.project.root / "reference"

    def run(
        self,
        *words: str,
        faults: Sequence[WriteFault] = (),
        record: Path | None = None,
        disturb: Disturbance | None = None,
        clock_seed: int | None = None,
    ) -> Attempt:
        """Run the study, or another command in `words`, with faults; both output streams together.

        `clock_seed`: of the jumps of its clock (`chaos.clock`); None for the machine's.
        """
        words = words or ("run", self.project.study, "--scale", self.project.scale, "--out", str(self.store), *JOBS)
        claims = self.project.root / "claims"
        shutil.rmtree(claims, ignore_errors=True)
        claims.mkdir()
        plan = WritePlan(store=self.store, claims=claims, faults=faults, record=record, clock_seed=clock_seed)
        environment = {"FIRSTSIGHT_SITE": str(self.project.site), "NO_COLOR": "1", "COLUMNS": "400"}
        output, write_end = os.pipe()  # a file would be cut by a limit on the size of files
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, OUTPUT_BYTES)
        process = start_command(words, folder=self.project.root, environment=environment, output=write_end, plan=plan)
        os.close(write_end)
        try:
            if disturb:
                disturb(process)
            code = process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            code = 124
        finally:
            kill_all(process)
        os.set_blocking(output, False)
        with os.fdopen(output, errors="replace") as file:
            text = file.read()
        return Attempt(code, text, tuple(fault for fault in faults if plan.has_acted(fault)))

    def report(self) -> Attempt:
        """Write the report again from what is stored."""
        return self.run("report", self.project.study, "--scale", self.project.scale, "--out", str(self.store))

    def doctor(self, *, repair: bool) -> Attempt:
        """Check the whole store, and with `repair` run again what is damaged."""
        return self.run("doctor", "--store", str(self.store), *(["--repair"] if repair else []))

    def reset(self, *, without: Sequence[str] = ()) -> None:
        """Make the store that of the undisturbed run, without the steps of these addresses."""
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.reference, self.store, symlinks=True)
        for address in without:
            shutil.rmtree(self.store / "steps" / address)
            for file in (*self.store.glob(f"provenance/{address}.json"), *self.store.glob(f"verified/{address}.json")):
                file.unlink()

    def make_reference(self) -> list[tuple[str, str, str]]:
        """Run the study undisturbed; the role, kind and path of every write to its store, in order."""
        shutil.rmtree(self.store, ignore_errors=True)
        record = self.project.root / "writes.txt"
        attempt = self.run(record=record)
        if attempt.code or attempt.has_traceback:
            raise SystemExit(f"{self.project.name}: the undisturbed run failed:\n{attempt.output}")
        shutil.rmtree(self.reference, ignore_errors=True)
        shutil.copytree(self.store, self.reference, symlinks=True)
        lines = record.read_text().splitlines()
        record.unlink()
        return [(role, event, path) for role, event, path in (line.split("\t", 2) for line in lines)]


JOBS = ("--jobs", "2")


def children(pid: int) -> list[int]:
    """The process ids of the children of a process."""
    pids: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids += map(int, (task / "children").read_text().split())
    return pids


def kill_all(process: ForkedProcess) -> None:
    """End a command and its workers, and wait until they are gone."""
    pids = [process.pid, *children(process.pid)]
    pids += [grandchild for child in pids[1:] for grandchild in children(child)]
    for pid in pids if process.poll() is None else pids[1:]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids[1:]):
        time.sleep(0.01)


def limit_file_size(size: int) -> Disturbance:
    """No process of a command writes a file above `size` bytes from now on: EFBIG."""

    def disturb(process: ForkedProcess) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))

    return disturb


def published(store: Path) -> dict[str, str]:
    """The digest of every published file by its path below steps/; a link or an empty folder has its kind instead."""
    steps = store / "steps"
    return {path.relative_to(steps).as_posix(): _content(path) for path in sorted(steps.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_symlink():
        return "link"
    return "folder" if path.is_dir() else sha256(path.read_bytes()).hexdigest()


def needs(store: Path) -> dict[str, list[str]]:
    """The addresses that each step needs, by its address."""
    records = [json.loads(file.read_text()) for file in sorted((store / "provenance").glob("*.json"))]
    return {record["address"]: list(record["needs"].values()) for record in records}


def with_descendants(addresses: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The addresses and all that need them, directly or not, in a fixed order."""
    included = set(addresses)
    while True:
        added = {name for name, parents in needs.items() if included & set(parents)} - included
        if not added:
            return sorted(included)
        included |= added
