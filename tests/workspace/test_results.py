"""What is collected of a study from its store."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape

from firstsight.errors import StoreError
from firstsight.plan.graph import build_graph
from firstsight.plan.scheduler import RunSummary, StepFailure
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.recipe.study import combine
from firstsight.report.collect import collect_results
from firstsight.site import Site
from firstsight.studies.when import when
from firstsight.studies.when_controls import when_controls
from firstsight.workspace.decisions.conclusion import conclusion_lines
from firstsight.workspace.results import StudyResults, busy_seconds
from firstsight.workspace.study_graph import StoredStudy
from tests.workspace.answer_store import store_step

STUDY = when(replace(get_scale("smoke"), seeds=1))
GRAPH = build_graph(STUDY)
GOLDEN = Path(__file__).parents[1] / "golden"


def _store_arm(store: Store, label: str) -> None:
    """All results of an arm that a report reads: logs, what training achieved, scores, answers, provenance."""
    for step in GRAPH.arms[label]:
        store_step(store.root, step, lambda folder, step=step: _write_result(folder, step))


def _write_result(folder: Path, step: Step) -> None:
    (folder / "log.jsonl").write_text('{"seen": 10, "lr": 0.1, "loss": 2.0}\n' * 3)
    shares = dict.fromkeys(("rows", "tokens", "loss_tokens"), 0.1)
    (folder / "achieved.json").write_text(json.dumps({"asked": "1/10", "achieved": shares}))
    if step.kind == "evaluate":
        for name in ("scores.json", "answers.jsonl"):
            shutil.copy(GOLDEN / name, folder)


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
    assert all(arm.scores is None and arm.answers is None for arm in arms.values())
    saved = replace(failure, reason="saved at step 3 of 8", is_saved=True)
    arms = {arm.label: arm for arm in collect_results(STUDY, store, GRAPH, summary=replace(summary, failed=(saved,)))}
    assert arms["start-080.s1"].missing_reason == f"{failed.address} stopped: saved at step 3 of 8"


def test_a_failure_is_remembered_until_the_step_succeeds(tmp_path: Path) -> None:
    store, step = Store(tmp_path), GRAPH.final_step("start-080.s1")
    store.record_failure(step.address, "Traceback\nOSError: no disk")
    results = StudyResults(StoredStudy(STUDY, tmp_path, Site()))
    reasons = {arm.label: arm.missing_reason for arm in results.arms}
    assert reasons.pop("start-080.s1") == f"{step.address} failed: OSError: no disk"
    assert set(reasons.values()) == {"not run yet"}
    (line,) = results.problem_lines()
    assert line.startswith(f"{len(STUDY.arms)} of {len(STUDY.arms)} arms have no scores: not run yet; {step.address}")
    _store_arm(store, "start-080.s1")
    arms = {arm.label: arm for arm in collect_results(STUDY, store, GRAPH)}
    assert arms["start-080.s1"].scores and store.last_failure(step.address) == ""


def test_an_arm_whose_scores_are_refused_says_why(tmp_path: Path) -> None:
    """Scores that another version wrote are as published, and still not read."""
    store = Store(tmp_path)
    golden = json.loads((GOLDEN / "scores.json").read_text())
    del golden["tasks"]["copa"]["interval"]
    for label, content in (("start-000.s1", golden), ("start-020.s1", golden | {"format": 0})):
        store_step(
            tmp_path,
            GRAPH.final_step(label),
            lambda folder, content=content: (folder / "scores.json").write_text(json.dumps(content)),
        )
    _store_arm(store, "start-040.s1")
    arms = {arm.label: arm for arm in collect_results(STUDY, store, GRAPH)}
    for label, message in (
        ("start-000.s1", "tasks.copa.interval: wanted this key"),
        ("start-020.s1", "format: wanted 2"),
    ):
        assert f"{GRAPH.final_step(label).address}/scores.json: {message}" in arms[label].missing_reason
        assert "delete its folder first" in arms[label].missing_reason
        assert arms[label].scores is None and arms[label].answers is None
    complete = arms["start-040.s1"]
    assert complete.scores and complete.missing_reason == "" and complete.scores.tasks["copa"].kind == "text"


def _cut(path: Path, *, at_line: bool = False) -> None:
    text = path.read_text()
    path.write_text("".join(text.splitlines(keepends=True)[:-1]) if at_line else text[: len(text) - 9])


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("evaluate", "answers.jsonl", "answers.jsonl: changed"),
        ("evaluate", "answers.jsonl at a line", "answers.jsonl: changed"),
        ("evaluate", "answers.jsonl deleted", "answers.jsonl: missing"),
        ("evaluate", "scores.json", "scores.json: changed"),
        ("finetune", "log.jsonl", "log.jsonl: changed"),
        ("midtrain", "achieved.json", "achieved.json: changed"),
        ("finetune", "achieved.json", "achieved.json: changed"),
        ("midtrain", "provenance", "wanted the provenance of midtrain"),
        ("evaluate", "provenance deleted", "wanted the provenance of evaluate"),
    ],
)
def test_damage_of_one_arm_leaves_the_others_in_the_report(tmp_path: Path, kind: str, name: str, message: str) -> None:
    """Damage of an evaluation costs its scores; of another step, only what is read of that step."""
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
    (line,) = damaged.damage
    assert step.address in line and message in line
    assert line.endswith(f"firstsight doctor --store {tmp_path} --repair")
    if kind == "evaluate":
        assert damaged.scores is None and damaged.answers is None and damaged.missing_reason == line
    else:
        assert damaged.scores and not next(stage for stage in damaged.stages if stage.kind == kind).rows
    assert arms["start-100.s1"].scores and not arms["start-100.s1"].damage and not arms["start-020.s1"].damage


def test_an_edited_score_is_not_reported(tmp_path: Path) -> None:
    """One digit of scores.json, in a file of the same size and time: its change time differs."""
    _store_arm(Store(tmp_path), "start-080.s1")
    path = Store(tmp_path).path(GRAPH.final_step("start-080.s1").address) / "scores.json"
    status, text = path.stat(), path.read_text()
    digit = next(match.start() for match in re.finditer(r"[1-8]", text) if match.start() > len(text) // 2)
    path.write_text(text[:digit] + "9" + text[digit + 1 :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns and path.stat().st_size == status.st_size
    results = StudyResults(StoredStudy(STUDY, tmp_path, Site()))
    arm = next(arm for arm in results.arms if arm.label == "start-080.s1")
    assert arm.scores is None and "scores.json: changed" in arm.missing_reason
    assert any("scores.json: changed" in line for line in results.problem_lines())


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
    results = StudyResults(stored)
    page = results.write_report().read_text()
    assert [arm.label for arm in results.arms if arm.damage] == ["start-060.s1", "start-080.s1", "start-100.s1"]
    assert [arm.label for arm in results.arms if not arm.scores] == ["start-060.s1", "start-100.s1"]
    for arm in results.arms:
        assert (f"<li><b>{arm.label}</b> {escape(arm.missing_reason)}" in page) == (arm.scores is None)
        assert all(f"<li>{escape(line)} Of {arm.label}.</li>" in page for line in arm.damage)
    assert f"<dt>damaged record</dt><dd>{final['start-060.s1']}</dd>" in page
    assert "Run the same command again to continue" not in page


def test_damage_that_all_arms_share_costs_no_scores(tmp_path: Path) -> None:
    store, stored = Store(tmp_path), StoredStudy(STUDY, tmp_path, Site())
    for arm in STUDY.arms:
        _store_arm(store, arm.label)
    benchmarks = next(step for step in GRAPH.steps if step.kind == "benchmarks")
    (store.path(benchmarks.address) / "log.jsonl").unlink()
    results = StudyResults(stored)
    assert all(arm.scores and arm.benchmarks_dir is None for arm in results.arms)
    assert "Of all arms." in results.write_report().read_text()


def test_a_heldout_score_has_the_number_of_its_questions(tmp_path: Path) -> None:
    answers = [json.loads(line) for line in (GOLDEN / "answers.jsonl").read_text().splitlines()]
    for answer in answers:
        number = int(re.sub(r"\D", "", answer["question_id"]) or 0)
        answer["combination"] = "heldout" if number % 3 == 0 else "seen"
    wanted = sum(a["combination"] == "heldout" for a in answers if a["task"] == "pope" and not a["blind"])
    content = json.loads((GOLDEN / "scores.json").read_text())
    content["tasks"]["pope"]["heldout"] = 0.5

    def write(folder: Path) -> None:
        (folder / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
        (folder / "scores.json").write_text(json.dumps(content))

    store_step(tmp_path, GRAPH.final_step("start-080.s1"), write)
    rows = StudyResults(StoredStudy(STUDY, tmp_path, Site())).scores
    counts = dict(rows.filter(task="pope").select("condition", "questions").iter_rows())
    assert 0 < wanted < 12
    assert counts["heldout"] == wanted and counts["sighted"] == 12


def test_answers_that_were_not_scored_are_refused(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        shutil.copy(GOLDEN / "scores.json", folder)
        lines = (GOLDEN / "answers.jsonl").read_text().splitlines(keepends=True)
        (folder / "answers.jsonl").write_text("".join(lines[:-1]))

    store_step(tmp_path, GRAPH.final_step("start-080.s1"), write)
    arm = next(arm for arm in collect_results(STUDY, Store(tmp_path), GRAPH) if arm.label == "start-080.s1")
    assert "wanted 12 answers to copa with the image, as in scores.json. Got 11." in arm.missing_reason


def test_stages_continue_the_token_count_of_the_trunk(tmp_path: Path) -> None:
    """Trunk segments count from 0; mid-training from where the arm leaves it; fine-tuning from the end of that."""
    arm = STUDY.arm("start-080")
    _store_arm(Store(tmp_path), arm.label)
    arms = {result.label: result for result in collect_results(STUDY, Store(tmp_path), GRAPH)}
    first_seen = {stage.kind: stage.rows[0]["seen"] - 10 for stage in arms[arm.label].stages}
    branch, mid = arm.pretrain.tokens_at(arm.start), arm.stages[0]
    assert first_seen == {
        "pretrain": 0,
        "midtrain": branch,
        "finetune": branch + mid.row_shape.round_up(mid.tokens),
    }
    assert not any(stage.rows for stage in arms["start-000.s1"].stages)


def test_results_of_nothing_are_refused(tmp_path: Path) -> None:
    stored = StoredStudy(STUDY, tmp_path / "none")
    for results_of in (StoredStudy.open_store, StudyResults):
        with pytest.raises(StoreError, match="nothing is stored under"):
            results_of(stored)
    assert not (tmp_path / "none").exists()


def test_scores_of_the_last_checkpoints_are_collected_and_checked(tmp_path: Path) -> None:
    study = STUDY.with_last_checkpoints(average=2, each=3)
    graph, store, label = build_graph(study), Store(tmp_path), "start-080.s1"

    def write(folder: Path, step: Step) -> None:
        _write_result(folder, step)
        for number in range(3 if step.kind == "evaluate" else 0):
            (folder / f"last-{number}").mkdir()
            shutil.copy(GOLDEN / "scores.json", folder / f"last-{number}")

    for step in graph.arms[label]:
        store_step(store.root, step, lambda folder, step=step: write(folder, step))
    arms = {arm.label: arm for arm in collect_results(study, store, graph)}
    assert len(arms[label].last_scores) == 3 and set(map(id, arms[label].last_scores)) != {id(arms[label].scores)}
    assert all(scores == arms[label].scores for scores in arms[label].last_scores)
    file = store.path(graph.final_step(label).address) / "last-1" / "scores.json"
    file.write_text(file.read_text().replace("0.", "1.", 1))
    [damaged] = [arm for arm in collect_results(study, store, graph) if arm.label == label]
    assert damaged.scores is None and "last-1/scores.json" in damaged.missing_reason


def test_a_combined_study_has_the_results_and_reports_of_its_parts(tmp_path: Path) -> None:
    """What `when` stored is also the results of the arms that `when-controls` shares with it."""
    store = Store(tmp_path)
    for arm in STUDY.arms:
        _store_arm(store, arm.label)
    parts = [STUDY, when_controls(replace(get_scale("smoke"), seeds=1))]
    stored = StoredStudy(combine("both", question="Which?", parts=parts), tmp_path, Site())
    results = StudyResults(stored)
    assert [part.study for part in results.parts] == parts
    missing = [arm.label for arm in results.arms if arm.scores is None]
    controls = ("start-080-rewarm", "start-080-fresh", "start-100-matched", "start-100-fresh")
    assert missing == [f"when-controls.{name}.s1" for name in controls]
    page = results.write_report()
    assert page == tmp_path / "reports" / "both-smoke" / "report.html"
    for part in results.parts:
        assert f'href="../{part.study.name}-smoke/report.html"' in page.read_text()
        assert escape(part.study.question) in (page.parent / f"../{part.study.name}-smoke/report.html").read_text()
    first, second, done, claims, _ = conclusion_lines(stored, results)
    assert first == f"when: {results.parts[0].answer}" and second.startswith("when-controls: ")
    assert done == "1 of 2 studies have the scores of all their arms."
    assert claims.startswith("Claims decided: none. Undecided: when.best, when.two-points, ")
