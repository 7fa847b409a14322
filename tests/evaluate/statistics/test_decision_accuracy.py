"""Decision accuracy against hand-counted pairs, against Kendall's tau, and against simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from firstsight.evaluate.statistics.decision_accuracy import (
    OrderedShare,
    SizeScores,
    decided_pairs,
    draw_means,
    ordered_share,
    pair_agreement,
    pair_differences,
)

TABLES = st.tuples(st.integers(2, 6), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(0, 1, width=32))
)


def shares(small: SizeScores, large: SizeScores) -> tuple[OrderedShare, OrderedShare]:
    """Over all pairs, and over those that are decided at the large size."""
    draws, decided = draw_means([small, large]), decided_pairs(large)
    over_all = ordered_share(small, large, draws=draws, of=np.ones(len(decided), dtype=bool))
    return over_all, ordered_share(small, large, draws=draws, of=decided)


def exact(scores: np.ndarray) -> SizeScores:
    return SizeScores(scores=scores, influences=None)


def simulated(means: np.ndarray, rng: np.random.Generator, *, seed_noise: float, answers: np.ndarray) -> SizeScores:
    """Three seeds of arms that score `means`; `answers` are [arms, questions], errors of the questions."""
    seeds = means[:, None] + rng.normal(0, seed_noise, (len(means), 3)) + rng.normal(0, 0.1, (1, 3))
    scores = seeds + answers.mean(1, keepdims=True)
    influences = (answers - answers.mean(1, keepdims=True)) / answers.shape[1]
    return SizeScores(scores=scores, influences=np.repeat(influences[:, None], 3, axis=1))


def test_pairs_counted_by_hand() -> None:
    """Of a > b > c = d and a > c > b > d, of six pairs b-c is reversed, c-d is a tie, and four are alike."""
    large, small = np.array([0.9, 0.7, 0.5, 0.5]), np.array([0.4, 0.2, 0.3, 0.1])
    assert pair_differences(large).tolist() == [0.2, 0.4, 0.4, 0.2, 0.2, 0.0]
    assert pair_agreement(small, large).tolist() == [1, 1, 1, 0, 1, 0.5]
    over_all, over_decided = shares(exact(small[:, None]), exact(large[:, None]))
    assert (over_all.num_alike, over_all.num_pairs, over_all.share) == (4.5, 6, 0.75)
    assert over_all.interval is None, "one seed, and no answers"
    assert over_decided == OrderedShare(num_pairs=0, num_alike=0.0, interval=None) and over_decided.share is None


@settings(deadline=None, max_examples=60)
@given(TABLES)
def test_identical_sizes_agree_and_reversed_ones_do_not(scores: np.ndarray) -> None:
    size, is_tied = exact(scores), pair_differences(scores.mean(1)) == 0
    over_all, over_decided = shares(size, size)
    assert over_all.num_alike == len(is_tied) - is_tied.sum() / 2
    assert over_decided.num_alike == over_decided.num_pairs <= over_all.num_pairs - is_tied.sum()
    opposite, opposite_decided = shares(exact(1 - scores), size)
    assert opposite.num_alike == is_tied.sum() / 2 and opposite_decided.num_alike == 0
    tied, _ = shares(exact(np.zeros_like(scores)), size)
    assert tied.num_alike == len(is_tied) / 2
    for share in (over_all, opposite, tied):
        low, high = share.interval or (share.share, share.share)
        assert 0 <= low <= share.share <= high <= 1  # type: ignore[operator]


@given(st.permutations(range(7)))
def test_without_ties_it_is_kendalls_tau(order: list[int]) -> None:
    small, large = np.array(order, dtype=float), np.arange(7.0)
    tau = stats.kendalltau(small, large).statistic
    assert pair_agreement(small, large).mean() == pytest.approx((1 + tau) / 2)


def test_draws_have_the_variance_of_seeds_and_questions() -> None:
    """An arm's mean over 3 seeds varies by .06 / sqrt(3); its questions by .4 / sqrt(100), alike at both sizes."""
    rng = np.random.default_rng(1)
    answers = rng.normal(0, 0.4, (200, 100))
    sizes = [simulated(np.full(200, 0.5), rng, seed_noise=0.06, answers=answers) for _ in range(2)]
    draws = draw_means(sizes, num_draws=400)
    errors = [draw - size.means for draw, size in zip(draws, sizes, strict=True)]
    assert [error.std() for error in errors] == pytest.approx([np.hypot(0.06 / 3**0.5, 0.04)] * 2, rel=0.05)
    shared = np.mean(errors[0] * errors[1])
    assert shared == pytest.approx(0.04**2, rel=0.1)


def test_without_noise_of_seeds_the_order_is_certain() -> None:
    scores = np.array([[0.9, 0.8], [0.5, 0.4], [0.3, 0.2]])
    over_all, over_decided = shares(exact(scores[[1, 0, 2]]), exact(scores))
    assert over_all.interval == pytest.approx((2 / 3, 2 / 3)) and over_decided.num_pairs == 3


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.3])
def test_intervals_cover_the_share_of_the_true_orders(spread: float) -> None:
    """300 simulated ladders of six arms, with seed noise .03: at least 95 %, up to 2.5 standard errors below."""
    covered = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        true = rng.normal(0.5, spread, (2, 6)) + rng.normal(0, spread, 6)
        answers = rng.normal(0, 0.3, (2, 6, 400))
        sizes = [simulated(true[i], rng, seed_noise=0.03, answers=answers[i]) for i in range(2)]
        share, _ = shares(*sizes)
        low, high = share.interval or (1.0, 0.0)
        truth = pair_agreement(*true).mean() if spread else 0.5
        covered += low - 1e-9 <= truth <= high + 1e-9
    assert covered / 300 >= 0.95 - 2.5 * (0.95 * 0.05 / 300) ** 0.5


def test_decided_pairs_are_rarely_wrong() -> None:
    """Without differences a pair is called decided in 5 % of studies, as Holm promises for all pairs together."""
    wrong = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        answers = rng.normal(0, 0.3, (5, 400))
        wrong += decided_pairs(simulated(np.full(5, 0.5), rng, seed_noise=0.03, answers=answers)).any()
    assert wrong / 300 <= 0.05 + 2.5 * (0.05 * 0.95 / 300) ** 0.5
