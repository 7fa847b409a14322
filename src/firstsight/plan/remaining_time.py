"""Remaining time of a run: the schedule of its unfinished steps, from planned costs and the speeds measured so far."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from firstsight.plan.estimate import estimate_step
from firstsight.plan.step import Step
from firstsight.recipe.stages import TrunkSegment
from firstsight.site import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class _KindSpeed:
    """The speed of a kind of step on one core, measured at the scales smoke and cpu."""

    overhead: float = 0.2
    """Fixed seconds of each step, for opening inputs and publishing the result."""
    flops: float = 1.3e11
    items: float = 5e3


_SPEEDS = {
    **dict.fromkeys(("pretrain", "midtrain", "finetune"), _KindSpeed(overhead=0.8)),
    "contrast": _KindSpeed(overhead=3.0, flops=3.7e10),
    "encode": _KindSpeed(flops=1e11, items=1e4),
    "evaluate": _KindSpeed(overhead=0.3, flops=4e11, items=2.6e3),
    "benchmarks": _KindSpeed(items=200.0),
    **dict.fromkeys(("dialogues", "multitask"), _KindSpeed(items=3e3)),
}
"""Only the ratios within a group of kinds matter: each run measures the speed of a group itself."""
COMPUTE_KINDS = {"pretrain", "midtrain", "finetune", "contrast", "encode", "evaluate"}
"""Kinds whose speed depends on the device; all others depend on the CPU and the disk. One group has one speed."""
DEFAULT_STARTUP = 0.5
"""Assumed seconds from the start of a step to its first progress report, until a run has measured it."""
GROUP_WEIGHT = 0.3
"""Weight of the group's speed in the estimate of a kind, in units of one whole measured step of that kind."""
LIVE_WEIGHT, LIVE_WEIGHT_NEW_KIND = 0.5, 0.05
"""Weight of the kind's speed in the estimate of a running step, in whole steps: after a step of the kind has finished,
and before."""


class _Measured(NamedTuple):
    """Work of one kind or group of kinds: the seconds that it took, and those that were expected."""

    seconds: float = 0.0
    expected: float = 0.0


@dataclass(kw_only=True, slots=True)
class _RunningStep:
    """When a running step started, and its first and last progress as (seconds on the clock, fraction done)."""

    started: float
    first: tuple[float, float] | None = None
    last: tuple[float, float] | None = None

    def progress(self) -> tuple[float, float]:
        """Seconds between the first and the last progress, and the fraction of the step that was done in them."""
        if self.first is None or self.last is None:
            return 0.0, 0.0
        return self.last[0] - self.first[0], max(self.last[1] - self.first[1], 0.0)


class RemainingTime:
    """Estimates the seconds until the end of a run. `time` is in seconds on any monotonic clock."""

    def __init__(self, *, workers: int) -> None:
        self._workers = workers
        self._running: dict[Step, _RunningStep] = {}
        self._finished: list[tuple[Step, float, float]] = []
        """Finished steps: measured seconds, and the fraction that was done in them."""
        self._startups: dict[str, float] = {}
        """Seconds to the first progress, by kind: the shortest, since only the first step of a kind compiles."""

    def start(self, step: Step, *, time: float) -> None:
        """A worker has started a step."""
        self._running[step] = _RunningStep(started=time)

    def report(self, step: Step, progress: Progress, *, time: float) -> None:
        """A running step has made progress."""
        running = self._running[step]
        running.last = (time, _fraction(step, progress))
        running.first = running.first or running.last

    def finish(self, step: Step, *, time: float) -> None:
        """A step has ended with a result; its duration updates the speed of its kind."""
        running = self._running.pop(step)
        start, done = running.first or (running.started, 0.0)
        if done > 0.99:  # its only progress was its end
            start, done = running.started, 0.0
        else:
            startup = start - running.started
            self._startups[step.kind] = min(startup, self._startups.get(step.kind, startup))
        self._finished.append((step, time - start, 1 - done))

    def drop(self, step: Step) -> None:
        """A step has ended without a result."""
        self._running.pop(step, None)

    def step_seconds(self, steps: Collection[Step]) -> dict[Step, float]:
        """Seconds of each step from its start to its end, by the finished steps; none of kinds without a speed yet."""
        measured = self._measured()
        has_speed = {step: measured[_group(step.kind)].expected > 0 for step in steps}
        return {step: self._startup(step) + _work_seconds(step, measured) for step in steps if has_speed[step]}

    def seconds_left(self, waiting: Sequence[Step], *, time: float) -> float | None:
        """Seconds until all running and waiting steps are done; None until all speeds that they need are measured.

        `waiting`: in the order in which steps start when a worker is free and their parents are done.
        """
        measured = self._measured()
        if not all(measured[_group(step.kind)].expected for step in (*self._running, *waiting)):
            return None
        remaining = {step: self._remaining_seconds(step, measured, time) for step in self._running}
        remaining |= {step: self._startup(step) + _work_seconds(step, measured) for step in waiting}
        return _schedule(waiting, self._running, remaining, workers=self._workers)

    def _measured(self) -> Mapping[str, _Measured]:
        measured: defaultdict[str, _Measured] = defaultdict(_Measured)
        running = [(step, *state.progress()) for step, state in self._running.items()]
        for step, seconds, fraction in (*self._finished, *running):
            for key in (step.kind, _group(step.kind)):
                total_seconds, total_expected = measured[key]
                measured[key] = _Measured(total_seconds + seconds, total_expected + fraction * expected_seconds(step))
        return measured

    def _startup(self, step: Step) -> float:
        return self._startups.get(step.kind, min(self._startups.values(), default=DEFAULT_STARTUP))

    def _remaining_seconds(self, step: Step, measured: Mapping[str, _Measured], time: float) -> float:
        """Seconds left of a running step: by its kind's speed and its own, which counts more as it progresses."""
        running, work = self._running[step], _work_seconds(step, measured)
        seconds, fraction = running.progress()
        if running.last is None:
            total = self._startup(step) + work
            return max(total - (time - running.started), 0.1 * total)
        if fraction > 0:
            weight = LIVE_WEIGHT if step.kind in self._startups else LIVE_WEIGHT_NEW_KIND
            work = (weight * work + seconds) / (weight + fraction)
        left = (1 - running.last[1]) * work
        return max(left - (time - running.last[0]), 0.1 * left)


def _group(kind: str) -> str:
    return "compute" if kind in COMPUTE_KINDS else "data"


@cache
def expected_seconds(step: Step) -> float:
    """Seconds of a step on one core of the machine where `_SPEEDS` was measured."""
    speed, cost = _SPEEDS.get(step.kind, _KindSpeed()), estimate_step(step)
    return speed.overhead + cost.flops / speed.flops + cost.items / speed.items


def _work_seconds(step: Step, measured: Mapping[str, _Measured]) -> float:
    """Seconds of a whole step without its startup: by the speed of its kind, with that of its group as a prior."""
    kind, group, expected = measured[step.kind], measured[_group(step.kind)], expected_seconds(step)
    prior = GROUP_WEIGHT * expected
    return expected * (kind.seconds + prior * group.seconds / group.expected) / (kind.expected + prior)


def _fraction(step: Step, progress: Progress) -> float:
    """The fraction of a step that is done. A trunk segment reports tokens of the whole trunk, not from 0."""
    start = step.spec.pretrain.tokens_at(step.spec.start) if isinstance(step.spec, TrunkSegment) else 0
    return min(max((progress.done - start) / max(progress.total - start, 1), 0.0), 1.0)


def _schedule(waiting: Sequence[Step], running: Collection[Step], left: Mapping[Step, float], *, workers: int) -> float:
    """When the last step ends, if each free worker takes the first waiting step whose parents are done."""
    queue, unfinished, time = list(waiting), {*running, *waiting}, 0.0
    ends = [(left[step], number, step) for number, step in enumerate(running)]
    heapq.heapify(ends)
    while ends or queue:
        ready = (step for step in tuple(queue) if not any(parent in unfinished for _, parent in step.needs))
        while len(ends) < workers and (step := next(ready, None)) is not None:
            queue.remove(step)
            heapq.heappush(ends, (time + left[step], len(running) + len(queue), step))
        if not ends:
            break  # what is left needs a step that failed
        time, _, step = heapq.heappop(ends)
        unfinished.discard(step)
    return time
