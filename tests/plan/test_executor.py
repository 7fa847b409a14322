"""Worker processes: warm, replaced when they die, and killed at any moment without loss."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the workers import their handlers from here

import toy_steps
from tests.foreign_text import OBEYED

from firstsight.plan.executor import KERNEL_CACHE_SHAPES, LocalExecutor, gpu_environment
from firstsight.plan.scheduler import StepEvent, run
from firstsight.plan.store import Store
from firstsight.site import Site

HERE = Path(toy_steps.__file__)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The published bytes of an undisturbed run."""
    root = tmp_path_factory.mktemp("whole")
    assert toy_steps.run_graph(toy_steps.diamond(), root).ok
    return toy_steps.published_digests(root)


@pytest.mark.parametrize(("kind", "reason"), [("die", "signal 9"), ("empty", "wanted all outputs of toy_steps:empty")])
def test_a_dead_worker_fails_its_step_and_is_replaced(tmp_path: Path, kind: str, reason: str) -> None:
    good = {f"good{n}": toy_steps.step("write", f"good{n}") for n in range(3)}
    summary = toy_steps.run_graph(toy_steps.make_graph(bad=toy_steps.step(kind, "bad"), **good), tmp_path, workers=1)
    assert reason in summary.failed[0].reason and len(summary.published) == 3


def test_what_a_killed_attempt_left_is_not_published(tmp_path: Path) -> None:
    step = toy_steps.step("litter", "paper")
    graph = toy_steps.make_graph(arm=step)
    assert not toy_steps.run_graph(graph, tmp_path).ok
    assert {path.name for path in Store(tmp_path).work_path(step.address).iterdir()} > {
        "text",
        "notes",
        "link",
        ".tmpF3x",
    }
    assert toy_steps.run_graph(graph, tmp_path).ok
    assert list(Store(tmp_path).provenance(step.address)["files"]) == ["text"]
    assert json.loads((Store(tmp_path).path(step.address) / "text").read_text()) == ["resume", "resume/point"]


def test_a_log_obeys_nothing_and_a_full_disk_says_what_to_free(tmp_path: Path) -> None:
    step, good = toy_steps.step("shout", "loud"), toy_steps.step("write", "good")
    summary = toy_steps.run_graph(toy_steps.make_graph(bad=step, good=good), tmp_path, workers=1)
    [failure] = summary.failed
    assert "No space left on device. Free disk space" in failure.reason and len(summary.published) == 1
    log = failure.log_path.read_bytes().decode()
    assert not set(OBEYED.findall(log)) - {"\n"}
    assert "\n 50%\n100%\n" + r"\x1b[2Jcleared \u202e \udcff" in log and "OSError" in log


def test_a_log_that_cannot_be_written_fails_its_step_only(tmp_path: Path) -> None:
    steps = {name: toy_steps.step("write", name) for name in ("bad", "good", "better")}
    Store(tmp_path).log_path(steps["bad"].address).mkdir()
    summary = toy_steps.run_graph(toy_steps.make_graph(**steps), tmp_path, workers=1)
    [failure] = summary.failed
    assert failure.step == steps["bad"] and len(summary.published) == 2
    assert failure.reason.startswith(f"its log: {failure.log_path}: Is a directory. ")


def test_workers_are_warm_and_set_up_before_anything_is_imported(tmp_path: Path) -> None:
    graph = toy_steps.make_graph(**{f"arm{n}": toy_steps.step("facts", f"arm{n}") for n in range(4)})
    toy_steps.run_graph(graph, tmp_path, workers=1)
    facts = [json.loads((Store(tmp_path).path(step.address) / "facts.json").read_text()) for step in graph.steps]
    assert len({fact["pid"] for fact in facts}) == 1
    settings = {tuple(fact[name] for name in ("omp", "wait", "record", "kernels")) for fact in facts}
    assert settings == {("1", "PASSIVE", 1000, str(KERNEL_CACHE_SHAPES))}
    assert facts[0]["pid"] != os.getpid()


def test_a_worker_killed_at_any_moment_leaves_the_same_bytes(tmp_path: Path, expected: dict[str, str]) -> None:
    rng, graph = random.Random(3), toy_steps.diamond()
    for _ in range(20):
        kills: list[StepEvent] = []
        site = Site(cache=tmp_path)
        with LocalExecutor(2, site) as executor:

            def watch(event: StepEvent, executor: LocalExecutor = executor, kills: list[StepEvent] = kills) -> None:
                if event.kind == "progress" and not kills and rng.random() < 0.3:
                    kills.append(event)
                    os.kill(executor.pids()[event.step.address], signal.SIGKILL)

            summary = run(
                graph, Store(tmp_path), site=site, executor=executor, handlers=toy_steps.HANDLERS, on_event=watch
            )
        if summary.ok:
            break
    assert summary.ok and toy_steps.published_digests(tmp_path) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_ended_by_a_signal_resumes_to_the_same_bytes(
    tmp_path: Path, expected: dict[str, str], number: signal.Signals
) -> None:
    command = [sys.executable, str(HERE), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("work/*/slices")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=5) != 0
    store = Store(tmp_path)
    time.sleep(0.2)
    sizes = {path: path.stat().st_size for path in tmp_path.glob("work/*/slices")}
    assert sizes and not any(store.is_locked(step.address) for step in toy_steps.diamond().steps)
    time.sleep(0.1)
    assert sizes == {path: path.stat().st_size for path in tmp_path.glob("work/*/slices")}
    assert toy_steps.run_graph(toy_steps.diamond(), tmp_path).ok
    assert toy_steps.published_digests(tmp_path) == expected


@pytest.mark.parametrize("by", ["interrupt", "signal to the worker"])
def test_a_stopped_step_says_where_it_was_saved(tmp_path: Path, by: str) -> None:
    step, events = toy_steps.step("pause", "trunk"), list[StepEvent]()
    graph, site, store = toy_steps.make_graph(arm=step), Site(cache=tmp_path / "cache"), Store(tmp_path)

    def stop(event: StepEvent) -> None:
        events.append(event)
        if event.kind == "progress" and len(events) == 2:
            if by == "interrupt":
                raise KeyboardInterrupt
            os.kill(executor.pids()[step.address], signal.SIGUSR1)

    summary = None
    with LocalExecutor(1, replace(site, stop_seconds=1e6)) as executor, suppress(KeyboardInterrupt):
        summary = run(graph, store, site=site, executor=executor, handlers=toy_steps.HANDLERS, on_event=stop)
    if by == "interrupt":
        assert summary is None
    else:
        assert summary is not None and summary.is_stopped and not summary.ok
        line = f"{step.address}: saved at step 1 of 2; the same command continues"
        assert summary.lines()[1:] == (line, "  for arm") and "1 stopped by a signal" in summary.lines()[0]
    assert [event.kind for event in events] == ["started", "progress", "saved"]
    assert events[-1].reason == "saved at step 1 of 2; the same command continues"
    assert store.last_failure(step.address) == "" and toy_steps.run_graph(graph, tmp_path).ok


def test_workers_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    site = Site(device="cuda", gpus=8, processes=4)
    assert [gpu_environment(site, slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["0,1,2,3", "4,5,6,7"]
    assert gpu_environment(Site(device="cuda"), 0) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,6,7")
    assert gpu_environment(Site(device="cuda", gpus=4, processes=2), 1)["CUDA_VISIBLE_DEVICES"] == "6,7"
