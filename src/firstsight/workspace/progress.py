"""How a caller follows the progress of work: nothing, lines of text, or a display of the caller's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

from firstsight.plan.scheduler import EventCallback, StepEvent, last_line
from firstsight.plan.step import Step
from firstsight.site import Progress, ProgressCallback
from firstsight.units import format_count
from firstsight.visible import visible

LINE_INTERVAL = 5.0
"""Seconds between two lines about what is running."""


@runtime_checkable
class ProgressDisplay(Protocol):
    """Shows progress. Both methods give a context manager, to be entered during the work, with a callback."""

    def task(self, name: str) -> AbstractContextManager[ProgressCallback]:
        """For one piece of work: a source that is prepared, a checkpoint that is evaluated or imported."""
        return nullcontext(lambda progress: None)

    def steps(self, count: int) -> AbstractContextManager[EventCallback]:
        """For a run of `count` steps."""
        return nullcontext(lambda event: None)


class NoDisplay(ProgressDisplay):
    """A display that shows nothing."""


NO_DISPLAY = NoDisplay()


class ProgressView:
    """Where progress appears: as lines here, also as bars in a terminal."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._started = self._printed = time.monotonic()

    def elapsed_seconds(self) -> float:
        """Since the view was made."""
        return time.monotonic() - self._started

    def update_bar(self, name: str, text: str, *, done: float | int = 0, total: float | int | None = None) -> None:
        """Show a bar, where there are bars; without a total it only shows that work continues."""

    def remove_bar(self, name: str) -> None:
        """Remove a bar, where there are bars."""

    def print_regularly(self, line: str) -> None:
        """Print a line if the last one was printed long enough ago."""
        if time.monotonic() - self._printed >= LINE_INTERVAL:
            self._printed = time.monotonic()
            self.print(line)

    def print(self, line: str, *, beside_bars: bool = False) -> None:
        """Print a line; where there are bars, only one with `beside_bars`."""
        self._write(line)


class ProgressLines:
    """A `ProgressDisplay` that writes lines: one for each finished step, and every few seconds what is running."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write: Callable[[str], object] = lambda line: write(visible(line, single_line=True))

    def view(self) -> AbstractContextManager[ProgressView]:
        """The view of one piece of work, or of one run."""
        return nullcontext(ProgressView(self._write))

    @contextmanager
    def task(self, name: str) -> Iterator[ProgressCallback]:
        """Show how much of one piece of work is done."""
        with self.view() as view:

            def on_progress(progress: Progress) -> None:
                amount = f"{progress.done:,} of {progress.total:,} {progress.unit}"
                text = ", ".join(filter(None, (amount, _format_metrics(progress.metrics))))
                left = view.elapsed_seconds() * (progress.total / progress.done - 1) if progress.done else None
                view.update_bar(name, f"{text}, {_format_left(left)}", done=progress.done, total=progress.total)
                view.print_regularly(f"{name}: {_percent(progress)}, {text}")
                if progress.note:
                    view.print(f"{name}: {progress.note}", beside_bars=True)

            yield on_progress

    @contextmanager
    def steps(self, count: int) -> Iterator[EventCallback]:
        """Show a run of `count` steps: how far each running step is, and how long the whole run will still take."""
        with self.view() as view:
            yield _StepEvents(view, count)


def progress_display(on_progress: Callable[[str], object] | ProgressDisplay | None) -> ProgressDisplay:
    """The display of a caller: a display, a function that gets lines of text (`print`), or None for nothing."""
    if isinstance(on_progress, ProgressDisplay):
        return on_progress
    return NO_DISPLAY if on_progress is None else ProgressLines(on_progress)


class _StepEvents:
    """Shows the events of a run."""

    def __init__(self, view: ProgressView, count: int) -> None:
        self._view, self._count, self._finished = view, count, 0
        self._running: dict[Step, StepEvent] = {}

    def __call__(self, event: StepEvent) -> None:
        if event.kind in ("started", "progress"):
            self._running[event.step] = event
            self._show_running(event)
        else:
            self._running.pop(event.step, None)
            self._finished += event.kind not in ("saved", "failed")
            self._show_finished(event)
        passed, left = self._view.elapsed_seconds(), event.seconds_left
        text = f"{self._finished} of {self._count} steps, {format_clock(passed)}, {_format_left(left)}"
        self._view.update_bar("study", text, done=passed, total=None if left is None else passed + left)

    def _show_running(self, event: StepEvent) -> None:
        done, total, text = 0, None, ""
        if progress := event.progress:
            if progress.note:
                line = f"{self._line_prefix()} {_step_name(event)}: {progress.note}"
                self._view.print(line, beside_bars=True)
            done, total, text = progress.done, progress.total or None, _format_metrics(progress.metrics)
        self._view.update_bar(_step_name(event), text, done=done, total=total)
        running = "; ".join(map(_running_text, self._running.values()))
        self._view.print_regularly(f"{self._line_prefix()} {_format_left(event.seconds_left)} | {running}")

    def _show_finished(self, event: StepEvent) -> None:
        name, seconds = _step_name(event), f"{event.seconds:.1f} s"
        self._view.remove_bar(name)
        if event.kind == "published":
            self._view.print(f"{self._line_prefix()} {name} done in {seconds} ({event.step.address})")
        elif event.kind == "saved":
            self._view.print(f"{self._line_prefix()} {name}: {event.reason}", beside_bars=True)
        elif event.kind == "failed":
            line = f"{self._line_prefix()} {name} FAILED after {seconds}: {last_line(event.reason)}"
            self._view.print(line, beside_bars=True)

    def _line_prefix(self) -> str:
        return f"[{format_clock(self._view.elapsed_seconds())} {self._finished}/{self._count}]"


def _step_name(event: StepEvent) -> str:
    """The step and its arm or number of arms: midtrain-080-images start-080.s1, or pretrain-000-020 for 6 arms."""
    arms = event.arms[0] if len(event.arms) == 1 else f"for {len(event.arms)} arms"
    return f"{event.step.slug} {arms}"


def _running_text(event: StepEvent) -> str:
    progress = event.progress
    if progress is None or not progress.total:
        return f"{_step_name(event)} {event.seconds:.0f} s"
    return f"{_step_name(event)} {_percent(progress)} {_format_metrics(progress.metrics)}".rstrip()


def _percent(progress: Progress) -> str:
    return f"{progress.done / max(progress.total, 1):.0%}"


def _format_metrics(metrics: Mapping[str, float]) -> str:
    """Counts and speeds in three digits, other values in three decimals; the learning rate is left out."""
    return "  ".join(_format_metric(name, value) for name, value in metrics.items() if name != "lr")


def _format_metric(name: str, value: float) -> str:
    if math.isfinite(value) and ("/s" in name or value == round(value)):
        return f"{format_count(float(round(value)))} {name}"
    return f"{name} {value:.3f}"


def _format_left(seconds: float | None) -> str:
    return "time left not known yet" if seconds is None else f"about {format_clock(seconds)} left"


def format_clock(seconds: float) -> str:
    """Seconds as 1:05 (minutes) or 2:01:05 (hours)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
