"""What is printed while steps run and sources are prepared, with and without a terminal."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from firstsight.cli.terminal import TerminalProgress
from firstsight.plan.graph import build_graph
from firstsight.plan.scheduler import StepEvent
from firstsight.plan.step import Step
from firstsight.recipe.scales import get_scale
from firstsight.site import Progress
from firstsight.studies.when import when
from firstsight.workspace import progress

GRAPH = build_graph(when(get_scale("smoke")))


@pytest.fixture
def output() -> io.StringIO:
    """Receives what is printed."""
    return io.StringIO()


def display(output: io.StringIO, *, is_terminal: bool = False) -> TerminalProgress:
    return TerminalProgress(Console(file=output, force_terminal=is_terminal, width=200, highlight=False))


def event(kind: str, step: Step, *, arms: tuple[str, ...] = ("a.s1",), **facts: object) -> StepEvent:
    return StepEvent(timestamp=time.time(), kind=kind, step=step, arms=arms, **facts)  # type: ignore[arg-type]


def test_without_a_terminal_lines_are_printed_as_they_are(output: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    with display(output).task("[captions]") as on_progress:
        on_progress(Progress(done=1500, total=6000, unit="bytes"))
    assert output.getvalue() == "[captions]: 25%, 1,500 of 6,000 bytes\n"


def test_a_terminal_shows_bars_and_keeps_only_failures(output: io.StringIO) -> None:
    first, second = GRAPH.steps[:2]
    with display(output, is_terminal=True).steps(2) as on_event:
        on_event(event("started", first, seconds_left=30.0))
        on_event(event("published", first, seconds=2.0, seconds_left=20.0))
        on_event(event("failed", second, seconds=1.0, reason="no bread"))
    text = output.getvalue()
    assert "study" in text and "1 of 2 steps" in text
    assert "FAILED after 1.0 s: no bread" in text and "done in" not in text
