"""Chances of open claims: laws of more seeds and of other arms, and agreement with the verdicts of `report.claims`."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from firstsight.recipe.analysis import Claim, Comparison
from firstsight.report.claims import _verdict, evaluate_claims
from firstsight.report.compare import ArmComparison
from firstsight.report.prospects import MAX_SEEDS, ClaimProspects, _is_decided
from firstsight.report.table import score_table
from tests.report.study_builder import MakeArms

STARTS = ("start-060", "start-080", "start-100")


def _claim(name: str, *others: str, **fields: str) -> Claim:
    compare = (Comparison(arms=("start-080",), others=others, measure="vision"),)
    return Claim(name=name, statement=name, source="test", compare=compare, **fields)  # type: ignore[arg-type]


@pytest.fixture
def prospects(make_arms: MakeArms) -> ClaimProspects:
    """Two claims that two seeds leave open: one about three arms, one about two of them."""
    vision = {60: 0.5, 80: 0.55, 100: 0.5}
    arms = make_arms(vision=vision, text=dict.fromkeys(vision, 0.5), seeds=(1, 2), noise=0.1, trunk=False)
    claims = [_claim("both", "start-060", "start-100"), _claim("one", "start-100")]
    results = evaluate_claims(claims, arms, ArmComparison(arms, score_table(arms), rule="sequential"))
    assert [result.verdict for result in results] == ["undecided", "undecided"]
    return ClaimProspects(results)


def test_arms_are_those_of_each_open_claim_once(prospects: ClaimProspects) -> None:
    sets = [frozenset(arms) for arms in prospects.arm_sets()]
    assert sorted(map(sorted, sets)) == [list(STARTS), ["start-080", "start-100"]]
    assert all(prospects.min_seeds(arms) == 2 for arms in prospects.arm_sets())


def test_chances_never_fall_with_more_seeds_and_are_0_without_further_ones(prospects: ClaimProspects) -> None:
    """A decision of the sequential rule stays, so each draw that is decided at n seeds is decided at n + 1."""
    chances = [prospects.chances(STARTS, count) for count in range(2, 3 + MAX_SEEDS)]
    for name in ("both", "one"):
        values = [chance[name] for chance in chances]
        assert values[0] == 0 and values == sorted(values) and 0 < values[-1] <= 1


def test_seeds_of_other_arms_decide_nothing(prospects: ClaimProspects) -> None:
    assert prospects.chances(("start-060", "start-100"), 10) == {"both": 0, "one": 0}
    assert prospects.chances(("start-080", "start-100"), 10)["one"] == prospects.chances(STARTS, 10)["one"]


@pytest.mark.parametrize("decide", ["all", "any"])
@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_claim_is_decided_exactly_where_it_holds_or_flips(decide: str, is_complete: bool, count: int) -> None:
    claim = _claim("claim", "start-100", decide=decide)
    signs = list(product((-1, 0, 1), repeat=count))
    verdicts = [_verdict(claim, row, is_complete=is_complete) in ("holds", "flips") for row in signs]
    assert _is_decided(claim, np.array(signs), is_complete=is_complete).tolist() == verdicts
