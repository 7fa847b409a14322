"""The sequential rule: its shares, its p-value, and its error rate in studies without an effect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.evaluate.statistics.differences import Thresholds, crossed_estimate
from firstsight.evaluate.statistics.sequential import look_share, sequential_p_value
from tests.evaluate.statistics.sequential_simulations import (
    NULL_STUDIES,
    SequentialStudy,
    chasing_rate,
    decision_rates,
    family_rates,
    seeds_until_decided,
)


@given(st.integers(2, 500))
def test_shares_sum_to_the_part_that_is_spent(last: int) -> None:
    """A telescoping sum: 1 - 6 / (n + 5) after n seeds, so never more than the whole."""
    assert sum(look_share(n) for n in range(2, last + 1)) == pytest.approx(1 - 6 / (last + 5), rel=1e-12)


@settings(max_examples=20)
@given(st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=6), st.floats(-0.1, 0.1))
def test_p_value_is_the_smallest_corrected_one_of_all_looks(differences: list[float], null: float) -> None:
    values = np.array(differences) + np.arange(len(differences)) * 1e-3  # never all equal
    looks = [look for n in range(2, len(values) + 1) if (look := crossed_estimate(values[:n]))]
    thresholds = Thresholds(null, null)
    p_value, num_seeds = sequential_p_value(looks, thresholds)
    corrected = [look.p_value(thresholds) / look_share(n) for n, look in enumerate(looks, start=2)]
    assert p_value == min(1.0, *corrected) and corrected[num_seeds - 2] == min(corrected)
    assert sequential_p_value(looks[:-1], thresholds)[0] >= p_value, "one look more never makes a decision undone"


def test_error_rate_of_many_looks() -> None:
    """Of 150 studies; the same test at every number of seeds is significant in a fifth of them."""
    rates = decision_rates(SequentialStudy(arms=2, comparisons=1, seeds=12), trials=150)
    assert rates["rule"] <= 0.05 and rates["always"] > 0.15


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("study", [study for study in NULL_STUDIES if study.outlier_factor == 1], ids=str)
def test_error_rate_in_2000_studies_without_an_effect(study: SequentialStudy) -> None:
    assert decision_rates(study, trials=2000)["rule"] <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_error_rate_where_seeds_follow_the_smallest_p_value() -> None:
    assert chasing_rate(SequentialStudy(seeds=12), trials=2000) <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_error_rate_of_all_claims_of_a_paper_together() -> None:
    """Holm's correction looks at the tail: of 4,000 claims, a few are decided at .05 / 29."""
    rates = family_rates(SequentialStudy(comparisons=1, seeds=6), claims=29, trials=4000)
    assert rates["claim"] <= 0.05 < rates["any"], "each claim has its own error rate"
    assert rates["together"] <= 0.05 + 2 * (0.05 * 0.95 / (4000 / 29)) ** 0.5, "4,000 claims are 138 papers"


@pytest.mark.slow
def test_an_effect_of_twice_the_spread_is_decided_with_few_seeds() -> None:
    """A fixed test of one pair has power 80 % with 5 seeds, as the noncentral t distribution says."""
    seeds = seeds_until_decided(SequentialStudy(arms=2, comparisons=1, effect=2.0), trials=400)
    assert np.median(seeds) <= 7 and np.quantile(seeds, 0.8) <= 9
