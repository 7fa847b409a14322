"""Signal and noise of a study against its scores, and the stable scores without noise-only tasks against arithmetic."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl
import pytest

from firstsight.evaluate.result_files import TaskScores, build_scores
from firstsight.report.claims import evaluate_claims
from firstsight.report.compare import ArmComparison, ArmPair
from firstsight.report.noise import StudyNoise, study_noise
from firstsight.report.results import ArmResult
from firstsight.report.table import score_table
from tests.report.study_builder import VISION, MakeArms, study

FLAT = dict.fromkeys((0, 20, 40, 60, 80, 100), 0.5)


def _noise(arms: list[ArmResult]) -> StudyNoise:
    rows = score_table(arms)
    comparison = ArmComparison(arms, rows)
    return study_noise(arms, rows, claims=evaluate_claims(study().claims, arms, comparison), comparison=comparison)


def _verdicts(noise: StudyNoise) -> dict[str, str]:
    return {score.name: score.estimate.verdict for score in noise.tasks}


def _with_coin(arms: list[ArmResult], task: str) -> list[ArmResult]:
    """The arms, whose answers to `task` are coins that nothing tells apart."""
    changed = []
    for arm in arms:
        assert arm.scores and arm.answers is not None
        rng = np.random.default_rng(sum(arm.label.encode()))
        is_task = pl.col("task") == task
        coins = pl.Series(rng.integers(0, 2, len(arm.answers)).astype(float))
        answers = arm.answers.with_columns(score=pl.when(is_task).then(coins).otherwise("score"))
        entries = dict(arm.scores.tasks)
        if task in entries:
            score = answers.filter(is_task, blind=False)["score"].mean()
            assert isinstance(score, float)
            entries[task] = replace(entries[task], score=score)
        changed.append(replace(arm, answers=answers, scores=build_scores(entries)))
    return changed


def test_spread_and_seeds_are_those_of_the_scores(make_arms: MakeArms) -> None:
    arms = make_arms(seeds=(1, 2, 3), noise=0.05)
    noise = _noise(arms)
    for score in noise.tasks:
        values: dict[str, list[float]] = {}
        for arm in arms:
            if arm.role == "compared" and arm.scores and (value := arm.scores.tasks[score.name].score) is not None:
                values.setdefault(arm.name, []).append(value)
        means = [np.mean(seeds) for seeds in values.values()]
        assert score.arm_means == pytest.approx(dict(zip(values, means, strict=True)))
        assert score.estimate.arm_range == pytest.approx(max(means) - min(means))
        pooled = np.sqrt(np.mean([np.var(seeds, ddof=1) for seeds in values.values()]))
        assert score.estimate.seed_deviation == pytest.approx(pooled, abs=1e-8)
        assert (score.estimate.num_arms, score.estimate.num_seeds) == (6, 3)


def test_error_over_questions_is_that_of_binomial_answers(make_arms: MakeArms) -> None:
    """Text questions have no image, so each is a cluster: sqrt(p (1 - p) / (n - 1))."""
    noise = _noise(make_arms(questions=40))
    arc = next(score for score in noise.tasks if score.name == "arc_easy")
    rows = score_table(make_arms(questions=40)).filter(task="arc_easy", condition="sighted", role="compared")
    squares = [p * (1 - p) / 39 for p in rows["score"]]
    assert arc.estimate.question_error == pytest.approx(np.sqrt(np.mean(squares)))


def test_arms_that_differ_decide_and_a_coin_is_noise(make_arms: MakeArms) -> None:
    noise = _noise(_with_coin(make_arms(seeds=(1, 2, 3)), "gqa"))
    verdicts = _verdicts(noise)
    assert verdicts["gqa"] == "noise only"
    assert {name for name, verdict in verdicts.items() if verdict == "decides"} >= {"textvqa", "ocid_ref", "refcoco"}
    assert noise.noise_only("vision") == ("gqa",)
    assert "gqa" not in noise.reduced["vision"].tasks


def test_stable_score_without_noise_is_a_mean_over_the_other_tasks(make_arms: MakeArms) -> None:
    arms = _with_coin(make_arms(seeds=(1, 2, 3)), "gqa")
    noise = _noise(arms)
    stable = [task for task in VISION if task not in ("vizwiz", "gqa")]
    assert noise.reduced["vision"].tasks == tuple(stable)
    assert [row[0] for row in noise.arm_table()] == ["arm", *(f"start-{start:03d}" for start in FLAT)]
    for name, mean in noise.reduced["vision"].arm_means.items():
        entries = [arm.scores.tasks for arm in arms if arm.name == name and arm.scores]
        gains = [(tasks[task].score or 0) - tasks[task].chance for tasks, task in product(entries, stable)]
        assert mean == pytest.approx(np.mean(gains))
    for name, mean in noise.stable["vision"].arm_means.items():
        scores = [arm.scores.stable["vision"] for arm in arms if arm.name == name and arm.scores]
        assert mean == pytest.approx(np.mean([score for score in scores if score is not None]), abs=1e-8)
    shown = {(full.pair.a, full.pair.b): reduced for full, reduced in noise.differences if full.kind == "vision"}
    assert shown
    for (a, b), reduced in shown.items():
        means = noise.reduced["vision"].arm_means
        assert reduced.mean == pytest.approx(means[a] - means[b])


def test_claims_and_stable_scores_stay_over_all_tasks(make_arms: MakeArms) -> None:
    """What is only noise is shown beside, never left out of a verdict."""
    arms = _with_coin(make_arms(seeds=(1, 2, 3)), "gqa")
    rows = score_table(arms)
    comparison = ArmComparison(arms, rows)
    claims = evaluate_claims(study().claims, arms, comparison)
    noise = study_noise(arms, rows, claims=claims, comparison=comparison)
    assert "gqa" in comparison.shared_tasks(ArmPair(a="start-080", b="start-020", measure="vision"), [1, 2, 3])
    differences = [difference for claim in claims for difference in claim.differences]
    assert noise.differences
    assert all(full in differences for full, _ in noise.differences)


def test_one_seed_is_unknown_and_leaves_nothing_out(make_arms: MakeArms) -> None:
    noise = _noise(make_arms(seeds=(1,)))
    assert set(_verdicts(noise).values()) == {"unknown"}
    assert (noise.reduced, noise.differences) == ({}, ())
    assert noise.frame()["noise"].null_count() == len(noise.frame())
    assert all(row[1:4] == ("unknown", "unknown", "unknown") for row in noise.table()[1:])
    assert "unknown: it needs two arms with the same two seeds" in " ".join(noise.lines())


def test_task_that_is_the_same_everywhere_never_decides(make_arms: MakeArms) -> None:
    noise = _noise(make_arms(vision=FLAT, text=FLAT, noise=0.0))
    assert set(_verdicts(noise).values()) == {"noise only"}
    assert noise.reduced == {}  # no task is left
    assert noise.stable["vision"].estimate.signal == 0.0


def test_task_in_two_versions_is_left_out(make_arms: MakeArms) -> None:
    first, *others = make_arms()
    assert first.scores
    changed = {**first.scores.tasks, "gqa": replace(first.scores.tasks["gqa"], version=2)}
    noise = _noise([replace(first, scores=build_scores(changed)), *others])
    assert "gqa" not in _verdicts(noise)
    assert "gqa" not in noise.stable["vision"].tasks


def test_without_scores_there_is_nothing() -> None:
    noise = _noise([])
    assert (noise.tasks, noise.stable, noise.reduced) == ((), {}, {})
    assert noise.frame().is_empty()
    assert noise.arm_table() == noise.difference_table() == []


def _shifted(task: TaskScores, shift: float) -> TaskScores:
    assert task.soft
    return replace(task, score=(task.score or 0) + shift, soft=replace(task.soft, score=(task.soft.score or 0) + shift))


def test_soft_scores_have_their_rows_beside_the_papers(make_arms: MakeArms) -> None:
    """The soft score of these answers is 1/4 + score / 2, so every deviation is half as large, and ratios are equal."""
    noise = _noise(make_arms(seeds=(1, 2, 3), noise=0.05))
    paper = {score.name: score for score in noise.tasks} | dict(noise.stable)
    assert [score.name for score in noise.soft] == [f"{name} soft" for name in paper]
    for soft, score in zip(noise.soft, paper.values(), strict=True):
        assert soft.tasks == score.tasks and soft.estimate.verdict == score.estimate.verdict
        for name in ("arm_range", "signal", "noise", "seed_deviation", "paired_seed_deviation", "question_error"):
            value = getattr(score.estimate, name)
            assert getattr(soft.estimate, name) == pytest.approx(None if value is None else value / 2, abs=1e-9), name
    names = [row[0] for row in noise.table()]
    assert names[names.index("gqa") + 1] == "gqa, soft" and "vision: stable score, soft" in names
    decided = sum(score.estimate.verdict == "decides" for score in noise.tasks)
    assert f"{decided} decide by the paper's score, {decided} by the soft score" in " ".join(noise.lines())
    assert set(noise.frame()["score"]) >= {"gqa", "gqa soft", "vision soft"}


def test_spread_over_the_last_checkpoints_is_that_of_their_scores(make_arms: MakeArms) -> None:
    arms, rng = make_arms(seeds=(1, 2)), np.random.default_rng(0)
    assert "last checkpoints" not in _noise(arms).table()[0]
    changed: list[ArmResult] = []
    for arm in arms:
        assert arm.scores
        shifts = rng.normal(0, 0.02, 4).tolist()
        last = tuple(
            build_scores({name: _shifted(task, shift) for name, task in arm.scores.tasks.items()}) for shift in shifts
        )
        changed.append(replace(arm, last_scores=last if arm.role == "compared" else ()))
    noise = _noise(changed)
    compared = [arm for arm in changed if arm.role == "compared"]
    scores = np.array([[last.tasks["gqa"].score for last in arm.last_scores] for arm in compared], dtype=float)
    pooled = np.sqrt(scores.var(axis=1, ddof=1).mean())
    header, *rows = noise.table()
    assert header[-1] == "last checkpoints" and all(row[-1] == f"{pooled * 100:.1f}" for row in rows)
    assert any(line.startswith("last checkpoints: ") for line in noise.lines())
    for score in (*noise.tasks, *noise.stable.values()):
        assert score.estimate.checkpoint_deviation == pytest.approx(pooled), "every task has the same shifts"
    assert noise.frame()["checkpoint_deviation"].null_count() == 0
    plain = _noise(arms)
    assert [score.estimate.noise for score in noise.tasks] == [score.estimate.noise for score in plain.tasks]


def test_spread_over_checkpoints_is_unknown_where_a_run_lacks_them(make_arms: MakeArms) -> None:
    arms = [replace(arm, last_scores=(arm.scores, arm.scores) if arm.scores else ()) for arm in make_arms()]
    assert {score.estimate.checkpoint_deviation for score in _noise(arms).tasks} == {0.0}
    arms[0] = replace(arms[0], last_scores=arms[0].last_scores[:1])
    assert {score.estimate.checkpoint_deviation for score in _noise(arms).tasks} == {None}
