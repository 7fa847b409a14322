"""Intervals against scipy, against arithmetic, and against laws that any bootstrap over clusters obeys."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from firstsight.report.compare import Comparison, over_seeds, pooled, spread
from firstsight.report.results import ArmResult
from firstsight.report.table import tidy

Make = Callable[..., list[ArmResult]]


def _comparison(arms: list[ArmResult]) -> Comparison:
    return Comparison(arms, tidy(arms))


def test_two_arms_over_seeds_agree_with_the_paired_t_test(make: Make) -> None:
    arms = make(ability={80: 0.6, 100: 0.5}, literacy={80: 0.5, 100: 0.5}, seeds=(1, 2, 3, 4), noise=0.1, trunk=False)
    comparison = _comparison(arms)
    a, b = (list(comparison.scores(name, "vision").values()) for name in ("start-080", "start-100"))
    known = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = comparison.difference("start-080", "start-100", kind="vision")
    assert found is not None
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert found.seeds == pytest.approx((known.low, known.high))


def test_pooled_variance_is_the_mean_over_all_pairs() -> None:
    y = np.random.default_rng(3).normal(size=(6, 3))
    pairs = [(y[a] - y[b]).var(ddof=1) for a, b in combinations(range(6), 2)]
    sd, freedom = pooled(y)
    assert sd**2 == pytest.approx(np.mean(pairs))
    assert freedom == 10


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_where_nothing_differs_few_intervals_say_otherwise(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    wrong = 0
    for _ in range(2000):
        y = random.normal(size=(6, seeds)) + random.normal(size=(1, seeds))
        found = over_seeds(y[0] - y[1], y, level=0.95)
        wrong += found is not None and not found[0] < 0 < found[1]
    assert wrong / 2000 < 0.06


def test_one_seed_gives_questions_but_no_verdict(make: Make) -> None:
    found = _comparison(make(seeds=(1,))).difference("start-080", "start-000", kind="vision")
    assert found is not None
    assert found.questions is not None
    assert found.questions[0] < found.mean < found.questions[1]
    assert (found.seeds, found.interval) == (None, None)


def test_several_comparisons_widen_each_interval(make: Make) -> None:
    comparison = _comparison(make())
    alone, among = (comparison.difference("start-080", "start-100", kind="vision", among=count) for count in (1, 5))
    assert alone is not None
    assert among is not None
    assert (alone.level, among.level) == (0.95, pytest.approx(0.99))
    assert alone.interval is not None
    assert among.interval is not None
    assert among.interval[0] < alone.interval[0] < alone.interval[1] < among.interval[1]


def _asked(scores: list[float], images: list[str]) -> pl.DataFrame:
    ids = [str(place) for place in range(len(scores))]
    return pl.DataFrame({"task": ["gqa"] * len(scores), "question": ids, "image": images, "score": scores})


def test_bootstrap_of_single_questions_is_near_the_normal_interval() -> None:
    scores = [float(place % 10 < 3) for place in range(400)]
    low, high = spread(_asked(scores, [""] * 400), level=0.95)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert low == pytest.approx(-half, rel=0.1)
    assert high == pytest.approx(half, rel=0.1)


def test_questions_about_one_picture_count_once() -> None:
    scores = [float(place % 3 == 0) for place in range(60)]
    once = spread(_asked(scores, [f"{place:03d}" for place in range(60)]), level=0.95)
    four = spread(_asked(scores * 4, [f"{place:03d}" for place in range(60)] * 4), level=0.95)
    loose = spread(_asked(scores * 4, [""] * 240), level=0.95)
    assert four == pytest.approx(once)
    assert loose[1] - loose[0] < 0.7 * (once[1] - once[0])


def test_pairing_removes_what_both_arms_share(make: Make) -> None:
    comparison = _comparison(make(ability={80: 0.50, 100: 0.49}, literacy={80: 0.5, 100: 0.5}, questions=100))
    found = comparison.difference("start-080", "start-100", kind="vision")
    alone = comparison.interval("start-080", "vision")
    assert found is not None
    assert found.questions is not None
    assert alone is not None
    assert found.questions[1] - found.questions[0] < 0.5 * (alone[1] - alone[0])
