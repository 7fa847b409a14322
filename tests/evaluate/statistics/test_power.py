"""Power against the noncentral t, against simulation, and against its own inverse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from firstsight.evaluate.statistics.power import (
    Components,
    expected,
    power,
    questions_needed,
    seeds_needed,
    smallest,
)
from firstsight.evaluate.statistics.seeds import halves

STUDY = Components(seeds=4e-4, questions=1e-4, rest=4e-4, arms=6)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_where_only_seeds_matter_it_is_the_noncentral_t_test(seeds: int) -> None:
    effect = 2.5
    known = stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, effect * np.sqrt(seeds))
    assert power(effect, of=Components(seeds=1.0, questions=0.0, rest=0.0), seeds=seeds) == pytest.approx(
        known, abs=2e-3
    )


@pytest.mark.parametrize(("seeds", "effect"), [(2, 0.08), (4, 0.04)])
def test_it_is_how_often_the_difference_is_seen(seeds: int, effect: float) -> None:
    """Worlds drawn from the components, each judged by the interval that decides."""
    random = np.random.default_rng(0)
    law = expected(STUDY, seeds=seeds)
    means = effect + random.normal(0, law.error, 2_000)
    between = law.seeds * random.chisquare(law.freedom, 2_000) / law.freedom
    seen = means > halves(between, law, level=0.95)
    assert np.mean(seen) == pytest.approx(power(effect, of=STUDY, seeds=seeds), abs=0.03)


def test_more_of_anything_sees_more() -> None:
    at = [power(0.03, of=STUDY, seeds=seeds) for seeds in (1, 2, 3, 5, 9)]
    assert at == sorted(at)
    assert at[0] == 0
    assert power(0.03, of=STUDY, seeds=3, times=2.0) > power(0.03, of=STUDY, seeds=3)


def test_inverses_meet_what_was_wanted() -> None:
    size = smallest(STUDY, seeds=3, wanted=0.8)
    assert size is not None
    assert power(size, of=STUDY, seeds=3) == pytest.approx(0.8, abs=1e-3)
    seeds = seeds_needed(0.03, of=STUDY, wanted=0.8)
    assert seeds is not None
    assert power(0.03, of=STUDY, seeds=seeds) >= 0.8 > power(0.03, of=STUDY, seeds=seeds - 1)
    times = questions_needed(size * 0.95, of=STUDY, seeds=3, wanted=0.8)
    assert times is not None
    assert power(size * 0.95, of=STUDY, seeds=3, times=times) == pytest.approx(0.8, abs=1e-3)


def test_what_no_number_will_do_is_said() -> None:
    assert questions_needed(0.001, of=STUDY, seeds=3) is None
    assert seeds_needed(0.005, of=STUDY) is None
    assert smallest(STUDY, seeds=1) is None
