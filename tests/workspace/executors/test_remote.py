"""What a step needs of a machine, and when it is given up."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "plan"))  # the workers import their handlers from here

import toy_steps

from firstsight.plan.executor import StepJob
from firstsight.site import Site
from firstsight.workspace import executors
from firstsight.workspace.executors.remote import MAX_LOSSES, Losses, Resources, run_here, step_resources
from tests.cli.command_line import refused


def job(kind: str, site: Site, root: Path = Path()) -> StepJob:
    handler = toy_steps.HANDLERS.get(kind, toy_steps.HANDLERS["write"])
    return StepJob(toy_steps.step(kind, "step"), handler, inputs={}, site=site, store_root=root)


@pytest.mark.parametrize(
    ("kind", "cpus", "gpus"), [("midtrain", 8, 4), ("evaluate", 3, 1), ("encode", 3, 1), ("prepare", 3, 0)]
)
def test_a_training_step_needs_the_gpus_of_all_its_processes(kind: str, cpus: int, gpus: int) -> None:
    site = Site(device="cuda", processes=4, threads=2, readers=3)
    assert step_resources(job(kind, site)) == Resources(cpus=cpus, gpus=gpus)
    assert step_resources(job(kind, replace(site, device="cpu"))).gpus == 0


def test_the_site_of_a_worker_is_that_of_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "site.toml"
    monkeypatch.setenv("FIRSTSIGHT_SITE", str(file))
    file.write_text('[machine]\nthreads = "many"\n')
    [report] = run_here(job("write", Site(), tmp_path / "runs"))
    assert report.state == "failed" and "[machine] threads: wanted a whole number" in report.reason


def test_a_step_is_given_up_after_some_losses() -> None:
    losses = Losses()
    assert [losses.add("a", "no node") for _ in range(MAX_LOSSES)] == [None] * MAX_LOSSES
    failure = losses.add("a", "no node")
    assert failure and failure.state == "failed" and "lost 4 times, the last time with: no node" in failure.reason
    assert losses.add("b", "no node") is None


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_executor_without_its_package_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr(executors, "find_spec", lambda asked: None if asked == package else find_spec(asked))
    message = refused(capsys, "run", "when", "--scale", "smoke", "--executor", name)
    assert f"--executor {name}: wanted the package {package}. Got none. Install it: pip install" in message
    assert f"'firstsight[{name}]'" in message and "\n" not in message.strip()
