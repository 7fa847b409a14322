"""A step that fails in any way costs only the arms that need it: all others end judged and reported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from benchmarks.chaos.drawing import without_drawing
from benchmarks.chaos.projects import Project
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from firstsight.files import file_sha256
from firstsight.plan.scheduler import RunSummary
from firstsight.plan.step import Step
from firstsight.site import Site
from firstsight.workspace import execute
from firstsight.workspace.study_functions import find_study_function
from firstsight.workspace.workspace import Workspace
from tests.workspace.failing_steps import FAILURE_FILE, FAILURES, TRAINING_FAILURES

TRAINING_KINDS = ("pretrain", "midtrain", "finetune")


class Experiment:
    """A small study, the store of its undisturbed run, and a store in which one step fails."""

    def __init__(self, root: Path, name: str) -> None:
        project = Project(name, root / name)
        project.write()
        self.root, self.study = project.root, find_study_function(project.study).build("smoke", seeds=None, options={})
        self.site = Site(compile=False, cache=self.root / "cache")
        self.handlers = dict(execute.HANDLERS)
        self.graph = self.workspace("reference").stored(self.study).graph
        self.workspace("reference").run(self.study, jobs=2).check()

    def workspace(self, name: str) -> Workspace:
        return Workspace(self.root / name, self.site)

    def run_with_failure(self, step: Step, failure: str) -> RunSummary:
        """Run the study while one step fails, from a store without it, what needs it, and any arm's evaluation."""
        self._remove_steps(step)
        log_path = self.root / "runs" / "logs" / f"{step.address}.log"
        if failure == "unwritable log":
            log_path.unlink()
            log_path.mkdir()
        addresses = {step.address: self.handlers[step.kind].function for step in self.graph.steps}
        plan = {"handlers": addresses, "address": step.address, "failure": failure}
        (self.site.cache / FAILURE_FILE).write_text(json.dumps(plan))
        function = "tests.workspace.failing_steps:run_or_fail"
        failing = {kind: replace(handler, function=function) for kind, handler in self.handlers.items()}
        with patch.dict(execute.HANDLERS, failing):
            summary = self.workspace("runs").run(self.study, jobs=2)
        if failure == "unwritable log":
            log_path.rmdir()
        return summary

    def _remove_steps(self, step: Step) -> None:
        runs = self.root / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        shutil.copytree(self.root / "reference", runs)
        removed = {step}
        for descendant in self.graph.steps:
            if descendant.kind == "evaluate" or any(parent in removed for _, parent in descendant.needs):
                removed.add(descendant)
        for address in (step.address for step in removed):
            shutil.rmtree(runs / "steps" / address)
            (runs / "provenance" / f"{address}.json").unlink()


def check_failure(experiment: Experiment, step: Step, failure: str) -> None:
    """A step fails: the arms that need it say so in the report, and all others are judged."""
    summary = experiment.run_with_failure(step, failure)
    assert [failed.step.address for failed in summary.failed] == [step.address]
    workspace = experiment.workspace("runs")
    healthy = {label for label, steps in experiment.graph.arms.items() if step not in steps}
    results = workspace.results(experiment.study)
    assert {arm.label for arm in results.arms if arm.scores is not None} == healthy
    with without_drawing():
        page = workspace.report(experiment.study, summary=summary).read_text()
    assert all(label in page for label in experiment.graph.arms)
    assert step.address in page


def check_next_run(experiment: Experiment) -> None:
    """The next run without a failure ends with the same bytes."""
    experiment.workspace("runs").run(experiment.study, jobs=2).check()
    assert file_digests(experiment.root / "runs" / "steps") == file_digests(experiment.root / "reference" / "steps")


def file_digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Four text models over two trunks."""
    return Experiment(tmp_path_factory.mktemp("failures"), "texts")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A frozen and a trained encoder on one trunk, with fine-tuning."""
    return Experiment(tmp_path_factory.mktemp("failures"), "images")


def draw_failure(data: st.DataObject, experiment: Experiment) -> tuple[Step, str]:
    """A step that an arm can do without, and a way to fail that fits its kind."""
    step = data.draw(st.sampled_from(experiment.graph.steps), label="step")
    ways = [way for way in FAILURES if way not in TRAINING_FAILURES or step.kind in TRAINING_KINDS]
    return step, data.draw(st.sampled_from(ways), label="failure")


@pytest.mark.timeout(400)
@settings(max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data())
def test_a_failed_step_costs_only_the_arms_that_need_it(texts: Experiment, data: st.DataObject) -> None:
    check_failure(texts, *draw_failure(data, texts))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_of_a_training_step_costs_only_the_arms_that_need_it(images: Experiment, failure: str) -> None:
    step = next(step for step in images.graph.arms["trained.s1"] if step.kind == "midtrain")
    check_failure(images, step, failure)
    check_next_run(images)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=20, deadline=None, phases=[Phase.generate])
@given(data=st.data())
def test_any_failed_step_costs_only_the_arms_that_need_it(images: Experiment, data: st.DataObject) -> None:
    check_failure(images, *draw_failure(data, images))
    check_next_run(images)
