"""Interleaved measurement of time and memory; each candidate runs in a separate process."""

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
"""Builds a step in the process that runs it."""
WARMUP_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Minimum step time, peak memory, and peak memory minus the memory before the first step.

    Memory is resident memory on a CPU and allocated device memory on a GPU.
    """

    seconds: float
    peak_mib: float
    growth_mib: float


def measure_interleaved(builds: Sequence[Build], rounds: int) -> list[Measurement]:
    """Measure the steps round-robin, which exposes all candidates to the same background load."""
    context, connections = get_context("spawn"), list[Any]()
    for build in builds:
        connection, child_connection = context.Pipe()
        context.Process(target=_worker, args=(child_connection, build), daemon=True).start()
        child_connection.close()  # recv() then raises EOFError if the worker dies
        connection.recv()
        connections.append(connection)
    seconds = [float("inf")] * len(connections)
    for _ in range(rounds):
        for index, connection in enumerate(connections):
            connection.send(True)
            seconds[index] = min(seconds[index], connection.recv())
    measurements: list[Measurement] = []
    for fastest, connection in zip(seconds, connections, strict=True):
        connection.send(False)
        peak, before = connection.recv()
        measurements.append(Measurement(seconds=fastest, peak_mib=peak, growth_mib=peak - before))
    return measurements


def _worker(connection: Any, build: Build) -> None:
    step = build()
    memory = _Gpu() if torch.cuda.is_initialized() else _Process()
    for _ in range(WARMUP_STEPS):
        step()
    connection.send(None)
    while connection.recv():
        memory.wait()
        start = time.perf_counter()
        step()
        memory.wait()
        connection.send(time.perf_counter() - start)
    connection.send((memory.peak(), memory.initial))


class _Process:
    """Resident memory of this process in MiB; resets the peak."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.initial = self._status("VmRSS")

    def wait(self) -> None:
        """CPU operations are synchronous."""

    def peak(self) -> float:
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(name))


class _Gpu:
    """Memory allocated by PyTorch on the GPU in MiB; kernels run asynchronously."""

    def __init__(self) -> None:
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        self.initial = torch.cuda.memory_allocated() / 2**20

    def wait(self) -> None:
        torch.cuda.synchronize()

    def peak(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**20
