"""What is collected of a study from its store."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.errors import StoreError
from firstsight.plan.graph import build_graph
from firstsight.plan.scheduler import RunSummary, StepFailure
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.studies.when import when
from firstsight.workspace.results import StudyResults, busy_seconds, collect_results, write_report
from firstsight.workspace.study_graph import StoredStudy

STUDY = when(replace(get_scale("smoke"), seeds=1))
GRAPH = build_graph(STUDY)


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0),
        ([("00:00:00", "00:00:10"), ("00:00:20", "00:00:25")], 15),
        ([("00:00:05", "00:00:15"), ("00:00:00", "00:00:10")], 15),
        ([("00:00:00", "00:01:00"), ("00:00:10", "00:00:20")], 60),
    ],
)
def test_busy_seconds_count_overlapping_steps_once(spans: list[tuple[str, str]], seconds: int) -> None:
    assert busy_seconds([(f"2026-01-01T{start}", f"2026-01-01T{end}") for start, end in spans]) == seconds


def test_arms_without_results_say_why(tmp_path: Path) -> None:
    store = Store(tmp_path)
    failed = GRAPH.final_step("start-080.s1")
    failure = StepFailure(
        step=failed, arms=("start-080.s1",), reason="Traceback\nOSError: no disk", log_path=tmp_path / "log"
    )
    summary = RunSummary(published=(), skipped=(), failed=(failure,), blocked=(), seconds=1.0)
    arms = {arm.label: arm for arm in collect_results(STUDY, store, GRAPH, summary=summary)}
    assert list(arms) == [arm.label for arm in STUDY.arms]
    assert arms["start-080.s1"].missing_reason == f"{failed.address} failed: OSError: no disk"
    assert arms["start-000.s1"].missing_reason == "not run yet"
    assert all(arm.scores is None and arm.answers_path is None for arm in arms.values())


def test_an_arm_whose_scores_are_refused_says_why(tmp_path: Path) -> None:
    store, addresses = Store(tmp_path), {arm.label: GRAPH.final_step(arm.label).address for arm in STUDY.arms}
    golden = json.loads((Path(__file__).parents[1] / "golden" / "scores.json").read_text())
    del golden["tasks"]["copa"]["interval"]
    for label, content in (("start-000.s1", golden), ("start-020.s1", golden | {"format": 0})):
        store.path(addresses[label]).mkdir()
        (store.path(addresses[label]) / "scores.json").write_text(json.dumps(content))
    shutil.copytree(Path(__file__).parents[1] / "golden", store.path(addresses["start-040.s1"]))
    arms = {arm.label: arm for arm in collect_results(STUDY, store, GRAPH)}
    for label, message in (
        ("start-000.s1", "tasks.copa.interval: wanted this key"),
        ("start-020.s1", "format: wanted 1"),
    ):
        assert f"{addresses[label]}/scores.json: {message}" in arms[label].missing_reason
        assert "delete its folder first" in arms[label].missing_reason
        assert arms[label].scores is None and arms[label].answers_path is None
    complete = arms["start-040.s1"]
    assert complete.scores and complete.missing_reason == "" and complete.scores.tasks["copa"].kind == "text"


def test_stages_continue_the_token_count_of_the_trunk(tmp_path: Path) -> None:
    """Trunk segments count from 0; mid-training from where the arm leaves it; fine-tuning from the end of that."""
    arm = STUDY.arm("start-080")
    stages = {stage.kind: stage for stage in collect_results(STUDY, Store(tmp_path), GRAPH)[5].stages}
    branch = arm.pretrain.tokens_at(arm.start)
    assert stages["pretrain"].start_tokens == 0 and stages["midtrain"].start_tokens == branch
    mid = arm.stages[0]
    assert stages["finetune"].start_tokens == branch + mid.row_shape.round_up(mid.tokens)
    assert all(stage.log_path is None for stage in stages.values())


def test_results_of_nothing_are_refused(tmp_path: Path) -> None:
    stored = StoredStudy(STUDY, tmp_path / "none")
    for results_of in (StoredStudy.open_store, StudyResults, write_report):
        with pytest.raises(StoreError, match="nothing is stored under"):
            results_of(stored)
    assert not (tmp_path / "none").exists()
