"""Kills: at a moment of writing, and at any time, of a worker, of the command and of both."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from benchmarks.chaos.command import Attempt, Bench, Disturbance, children, needs, with_descendants
from benchmarks.chaos.outcome import Outcome, settle
from benchmarks.chaos.processes import ForkedProcess
from benchmarks.chaos.writes import WriteFault

SERIES = 5
"""Faults between two checks of the bytes."""
Write = tuple[str, str, str]
"""Role, event and path of a write of the undisturbed run."""
_RANDOM_PART = re.compile(r"(?<=\.)[0-9a-f]{8}(?=\.|$)")
_DELAYS = (0.0, 0.0, 0.0002, 0.001, 0.005)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedKill:
    """A signal after `share` of the time that the undisturbed command takes."""

    target: str
    """worker, command, or all: the command and its workers at once."""
    signal: int
    share: float


def aimed_kills(writes: Sequence[Write], rng: random.Random, count: int) -> list[WriteFault]:
    """Kills at writes of an undisturbed run, spread evenly over the kinds of (step, event, file)."""
    kinds: dict[tuple[str, str, str], list[WriteFault]] = {}
    numbers: dict[Write, int] = {}
    for role, event, path in writes:
        pattern = _RANDOM_PART.sub("*", path)
        numbers[role, event, pattern] = number = numbers.get((role, event, pattern), 0) + 1
        fault = WriteFault(role="worker" if role == "worker" else "command", event=event, path=pattern, number=number)
        kinds.setdefault((role, event, re.sub(r"[0-9a-f]{12}|\d+", "#", pattern)), []).append(fault)
    chosen: list[WriteFault] = []
    names = sorted(kinds)
    rng.shuffle(names)
    while len(chosen) < count:
        for name in names[: count - len(chosen)]:
            target = rng.choice(("self", "self", "parent", "both")) if name[0] == "worker" else "self"
            chosen.append(replace(rng.choice(kinds[name]), target=target, delay=rng.choice(_DELAYS)))
    return [replace(fault, delay=0.0) if fault.target != "self" else fault for fault in chosen]


def timed_kills(rng: random.Random, count: int) -> list[TimedKill]:
    """Kills at random times."""
    kinds = [
        *(("worker", signal.SIGKILL), ("worker", signal.SIGTERM), ("command", signal.SIGKILL), ("all", signal.SIGKILL)),
        *(("command", signal.SIGTERM), ("command", signal.SIGINT), ("command", signal.SIGHUP)),
    ]
    return [
        TimedKill(target=target, signal=int(number), share=rng.uniform(0.1, 1.0))
        for target, number in (kinds[n % len(kinds)] for n in range(count))
    ]


def run_aimed(bench: Bench, faults: Sequence[WriteFault]) -> Iterator[Outcome]:
    """Apply kills at writes, several in a series; each alone again where a series fails."""
    for series in _series_by_step(bench, faults):
        outcomes = list(_judge_series(bench, series))
        if len(series) > 1 and any(outcome.ending != "same bytes" for outcome in outcomes):
            outcomes = [outcome for fault in series for outcome in _judge_series(bench, [fault])]
        yield from outcomes


def _series_by_step(bench: Bench, faults: Sequence[WriteFault]) -> Iterator[list[WriteFault]]:
    """Faults of one step, or of the store, together."""
    ordered = sorted(faults, key=_address_of)
    for start in range(0, len(ordered), SERIES):
        yield ordered[start : start + SERIES]


def _address_of(fault: WriteFault) -> str:
    parts = fault.path.split("/")
    return re.sub(r"\.(json|log|lease|owner)$", "", parts[1]).strip(".") if len(parts) > 1 else ""


def _judge_series(bench: Bench, faults: Sequence[WriteFault]) -> Iterator[Outcome]:
    graph = needs(bench.reference)
    addresses = [name for fault in faults for name in graph if name in fault.path]
    if all(any(name in fault.path for name in graph) for fault in faults):
        bench.reset(without=with_descendants(addresses, graph))
    else:
        bench.reset(without=list(graph))
    attempts, waiting = list[Attempt](), list(faults)
    while waiting:
        attempts.append(bench.run(faults=waiting))
        if not attempts[-1].acted:
            break
        waiting = [fault for fault in waiting if fault not in attempts[-1].acted]
    ending, detail = settle(bench, attempts)
    for fault in faults:
        if fault not in waiting:
            kind = f"{_signal_name(fault.signal)} of {_TARGETS[fault.role, fault.target]} at {fault.event}"
            yield Outcome(study=bench.project.name, kind=kind, fault=str(fault), ending=ending, detail=detail)


_TARGETS = {
    ("worker", "self"): "the worker",
    ("worker", "parent"): "the command",
    ("worker", "both"): "both",
    ("command", "self"): "the command",
}


def run_timed(bench: Bench, kills: Sequence[TimedKill], seconds: float) -> Iterator[Outcome]:
    """Apply kills at random times of a run from nothing that takes `seconds`, several in a series."""
    for start in range(0, len(kills), SERIES):
        series = kills[start : start + SERIES]
        bench.reset(without=list(needs(bench.reference)))
        attempts = [bench.run(disturb=_kill_after(kill, kill.share * seconds)) for kill in series]
        ending, detail = settle(bench, attempts)
        for kill in series:
            kind = f"{_signal_name(kill.signal)} of {_TIMED_TARGETS[kill.target]} at any time"
            yield Outcome(study=bench.project.name, kind=kind, fault=str(kill), ending=ending, detail=detail)


_TIMED_TARGETS = {"worker": "the worker", "command": "the command", "all": "both"}


def _kill_after(kill: TimedKill, seconds: float) -> Disturbance:
    def disturb(process: ForkedProcess) -> None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        workers = children(process.pid)
        pids = {"worker": workers[:1], "command": [process.pid], "all": [process.pid, *workers]}[kill.target]
        for pid in pids if process.poll() is None else ():
            with suppress(ProcessLookupError):
                os.kill(pid, kill.signal)

    return disturb


def _signal_name(number: int) -> str:
    return signal.Signals(number).name
