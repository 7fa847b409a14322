"""A run as it happens: bars in a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from firstsight.plan.scheduler import StepEvent
from firstsight.plan.step import Step
from firstsight.units import format_count

EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


@runtime_checkable
class Display(Protocol):
    """Shown every event of a run; entered before the first and left after the last."""

    def __call__(self, event: StepEvent) -> None: ...

    def around(self) -> AbstractContextManager[object]:
        """What to hold open while the run goes on."""
        ...


def display(console: Console, steps: int) -> Display:
    """Bars in a terminal, lines otherwise; `steps` is how many the study has."""
    return Bars(console, steps) if console.is_terminal else Lines(console, steps)


class Lines:
    """Plain lines: each finished step, and every few seconds what is under way and how long is left."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._steps, self._done = console, steps, 0
        self._running: dict[Step, StepEvent] = {}
        self._began = self._told = time.monotonic()

    def around(self) -> AbstractContextManager[object]:
        return nullcontext()

    def __call__(self, event: StepEvent) -> None:
        if event.kind in ("started", "progress"):
            self._running[event.step] = event
            self._tick(event.seconds_left)
            return
        self._running.pop(event.step, None)
        self._done += event.kind != "failed"
        if event.kind == "published":
            self._print(f"{_phase(event)} done in {event.seconds:.1f} s ({event.step.address})")
        elif event.kind == "failed":
            self._print(f"{_phase(event)} FAILED after {event.seconds:.1f} s: {_last(event.reason)}")

    def _tick(self, left: float | None) -> None:
        now = time.monotonic()
        if now - self._told >= EVERY:
            self._told = now
            working = "; ".join(f"{_phase(one)} {_words(one)}" for one in self._running.values())
            self._print(f"{_remaining(left)} | {working}")

    def _print(self, line: str) -> None:
        clock = _clock(time.monotonic() - self._began)
        self._console.print(f"[{clock} {self._done}/{self._steps}] {line}", markup=False, soft_wrap=True)


class Bars:
    """One bar for each running step, and below them one for the whole run with the time left."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._steps, self._done = console, steps, 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TextColumn("{task.fields[words]}"),
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        self._whole = self._progress.add_task("[bold]study", total=None, words="")
        self._rows: dict[Step, TaskID] = {}
        self._began = time.monotonic()

    def around(self) -> AbstractContextManager[object]:
        return self._progress

    def __call__(self, event: StepEvent) -> None:
        if event.kind in ("started", "progress"):
            self._show(event)
        else:
            self._end(event)
        self._overall(event.seconds_left)

    def _show(self, event: StepEvent) -> None:
        if event.step not in self._rows:
            self._rows[event.step] = self._progress.add_task(escape(_phase(event)), total=None, words="")
        if event.progress is not None:
            told, row = event.progress, self._rows[event.step]
            self._progress.update(row, completed=told.done, total=told.total, words=escape(_numbers(event)))

    def _end(self, event: StepEvent) -> None:
        row = self._rows.pop(event.step, None)
        if row is not None:
            self._progress.remove_task(row)
        self._done += event.kind != "failed"
        if event.kind == "failed":
            why = escape(f"{_phase(event)} failed: {_last(event.reason)}")
            self._console.print(f"[bold red]{why}[/]", soft_wrap=True)

    def _overall(self, left: float | None) -> None:
        """Time stands for work: what has passed, of what has passed and is foretold."""
        passed = time.monotonic() - self._began
        words = f"{self._done} of {self._steps} steps, {_clock(passed)}, {_remaining(left)}"
        if left is None:
            self._progress.update(self._whole, words=words)
        else:
            self._progress.update(self._whole, completed=passed, total=passed + left, words=words)


def _phase(event: StepEvent) -> str:
    """What is done, and for whom: midtrain start-080.s1, or pretrain for 6 arms."""
    hint = event.step.address.rpartition("-")[0]
    return f"{hint} {event.arms[0]}" if len(event.arms) == 1 else f"{hint} for {len(event.arms)} arms"


def _words(event: StepEvent) -> str:
    told = event.progress
    if told is None or not told.total:
        return f"{event.seconds:.0f} s"
    return f"{told.done / told.total:.0%} {_numbers(event)}".rstrip()


def _numbers(event: StepEvent) -> str:
    """Loss and speed as they were told; a learning rate is not worth a reader's eye."""
    told = event.progress
    if told is None:
        return ""
    shown = {name: value for name, value in told.metrics.items() if name != "lr"}
    return "  ".join(
        f"{format_count(float(round(value)))} {name}"
        if "/s" in name or value == round(value)
        else f"{name} {value:.3f}"
        for name, value in shown.items()
    )


def _remaining(left: float | None) -> str:
    return "time left not known yet" if left is None else f"about {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _last(why: str) -> str:
    return (why.strip().splitlines() or ["no reason given"])[-1]
