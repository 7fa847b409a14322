"""What the names of arms, steps, addresses and folders mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.errors import RequestError, UnknownName
from firstsight.plan.graph import build_graph
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.studies.when import when
from firstsight.workspace.resolve import compare, find_checkpoint, find_text_model, is_arm, stored_address
from firstsight.workspace.study_graph import StoredStudy

STUDY = when(replace(get_scale("smoke"), seeds=1))
GRAPH = build_graph(STUDY)
ANY_FILES = StepHandler(function="", outputs=("**",))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A store with the training steps of one arm, whose results are a file each."""
    store = Store(tmp_path / "runs")
    for step in GRAPH.arms["start-080.s1"]:
        if step.kind in ("pretrain", "midtrain", "finetune"):
            (tmp_path / step.address).mkdir()
            (tmp_path / step.address / "spec.json").write_text("{}")
            store.adopt(step, tmp_path / step.address, ANY_FILES)
    return store.root


def checkpoint(label: str) -> str:
    return dict(GRAPH.final_step(label).needs)["checkpoint"].address


def test_arms_are_compared_by_their_specs_and_steps_by_what_they_need(tmp_path: Path) -> None:
    assert {field.path for field in compare("start-020", "start-080", StoredStudy(STUDY, tmp_path))} >= {
        "name",
        "start",
    }
    assert compare("start-020", "start-020.s1", StoredStudy(STUDY, tmp_path)) == ()
    evaluations = [GRAPH.final_step(label).address for label in ("start-020.s1", "start-080.s1")]
    paths = [field.path for field in compare(*evaluations, StoredStudy(STUDY, tmp_path))]
    assert paths and all(path.startswith("needs.checkpoint") for path in paths)
    mixed = [field.path for field in compare("start-020", evaluations[1], StoredStudy(STUDY, tmp_path))]
    assert mixed == paths


def test_a_stored_step_of_another_study_is_compared_by_its_spec(out: Path) -> None:
    other = when(replace(get_scale("cpu"), seeds=1))
    names = [checkpoint("start-080.s1"), "start-080"]
    assert {field.path.partition(".")[0] for field in compare(*names, StoredStudy(other, out))}
    with pytest.raises(UnknownName, match=r"no arm or step is called 'start-08'. Nearest: .*start-080"):
        compare("start-08", "start-080", StoredStudy(STUDY, out))


def test_every_name_of_a_checkpoint_finds_its_folder(out: Path) -> None:
    address = checkpoint("start-080.s1")
    folder = out / "steps" / address
    for name in ("start-080", "start-080.s1", address, address[-12:], str(folder)):
        assert find_checkpoint(name, StoredStudy(STUDY, out)) == folder, name
    assert stored_address(address[-12:], StoredStudy(STUDY, out)) == address
    assert stored_address("start-080", StoredStudy(STUDY, out)) is None
    assert is_arm("start-080", STUDY) and not is_arm(address, STUDY)


def test_the_text_model_of_an_arm_is_its_last_trunk_segment(out: Path) -> None:
    trunk = next(step for step in reversed(GRAPH.arms["start-080.s1"]) if step.kind == "pretrain")
    for name in ("start-080", checkpoint("start-080.s1")):
        assert find_text_model(name, StoredStudy(STUDY, out)) == out / "steps" / trunk.address


def test_what_is_not_a_stored_checkpoint_is_refused(out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="Run it first: firstsight run when --scale smoke"):
        find_checkpoint("start-020", StoredStudy(STUDY, out))
    with pytest.raises(RequestError, match="wanted a checkpoint: a folder with spec"):
        find_checkpoint(str(tmp_path / "empty"), StoredStudy(STUDY, out))
    with pytest.raises(RequestError, match="Name it with --text-model"):
        find_text_model(str(out), StoredStudy(STUDY, out))
