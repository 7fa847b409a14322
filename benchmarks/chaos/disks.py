"""Full, read-only and slow disks and unwritable logs: simulated at a write, by a limit on the size of files, and by a
small file system."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.chaos.command import Attempt, Bench, limit_file_size, needs, with_descendants
from benchmarks.chaos.kills import Write, aimed_kills
from benchmarks.chaos.outcome import Ending, Outcome, settle

WORDS = ("No space left", "File too large", "room", "space", "full", "Read-only file system")
"""Words of a message about a disk that cannot be written."""
DISK_ACTIONS = ("full", "read-only", "slow")


def run_full(bench: Bench, writes: Sequence[Write], rng: random.Random, count: int) -> Iterator[Outcome]:
    """A disk that is full, read-only or slow from one write on, until the same command runs again."""
    for number, fault in enumerate(aimed_kills([write for write in writes if write[1] != "remove"], rng, count)):
        action = DISK_ACTIONS[number % len(DISK_ACTIONS)]
        event, path = ("any", "*") if action == "slow" else (fault.event, fault.path)
        full = replace(fault, event=event, path=path, action=action, target="self", delay=0.0)
        graph = needs(bench.reference)
        bench.reset(without=with_descendants([name for name in graph if name in full.path] or list(graph), graph))
        attempt = bench.run(faults=[full])
        if attempt.acted:
            yield _judge(bench, attempt, kind=f"{action} disk at {full.event}", fault=str(full))


def run_limited(bench: Bench, rng: random.Random, count: int) -> Iterator[Outcome]:
    """A limit on the size of each file, which fails in the middle of a write."""
    sizes = sorted(path.stat().st_size for path in bench.reference.rglob("*") if path.is_file())
    for _ in range(count):
        size = int(rng.choice(sizes) * rng.uniform(0.2, 0.9)) + 1
        bench.reset(without=list(needs(bench.reference)))
        attempt = bench.run(disturb=limit_file_size(size))
        yield _judge(bench, attempt, kind="file larger than the limit", fault=f"RLIMIT_FSIZE {size}")


def run_small(bench: Bench, rng: random.Random, count: int) -> Iterator[Outcome]:
    """A file system that is smaller than the results; skipped where this user may not mount one."""
    total = sum(path.stat().st_size for path in bench.reference.rglob("*") if path.is_file())
    for _ in range(count):
        size = int(total * rng.uniform(0.05, 0.95)) >> 10
        shutil.rmtree(bench.store, ignore_errors=True)
        bench.store.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(bench.store)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            return
        saved = bench.project.root / "saved"
        shutil.rmtree(saved, ignore_errors=True)
        try:
            attempt = bench.run()
            shutil.copytree(bench.store, saved, symlinks=True)
        finally:
            subprocess.run(["umount", str(bench.store)], check=True)
        bench.store.rmdir()
        saved.rename(bench.store)
        yield _judge(bench, attempt, kind="small file system", fault=f"tmpfs of {size} kB")


def _replace_by_folder(log: Path) -> None:
    log.unlink(missing_ok=True)
    log.mkdir()


def _replace_by_full_device(log: Path) -> None:
    log.unlink(missing_ok=True)
    log.symlink_to("/dev/full")


LOGS: dict[str, Callable[[Path], None]] = {"a folder": _replace_by_folder, "a full device": _replace_by_full_device}


def run_logs(bench: Bench, rng: random.Random, count: int) -> Iterator[Outcome]:
    """The log of one step cannot be written; the others must be published."""
    graph = needs(bench.reference)
    for number in range(count):
        form = list(LOGS)[number % len(LOGS)]
        address = rng.choice(sorted(graph))
        removed = with_descendants([address], graph)
        bench.reset(without=list(graph))
        log = bench.store / "logs" / f"{address}.log"
        LOGS[form](log)
        attempt = bench.run()
        independent = sorted(set(graph) - set(removed))
        missing = [name for name in independent if not (bench.store / "steps" / name).is_dir()]
        shutil.rmtree(log) if log.is_dir() and not log.is_symlink() else log.unlink(missing_ok=True)
        ending, detail = settle(bench, [attempt])
        if ending == "same bytes" and missing:
            ending, detail = "stuck", f"not published: {', '.join(missing)}"
        if ending == "same bytes" and attempt.code:
            ending = "named" if log.name in attempt.output else "silent"
        yield Outcome(
            study=bench.project.name, kind=f"log is {form}", fault=f"logs/{address}.log", ending=ending, detail=detail
        )


def _judge(bench: Bench, attempt: Attempt, *, kind: str, fault: str) -> Outcome:
    """A disturbed run that failed must say that room is missing; the same command then ends with the same bytes."""
    ending: Ending
    ending, detail = settle(bench, [attempt])
    if ending == "same bytes" and attempt.code:
        is_named = any(word in attempt.output for word in WORDS)
        ending, detail = ("named", "") if is_named else ("silent", attempt.output[-1500:])
    return Outcome(study=bench.project.name, kind=kind, fault=fault, ending=ending, detail=detail)
