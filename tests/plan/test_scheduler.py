"""Real workers on small handlers: failures stay local, kills lose nothing, and two runs share a store."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
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
from firstsight.recipe.scales import scale_named
from firstsight.site import Site
from firstsight.studies.when import when

HERE = Path(toy_steps.__file__)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the small study leaves when nobody disturbs it."""
    root = tmp_path_factory.mktemp("whole")
    assert toy_steps.go(toy_steps.diamond(), root).ok
    return toy_steps.results(root)


def test_every_step_runs_once_after_its_parents_and_then_never_again(tmp_path: Path) -> None:
    plan, told = toy_steps.diamond(), list[StepEvent]()
    first = toy_steps.go(plan, tmp_path, watch=told)
    assert first.ok and set(first.published) == set(plan.steps) and len(first.published) == len(plan.steps)
    ends = {event.step: place for place, event in enumerate(told) if event.kind == "published"}
    begins = {event.step: place for place, event in enumerate(told) if event.kind == "started"}
    assert all(ends[parent] < begins[step] for step in plan.steps for _, parent in step.needs)
    before = toy_steps.results(tmp_path)
    again = toy_steps.go(plan, tmp_path)
    assert again.published == () and set(again.skipped) == set(plan.steps)
    assert toy_steps.results(tmp_path) == before
    assert all(Store(tmp_path).verify(step.address) == () for step in plan.steps)


def test_events_tell_arms_progress_and_time_left(tmp_path: Path) -> None:
    told: list[StepEvent] = []
    toy_steps.go(toy_steps.diamond(), tmp_path, watch=told)
    progress = [event for event in told if event.kind == "progress"]
    assert {event.progress.unit for event in progress if event.progress} == {"slices"}
    assert {label for event in progress for label in event.arms} == {"arm0", "arm1", "arm2"}
    assert told[0].seconds_left is None and told[-1].seconds_left == 0
    assert all(event.seconds_left is None or event.seconds_left >= 0 for event in told)
    assert [event.timestamp for event in told] == sorted(event.timestamp for event in told)


def test_a_failure_stops_only_what_needs_it(tmp_path: Path) -> None:
    bad = toy_steps.step("fail", "bread")
    stopped = toy_steps.step("write", "after", source=bad)
    plan = toy_steps.graph(bad=toy_steps.step("write", "end", source=stopped), good=toy_steps.step("write", "fine"))
    summary = toy_steps.go(plan, tmp_path)
    assert not summary.ok and [step.spec.name for step in summary.published] == ["fine"]
    (failure,) = summary.failed
    assert (
        failure.step == bad and failure.arms == ("bad",) and failure.reason == "bread: wanted bread, got stones. Bake."
    )
    log = failure.log_path.read_text()
    assert "about to fail" in log and "Traceback" in log and "DataError" in log
    assert dict(summary.blocked) == {stopped: bad, plan.final_step("bad"): bad}
    text = "\n".join(summary.lines())
    assert str(failure.log_path) in text and f"needs {bad.address}" in text and "same command" in text
    with pytest.raises(StepFailed, match="got stones"):
        summary.check()


@pytest.mark.parametrize(("kind", "why"), [("die", "signal 9"), ("empty", "left nothing")])
def test_a_dead_worker_fails_its_step_and_is_replaced(tmp_path: Path, kind: str, why: str) -> None:
    good = {f"good{n}": toy_steps.step("write", f"good{n}") for n in range(3)}
    summary = toy_steps.go(toy_steps.graph(bad=toy_steps.step(kind, "bad"), **good), tmp_path, workers=1)
    assert why in summary.failed[0].reason and len(summary.published) == 3


def test_workers_are_warm_and_set_up_before_anything_is_imported(tmp_path: Path) -> None:
    plan = toy_steps.graph(**{f"arm{n}": toy_steps.step("seen", f"arm{n}") for n in range(4)})
    toy_steps.go(plan, tmp_path, workers=1)
    facts = [json.loads((Store(tmp_path).path(step.address) / "facts.json").read_text()) for step in plan.steps]
    assert len({fact["pid"] for fact in facts}) == 1
    assert {(fact["omp"], fact["wait"]) for fact in facts} == {("1", "PASSIVE")}
    assert facts[0]["pid"] != os.getpid()


def test_what_is_not_needed_is_not_run(tmp_path: Path) -> None:
    parent = toy_steps.step("write", "parent")
    plan = toy_steps.graph(arm=toy_steps.step("write", "child", source=parent))
    toy_steps.go(plan, tmp_path)
    (Store(tmp_path).path(parent.address) / "text").unlink()
    Store(tmp_path).path(parent.address).rmdir()
    assert toy_steps.go(plan, tmp_path).published == ()


def test_named_leaves_are_refused_before_anything_runs(tmp_path: Path) -> None:
    site, plan = Site(cache=tmp_path), build_graph(when(scale_named("1b")))
    handlers = {step.kind: "toy_steps:write" for step in plan.steps if step.kind != "named"}
    with (
        LocalExecutor(1, site) as executor,
        pytest.raises(RequestError, match=r"dclm-mix, gpt-neox-20b.*path") as refused,
    ):
        run(
            plan, Store(tmp_path / "runs"), site=site, executor=executor, handlers=handlers, on_event=lambda event: None
        )
    assert "Nothing was run" in str(refused.value)
    assert Store(tmp_path / "runs").addresses() == ()


def test_a_kind_without_a_handler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="kind unheard"):
        toy_steps.go(toy_steps.graph(arm=toy_steps.step("unheard", "of")), tmp_path)


def test_a_worker_killed_at_any_moment_leaves_the_same_bytes(tmp_path: Path, whole: dict[str, str]) -> None:
    chance, plan = random.Random(3), toy_steps.diamond()
    for _ in range(20):
        kills: list[StepEvent] = []
        site = Site(cache=tmp_path)
        with LocalExecutor(2, site) as executor:

            def watch(event: StepEvent, executor: LocalExecutor = executor, kills: list[StepEvent] = kills) -> None:
                if event.kind == "progress" and not kills and chance.random() < 0.3:
                    kills.append(event)
                    os.kill(executor.pids()[event.step.address], signal.SIGKILL)

            summary = run(
                plan, Store(tmp_path), site=site, executor=executor, handlers=toy_steps.HANDLERS, on_event=watch
            )
        if summary.ok:
            break
    assert summary.ok and toy_steps.results(tmp_path) == whole


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_whole_run_ended_by_a_signal_goes_on_to_the_same_bytes(
    tmp_path: Path, whole: dict[str, str], how: signal.Signals
) -> None:
    command = [sys.executable, str(HERE), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 20
    while not list(tmp_path.glob("work/*/slices")):
        assert time.monotonic() < patience
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(how)
    assert process.wait(timeout=5) != 0
    store = Store(tmp_path)
    time.sleep(0.2)
    quiet = {path: path.stat().st_size for path in tmp_path.glob("work/*/slices")}
    assert quiet and not any(store.is_locked(step.address) for step in toy_steps.diamond().steps)
    time.sleep(0.1)
    assert quiet == {path: path.stat().st_size for path in tmp_path.glob("work/*/slices")}
    assert toy_steps.go(toy_steps.diamond(), tmp_path).ok
    assert toy_steps.results(tmp_path) == whole


def test_two_runs_on_one_store_do_every_step_once(tmp_path: Path, whole: dict[str, str]) -> None:
    plan = toy_steps.diamond()
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: toy_steps.go(plan, tmp_path), range(2))
    assert one.ok and two.ok
    assert not set(one.published) & set(two.published)
    assert set(one.published) | set(two.published) == set(plan.steps)
    assert set(one.published) | set(one.skipped) == set(plan.steps)
    assert toy_steps.results(tmp_path) == whole


def test_a_run_takes_over_what_another_one_let_go(tmp_path: Path, whole: dict[str, str]) -> None:
    plan, store = toy_steps.diamond(), Store(tmp_path)
    first = plan.steps[0]
    with ThreadPoolExecutor(1) as pool:
        with store.lock(first.address) as mine:
            assert mine
            pending = pool.submit(toy_steps.go, plan, tmp_path)
            time.sleep(0.4)
            assert not pending.done() and not store.has(first.address)
        assert pending.result(timeout=20).ok
    assert toy_steps.results(tmp_path) == whole
