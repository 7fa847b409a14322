"""How the benchmarks measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def fastest(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of the fastest of `repeats` runs of each, taken in turns: what else the machine does hurts all alike."""
    times = [float("inf")] * len(works)
    for _ in range(repeats):
        for place, work in enumerate(works):
            begin = time.perf_counter()
            work()
            times[place] = min(times[place], time.perf_counter() - begin)
    return times
