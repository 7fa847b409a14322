"""What is printed while steps run and sources are prepared, with and without a terminal."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from firstsight.cli import progress
from firstsight.cli.progress import TerminalProgress, format_clock
from firstsight.plan.graph import build_graph
from firstsight.plan.scheduler import StepEvent
from firstsight.plan.step import Step
from firstsight.recipe.scales import get_scale
from firstsight.site import Progress
from firstsight.studies.when import when

GRAPH = build_graph(when(get_scale("smoke")))


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Receives what is printed, every line at once."""
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    return io.StringIO()


def display(output: io.StringIO, *, is_terminal: bool = False) -> TerminalProgress:
    return TerminalProgress(Console(file=output, force_terminal=is_terminal, width=200, highlight=False))


def event(kind: str, step: Step, *, arms: tuple[str, ...] = ("a.s1",), **facts: object) -> StepEvent:
    return StepEvent(timestamp=time.time(), kind=kind, step=step, arms=arms, **facts)  # type: ignore[arg-type]


def test_a_task_prints_its_name_amount_and_metrics(output: io.StringIO) -> None:
    with display(output).task("[captions]") as on_progress:
        on_progress(Progress(done=1500, total=6000, unit="bytes", metrics={"records": 40.0, "tokens/s": 1234.5}))
    assert output.getvalue() == "[captions]: 25%, 1,500 of 6,000 bytes, 40 records  1.23k tokens/s\n"


def test_a_task_prints_at_most_one_line_an_interval(output: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", 100.0)
    with display(output).task("slow") as on_progress:
        for done in range(10):
            on_progress(Progress(done=done, total=10, unit="answers"))
    assert output.getvalue() == ""


def test_steps_print_what_runs_what_is_done_and_the_time_left(output: io.StringIO) -> None:
    first, second = GRAPH.steps[:2]
    metrics = {"loss": 2.5, "lr": 0.001, "tokens/s": 3210.0}
    with display(output).steps(7) as on_event:
        on_event(event("started", first, arms=("a.s1", "b.s1")))
        running = Progress(done=1, total=4, unit="tokens", metrics=metrics)
        on_event(event("progress", first, arms=("a.s1", "b.s1"), progress=running, seconds_left=65.0))
        on_event(event("published", first, arms=("a.s1", "b.s1"), seconds=3.25, seconds_left=50.0))
        on_event(event("failed", second, seconds=1.0, reason="Traceback\nDataError: no bread\n"))
    lines = output.getvalue().splitlines()
    assert lines[0] == f"[0:00 0/7] time left not known yet | {first.slug} for 2 arms 0 s"
    assert lines[1] == f"[0:00 0/7] about 1:05 left | {first.slug} for 2 arms 25% loss 2.500  3.21k tokens/s"
    assert lines[2] == f"[0:00 1/7] {first.slug} for 2 arms done in 3.2 s ({first.address})"
    assert lines[3] == f"[0:00 1/7] {second.slug} a.s1 FAILED after 1.0 s: DataError: no bread"


def test_a_terminal_shows_bars_and_keeps_only_failures(output: io.StringIO) -> None:
    first, second = GRAPH.steps[:2]
    with display(output, is_terminal=True).steps(2) as on_event:
        on_event(event("started", first, seconds_left=30.0))
        on_event(event("published", first, seconds=2.0, seconds_left=20.0))
        on_event(event("failed", second, seconds=1.0, reason="no bread"))
    text = output.getvalue()
    assert "study" in text and "1 of 2 steps" in text
    assert "FAILED after 1.0 s: no bread" in text and "done in" not in text


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0:00"), (59.6, "1:00"), (65.0, "1:05"), (7265.0, "2:01:05")])
def test_times_are_minutes_or_hours(seconds: float, text: str) -> None:
    assert format_clock(seconds) == text
