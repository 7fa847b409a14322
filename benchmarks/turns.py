"""Works that are measured side by side, each in a process of its own, with the memory it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], object]
Build = Callable[[], Step]
"""Makes a step, in the process that is to run it."""
WARM = 2


@dataclass(frozen=True, kw_only=True)
class Took:
    """What a side needed: its fastest step, its highest memory, and that over what it held before its first step.

    Memory is the process's on a CPU, and what it has of the GPU's where it uses one.
    """

    seconds: float
    peak_mib: float
    grown_mib: float


def in_turns(sides: Sequence[Build], rounds: int) -> list[Took]:
    """One step of each side after the other, so that what else the machine does hurts all alike."""
    context, wires = get_context("spawn"), list[Any]()
    for build in sides:
        wire, end = context.Pipe()
        context.Process(target=_side, args=(end, build), daemon=True).start()
        end.close()  # so that a side that dies is heard of
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
    memory = _Gpu() if torch.cuda.is_initialized() else _Process()
    for _ in range(WARM):
        step()
    wire.send(None)
    while wire.recv():
        memory.wait()
        begin = time.perf_counter()
        step()
        memory.wait()
        wire.send(time.perf_counter() - begin)
    wire.send((memory.peak(), memory.before))


class _Process:
    """MiB of this process; its peak begins anew."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = self._status("VmRSS")

    def wait(self) -> None:
        """A CPU is done when it returns."""

    def peak(self) -> float:
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(name))


class _Gpu:
    """MiB of this process's tensors on the GPU, whose work goes on after a call returns."""

    def __init__(self) -> None:
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated() / 2**20

    def wait(self) -> None:
        torch.cuda.synchronize()

    def peak(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**20
