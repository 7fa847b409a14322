"""Tables without gaps, from runs that have them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from firstsight.report.question_scores import complete_table


@given(st.dictionaries(st.sampled_from("abcd"), st.sets(st.integers(1, 4), min_size=1), min_size=1))
def test_table_has_no_gaps_and_none_of_the_same_seeds_is_larger(seeds_by_arm: Mapping[str, set[int]]) -> None:
    runs = {(arm, seed) for arm, seeds in seeds_by_arm.items() for seed in seeds}
    arms, seeds = complete_table(runs)
    assert set(product(arms, seeds)) <= runs
    assert all(arm in arms for arm, others in seeds_by_arm.items() if others >= set(seeds))
    is_comparable = len(arms) > 1 and len(seeds) > 1
    for chosen in seeds_by_arm.values():
        count = sum(others >= chosen for others in seeds_by_arm.values())
        assert is_comparable or not (count > 1 and len(chosen) > 1)
