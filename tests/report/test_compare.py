"""Differences between arms against scipy, against arithmetic, and against properties of pairing and correction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from firstsight.evaluate.result_files import build_scores
from firstsight.evaluate.statistics.differences import DifferenceEstimate, Thresholds
from firstsight.evaluate.statistics.sequential import sequential_p_value
from firstsight.report.compare import ArmComparison, ArmPair, PairedDifference
from firstsight.report.results import ArmResult
from firstsight.report.table import score_table
from tests.report.study_builder import MakeArms

LATE_END = ArmPair(a="start-080", b="start-100", measure="vision")


def _comparison(arms: list[ArmResult]) -> ArmComparison:
    return ArmComparison(arms, score_table(arms))


def _stable_scores(arms: list[ArmResult], name: str) -> dict[int, float]:
    """Vision stable score of an arm's scores.json by seed."""
    scores = {arm.seed: arm.scores.stable["vision"] for arm in arms if arm.name == name and arm.scores}
    return {seed: score for seed, score in scores.items() if score is not None}


def _difference(arms: list[ArmResult], pair: ArmPair = LATE_END) -> PairedDifference:
    difference = _comparison(arms).corrected_differences([pair])[0]
    assert difference is not None
    return difference


def test_mean_is_over_the_differences_of_stable_scores_by_seed(make_arms: MakeArms) -> None:
    arms = make_arms(vision={80: 0.6, 100: 0.5}, text={80: 0.5, 100: 0.5}, seeds=(1, 2, 3, 4), noise=0.1, trunk=False)
    a, b = (_stable_scores(arms, name) for name in ("start-080", "start-100"))
    difference = _difference(arms)
    assert dict(difference.per_seed) == pytest.approx({seed: a[seed] - b[seed] for seed in a})
    assert difference.mean == pytest.approx(np.mean(list(a.values())) - np.mean(list(b.values())))
    assert difference.missing_tasks == ()


@pytest.mark.parametrize("measure", ["vision", "text", "pope"])
def test_a_soft_difference_is_that_of_the_soft_scores(measure: str, make_arms: MakeArms) -> None:
    """Soft scores here are 1/4 + score / 2, so differences and their standard errors are half as large."""
    arms = make_arms(vision={80: 0.6, 100: 0.5}, text={80: 0.5, 100: 0.5}, seeds=(1, 2, 3, 4), noise=0.1, trunk=False)
    plain, soft = (_difference(arms, replace(LATE_END, measure=f"{measure}{suffix}")) for suffix in ("", " soft"))
    assert soft.kind == plain.kind
    assert dict(soft.per_seed) == pytest.approx({seed: value / 2 for seed, value in plain.per_seed}, abs=1e-8)
    assert soft.interval and plain.interval
    assert soft.interval == pytest.approx([end / 2 for end in plain.interval], abs=1e-6)
    assert soft.adjusted_p == pytest.approx(plain.adjusted_p, rel=1e-4)
    if measure != "pope":
        comparison = _comparison(arms)
        interval = comparison.question_interval("start-080", measure)
        soft_interval = comparison.question_interval("start-080", f"{measure} soft")
        assert interval and soft_interval
        assert np.diff(soft_interval) == pytest.approx(np.diff(interval) / 2, rel=0.05)


def test_without_answers_the_interval_is_that_of_the_paired_t_test(make_arms: MakeArms) -> None:
    arms = make_arms(vision={80: 0.6, 100: 0.5}, text={80: 0.5, 100: 0.5}, seeds=(1, 2, 3, 4), noise=0.1, trunk=False)
    a, b = (list(_stable_scores(arms, name).values()) for name in ("start-080", "start-100"))
    expected = stats.ttest_rel(a, b)
    difference = _difference([replace(arm, answers=None) for arm in arms])
    assert difference.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=2e-3)
    assert difference.adjusted_p == pytest.approx(expected.pvalue, rel=1e-2)


def test_questions_widen_the_interval_of_seeds_alone(make_arms: MakeArms) -> None:
    """Equal answers of all seeds do not determine the result on another draw of the questions."""
    arms = make_arms(vision={80: 0.6, 100: 0.5}, text={80: 0.5, 100: 0.5}, noise=0.0, trunk=False)
    difference = _difference(arms)
    assert difference.interval is not None
    assert difference.interval[1] - difference.interval[0] > 0.03
    alone = _difference([replace(arm, answers=None) for arm in arms])
    assert alone.interval == pytest.approx((alone.mean, alone.mean))


def test_one_seed_gives_an_interval_over_questions_but_no_sign(make_arms: MakeArms) -> None:
    difference = _difference(make_arms(seeds=(1,)), ArmPair(a="start-080", b="start-000", measure="vision"))
    assert difference.question_interval is not None
    assert difference.question_interval[0] < difference.mean < difference.question_interval[1]
    assert (difference.interval, difference.adjusted_p, difference.sign) == (None, None, 0)
    assert difference.display_interval == difference.question_interval


def test_comparisons_are_corrected_together_and_intervals_agree_with_the_sign(make_arms: MakeArms) -> None:
    comparison = _comparison(make_arms())
    pairs = [ArmPair(a="start-080", b=f"start-{start:03d}", measure="vision") for start in (0, 20, 40, 60, 100)]
    together = [difference for difference in comparison.corrected_differences(pairs) if difference is not None]
    assert len(together) == 5
    for pair, difference in zip(pairs, together, strict=True):
        alone = comparison.corrected_differences([pair])[0]
        assert alone is not None
        assert alone.adjusted_p is not None
        assert difference.adjusted_p is not None
        assert alone.adjusted_p <= difference.adjusted_p <= min(1.0, 5 * alone.adjusted_p)
        assert (difference.family_size, alone.family_size, alone.level) == (5, 1, 0.95)
        assert difference.interval is not None
        low, high = difference.interval
        assert difference.sign == (1 if low > 0 else -1 if high < 0 else 0)
    assert min(
        difference.adjusted_p or 0
        for difference in comparison.corrected_differences(pairs, candidates=15)
        if difference
    ) >= min(difference.adjusted_p or 0 for difference in together)


def test_difference_is_tested_against_the_threshold(make_arms: MakeArms) -> None:
    arms = make_arms(vision={80: 0.6, 100: 0.5}, text={80: 0.5, 100: 0.5}, questions=100)
    assert _difference(arms, replace(LATE_END, thresholds=Thresholds(-0.02, -0.02))).sign == 1
    assert _difference(arms, replace(LATE_END, thresholds=Thresholds(0.5, 0.5))).sign == -1
    mean = _difference(arms).mean
    assert _difference(arms, replace(LATE_END, thresholds=Thresholds(mean, mean))).sign == 0
    assert _difference(arms, replace(LATE_END, thresholds=Thresholds(0.0, 0.12))).sign == 1
    assert _difference(arms, replace(LATE_END, thresholds=Thresholds(0.0, 0.5))).sign == -1


def test_task_that_one_run_lacks_is_left_out_and_named(make_arms: MakeArms) -> None:
    arms = make_arms(trunk=False)
    first = arms[0]
    assert first.scores
    tasks = {name: task for name, task in first.scores.tasks.items() if name != "gqa"}
    incomplete = replace(first, scores=build_scores(tasks))
    pair = ArmPair(a=first.name, b="start-080", measure="vision")
    difference, complete = _difference([incomplete, *arms[1:]], pair), _difference(arms, pair)
    assert difference.missing_tasks == ("gqa",)
    assert complete.missing_tasks == ()
    # By hand: the mean over the five common tasks.
    by_seed: dict[str, list[float]] = {first.name: [], "start-080": []}
    for arm in arms:
        if arm.name in by_seed and arm.scores:
            tasks = {name: task for name, task in arm.scores.tasks.items() if name != "gqa"}
            included = [task for task in tasks.values() if task.kind == "vision" and task.stable]
            gains = [task.score - task.chance for task in included if task.score is not None]
            by_seed[arm.name].append(sum(gains) / 5)
    assert difference.mean == pytest.approx(np.mean(by_seed[first.name]) - np.mean(by_seed["start-080"]))


def test_arms_without_a_common_seed_have_no_difference(make_arms: MakeArms) -> None:
    arms = [arm for arm in make_arms() if (arm.name, arm.seed) not in {("start-080", 1), ("start-100", 2)}]
    assert _comparison(arms).corrected_differences([LATE_END]) == [None]


def test_pairing_removes_the_variance_that_both_arms_share(make_arms: MakeArms) -> None:
    arms = make_arms(vision={80: 0.50, 100: 0.49}, text={80: 0.5, 100: 0.5}, questions=100, seeds=(1,))
    alone = _comparison(arms).question_interval("start-080", "vision")
    difference = _difference(arms)
    assert difference.question_interval is not None
    assert alone is not None
    assert difference.question_interval[1] - difference.question_interval[0] < 0.5 * (alone[1] - alone[0])


def test_interval_of_an_arm_contains_its_mean_over_seeds(make_arms: MakeArms) -> None:
    arms = make_arms()
    comparison = _comparison(arms)
    interval = comparison.question_interval("start-080", "vision")
    assert interval is not None
    assert interval[0] < np.mean(list(_stable_scores(arms, "start-080").values())) < interval[1]


def test_task_in_another_version_is_left_out_and_named(make_arms: MakeArms) -> None:
    arms = make_arms(trunk=False)
    first = arms[0]
    assert first.scores
    tasks = {**first.scores.tasks, "gqa": replace(first.scores.tasks["gqa"], version=2)}
    changed = replace(first, scores=build_scores(tasks))
    pair = ArmPair(a="start-080", b="start-100", measure="vision")
    assert _difference([changed, *arms[1:]], pair).missing_tasks == ("gqa",)
    assert _difference(arms, pair).missing_tasks == ()


def test_looks_are_what_fewer_seeds_would_have_shown(make_arms: MakeArms) -> None:
    arms = make_arms(vision={80: 0.6, 100: 0.5, 60: 0.5}, text={80: 0.5, 100: 0.5, 60: 0.5}, seeds=(1, 2, 3, 4))
    rows = score_table(arms)
    sequential = ArmComparison(arms, rows, rule="sequential").corrected_differences([LATE_END])[0]
    assert sequential is not None and len(sequential.looks) == 3
    for number, look in enumerate(sequential.looks, start=2):
        fixed = _difference([arm for arm in arms if arm.seed <= number]).estimate
        assert fixed is not None and vars_of(look) == pytest.approx(vars_of(fixed), abs=1e-12)


@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_a_decision_is_that_of_a_look_and_its_interval_agrees(make_arms: MakeArms, noise: float) -> None:
    arms = make_arms(vision={80: 0.6, 100: 0.4}, text={80: 0.5, 100: 0.5}, seeds=(1, 2, 3, 4, 5), noise=noise)
    comparison = ArmComparison(arms, score_table(arms), rule="sequential")
    difference = comparison.corrected_differences([LATE_END])[0]
    assert difference is not None and difference.interval is not None and difference.adjusted_p is not None
    p_value, num_seeds = sequential_p_value(difference.looks)
    assert difference.adjusted_p == p_value
    assert len(difference.per_seed) == (num_seeds if p_value <= 0.05 else 5)
    assert difference.sign == int(difference.interval[0] > 0)


def vars_of(estimate: DifferenceEstimate) -> list[float]:
    return [estimate.mean, estimate.seed_variance, estimate.question_variance, estimate.residual_variance]
