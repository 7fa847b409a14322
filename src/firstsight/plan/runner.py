"""Walk the graph: skip what is stored, run what is ready, keep going where something else failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from firstsight.errors import RequestError, StepFailed
from firstsight.plan.budget import cost
from firstsight.plan.executors import Executor, Job, Report
from firstsight.plan.graph import Graph
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.site import Progress, Site

LISTEN = 0.2
"""Seconds to wait for news before looking whether another run has finished something."""

NAMED = "named"
"""The kind of a leaf that the user has: read where the site says, never run and never stored."""

SPEED, START = 2e10, 0.2
"""FLOPs a second and seconds a step, both nominal: they order steps until real speeds are measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a step."""

    at: float
    """Seconds since 1970."""
    what: Literal["started", "progress", "published", "skipped", "failed"]
    step: Step
    arms: tuple[str, ...]
    """Who needs the step, by label."""
    progress: Progress | None = None
    seconds: float = 0.0
    """How long the step has been at work in this run."""
    left: float | None = None
    """Seconds that the whole run will still take, as far as measured speeds can tell; None before any was."""
    why: str = ""
    """Why it was skipped or failed."""


Watch = Callable[[Event], None]
"""Is shown every event as it happens, in the caller's own thread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A step that failed."""

    step: Step
    arms: tuple[str, ...]
    why: str
    log: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """How a run ended."""

    published: tuple[Step, ...]
    skipped: tuple[Step, ...]
    """Stored before, or by another run meanwhile, or not needed because what needs them is stored; never made here."""
    failed: tuple[Failure, ...]
    blocked: tuple[tuple[Step, Step], ...]
    """Steps that were not run, each with the failed step that it needs."""
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.failed

    def lines(self) -> tuple[str, ...]:
        """What to tell the user: counts, then what failed, why, where its log is, and what to do."""
        counts = f"{len(self.published)} steps run, {len(self.skipped)} stored already, {self.seconds:.0f} s"
        return (counts, *self._failures()) if self.failed else (counts,)

    def check(self) -> None:
        """Raise StepFailed with everything that failed."""
        if self.failed:
            raise StepFailed("\n".join(self._failures()))

    def _failures(self) -> Iterator[str]:
        for failure in self.failed:
            reason = (failure.why.strip().splitlines() or ["no reason given"])[-1]
            yield f"{failure.step.address} failed: {reason}"
            yield f"  for {', '.join(failure.arms)}"
            yield f"  log: {failure.log}"
            blocked = [step.address for step, cause in self.blocked if cause == failure.step]
            if blocked:
                yield f"  not run: {', '.join(blocked)} (needs {failure.step.address})"
        yield "Mend the cause and give the same command again: it goes on from what is stored."


def run(
    graph: Graph, store: Store, *, site: Site, executor: Executor, handlers: Mapping[str, str], watch: Watch
) -> Summary:
    """Bring every arm's judgement into `store`; a failed step stops only what needs it.

    `handlers` maps a kind to `module:function`. RequestError, before anything runs, where a needed kind has none or
    the site does not say where a named source lies. Named sources are never run: they lie where the site says.
    """
    missing = lacking(graph, store)
    _refuse(missing, handlers, site)
    walk = _Walk(graph=graph, store=store, watch=watch, workers=executor.workers, missing=missing)
    while walk.waiting or walk.running or walk.elsewhere:
        walk.look_elsewhere()
        while len(walk.running) < executor.workers and (step := walk.take()) is not None:
            inputs = {role: place(parent, store, site) for role, parent in step.needs}
            handler = handlers[step.kind]
            executor.submit(Job(step=step, handler=handler, inputs=inputs, site=site, root=store.root))
        for report in executor.wait(LISTEN) if walk.running or walk.elsewhere else ():
            walk.hear(report)
    return walk.summary()


def lacking(graph: Graph, store: Store) -> set[Step]:
    """What is not stored, can be made, and is needed for a judgement that is not stored."""
    found: set[Step] = set()
    ask = [steps[-1] for steps in graph.arms.values()]
    while ask:
        step = ask.pop()
        if step.kind != NAMED and step not in found and not store.has(step.address):
            found.add(step)
            ask.extend(parent for _, parent in step.needs)
    return found


def place(step: Step, store: Store, site: Site) -> Path:
    """Where the result of a step lies; a named source where the site says."""
    return Path(site.sources[step.spec.name].path) if step.kind == NAMED else store.path(step.address)


def _refuse(missing: set[Step], handlers: Mapping[str, str], site: Site) -> None:
    read = {parent.spec.name for step in missing for _, parent in step.needs if parent.kind == NAMED}
    nowhere = sorted(read - set(site.sources))
    if nowhere:
        raise RequestError(
            f"{', '.join(nowhere)}: wanted a place on this machine for each of these names, got none. "
            "Nothing was run. Say in the site file where they lie, or take a scale with built-in data (smoke, cpu)."
        )
    unknown = sorted({step.kind for step in missing} - set(handlers))
    if unknown:
        raise RequestError(f"no handler for steps of kind {', '.join(unknown)}. Known: {', '.join(sorted(handlers))}.")


@dataclass(kw_only=True, slots=True)
class _Running:
    """A step at work, and what it told."""

    since: float
    first: Progress | None = None
    last: Progress | None = None

    def part(self) -> tuple[float, float]:
        """The part of the step that was there when it began (a resumed one goes on), and that is there now."""
        if self.first is None or self.last is None:
            return 0.0, 0.0
        first, last = (told.done / told.total if told.total else 0.0 for told in (self.first, self.last))
        return min(first, 1.0) if first > 0.1 else 0.0, min(last, 1.0)


@dataclass(kw_only=True, slots=True)
class _Pace:
    """How real seconds compare with nominal ones, by kind of step."""

    real: dict[str, float] = field(default_factory=dict)
    nominal: dict[str, float] = field(default_factory=dict)

    def note(self, step: Step, *, seconds: float, part: float) -> None:
        self.real[step.kind] = self.real.get(step.kind, 0.0) + seconds
        self.nominal[step.kind] = self.nominal.get(step.kind, 0.0) + part * _nominal(step)

    def seconds(self, step: Step) -> float:
        """Foretold: by its kind's pace, else by the pace of all kinds so far."""
        if self.nominal.get(step.kind):
            return _nominal(step) * self.real[step.kind] / self.nominal[step.kind]
        total = sum(self.nominal.values())
        return _nominal(step) * (sum(self.real.values()) / total if total else 1.0)


@cache
def _nominal(step: Step) -> float:
    return START + cost(step).seconds(SPEED)


class _Walk:
    """Where a run stands; everything is held by step, and a step is in one place."""

    def __init__(self, *, graph: Graph, store: Store, watch: Watch, workers: int, missing: set[Step]) -> None:
        self._graph, self._store, self._watch, self._workers = graph, store, watch, workers
        self._users, self._began, self._pace = graph.users(), time.monotonic(), _Pace()
        self._rank = _ranks(graph)
        self.waiting = sorted(missing, key=self._rank.__getitem__)
        self.running: dict[Step, _Running] = {}
        self.elsewhere: set[Step] = set()
        """Steps that another run works on."""
        self._undone = set(missing)
        self._published: list[Step] = []
        self._skipped: list[Step] = []
        self._failed: dict[Step, Failure] = {}
        self._blocked: dict[Step, Step] = {}
        for step in graph.steps:
            if step not in missing:
                stored = "stored" if store.has(step.address) else "not needed: what needs it is stored"
                self._skip(step, "lies on this machine" if step.kind == NAMED else stored)

    def take(self) -> Step | None:
        """The next ready step, marked as running; None if nothing is ready."""
        for step in tuple(self.waiting):
            if any(parent in self._undone for _, parent in step.needs):
                continue
            self.waiting.remove(step)
            if self._store.has(step.address):
                self._skip(step, "stored by another run")
            elif self._store.busy(step.address):
                self.elsewhere.add(step)
            else:
                self.running[step] = _Running(since=time.monotonic())
                self._tell("started", step)
                return step
        return None

    def look_elsewhere(self) -> None:
        """Pick up what another run has published, and take back what it has let go of."""
        for step in tuple(self.elsewhere):
            if not self._store.busy(step.address):
                self.elsewhere.discard(step)
                self.waiting = sorted([*self.waiting, step], key=self._rank.__getitem__)

    def hear(self, report: Report) -> None:
        step = next(step for step in self.running if step.address == report.address)
        if report.state == "progress":
            self._progress(step, report.progress)
            return
        work = self.running.pop(step)
        seconds = time.monotonic() - work.since
        if report.state == "published":
            self._pace.note(step, seconds=seconds, part=1 - work.part()[0])
            self._published.append(step)
            self._undone.discard(step)
            self._tell("published", step, seconds=seconds)
        elif report.state == "found":
            self._skip(step, "stored by another run")
        elif report.state == "busy":
            self.elsewhere.add(step)
        else:
            self._fail(step, why=report.why, seconds=seconds)

    def summary(self) -> Summary:
        return Summary(
            published=tuple(self._published),
            skipped=tuple(self._skipped),
            failed=tuple(self._failed.values()),
            blocked=tuple(self._blocked.items()),
            seconds=time.monotonic() - self._began,
        )

    def _progress(self, step: Step, progress: Progress | None) -> None:
        work = self.running[step]
        work.first, work.last = work.first or progress, progress
        self._tell("progress", step, progress=progress, seconds=time.monotonic() - work.since)

    def _skip(self, step: Step, why: str) -> None:
        self._skipped.append(step)
        self._undone.discard(step)
        self._tell("skipped", step, why=why)

    def _fail(self, step: Step, *, why: str, seconds: float) -> None:
        """Mark the step and everything that needs it, near or far."""
        log = self._store.log(step.address)
        self._failed[step] = Failure(step=step, arms=self._users[step], why=why, log=log)
        self._tell("failed", step, why=why, seconds=seconds)
        for later in self._graph.steps:  # parents first, so one pass reaches everything
            stopped = any(parent == step or self._blocked.get(parent) == step for _, parent in later.needs)
            if stopped and later in self.waiting:
                self.waiting.remove(later)
                self._blocked[later] = step
                self._tell("skipped", later, why=f"not run: needs {step.address}")

    def _tell(
        self,
        what: Literal["started", "progress", "published", "skipped", "failed"],
        step: Step,
        *,
        progress: Progress | None = None,
        seconds: float = 0.0,
        why: str = "",
    ) -> None:
        self._watch(
            Event(
                at=time.time(),
                what=what,
                step=step,
                arms=self._users[step],
                progress=progress,
                seconds=seconds,
                left=self._left(),
                why=why,
            )
        )

    def _left(self) -> float | None:
        """All that is left spread over the workers, but never less than its longest chain."""
        if not self._pace.real and not any(work.part()[1] for work in self.running.values()):
            return None
        open_steps = [*self.waiting, *self.running, *self.elsewhere]
        each = {step: self._remaining(step) for step in open_steps}
        longest: dict[Step, float] = {}
        for step in self._graph.steps:
            if step in each:
                longest[step] = each[step] + max((longest.get(parent, 0.0) for _, parent in step.needs), default=0.0)
        return max(sum(each.values()) / self._workers, max(longest.values(), default=0.0))

    def _remaining(self, step: Step) -> float:
        work = self.running.get(step)
        if work is None:
            return self._pace.seconds(step)
        before, now = work.part()
        seconds = time.monotonic() - work.since
        if now > before:
            return seconds * (1 - now) / (now - before)
        return max(self._pace.seconds(step) - seconds, 0.0)


def _ranks(graph: Graph) -> dict[Step, tuple[int, float, int]]:
    """Which ready step goes first: the first seed's, then the one with the longest chain behind it."""
    behind: dict[Step, float] = {}
    for step in reversed(graph.steps):
        behind[step] = behind.get(step, 0.0) + _nominal(step)
        for _, parent in step.needs:
            behind[parent] = max(behind.get(parent, 0.0), behind[step])
    seeds = list(dict.fromkeys(graph.seeds.values()))
    first = {step: min(seeds.index(graph.seeds[label]) for label in labels) for step, labels in graph.users().items()}
    return {step: (first[step], -behind[step], place) for place, step in enumerate(graph.steps)}
