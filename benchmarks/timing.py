"""Timing shared by the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def min_seconds(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Minimum wall-clock seconds of each function over `repeats` interleaved runs.

    Interleaving exposes all functions to the same background load.
    """
    times = [float("inf")] * len(functions)
    for _ in range(repeats):
        for index, function in enumerate(functions):
            start = time.perf_counter()
            function()
            times[index] = min(times[index], time.perf_counter() - start)
    return times
