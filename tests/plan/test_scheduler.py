"""Real workers on small handlers: failures stay local, kills lose nothing, and two runs share a store."""

from __future__ import annotations

import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the workers import their handlers from here

import toy_steps

from firstsight.errors import RequestError, StepFailed
from firstsight.plan.executor import LocalExecutor
from firstsight.plan.graph import build_graph
from firstsight.plan.scheduler import StepEvent, run
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.site import Site
from firstsight.studies.when import when

HERE = Path(toy_steps.__file__)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The published bytes of an undisturbed run."""
    root = tmp_path_factory.mktemp("whole")
    assert toy_steps.run_graph(toy_steps.diamond(), root).ok
    return toy_steps.published_digests(root)


def test_every_step_runs_once_after_its_parents_and_then_never_again(tmp_path: Path) -> None:
    graph, events = toy_steps.diamond(), list[StepEvent]()
    first = toy_steps.run_graph(graph, tmp_path, events_out=events)
    assert first.ok and set(first.published) == set(graph.steps) and len(first.published) == len(graph.steps)
    ends = {event.step: place for place, event in enumerate(events) if event.kind == "published"}
    begins = {event.step: place for place, event in enumerate(events) if event.kind == "started"}
    assert all(ends[parent] < begins[step] for step in graph.steps for _, parent in step.needs)
    before = toy_steps.published_digests(tmp_path)
    again = toy_steps.run_graph(graph, tmp_path)
    assert again.published == () and set(again.skipped) == set(graph.steps)
    assert toy_steps.published_digests(tmp_path) == before
    assert all(Store(tmp_path).verify(step.address) == () for step in graph.steps)


def test_events_have_arms_progress_and_remaining_time(tmp_path: Path) -> None:
    events: list[StepEvent] = []
    toy_steps.run_graph(toy_steps.diamond(), tmp_path, events_out=events)
    progress = [event for event in events if event.kind == "progress"]
    assert {event.progress.unit for event in progress if event.progress} == {"slices"}
    assert {label for event in progress for label in event.arms} == {"arm0", "arm1", "arm2"}
    assert events[0].seconds_left is None and events[-1].seconds_left == 0
    assert all(event.seconds_left is None or event.seconds_left >= 0 for event in events)
    assert [event.timestamp for event in events] == sorted(event.timestamp for event in events)


def test_a_failure_stops_only_what_needs_it(tmp_path: Path) -> None:
    bad = toy_steps.step("fail", "bread")
    stopped = toy_steps.step("write", "after", source=bad)
    graph = toy_steps.make_graph(
        bad=toy_steps.step("write", "end", source=stopped), good=toy_steps.step("write", "fine")
    )
    summary = toy_steps.run_graph(graph, tmp_path)
    assert not summary.ok and [step.spec.name for step in summary.published] == ["fine"]
    (failure,) = summary.failed
    assert (
        failure.step == bad and failure.arms == ("bad",) and failure.reason == "bread: wanted bread, got stones. Bake."
    )
    log = failure.log_path.read_text()
    assert "about to fail" in log and "Traceback" in log and "DataError" in log
    assert dict(summary.blocked) == {stopped: bad, graph.final_step("bad"): bad}
    assert re.fullmatch(r"1 steps run, 0 stored already, 1 failed, \d+ s", repr(summary))
    text = "\n".join(summary.lines())
    assert str(failure.log_path) in text and f"needs {bad.address}" in text and "same command" in text
    with pytest.raises(StepFailed, match="got stones"):
        summary.check()


@pytest.mark.parametrize("damage", ["flipped", "deleted", "link", "record"])
def test_a_damaged_input_stops_only_the_steps_that_read_it(tmp_path: Path, damage: str) -> None:
    parent = toy_steps.step("write", "parent")
    toy_steps.run_graph(toy_steps.make_graph(arm=parent), tmp_path)
    file = Store(tmp_path).path(parent.address) / "text"
    match damage:
        case "flipped":
            file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
        case "deleted":
            file.unlink()
        case "link":
            shutil.copytree(file.parent, tmp_path / "elsewhere")
            shutil.rmtree(file.parent)
            file.parent.symlink_to(tmp_path / "elsewhere")
        case _:
            (tmp_path / "provenance" / f"{parent.address}.json").unlink()
    child, other = toy_steps.step("write", "child", source=parent), toy_steps.step("write", "other")
    end = toy_steps.step("write", "end", source=child)
    summary = toy_steps.run_graph(toy_steps.make_graph(bad=end, good=other), tmp_path)
    assert summary.published == (other,)
    (failure,) = summary.failed
    assert failure.step == child and parent.address in failure.reason and "--repair" in failure.reason
    assert dict(summary.blocked) == {end: child}
    assert Store(tmp_path).last_failure(child.address) == failure.reason


def test_what_is_not_needed_is_not_run(tmp_path: Path) -> None:
    parent = toy_steps.step("write", "parent")
    graph = toy_steps.make_graph(arm=toy_steps.step("write", "child", source=parent))
    toy_steps.run_graph(graph, tmp_path)
    (Store(tmp_path).path(parent.address) / "text").unlink()
    Store(tmp_path).path(parent.address).rmdir()
    assert toy_steps.run_graph(graph, tmp_path).published == ()


def test_named_leaves_are_error_info_before_anything_runs(tmp_path: Path) -> None:
    site, graph = Site(cache=tmp_path), build_graph(when(get_scale("1b")))
    handlers = {step.kind: toy_steps.HANDLERS["write"] for step in graph.steps if step.kind != "named"}
    with (
        LocalExecutor(1, site) as executor,
        pytest.raises(RequestError, match=r"dclm-mix, gpt-neox-20b.*path") as error_info,
    ):
        run(
            graph,
            Store(tmp_path / "runs"),
            site=site,
            executor=executor,
            handlers=handlers,
            on_event=lambda event: None,
        )
    assert "Nothing was run" in str(error_info.value)
    assert Store(tmp_path / "runs").addresses() == ()


def test_a_kind_without_a_handler_is_error_info(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="kind unheard"):
        toy_steps.run_graph(toy_steps.make_graph(arm=toy_steps.step("unheard", "of")), tmp_path)


def test_two_runs_on_one_store_do_every_step_once(tmp_path: Path, expected: dict[str, str]) -> None:
    graph = toy_steps.diamond()
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: toy_steps.run_graph(graph, tmp_path), range(2))
    assert one.ok and two.ok
    assert not set(one.published) & set(two.published)
    assert set(one.published) | set(two.published) == set(graph.steps)
    assert set(one.published) | set(one.skipped) == set(graph.steps)
    assert toy_steps.published_digests(tmp_path) == expected


def test_a_step_of_a_machine_that_disappeared_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler sees the lease expire; the worker, which has just begun, takes it over at once."""
    monkeypatch.setattr("firstsight.leases.LEASE_SECONDS", 0.3)
    step, store = toy_steps.step("write", "lonely"), Store(tmp_path)
    owner = "0" * 8 + "-1-" + "0" * 8
    store.lock_path(step.address).mkdir()
    (store.lock_path(step.address) / owner).touch()
    work = store.root / "work" / f"{step.address}.{owner}"
    work.mkdir()
    events = list[StepEvent]()
    assert toy_steps.run_graph(toy_steps.make_graph(arm=step), tmp_path, events_out=events).published == (step,)
    assert [event.kind for event in events] == ["started", "published"]
    assert not list((tmp_path / "work").iterdir()) and not list((tmp_path / "locks").iterdir())


def test_a_run_takes_over_a_step_that_another_run_unlocks(tmp_path: Path, expected: dict[str, str]) -> None:
    graph, store = toy_steps.diamond(), Store(tmp_path)
    first = graph.steps[0]
    with ThreadPoolExecutor(1) as pool:
        with store.lock(first.address) as mine:
            assert mine
            pending = pool.submit(toy_steps.run_graph, graph, tmp_path)
            time.sleep(0.4)
            assert not pending.done() and not store.has(first.address)
        assert pending.result(timeout=20).ok
    assert toy_steps.published_digests(tmp_path) == expected
