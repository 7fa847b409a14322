"""Signal and noise against set variance components, against the interval of a difference, and against laws."""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from firstsight.evaluate.statistics.bootstrap import cluster_scores
from firstsight.evaluate.statistics.differences import crossed_estimate
from firstsight.evaluate.statistics.noise import SignalAndNoise, question_influences, signal_and_noise

SHARES = st.floats(0, 1, width=32)
TABLES = st.tuples(st.integers(2, 5), st.integers(2, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=SHARES)
)


def _study(
    seed: int,
    *,
    num_arms: int = 12,
    num_seeds: int = 4,
    num_questions: int = 100,
    arm: float = 0.05,
    paired_seed: float = 0.03,
    paired_question: float = 0.2,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [arms, seeds] and influences of a simulated study; the other variance components are fixed.

    arm, paired_seed: standard deviations of an arm, and of the interaction of arm and seed. paired_question: of the
    interaction of arm and question.
    """
    rng = np.random.default_rng(seed)
    shape = num_arms, num_seeds, num_questions
    answers = (
        rng.normal(0.5, arm, (num_arms, 1, 1))
        + rng.normal(0, 0.1, (1, num_seeds, 1))
        + rng.normal(0, paired_seed, (num_arms, num_seeds, 1))
        + rng.normal(0, 0.3, (1, 1, num_questions))
        + rng.normal(0, paired_question, (num_arms, 1, num_questions))
        + rng.normal(0, 0.25, shape)
    )
    return answers.mean(-1), (answers - answers.mean(-1, keepdims=True)) / num_questions


def _mean_square(estimates: list[SignalAndNoise], name: str) -> float:
    return float(np.mean([getattr(estimate, name) ** 2 for estimate in estimates]))


def test_set_variance_components_are_recovered() -> None:
    """Means of 300 simulated studies: every estimate is of a variance without bias."""
    estimates = [signal_and_noise(*_study(seed)) for seed in range(300)]
    residual = 0.25**2 / 100
    assert _mean_square(estimates, "signal") == pytest.approx(0.05**2, rel=0.06)
    assert _mean_square(estimates, "seed_deviation") == pytest.approx(0.1**2 + 0.03**2 + residual, rel=0.08)
    assert _mean_square(estimates, "paired_seed_deviation") == pytest.approx(2 * (0.03**2 + residual), rel=0.05)
    assert _mean_square(estimates, "question_error") == pytest.approx((0.3**2 + 0.2**2) / 100 + residual, rel=0.05)
    assert _mean_square(estimates, "paired_question_error") == pytest.approx(2 * (0.04 / 100 + residual / 4), rel=0.05)
    assert _mean_square(estimates, "noise") == pytest.approx((0.03**2 + residual) / 4 + 0.04 / 100, rel=0.05)


def test_noise_is_that_of_the_mean_difference_between_two_arms() -> None:
    scores, influences = _study(3)
    pairs = list(combinations(range(len(scores)), 2))
    estimates = [
        crossed_estimate(scores[a] - scores[b], arm_scores=scores, influences=influences[a] - influences[b])
        for a, b in pairs
    ]
    # The study's seed variance is pooled over all arms; the pairs that an F test takes out keep their own.
    questions = [e.question_variance - e.residual_variance for e in estimates if e]
    seeds = 2 * _interaction(scores).sum() / (11 * 3) / 4
    noise = signal_and_noise(scores, influences).noise
    assert noise == pytest.approx(np.sqrt((seeds + np.mean(questions)) / 2), rel=1e-6)


def _interaction(scores: np.ndarray) -> np.ndarray:
    means = scores.mean(1, keepdims=True) + scores.mean(0, keepdims=True) - scores.mean()
    return (scores - means) ** 2


def test_equal_arms_are_noise_in_all_but_one_of_twenty_studies() -> None:
    verdicts = [signal_and_noise(*_study(seed, arm=0.0, num_arms=6, num_seeds=3)).verdict for seed in range(600)]
    assert np.mean([verdict != "noise only" for verdict in verdicts]) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 600)


def test_share_of_pairs_in_the_right_order_is_that_of_simulated_pairs() -> None:
    """Arms in the order of a study against their order without noise."""
    ratio = 1.5
    rng = np.random.default_rng(0)
    truth = rng.normal(0, ratio, 4000)
    measured = truth + rng.normal(0, 1, 4000)
    order = np.sign(truth[::2] - truth[1::2]) == np.sign(measured[::2] - measured[1::2])
    share = _estimate(arm_deviation=np.hypot(ratio, 1), noise=1.0).ordered_share
    assert share == pytest.approx(order.mean(), abs=3 * np.sqrt(0.2 * 0.8 / 2000))


def _estimate(*, arm_deviation: float, noise: float) -> SignalAndNoise:
    parts: dict[str, Any] = dict.fromkeys(field.name for field in fields(SignalAndNoise))
    parts |= {"num_arms": 200, "num_seeds": 3, "arm_deviation": arm_deviation, "noise": noise}
    return SignalAndNoise(**parts)


@pytest.mark.parametrize(("ratio", "verdict"), [(0.1, "noise only"), (1.3, "weak"), (1.4, "decides"), (9.0, "decides")])
def test_a_task_decides_from_four_of_five_pairs_in_order(ratio: float, verdict: str) -> None:
    """tan(0.3 pi) = 1.376 is the ratio at which 80 % of the pairs are in the right order."""
    assert _estimate(arm_deviation=np.hypot(ratio, 1), noise=1.0).verdict == verdict


@pytest.mark.parametrize("seed", range(3))
def test_without_questions_two_arms_have_the_p_value_of_the_paired_t_test(seed: int) -> None:
    scores, influences = _study(seed, num_arms=2, num_questions=4000)
    expected = stats.ttest_rel(scores[0], scores[1]).pvalue
    assert signal_and_noise(scores, 0 * influences).p_value == pytest.approx(expected)


@settings(max_examples=40)
@given(scores=TABLES, arm_shift=SHARES, seed_shift=arrays(np.float64, 4, elements=SHARES))
def test_what_moves_all_arms_alike_is_no_noise_of_a_difference(
    scores: np.ndarray, arm_shift: float, seed_shift: np.ndarray
) -> None:
    influences = np.zeros((*scores.shape, 3))
    before = signal_and_noise(scores, influences)
    shifted = signal_and_noise(scores + arm_shift, influences)
    moved = signal_and_noise(scores + seed_shift[: scores.shape[1]], influences)
    for name in ("arm_range", "arm_deviation", "seed_deviation", "paired_seed_deviation", "noise"):
        assert getattr(shifted, name) == pytest.approx(getattr(before, name), abs=1e-7)
        if name != "seed_deviation":
            assert getattr(moved, name) == pytest.approx(getattr(before, name), abs=1e-7)


@settings(max_examples=40)
@given(scores=TABLES, shift=arrays(np.float64, 5, elements=SHARES))
def test_what_moves_one_arm_at_all_seeds_is_no_noise(scores: np.ndarray, shift: np.ndarray) -> None:
    influences = np.zeros((*scores.shape, 3))
    before = signal_and_noise(scores, influences)
    after = signal_and_noise(scores + shift[: len(scores), None], influences)
    for name in ("seed_deviation", "paired_seed_deviation", "noise"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-7)


@settings(max_examples=40)
@given(value=SHARES, shape=st.tuples(st.integers(2, 6), st.integers(1, 5)))
def test_a_constant_task_never_decides(value: float, shape: tuple[int, int]) -> None:
    estimate = signal_and_noise(np.full(shape, value), np.zeros((*shape, 10)))
    assert estimate.verdict == ("noise only" if shape[1] > 1 else "unknown")
    assert estimate.ratio == (0.0 if shape[1] > 1 else None)


@settings(max_examples=40)
@given(scores=TABLES)
def test_one_seed_leaves_the_noise_unknown(scores: np.ndarray) -> None:
    estimate = signal_and_noise(scores[:, :1], np.zeros((len(scores), 1, 5)))
    assert (estimate.seed_deviation, estimate.paired_seed_deviation, estimate.noise) == (None, None, None)
    assert (estimate.signal, estimate.ratio, estimate.ordered_share, estimate.p_value) == (None, None, None, None)
    assert estimate.verdict == "unknown"
    assert estimate.arm_range is not None


@settings(max_examples=40)
@given(scores=TABLES)
def test_without_answers_or_other_arms_the_noise_is_unknown(scores: np.ndarray) -> None:
    without_answers = signal_and_noise(scores)
    one_image = signal_and_noise(scores, np.zeros((*scores.shape, 1)))
    one_arm = signal_and_noise(scores[:1], np.zeros((1, scores.shape[1], 5)))
    for estimate in (without_answers, one_image, one_arm):
        assert (estimate.noise, estimate.signal, estimate.verdict) == (None, None, "unknown")
        assert estimate.seed_deviation is not None
    assert (without_answers.question_error, one_image.question_error) == (None, None)
    assert (one_arm.arm_range, one_arm.paired_seed_deviation, one_arm.question_error) == (None, None, 0.0)


@settings(max_examples=40)
@given(data=st.data(), num_questions=st.integers(1, 12))
def test_influences_are_those_of_the_bootstrap(data: st.DataObject, num_questions: int) -> None:
    def draw(values: str) -> list[str]:
        return data.draw(st.lists(st.sampled_from(values), min_size=num_questions, max_size=num_questions))

    clusters, tasks, splits = draw("abc"), draw("xy"), draw("pq")
    scores = data.draw(arrays(np.float64, (2, num_questions), elements=SHARES))
    influences = question_influences(scores, clusters=clusters, tasks=tasks, splits=splits)
    for row, run in zip(influences, scores, strict=True):
        expected = cluster_scores(run, clusters=clusters, tasks=tasks, splits=splits).influence()
        assert row == pytest.approx(expected, abs=1e-8)
