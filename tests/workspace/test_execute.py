"""Running a graph without a terminal: events reach the caller's display, and stored steps are not run again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight import track
from firstsight.errors import QuantityError, RequestError
from firstsight.plan.graph import build_graph
from firstsight.plan.scheduler import EventCallback, StepEvent
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.site import ProgressCallback, Site
from firstsight.studies.when import when
from firstsight.workspace.execute import HANDLERS, run_graph, run_step, with_processes, worker_count
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.sources import current_site

GRAPH = build_graph(when(get_scale("smoke")))
VOCABULARY = next(step for step in GRAPH.steps if step.kind == "vocabulary")


class Recorder:
    """A display that keeps what it receives."""

    def __init__(self) -> None:
        self.events: list[StepEvent] = []

    @contextmanager
    def task(self, name: str) -> Iterator[ProgressCallback]:
        yield lambda progress: None

    @contextmanager
    def steps(self, count: int) -> Iterator[EventCallback]:
        yield self.events.append


def test_a_step_is_run_once_and_its_events_are_shown(tmp_path: Path) -> None:
    recorder, store = Recorder(), Store(tmp_path / "runs")
    assert isinstance(recorder, ProgressDisplay) and isinstance(NO_DISPLAY, ProgressDisplay)
    folder = run_step(VOCABULARY, store, site=current_site(), display=recorder)
    assert folder == store.path(VOCABULARY.address) and (folder / "tokenizer.json").is_file()
    assert [event.kind for event in recorder.events if event.kind != "progress"] == ["started", "published"]
    assert run_step(VOCABULARY, store, site=current_site(), display=recorder) == folder
    assert len([event for event in recorder.events if event.kind == "started"]) == 1


@pytest.mark.parametrize(
    ("site", "jobs", "expected"),
    [
        (Site(device="cuda", gpus=8, processes=4), None, 2),
        (Site(device="cuda", gpus=8, processes=3), None, 2),
        (Site(device="cuda", gpus=8), 5, 5),
        (Site(device="cuda", processes=4), None, 1),
        (Site(device="cpu", processes=10_000), None, 1),
    ],
)
def test_steps_at_once_share_out_the_gpus(site: Site, jobs: int | None, expected: int) -> None:
    assert worker_count(site, jobs) == expected


@pytest.mark.parametrize(("processes", "jobs"), [(4, 3), (9, None)])
def test_more_steps_than_gpus_are_refused(processes: int, jobs: int | None) -> None:
    with pytest.raises(QuantityError, match="wanted at most"):
        worker_count(Site(device="cuda", gpus=8, processes=processes), jobs)


def test_zero_processes_are_refused() -> None:
    with pytest.raises(QuantityError, match=r"--processes: wanted at least 1\. Got 0"):
        with_processes(Site(), 0)


def test_zero_jobs_are_refused_before_a_worker_starts(tmp_path: Path) -> None:
    with pytest.raises(QuantityError, match=r"--jobs: wanted at least 1\. Got 0"):
        run_graph(GRAPH, Store(tmp_path), site=current_site(), jobs=0)
    assert Store(tmp_path).addresses() == ()


def test_what_no_step_could_do_is_refused_before_a_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = current_site()
    message = r"--processes: wanted a number that divides the 16 rows of an update of .*: 1, 2, 4, 8, 16\. Got 7"
    with pytest.raises(QuantityError, match=message):
        run_graph(GRAPH, Store(tmp_path), site=replace(site, processes=7))
    monkeypatch.setattr(track, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match="Got wandb, which is not installed"):
        run_graph(GRAPH, Store(tmp_path), site=replace(site, track=("wandb",)))
    assert Store(tmp_path).addresses() == ()


def test_every_kind_of_step_has_a_handler() -> None:
    assert {step.kind for step in GRAPH.steps} <= set(HANDLERS)
