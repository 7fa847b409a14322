"""The time left, replayed: a run at cpu scale from recorded times of its steps, and a recorded run at smoke scale."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from firstsight.plan.graph import Graph, build_graph
from firstsight.plan.remaining_time import RemainingTime
from firstsight.plan.step import Step
from firstsight.recipe.scales import get_scale
from firstsight.recipe.stages import TrunkSegment
from firstsight.site import Progress
from firstsight.studies.when import when

CPU = {
    "vocabulary": 0.1,
    "texts": 9.7,
    "prepare-texts": 4.6,
    "pretrain": 28.6,
    "benchmarks": 3.4,
    "evaluate-6-tasks": 3.5,
    "captions-rich": 6.5,
    "prepare-captions-rich": 7.9,
    "contrast": 156.3,
    "encode-captions-rich": 6.1,
    "dialogues": 9.1,
    "prepare-dialogues": 10.0,
    "encode-dialogues": 8.1,
    "midtrain": 52.2,
    "finetune": 70.1,
    "evaluate-14-tasks": 11.8,
}
"""Processor seconds of each kind of step of `when` at scale cpu, on one core; by address or by kind."""
COMPILE_SECONDS = 20.0
"""What the first training step of a run takes longer than the next ones."""

SMOKE = """
texts 0.0 0.9 0.89 1.0; vocabulary 0.0 0.6 1.00 0.6; captions-rich 0.6 1.1 1.00 1.1;
prepare-texts 1.0 1.6 1.00 1.7; contrast 1.1 10.0 0.10 17.2; pretrain-000-020 1.7 7.2 0.25 8.7;
pretrain-020-040 8.7 9.7 0.25 11.6; pretrain-040-060 11.6 12.8 0.25 14.9; pretrain-060-080 14.9 16.1 0.25 17.9;
prepare-captions-rich 17.2 18.4 0.00 18.6; pretrain-080-100 17.9 19.2 0.38 20.7;
encode-captions-rich 18.6 19.7 1.00 19.8; midtrain-080-images 19.8 21.2 0.10 26.9;
midtrain-080-images 20.7 21.9 0.10 27.6; midtrain-080-images 26.9 28.3 0.10 32.7;
midtrain-080-images 27.6 28.8 0.10 33.5; midtrain-080-images 32.7 34.0 0.15 38.1;
midtrain-080-images 33.5 34.7 0.15 39.1; dialogues 38.1 39.0 1.00 39.1; prepare-dialogues 39.1 40.1 0.00 40.3;
benchmarks 39.1 40.1 0.95 40.5; encode-dialogues 40.3 41.4 1.00 41.4; evaluate-6-tasks 40.5 42.0 0.89 42.2;
finetune-1-epoch 41.4 42.6 0.10 48.1; finetune-1-epoch 42.2 43.3 0.10 48.5; finetune-1-epoch 48.1 49.5 0.10 55.9;
finetune-1-epoch 48.5 49.9 0.10 56.6; finetune-1-epoch 55.9 57.4 0.10 64.1; finetune-1-epoch 56.6 57.8 0.10 63.8;
evaluate-14-tasks 63.8 68.8 0.24 71.1; evaluate-14-tasks 64.1 65.5 0.24 67.8;
evaluate-14-tasks 67.8 68.9 0.24 71.1; evaluate-14-tasks 71.1 72.2 0.24 74.3;
evaluate-14-tasks 71.1 72.1 0.24 74.0; evaluate-14-tasks 74.0 74.9 0.24 76.5
"""
"""A run at smoke scale with two workers on a busy machine: each step's start, first progress with the fraction that was
done by then, and end, in seconds."""


def _graph(scale: str) -> Graph:
    return build_graph(when(get_scale(scale)))


def _progress(step: Step, fraction: float) -> Progress:
    """As handlers report it: a trunk's segment in tokens of the whole trunk."""
    if not isinstance(step.spec, TrunkSegment):
        return Progress(done=round(1000 * fraction), total=1000, unit="tokens")
    start, end = (step.spec.pretrain.tokens_at(share) for share in (step.spec.start, step.spec.end))
    return Progress(done=start + round(fraction * (end - start)), total=end, unit="tokens")


@dataclass(kw_only=True)
class Replay:
    """A run in which each step takes its prescribed seconds; the estimate at every event."""

    graph: Graph
    workers: int
    slowness: float = 1.0
    noise: float = 0.0
    seed: int = 0
    is_compiled: bool = False
    started: int = 0
    estimates: list[tuple[float, float | None]] = field(default_factory=list)

    def _seconds(self, step: Step, chance: random.Random) -> tuple[float, float]:
        """Until the first progress, and from there to the end."""
        seconds = CPU.get(step.slug) or CPU[step.kind]
        startup = 1.5 if self.started < self.workers else 0.3
        if step.kind in ("pretrain", "midtrain") and not self.is_compiled:
            startup, self.is_compiled = startup + COMPILE_SECONDS, True
        scale = self.slowness * (1 + self.noise * chance.uniform(-1, 1))
        return startup * scale, seconds * scale

    def run(self) -> list[tuple[float, float | None]]:
        """(seconds, estimated seconds left) at every event; the last one is the end."""
        chance, estimate = random.Random(self.seed), RemainingTime(workers=self.workers)
        waiting, unfinished = list(self.graph.steps), set(self.graph.steps)
        events: list[tuple[float, int, Step, float]] = []
        running, now = 0, 0.0
        while unfinished:
            for step in tuple(waiting):
                if running < self.workers and not any(parent in unfinished for _, parent in step.needs):
                    waiting.remove(step)
                    estimate.start(step, time=now)
                    startup, work = self._seconds(step, chance)
                    for tick in range(21):
                        time = now + startup + work * tick / 20
                        heapq.heappush(events, (time, 100 * self.started + tick, step, tick / 20))
                    running, self.started = running + 1, self.started + 1
            now, _, step, fraction = heapq.heappop(events)
            estimate.report(step, _progress(step, fraction), time=now)
            if fraction == 1:
                estimate.finish(step, time=now)
                unfinished.discard(step)
                running -= 1
            self.estimates.append((now, estimate.seconds_left(waiting, time=now)))
        return self.estimates


@pytest.mark.parametrize(
    ("workers", "slowness", "noise"), [(2, 1.0, 0.0), (2, 1.0, 0.3), (2, 4.0, 0.2), (1, 1.0, 0.2), (4, 1.5, 0.3)]
)
def test_after_a_minute_the_estimate_is_right_within_30_percent(workers: int, slowness: float, noise: float) -> None:
    estimates = Replay(graph=_graph("cpu"), workers=workers, slowness=slowness, noise=noise).run()
    end = estimates[-1][0]
    assert estimates[-1][1] == 0
    late = [(now, left) for now, left in estimates if now > 60 * max(slowness, 1) and end - now > 10 * slowness]
    assert len(late) > 200
    assert not [(now, left, end - now) for now, left in late if left is None or not 0.7 < left / (end - now) < 1.3]
    last = [(now, left) for now, left in estimates if end - now <= 10 * slowness]
    assert all(left is not None and abs(left - (end - now)) < 6 * slowness for now, left in last)


def test_before_training_was_measured_nothing_is_said() -> None:
    graph = _graph("cpu")
    estimate = RemainingTime(workers=2)
    texts = next(step for step in graph.steps if step.kind == "texts")
    estimate.start(texts, time=0.0)
    estimate.report(texts, Progress(done=1, total=2, unit="documents"), time=4.0)
    estimate.finish(texts, time=9.0)
    waiting = [step for step in graph.steps if step != texts]
    assert estimate.seconds_left(waiting, time=9.0) is None
    assert estimate.seconds_left([], time=9.0) == 0


def _recorded() -> Iterator[tuple[float, int, Step, float | None]]:
    """The recorded events: (seconds, 0 for a start, 1 for progress, 2 for an end; step, fraction done)."""
    steps: dict[str, list[Step]] = {}
    for step in _graph("smoke").steps:
        steps.setdefault(step.slug, []).append(step)
    for entry in SMOKE.replace("\n", " ").split(";"):
        slug, start, first, fraction, end = entry.split()
        step = steps[slug].pop(0)
        yield float(start), 0, step, None
        yield float(first), 1, step, float(fraction)
        yield float(end), 2, step, None


def test_a_recorded_run_at_smoke_scale_is_predicted_from_its_first_training_step_on() -> None:
    events = sorted(_recorded(), key=lambda event: event[:2])
    estimate, waiting, total = (
        RemainingTime(workers=2),
        [step for _, kind, step, _ in events if not kind],
        events[-1][0],
    )
    for now, kind, step, fraction in events:
        if fraction is not None:
            estimate.report(step, _progress(step, fraction), time=now)
        elif kind == 0:
            waiting.remove(step)
            estimate.start(step, time=now)
        else:
            estimate.finish(step, time=now)
        left = estimate.seconds_left(waiting, time=now)
        if now > 9:
            assert left is not None and 0.6 * (total - now) - 2 < left < max(1.5 * (total - now), total - now + 12)


def test_a_chain_takes_as_long_as_its_steps_one_after_the_other() -> None:
    """Four equal trunk segments: two workers are no faster than one."""
    graph = _graph("smoke")
    segments = [step for step in graph.steps if step.kind == "pretrain"]
    first, *others = segments
    lefts = []
    for workers in (1, 2):
        estimate = RemainingTime(workers=workers)
        estimate.start(first, time=0.0)
        estimate.report(first, _progress(first, 0.0), time=1.0)
        estimate.finish(first, time=3.0)
        lefts.append(estimate.seconds_left(others, time=3.0))
    assert lefts[0] == lefts[1] == pytest.approx(len(others) * (1 + 2), rel=0.05)


def test_steps_of_finished_kinds_take_as_long_as_those_did() -> None:
    """Steps of the second seed of a study are equal to those of the first one, so take what those took."""
    graph = build_graph(when(replace(get_scale("smoke"), seeds=2)))
    speeds, seconds = RemainingTime(workers=1), {}
    for number, step in enumerate(graph.arms["start-080.s1"]):
        seconds[step.slug] = CPU.get(step.kind, 5.0)
        speeds.start(step, time=100.0 * number)
        speeds.finish(step, time=100.0 * number + seconds[step.slug])
    second = [step for step in graph.arms["start-080.s2"] if step not in graph.arms["start-080.s1"]]
    estimates = speeds.step_seconds(second)
    assert estimates.keys() == set(second)
    assert sum(estimates.values()) == pytest.approx(sum(seconds[step.slug] for step in second), rel=0.15)
    assert RemainingTime(workers=1).step_seconds(second) == {}
