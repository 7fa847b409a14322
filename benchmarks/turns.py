"""Works that are measured side by side, each in a process of its own, with the memory it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Step = Callable[[], object]
Build = Callable[[], Step]
"""Makes a step, in the process that is to run it."""
WARM = 2


@dataclass(frozen=True, kw_only=True)
class Took:
    """What a side needed: its fastest step, its highest memory, and that over what it held before its first step."""

    seconds: float
    peak_mib: float
    grown_mib: float


def in_turns(sides: Sequence[Build], rounds: int) -> list[Took]:
    """One step of each side after the other, so that what else the machine does hurts all alike."""
    context, wires = get_context("spawn"), list[Any]()
    for build in sides:
        wire, end = context.Pipe()
        context.Process(target=_side, args=(end, build), daemon=True).start()
        wire.recv()
        wires.append(wire)
    seconds = [float("inf")] * len(wires)
    for _ in range(rounds):
        for place, wire in enumerate(wires):
            wire.send(True)
            seconds[place] = min(seconds[place], wire.recv())
    found: list[Took] = []
    for fastest, wire in zip(seconds, wires, strict=True):
        wire.send(False)
        peak, before = wire.recv()
        found.append(Took(seconds=fastest, peak_mib=peak, grown_mib=peak - before))
    return found


def _side(wire: Any, build: Build) -> None:
    step = build()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    for _ in range(WARM):
        step()
    wire.send(None)
    while wire.recv():
        begin = time.perf_counter()
        step()
        wire.send(time.perf_counter() - begin)
    wire.send((_status("VmHWM"), before))


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(name))
