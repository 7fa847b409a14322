"""Differences between arms against scipy, against arithmetic, and against laws of pairing and of correction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from firstsight.report.compare import ArmPair, Comparison, PairedDifference
from firstsight.report.results import ArmResult
from firstsight.report.table import score_table

Make = Callable[..., list[ArmResult]]
LATE_END = ArmPair(a="start-080", b="start-100", kind="vision")


def _comparison(arms: list[ArmResult]) -> Comparison:
    return Comparison(arms, score_table(arms))


def _found(arms: list[ArmResult], pair: ArmPair = LATE_END) -> PairedDifference:
    found = _comparison(arms).paired_difference(pair)
    assert found is not None
    return found


def test_the_mean_is_of_the_stable_scores_by_seed(make: Make) -> None:
    arms = make(ability={80: 0.6, 100: 0.5}, literacy={80: 0.5, 100: 0.5}, seeds=(1, 2, 3, 4), noise=0.1, trunk=False)
    comparison = _comparison(arms)
    a, b = (comparison.stable_scores(name, "vision") for name in ("start-080", "start-100"))
    found = _found(arms)
    assert dict(found.per_seed) == pytest.approx({seed: a[seed] - b[seed] for seed in a})
    assert found.mean == pytest.approx(np.mean(list(a.values())) - np.mean(list(b.values())))
    assert found.missing_tasks == ()


def test_without_answers_it_is_the_paired_t_test(make: Make) -> None:
    arms = make(ability={80: 0.6, 100: 0.5}, literacy={80: 0.5, 100: 0.5}, seeds=(1, 2, 3, 4), noise=0.1, trunk=False)
    comparison = _comparison(arms)
    a, b = (list(comparison.stable_scores(name, "vision").values()) for name in ("start-080", "start-100"))
    known = stats.ttest_rel(a, b)
    found = _found([replace(arm, answers_path=None) for arm in arms])
    assert found.interval == pytest.approx(tuple(known.confidence_interval(0.95)), rel=2e-3)
    assert found.adjusted_p == pytest.approx(known.pvalue, rel=1e-2)


def test_questions_widen_what_seeds_alone_would_say(make: Make) -> None:
    """Seeds that agree to the last answer say nothing of another draw of the questions."""
    arms = make(ability={80: 0.6, 100: 0.5}, literacy={80: 0.5, 100: 0.5}, noise=0.0, trunk=False)
    found = _found(arms)
    assert found.interval is not None
    assert found.interval[1] - found.interval[0] > 0.03
    alone = _found([replace(arm, answers_path=None) for arm in arms])
    assert alone.interval == pytest.approx((alone.mean, alone.mean))


def test_one_seed_gives_questions_but_no_verdict(make: Make) -> None:
    found = _found(make(seeds=(1,)), ArmPair(a="start-080", b="start-000", kind="vision"))
    assert found.question_interval is not None
    assert found.question_interval[0] < found.mean < found.question_interval[1]
    assert (found.interval, found.adjusted_p, found.sign) == (None, None, 0)
    assert found.display_interval == found.question_interval


def test_a_family_is_corrected_and_its_intervals_say_what_is_decided(make: Make) -> None:
    comparison = _comparison(make())
    pairs = [ArmPair(a="start-080", b=f"start-{start:03d}", kind="vision") for start in (0, 20, 40, 60, 100)]
    together = [found for found in comparison.corrected_differences(pairs) if found is not None]
    assert len(together) == 5
    for pair, found in zip(pairs, together, strict=True):
        alone = comparison.paired_difference(pair)
        assert alone is not None
        assert alone.adjusted_p is not None
        assert found.adjusted_p is not None
        assert alone.adjusted_p <= found.adjusted_p <= min(1.0, 5 * alone.adjusted_p)
        assert (found.family_size, alone.family_size, alone.level) == (5, 1, 0.95)
        assert found.interval is not None
        low, high = found.interval
        assert found.sign == (1 if low > 0 else -1 if high < 0 else 0)
    assert min(
        found.adjusted_p or 0 for found in comparison.corrected_differences(pairs, candidate_count=15) if found
    ) >= min(found.adjusted_p or 0 for found in together)


def test_a_bar_is_what_the_difference_is_held_against(make: Make) -> None:
    arms = make(ability={80: 0.6, 100: 0.5}, literacy={80: 0.5, 100: 0.5}, questions=100)
    assert _found(arms, replace(LATE_END, threshold=-0.02)).sign == 1
    assert _found(arms, replace(LATE_END, threshold=0.5)).sign == -1
    assert _found(arms, replace(LATE_END, threshold=_found(arms).mean)).sign == 0


def test_a_task_that_one_run_lacks_is_left_out_and_named(make: Make) -> None:
    arms = make(trunk=False)
    first = arms[0]
    scores = dict(first.scores or {})
    lacking = replace(first, scores=scores | {"tasks": {k: v for k, v in scores["tasks"].items() if k != "gqa"}})
    pair = ArmPair(a=first.name, b="start-080", kind="vision")
    found, whole = _found([lacking, *arms[1:]], pair), _found(arms, pair)
    assert found.missing_tasks == ("gqa",)
    assert whole.missing_tasks == ()
    # By hand: the mean over the five tasks that are left.
    by_seed: dict[str, list[float]] = {first.name: [], "start-080": []}
    for arm in arms:
        if arm.name in by_seed:
            tasks = (arm.scores or {})["tasks"]
            left = [
                f["score"] - f["chance"]
                for n, f in tasks.items()
                if f["kind"] == "vision" and f["stable"] and n != "gqa"
            ]
            by_seed[arm.name].append(sum(left) / 5)
    assert found.mean == pytest.approx(np.mean(by_seed[first.name]) - np.mean(by_seed["start-080"]))


def test_no_common_seed_is_no_difference(make: Make) -> None:
    arms = [arm for arm in make() if (arm.name, arm.seed) not in {("start-080", 1), ("start-100", 2)}]
    assert _comparison(arms).paired_difference(LATE_END) is None


def test_pairing_removes_what_both_arms_share(make: Make) -> None:
    arms = make(ability={80: 0.50, 100: 0.49}, literacy={80: 0.5, 100: 0.5}, questions=100, seeds=(1,))
    alone = _comparison(arms).question_interval("start-080", "vision")
    found = _found(arms)
    assert found.question_interval is not None
    assert alone is not None
    assert found.question_interval[1] - found.question_interval[0] < 0.5 * (alone[1] - alone[0])


def test_an_arms_interval_holds_its_mean_over_seeds(make: Make) -> None:
    comparison = _comparison(make())
    found = comparison.question_interval("start-080", "vision")
    assert found is not None
    assert found[0] < np.mean(list(comparison.stable_scores("start-080", "vision").values())) < found[1]
