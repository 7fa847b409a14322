"""What is collected of a study from its store."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape

from firstsight.errors import StoreError
from firstsight.plan.graph import build_graph
from firstsight.plan.scheduler import RunSummary, StepFailure
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.site import Site
from firstsight.studies.when import when
from firstsight.workspace.results import StudyResults, busy_seconds, collect_results, write_report
from firstsight.workspace.study_graph import StoredStudy

STUDY = when(replace(get_scale("smoke"), seeds=1))
GRAPH = build_graph(STUDY)
GOLDEN = Path(__file__).parents[1] / "golden"
RECORD = {"started": "2026-01-01T00:00:00", "ended": "2026-01-01T00:00:10", "host": "h", "machine": "m"} | {
    "kind": "any",
    "spec": {},
    "needs": {},
    "files": {},
}


def _store_arm(store: Store, label: str) -> None:
    """All results of an arm that a report reads: logs, what training achieved, scores, answers, provenance."""
    for step in GRAPH.arms[label]:
        folder = store.path(step.address)
        folder.mkdir(exist_ok=True)
        record = RECORD | {"code": {"commit": "c", "python": "3", "packages": {}}}
        (store.root / "provenance" / f"{step.address}.json").write_text(json.dumps(record))
        (folder / "log.jsonl").write_text('{"seen": 10, "lr": 0.1, "loss": 2.0}\n' * 3)
        (folder / "achieved.json").write_text(
            json.dumps({"asked": "1/10", "achieved": dict.fromkeys(("rows", "tokens", "loss_tokens"), 0.1)})
        )
    for name in ("scores.json", "answers.jsonl"):
        shutil.copy(GOLDEN / name, store.path(GRAPH.final_step(label).address))


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
    _store_arm(store, "start-040.s1")
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


def _cut(path: Path, *, at_line: bool = False) -> None:
    text = path.read_text()
    path.write_text("".join(text.splitlines(keepends=True)[:-1]) if at_line else text[: len(text) - 9])


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("evaluate", "answers.jsonl", "wanted JSON"),
        ("evaluate", "answers.jsonl at a line", "wanted 12 answers to copa with the image, as in scores.json. Got 11."),
        ("evaluate", "answers.jsonl deleted", "no such file"),
        ("finetune", "log.jsonl", "log.jsonl, line 3: wanted JSON"),
        ("midtrain", "achieved.json", "achieved.json: wanted JSON"),
        ("finetune", "achieved.json", "achieved.json: wanted JSON"),
        ("midtrain", "provenance", "wanted the provenance of midtrain"),
        ("evaluate", "provenance deleted", "wanted the provenance of evaluate"),
    ],
)
def test_damage_of_one_arm_leaves_the_others_in_the_report(tmp_path: Path, kind: str, name: str, message: str) -> None:
    store = Store(tmp_path)
    for label in ("start-080.s1", "start-100.s1"):
        _store_arm(store, label)
    step = next(step for step in GRAPH.arms["start-080.s1"] if step.kind == kind)
    file = name.split(" ")[0]
    path = store.path(step.address) / file
    if file == "provenance":
        path = tmp_path / "provenance" / f"{step.address}.json"
    if name.endswith("deleted"):
        path.unlink()
    else:
        _cut(path, at_line=name.endswith("line"))
    arms = {arm.label: arm for arm in collect_results(STUDY, store, GRAPH)}
    damaged = arms["start-080.s1"]
    assert damaged.scores is None and damaged.answers_path is None and damaged.is_damaged
    assert message in damaged.missing_reason
    assert re.search("[Dd]elete (its|the|.*/steps/)", damaged.missing_reason)
    assert arms["start-100.s1"].scores and not arms["start-020.s1"].is_damaged


def test_a_report_of_damaged_arms_does_not_say_that_a_run_continues_it(tmp_path: Path) -> None:
    store, stored = Store(tmp_path), StoredStudy(STUDY, tmp_path, Site())
    for arm in STUDY.arms:
        _store_arm(store, arm.label)
    final = {label: GRAPH.final_step(label).address for label in GRAPH.arms}
    midtrain = next(step for step in GRAPH.arms["start-080.s1"] if step.kind == "midtrain")
    _cut(store.path(midtrain.address) / "achieved.json")
    _cut(store.path(midtrain.address) / "log.jsonl")
    _cut(store.path(final["start-100.s1"]) / "answers.jsonl", at_line=True)
    _cut(tmp_path / "provenance" / f"{final['start-060.s1']}.json")
    arms = {arm.label: arm for arm in collect_results(STUDY, store, GRAPH)}
    page = write_report(stored).read_text()
    assert [label for label in arms if arms[label].is_damaged] == ["start-060.s1", "start-080.s1", "start-100.s1"]
    for arm in arms.values():
        assert (f"<li><b>{arm.label}</b> {escape(arm.missing_reason)}" in page) == arm.is_damaged
    assert f"<dt>damaged record</dt><dd>{final['start-060.s1']}</dd>" in page
    assert "Run the same command again to continue" not in page


def test_a_heldout_score_has_the_number_of_its_questions(tmp_path: Path) -> None:
    _store_arm(Store(tmp_path), "start-080.s1")
    path = Store(tmp_path).path(GRAPH.final_step("start-080.s1").address) / "answers.jsonl"
    answers = [json.loads(line) for line in path.read_text().splitlines()]
    for answer in answers:
        number = int(re.sub(r"\D", "", answer["question_id"]) or 0)
        answer.pop("combination", None)
        answer["form"] = "heldout" if number % 3 == 0 else "seen"
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    wanted = sum(a["form"] == "heldout" for a in answers if a["task"] == "pope" and not a["blind"])
    scores_path = path.with_name("scores.json")
    content = json.loads(scores_path.read_text())
    content["tasks"]["pope"]["heldout"] = 0.5
    scores_path.write_text(json.dumps(content))
    rows = StudyResults(StoredStudy(STUDY, tmp_path, Site())).scores
    counts = dict(rows.filter(task="pope").select("condition", "questions").iter_rows())
    assert 0 < wanted < 12
    assert counts["heldout"] == wanted and counts["sighted"] == 12


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
