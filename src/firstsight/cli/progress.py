"""Progress in the terminal: bars, or without a terminal a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TaskProgressColumn
from rich.progress import Progress as RichProgress

from firstsight.cli.terminal import make_console
from firstsight.plan.scheduler import EventCallback, StepEvent
from firstsight.plan.step import Step
from firstsight.site import Progress, ProgressCallback
from firstsight.units import format_count
from firstsight.workspace.execute import last_line

LINE_INTERVAL = 5.0
"""Seconds between two lines without a terminal."""


class TerminalProgress:
    """A `workspace.execute.ProgressDisplay` on a console, by default standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or make_console()

    @contextmanager
    def task(self, name: str) -> Iterator[ProgressCallback]:
        """Show how much of one piece of work is done."""
        view = _ProgressView(self._console)

        def on_progress(progress: Progress) -> None:
            amount = f"{progress.done:,} of {progress.total:,} {progress.unit}"
            text = ", ".join(filter(None, (amount, _format_metrics(progress.metrics))))
            left = view.elapsed_seconds() * (progress.total / progress.done - 1) if progress.done else None
            view.update_bar(name, f"{text}, {_format_left(left)}", done=progress.done, total=progress.total)
            view.print_regularly(f"{name}: {_percent(progress)}, {text}")

        with view.progress:
            yield on_progress

    @contextmanager
    def steps(self, count: int) -> Iterator[EventCallback]:
        """Show a run of `count` steps: how far each running step is, and how long the whole run will still take."""
        view = _ProgressView(self._console)
        with view.progress:
            yield _StepEvents(view, count)


class _ProgressView:
    """Progress bars by name, shown while `progress` is entered; without a terminal, printed lines."""

    def __init__(self, console: Console) -> None:
        columns = ("{task.description}", BarColumn(bar_width=28), TaskProgressColumn(), "{task.fields[text]}")
        is_plain = not console.is_terminal
        self.progress = RichProgress(*columns, console=console, refresh_per_second=4, transient=True, disable=is_plain)
        self._console, self._is_plain, self._bars = console, is_plain, dict[str, TaskID]()
        self._started = self._printed = time.monotonic()

    def elapsed_seconds(self) -> float:
        """Since the view was made."""
        return time.monotonic() - self._started

    def update_bar(self, name: str, text: str, *, done: float | int = 0, total: float | int | None = None) -> None:
        """Show a bar; without a total it only shows that work continues."""
        if name not in self._bars:
            self._bars[name] = self.progress.add_task(escape(name), total=None, text="")
        self.progress.update(self._bars[name], completed=done, total=total, text=escape(text))

    def remove_bar(self, name: str) -> None:
        if name in self._bars:
            self.progress.remove_task(self._bars.pop(name))

    def print_regularly(self, line: str) -> None:
        """Print a line if there is no terminal and the last one was printed long enough ago."""
        if self._is_plain and time.monotonic() - self._printed >= LINE_INTERVAL:
            self._printed = time.monotonic()
            self.print(line)

    def print(self, line: str, *, beside_bars: bool = False) -> None:
        if beside_bars or self._is_plain:
            self._console.print(line, markup=False, soft_wrap=True)


class _StepEvents:
    """Shows the events of a run."""

    def __init__(self, view: _ProgressView, count: int) -> None:
        self._view, self._count, self._finished = view, count, 0
        self._running: dict[Step, StepEvent] = {}

    def __call__(self, event: StepEvent) -> None:
        if event.kind in ("started", "progress"):
            self._running[event.step] = event
            self._show_running(event)
        else:
            self._running.pop(event.step, None)
            self._finished += event.kind != "failed"
            self._show_finished(event)
        passed, left = self._view.elapsed_seconds(), event.seconds_left
        text = f"{self._finished} of {self._count} steps, {format_clock(passed)}, {_format_left(left)}"
        self._view.update_bar("study", text, done=passed, total=None if left is None else passed + left)

    def _show_running(self, event: StepEvent) -> None:
        done, total, text = 0, None, ""
        if progress := event.progress:
            done, total, text = progress.done, progress.total or None, _format_metrics(progress.metrics)
        self._view.update_bar(_step_name(event), text, done=done, total=total)
        running = "; ".join(map(_running_text, self._running.values()))
        self._view.print_regularly(f"{self._line_prefix()} {_format_left(event.seconds_left)} | {running}")

    def _show_finished(self, event: StepEvent) -> None:
        name, seconds = _step_name(event), f"{event.seconds:.1f} s"
        self._view.remove_bar(name)
        if event.kind == "published":
            self._view.print(f"{self._line_prefix()} {name} done in {seconds} ({event.step.address})")
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
    counts = {name for name, value in metrics.items() if "/s" in name or value == round(value)}
    return "  ".join(
        f"{format_count(float(round(value)))} {name}" if name in counts else f"{name} {value:.3f}"
        for name, value in metrics.items()
        if name != "lr"
    )


def _format_left(seconds: float | None) -> str:
    return "time left not known yet" if seconds is None else f"about {format_clock(seconds)} left"


def format_clock(seconds: float) -> str:
    """Seconds as 1:05 (minutes) or 2:01:05 (hours)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
