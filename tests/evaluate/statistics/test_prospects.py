"""Chances of further seeds, against studies that are continued."""

from __future__ import annotations

import numpy as np
import pytest

from firstsight.evaluate.statistics.differences import (
    FAMILY_ALPHA,
    DifferenceEstimate,
    Thresholds,
    crossed_estimate,
    holm,
)
from firstsight.evaluate.statistics.prospects import ComparisonState, Continuations, simulate_continuations
from firstsight.evaluate.statistics.sequential import sequential_p_value

FURTHER = 5


def _looks(scores: np.ndarray) -> list[DifferenceEstimate]:
    """The first arm less the second at 2, 3 ... seeds, from [arms, seeds]."""
    estimates = [crossed_estimate(scores[0, :n] - scores[1, :n], arm_scores=scores[:, :n]) for n in range(2, 99)]
    return [estimate for estimate in estimates[: scores.shape[1] - 1] if estimate is not None]


def _state(looks: list[DifferenceEstimate]) -> ComparisonState:
    p_value, _ = sequential_p_value(looks)
    return ComparisonState(
        arms=("a", "b"), thresholds=Thresholds(0.0, 0.0), num_seeds=len(looks) + 1, estimate=looks[-1], p_value=p_value
    )


def _chance(looks: list[DifferenceEstimate], further: int, *, num_draws: int) -> float:
    continuations = simulate_continuations([_state(looks)], max_seeds=FURTHER, num_draws=num_draws)
    return float(np.abs(continuations.select([further])).mean())


def test_chances_are_the_frequency_of_decisions_in_continued_studies() -> None:
    """True differences are drawn evenly over a wide range, as the fiducial distribution assumes.

    Among studies that are open at three seeds, those with a stated chance of c per cent are decided in c per cent.
    """
    rng = np.random.default_rng(1)
    chances, outcomes = [], []
    for _ in range(400):
        scores = rng.normal(size=(3, 3 + FURTHER)) / np.sqrt(2)
        scores[0] += rng.uniform(-3, 3)
        looks = _looks(scores)
        if sequential_p_value(looks[:2])[0] > FAMILY_ALPHA:
            chances.append(_chance(looks[:2], FURTHER, num_draws=200))
            outcomes.append(sequential_p_value(looks)[0] <= FAMILY_ALPHA)
    is_high = np.array(chances) > 0.5
    for group in (is_high, ~is_high):
        count = group.sum()
        assert count > 40
        assert np.mean(np.array(outcomes)[group]) == pytest.approx(np.mean(np.array(chances)[group]), abs=0.12)


def test_chances_begin_at_the_present_and_grow_with_seeds() -> None:
    looks = _looks(np.random.default_rng(2).normal(size=(3, 4)))
    continuations = simulate_continuations([_state(looks)], max_seeds=FURTHER, num_draws=300)
    assert (continuations.p_values[:, 0, 0] == sequential_p_value(looks)[0]).all()
    assert (np.diff(continuations.p_values, axis=2) <= 0).all()


def test_a_difference_without_noise_is_decided_by_one_seed() -> None:
    scores = np.array([[0.9, 0.8], [0.4, 0.3]])
    state = _state(_looks(scores))
    continuations = simulate_continuations([state], max_seeds=1, num_draws=50)
    assert (continuations.select([1]) == 1).all()


def test_selection_is_holms_procedure() -> None:
    rng = np.random.default_rng(3)
    p_values = rng.choice([0.001, 0.01, 0.015, 0.02, 0.04, 0.3], size=(60, 4, 2))
    signs = rng.choice([-1.0, 1.0], size=p_values.shape)
    further = [0, 1, 1, 0]
    selected = Continuations(p_values, signs).select(further)
    for draw in range(60):
        p, sign = p_values[draw, range(4), further], signs[draw, range(4), further]
        expected = [s if d.adjusted <= FAMILY_ALPHA else 0 for s, d in zip(sign, holm(p.tolist()), strict=True)]
        assert selected[draw].tolist() == expected
