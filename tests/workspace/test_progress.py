"""What is written while steps run and sources are prepared: lines of text."""

from __future__ import annotations

import time

import pytest

from firstsight.plan.graph import build_graph
from firstsight.plan.scheduler import StepEvent, last_line
from firstsight.plan.step import Step
from firstsight.recipe.scales import get_scale
from firstsight.site import Progress
from firstsight.studies.when import when
from firstsight.workspace import progress
from firstsight.workspace.progress import NO_DISPLAY, ProgressLines, format_clock, progress_display

GRAPH = build_graph(when(get_scale("smoke")))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Receives what is written, every line at once."""
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    return []


def event(kind: str, step: Step, *, arms: tuple[str, ...] = ("a.s1",), **facts: object) -> StepEvent:
    return StepEvent(timestamp=time.time(), kind=kind, step=step, arms=arms, **facts)  # type: ignore[arg-type]


def test_a_task_writes_its_name_amount_and_metrics(lines: list[str]) -> None:
    with ProgressLines(lines.append).task("[captions]") as on_progress:
        on_progress(Progress(done=1500, total=6000, unit="bytes", metrics={"records": 40.0, "tokens/s": 1234.5}))
    assert lines == ["[captions]: 25%, 1,500 of 6,000 bytes, 40 records  1.23k tokens/s"]


def test_a_task_writes_at_most_one_line_an_interval(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", 100.0)
    with ProgressLines(lines.append).task("slow") as on_progress:
        for done in range(10):
            on_progress(Progress(done=done, total=10, unit="answers"))
    assert lines == []


def test_steps_write_what_runs_what_is_done_and_the_time_left(lines: list[str]) -> None:
    first, second = GRAPH.steps[:2]
    metrics = {"loss": 2.5, "lr": 0.001, "tokens/s": 3210.0}
    with ProgressLines(lines.append).steps(7) as on_event:
        on_event(event("started", first, arms=("a.s1", "b.s1")))
        running = Progress(done=1, total=4, unit="tokens", metrics=metrics)
        on_event(event("progress", first, arms=("a.s1", "b.s1"), progress=running, seconds_left=65.0))
        on_event(event("published", first, arms=("a.s1", "b.s1"), seconds=3.25, seconds_left=50.0))
        on_event(event("failed", second, seconds=1.0, reason="Traceback\nDataError: no bread\n"))
    assert lines[0] == f"[0:00 0/7] time left not known yet | {first.slug} for 2 arms 0 s"
    assert lines[1] == f"[0:00 0/7] about 1:05 left | {first.slug} for 2 arms 25% loss 2.500  3.21k tokens/s"
    assert lines[2] == f"[0:00 1/7] {first.slug} for 2 arms done in 3.2 s ({first.address})"
    assert lines[3] == f"[0:00 1/7] {second.slug} a.s1 FAILED after 1.0 s: DataError: no bread"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_metrics_that_are_not_finite_are_shown(lines: list[str], value: float) -> None:
    step = GRAPH.steps[0]
    running = Progress(done=1, total=4, unit="tokens", metrics={"loss": value, "lr": value, "tokens/s": value})
    with ProgressLines(lines.append).steps(7) as on_event:
        on_event(event("progress", step, progress=running))
    with ProgressLines(lines.append).task("task") as on_progress:
        on_progress(running)
    assert lines[0].endswith(f"25% loss {value}  tokens/s {value}") and f"loss {value}" in lines[1]


def test_a_note_is_a_line(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", 100.0)
    step = GRAPH.steps[0]
    with ProgressLines(lines.append).steps(7) as on_event:
        on_event(event("progress", step, progress=Progress(done=0, total=4, unit="tokens", note="it starts over")))
    with ProgressLines(lines.append).task("task") as on_progress:
        on_progress(Progress(done=0, total=0, unit="records", note="it starts over"))
    assert lines == [f"[0:00 0/7] {step.slug} a.s1: it starts over", "task: it starts over"]


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0:00"), (59.6, "1:00"), (65.0, "1:05"), (7265.0, "2:01:05")])
def test_times_are_minutes_or_hours(seconds: float, text: str) -> None:
    assert format_clock(seconds) == text


def test_a_caller_gives_a_function_a_display_or_nothing() -> None:
    display = ProgressLines(print)
    assert progress_display(display) is display and progress_display(None) is NO_DISPLAY
    assert isinstance(progress_display(print), ProgressLines)


def test_the_last_line_of_an_error_says_what_is_wrong() -> None:
    assert last_line("Traceback\n  file\nValueError: three\n\n") == "ValueError: three"
    assert last_line(" \n") == "no reason given"
