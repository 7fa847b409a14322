"""A clock that jumps: each reading of the time of day in a command is a day early, right, or a year late."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo

from benchmarks.chaos.command import Bench, needs
from benchmarks.chaos.outcome import Outcome, settle

JUMPS = (-86_400.0, 0.0, 365 * 86_400.0)
"""Seconds."""


def install(seed: int) -> None:
    """Let the clock of this process and of its forks jump; the times of files are those of the kernel."""
    rng, true_time = random.Random(seed), time.time

    class JumpingDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> JumpingDatetime:
            return super().now(tz) + timedelta(seconds=rng.choice(JUMPS))

    time.time = lambda: true_time() + rng.choice(JUMPS)
    for name, module in tuple(sys.modules.items()):
        if name.startswith("firstsight.") and vars(module).get("datetime") is datetime:
            module.__dict__["datetime"] = JumpingDatetime


def run_clock(bench: Bench, rng: random.Random, count: int) -> Iterator[Outcome]:
    """A whole run, its report and a check of the store under such a clock; then the same command as always."""
    for _ in range(count):
        seed = rng.randrange(2**32)
        bench.reset(without=list(needs(bench.reference)))
        attempts = [bench.run(clock_seed=seed), bench.doctor(repair=False)]
        ending, detail = settle(bench, attempts)
        if any(attempt.code for attempt in attempts):
            ending, detail = "stuck", " ".join(attempt.output[-1000:] for attempt in attempts)
        yield Outcome(study=bench.project.name, kind="clock jumps", fault=f"seed {seed}", ending=ending, detail=detail)
