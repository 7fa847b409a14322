"""Power against the noncentral t, a simulation, and its own inverses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from firstsight.evaluate.statistics.differences import half_widths
from firstsight.evaluate.statistics.power import (
    VarianceComponents,
    detection_power,
    expected_estimate,
    minimum_detectable_effect,
    questions_needed,
    seeds_needed,
)

STUDY = VarianceComponents(seed_variance=4e-4, question_variance=1e-4, residual_variance=4e-4, num_arms=6)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_without_question_variance_it_is_the_noncentral_t_tests(seeds: int) -> None:
    effect = 2.5
    reference = stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, effect * np.sqrt(seeds))
    assert detection_power(
        effect,
        components=VarianceComponents(seed_variance=1.0, question_variance=0.0, residual_variance=0.0),
        num_seeds=seeds,
    ) == pytest.approx(reference, abs=2e-3)


@pytest.mark.parametrize(("seeds", "effect"), [(2, 0.08), (4, 0.04)])
def test_it_is_the_simulated_detection_rate(seeds: int, effect: float) -> None:
    """Estimates sampled from the variance components, each with its interval."""
    rng = np.random.default_rng(0)
    estimate = expected_estimate(STUDY, num_seeds=seeds)
    means = effect + rng.normal(0, estimate.standard_error, 2_000)
    seed_variances = estimate.seed_variance * rng.chisquare(estimate.dof, 2_000) / estimate.dof
    is_detected = means > half_widths(seed_variances, estimate, level=0.95)
    assert np.mean(is_detected) == pytest.approx(detection_power(effect, components=STUDY, num_seeds=seeds), abs=0.03)


def test_power_grows_with_seeds_and_questions() -> None:
    powers = [detection_power(0.03, components=STUDY, num_seeds=seeds) for seeds in (1, 2, 3, 5, 9)]
    assert powers == sorted(powers)
    assert powers[0] == 0
    assert detection_power(0.03, components=STUDY, num_seeds=3, question_factor=2.0) > detection_power(
        0.03, components=STUDY, num_seeds=3
    )


def test_inverses_have_the_target_power() -> None:
    effect = minimum_detectable_effect(STUDY, num_seeds=3, target_power=0.8)
    assert effect is not None
    assert detection_power(effect, components=STUDY, num_seeds=3) == pytest.approx(0.8, abs=1e-3)
    seeds = seeds_needed(0.03, components=STUDY, target_power=0.8)
    assert seeds is not None
    assert (
        detection_power(0.03, components=STUDY, num_seeds=seeds)
        >= 0.8
        > detection_power(0.03, components=STUDY, num_seeds=seeds - 1)
    )
    factor = questions_needed(effect * 0.95, components=STUDY, num_seeds=3, target_power=0.8)
    assert factor is not None
    assert detection_power(effect * 0.95, components=STUDY, num_seeds=3, question_factor=factor) == pytest.approx(
        0.8, abs=1e-3
    )


def test_unreachable_targets_are_none() -> None:
    assert questions_needed(0.001, components=STUDY, num_seeds=3) is None
    assert seeds_needed(0.005, components=STUDY) is None
    assert minimum_detectable_effect(STUDY, num_seeds=1) is None
