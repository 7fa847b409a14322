"""Power against the noncentral t, against simulation, and against its own inverse."""

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
def test_where_only_seeds_matter_it_is_the_noncentral_t_test(seeds: int) -> None:
    effect = 2.5
    known = stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, effect * np.sqrt(seeds))
    assert detection_power(
        effect,
        components=VarianceComponents(seed_variance=1.0, question_variance=0.0, residual_variance=0.0),
        num_seeds=seeds,
    ) == pytest.approx(known, abs=2e-3)


@pytest.mark.parametrize(("seeds", "effect"), [(2, 0.08), (4, 0.04)])
def test_it_is_how_often_the_difference_is_seen(seeds: int, effect: float) -> None:
    """Worlds drawn from the components, each judged by the interval that decides."""
    random = np.random.default_rng(0)
    law = expected_estimate(STUDY, num_seeds=seeds)
    means = effect + random.normal(0, law.standard_error, 2_000)
    between = law.seed_variance * random.chisquare(law.dof, 2_000) / law.dof
    seen = means > half_widths(between, law, level=0.95)
    assert np.mean(seen) == pytest.approx(detection_power(effect, components=STUDY, num_seeds=seeds), abs=0.03)


def test_more_of_anything_sees_more() -> None:
    at = [detection_power(0.03, components=STUDY, num_seeds=seeds) for seeds in (1, 2, 3, 5, 9)]
    assert at == sorted(at)
    assert at[0] == 0
    assert detection_power(0.03, components=STUDY, num_seeds=3, question_factor=2.0) > detection_power(
        0.03, components=STUDY, num_seeds=3
    )


def test_inverses_meet_what_was_wanted() -> None:
    size = minimum_detectable_effect(STUDY, num_seeds=3, target_power=0.8)
    assert size is not None
    assert detection_power(size, components=STUDY, num_seeds=3) == pytest.approx(0.8, abs=1e-3)
    seeds = seeds_needed(0.03, components=STUDY, target_power=0.8)
    assert seeds is not None
    assert (
        detection_power(0.03, components=STUDY, num_seeds=seeds)
        >= 0.8
        > detection_power(0.03, components=STUDY, num_seeds=seeds - 1)
    )
    times = questions_needed(size * 0.95, components=STUDY, num_seeds=3, target_power=0.8)
    assert times is not None
    assert detection_power(size * 0.95, components=STUDY, num_seeds=3, question_factor=times) == pytest.approx(
        0.8, abs=1e-3
    )


def test_what_no_number_will_do_is_said() -> None:
    assert questions_needed(0.001, components=STUDY, num_seeds=3) is None
    assert seeds_needed(0.005, components=STUDY) is None
    assert minimum_detectable_effect(STUDY, num_seeds=1) is None
