"""Run a graph: skip what is stored, run what is ready, and continue with independent steps after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from firstsight.errors import RequestError, StepFailed
from firstsight.leases import expired_state
from firstsight.plan.executor import StepExecutor, StepJob, StepReport
from firstsight.plan.graph import Graph
from firstsight.plan.remaining_time import RemainingTime, expected_seconds
from firstsight.plan.step import Step
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import Store
from firstsight.site import Progress, Site

POLL_SECONDS = 0.2
"""Seconds to wait for reports before checking whether another run has finished something."""
EXTERNAL_KIND = "named"
"""The kind of a step of an external source: read at the site's path, never run and never stored."""

EventKind = Literal["started", "progress", "published", "skipped", "saved", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEvent:
    """A change of a step's state, or its progress."""

    timestamp: float
    kind: EventKind
    step: Step
    arms: tuple[str, ...]
    progress: Progress | None = None
    seconds: float = 0.0
    """Seconds since the step started in this run."""
    seconds_left: float | None = None
    """Estimated seconds until the whole run ends; None before any speed was measured."""
    reason: str = ""


EventCallback = Callable[[StepEvent], None]
"""Called in the thread that called `run`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFailure:
    """A step that failed, or that a signal ended after it had saved its state."""

    step: Step
    arms: tuple[str, ...]
    reason: str
    log_path: Path
    is_saved: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """How a run ended."""

    published: tuple[Step, ...]
    skipped: tuple[Step, ...]
    """Steps stored before or by another run, or not needed because every step that needs them is stored."""
    failed: tuple[StepFailure, ...]
    blocked: tuple[tuple[Step, Step], ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def is_stopped(self) -> bool:
        """Whether nothing but signals ended steps."""
        return bool(self.failed) and all(failure.is_saved for failure in self.failed)

    def __repr__(self) -> str:
        saved = sum(failure.is_saved for failure in self.failed)
        counts = {"failed": len(self.failed) - saved, "stopped by a signal": saved}
        faults = "".join(f", {count} {state}" for state, count in counts.items() if count)
        return f"{len(self.published)} steps run, {len(self.skipped)} stored already{faults}, {self.seconds:.0f} s"

    def lines(self) -> tuple[str, ...]:
        """Text for the terminal: counts; then each failed step with its reason and log, and what to do."""
        return (repr(self), *self._failure_lines())

    def check(self) -> None:
        """Raise StepFailed with everything that failed."""
        if self.failed:
            raise StepFailed("\n".join(self._failure_lines()))

    def _failure_lines(self) -> Iterator[str]:
        for failure in self.failed:
            if failure.is_saved:
                yield f"{failure.step.address}: {failure.reason}"
                yield f"  for {', '.join(failure.arms)}"
                continue
            yield f"{failure.step.address} failed: {last_line(failure.reason)}"
            yield f"  for {', '.join(failure.arms)}"
            yield f"  log: {failure.log_path}"
            if blocked := [step.address for step, cause in self.blocked if cause == failure.step]:
                yield f"  not run: {', '.join(blocked)} (needs {failure.step.address})"
        if self.failed and not self.is_stopped:
            yield "Correct the cause and run the same command again: it continues from what is stored."


def run(
    graph: Graph,
    store: Store,
    *,
    site: Site,
    executor: StepExecutor,
    handlers: Mapping[str, StepHandler],
    on_event: EventCallback,
) -> RunSummary:
    """Run every step that is needed for an evaluation missing in `store`; a failed step blocks only its descendants.

    `handlers`: by kind of step. External sources are not run: they are read at the site's paths.
    RequestError, before anything runs, for a kind without a handler or an external source without a path. Before
    KeyboardInterrupt is raised again, steps that train may save.
    """
    missing = missing_steps(graph, store)
    _check_runnable(missing, handlers, site)
    scheduler = _Scheduler(graph, store, on_event=on_event, workers=executor.workers, steps=missing)
    try:
        _run_steps(scheduler, executor, lambda step: _step_job(step, handlers[step.kind], store, site))
    except KeyboardInterrupt:
        for report in executor.stop():
            scheduler.handle_report(report)
        raise
    return scheduler.summary()


def _run_steps(scheduler: _Scheduler, executor: StepExecutor, job: Callable[[Step], StepJob]) -> None:
    while scheduler.waiting or scheduler.running or scheduler.in_other_runs:
        scheduler.poll_other_runs()
        while len(scheduler.running) < executor.workers and (step := scheduler.start_next()) is not None:
            executor.submit(job(step))
        for report in executor.wait(POLL_SECONDS) if scheduler.running or scheduler.in_other_runs else ():
            scheduler.handle_report(report)


def _step_job(step: Step, handler: StepHandler, store: Store, site: Site) -> StepJob:
    inputs = {role: result_path(parent, store, site) for role, parent in step.needs}
    expired = expired_state(store.lock_path(step.address))
    return StepJob(step, handler, inputs=inputs, site=site, store_root=store.root, expired=expired)


def missing_steps(graph: Graph, store: Store) -> set[Step]:
    """The steps to run: those that are not stored and needed for an evaluation that is not stored."""
    missing: set[Step] = set()
    pending = [steps[-1] for steps in graph.arms.values()]
    while pending:
        step = pending.pop()
        if step.kind != EXTERNAL_KIND and step not in missing and not store.has(step.address):
            missing.add(step)
            pending.extend(parent for _, parent in step.needs)
    return missing


def result_path(step: Step, store: Store, site: Site) -> Path:
    """The result of a step in the store; the site's path of an external source."""
    return Path(site.sources[step.spec.name].path) if step.kind == EXTERNAL_KIND else store.path(step.address)


def _check_runnable(missing: set[Step], handlers: Mapping[str, StepHandler], site: Site) -> None:
    names = {parent.spec.name for step in missing for _, parent in step.needs if parent.kind == EXTERNAL_KIND}
    if unlocated := sorted(names - set(site.sources)):
        advice = "Write their paths in the site file, or take a scale with built-in data (smoke, cpu)"
        problem = "wanted a path on this machine for each of these names, got none. Nothing was run"
        raise RequestError(f"{', '.join(unlocated)}: {problem}. {advice}.")
    if kinds := sorted({step.kind for step in missing} - set(handlers)):
        raise RequestError(f"no handler for steps of kind {', '.join(kinds)}. Known: {', '.join(sorted(handlers))}.")


class _Scheduler:
    """The state of a run; every step is in one of these collections."""

    def __init__(self, graph: Graph, store: Store, *, on_event: EventCallback, workers: int, steps: set[Step]) -> None:
        self._graph, self._store, self._on_event = graph, store, on_event
        self._arms_by_step, self._started_at = graph.arms_by_step(), time.monotonic()
        self._remaining_time = RemainingTime(workers=workers)
        self._priorities = _step_priorities(graph)
        self.waiting = sorted(steps, key=self._priorities.__getitem__)
        self.running: dict[Step, float] = {}
        self.in_other_runs: set[Step] = set()
        self._unfinished = set(steps)
        self._published: list[Step] = []
        self._skipped: list[Step] = []
        self._failed: dict[Step, StepFailure] = {}
        self._blocked: dict[Step, Step] = {}
        for step in graph.steps:
            if step not in steps:
                reason = "stored" if store.has(step.address) else "not needed: every step that needs it is stored"
                self._skip(step, "on this machine" if step.kind == EXTERNAL_KIND else reason)

    def start_next(self) -> Step | None:
        """The next ready step, marked as running; None if nothing is ready."""
        for step in tuple(self.waiting):
            if any(parent in self._unfinished for _, parent in step.needs):
                continue
            self.waiting.remove(step)
            if self._store.has(step.address):
                self._skip(step, "stored by another run")
            elif self._store.is_locked(step.address):
                self.in_other_runs.add(step)
            else:
                self.running[step] = time.monotonic()
                self._remaining_time.start(step, time=self.running[step])
                self._emit("started", step)
                return step
        return None

    def poll_other_runs(self) -> None:
        """Queue the steps that another run has published or unlocked."""
        for step in tuple(self.in_other_runs):
            if not self._store.is_locked(step.address):
                self.in_other_runs.discard(step)
                self.waiting = sorted([*self.waiting, step], key=self._priorities.__getitem__)

    def handle_report(self, report: StepReport) -> None:
        step = next(step for step in self.running if step.address == report.address)
        clock = time.monotonic()
        seconds = clock - self.running[step]
        if report.progress is not None:
            self._remaining_time.report(step, report.progress, time=clock)
        if report.state == "progress":
            self._emit("progress", step, progress=report.progress, seconds=seconds)
            return
        del self.running[step]
        if report.state == "published":
            self._remaining_time.finish(step, time=clock)
            self._published.append(step)
            self._unfinished.discard(step)
            self._emit("published", step, seconds=seconds)
            return
        self._remaining_time.drop(step)
        if report.state == "already_published":
            self._skip(step, "stored by another run")
        elif report.state == "busy":
            self.in_other_runs.add(step)
        else:
            self._fail(step, report, seconds=seconds)

    def summary(self) -> RunSummary:
        return RunSummary(
            published=tuple(self._published),
            skipped=tuple(self._skipped),
            failed=tuple(self._failed.values()),
            blocked=tuple(self._blocked.items()),
            seconds=time.monotonic() - self._started_at,
        )

    def _skip(self, step: Step, reason: str) -> None:
        self._skipped.append(step)
        self._unfinished.discard(step)
        self._emit("skipped", step, reason=reason)

    def _fail(self, step: Step, report: StepReport, *, seconds: float) -> None:
        log_path, reason, is_saved = self._store.log_path(step.address), report.reason, report.state == "saved"
        if not is_saved:
            self._store.record_failure(step.address, reason)
        self._failed[step] = StepFailure(
            step=step, arms=self._arms_by_step[step], reason=reason, log_path=log_path, is_saved=is_saved
        )
        self._emit("saved" if is_saved else "failed", step, reason=reason, seconds=seconds)
        for descendant in self._graph.steps:  # parents come first, so one pass finds all descendants
            is_blocked = any(parent == step or self._blocked.get(parent) == step for _, parent in descendant.needs)
            if is_blocked and descendant in self.waiting:
                self.waiting.remove(descendant)
                self._blocked[descendant] = step
                self._emit("skipped", descendant, reason=f"not run: needs {step.address}")

    def _emit(self, kind: EventKind, step: Step, **details: Any) -> None:
        left = self._remaining_time.seconds_left([*self.waiting, *self.in_other_runs], time=time.monotonic())
        arms, timestamp = self._arms_by_step[step], time.time()
        self._on_event(StepEvent(timestamp=timestamp, kind=kind, step=step, arms=arms, seconds_left=left, **details))


def _step_priorities(graph: Graph) -> dict[Step, tuple[int, float, int]]:
    """A sort key of ready steps: the first seed's first, then the one with the longest chain of steps after it."""
    chain_seconds: dict[Step, float] = {}
    for step in reversed(graph.steps):
        chain_seconds[step] = chain_seconds.get(step, 0.0) + expected_seconds(step)
        for _, parent in step.needs:
            chain_seconds[parent] = max(chain_seconds.get(parent, 0.0), chain_seconds[step])
    arms_by_step, seeds = graph.arms_by_step(), list(dict.fromkeys(graph.seeds.values()))
    return {
        step: (min(seeds.index(graph.seeds[label]) for label in arms_by_step[step]), -chain_seconds[step], position)
        for position, step in enumerate(graph.steps)
    }


def last_line(reason: str) -> str:
    """The last line of an error message, which names the cause."""
    return (reason.strip().splitlines() or ["no reason given"])[-1]
