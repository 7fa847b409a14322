"""Which arms at how many seeds would decide the open claims of a study, and with what chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from firstsight.evaluate.statistics.prospects import ComparisonState, Continuations, simulate_continuations
from firstsight.recipe.analysis import Claim
from firstsight.report.claims import ClaimResult, claim_tests
from firstsight.report.compare import PairedDifference

MAX_SEEDS = 16
"""The largest number of further seeds that is simulated."""


@dataclass(frozen=True, slots=True)
class _OpenClaim:
    """An undecided claim, and what further seeds of its arms would show."""

    result: ClaimResult
    differences: Sequence[PairedDifference]
    """Those over at least two seeds."""
    continuations: Continuations
    cache: dict[tuple[int, ...], float] = field(default_factory=dict[tuple[int, ...], float])
    """Chances by the further seeds of each difference."""

    @property
    def undecided(self) -> list[PairedDifference]:
        return [difference for difference in self.differences if not difference.sign]

    def chance(self, arms: Sequence[str], num_seeds: int) -> float:
        """The chance that the claim is decided once these arms have `num_seeds` seeds."""
        further = tuple(self._further_seeds(difference, arms, num_seeds) for difference in self.differences)
        if further not in self.cache:
            self.cache[further] = self._chance(further)
        return self.cache[further]

    def _chance(self, further: Sequence[int]) -> float:
        expected = {pair: 1 if part.expect == "more" else -1 for part, pair in claim_tests(self.result.claim)}
        signs = self.continuations.select(further) * [expected[difference.pair] for difference in self.differences]
        is_complete = len(self.differences) == len(expected)
        return float(_is_decided(self.result.claim, signs, is_complete=is_complete).mean())

    @staticmethod
    def _further_seeds(difference: PairedDifference, arms: Sequence[str], num_seeds: int) -> int:
        if difference.sign or not {difference.pair.a, difference.pair.b} <= set(arms):
            return 0
        return min(max(num_seeds - len(difference.per_seed), 0), MAX_SEEDS)


class ClaimProspects:
    """The chances of the undecided claims, by the sequential rule."""

    def __init__(self, results: Sequence[ClaimResult]) -> None:
        """`results` are the undecided claims, tested by the sequential rule; those that compare arms of one seed, such
        as models of others, have no chance and are left out."""
        with_seeds = [result for result in results if any(d.estimate is not None for d in result.differences)]
        self._claims = [_open_claim(result) for result in with_seeds]

    def arm_sets(self) -> list[tuple[str, ...]]:
        """For each open claim the arms of its undecided comparisons."""
        pairs = [[difference.pair for difference in claim.undecided] for claim in self._claims]
        sets = [tuple(dict.fromkeys(arm for pair in own for arm in (pair.a, pair.b))) for own in pairs]
        return list({frozenset(arms): arms for arms in sets if arms}.values())

    def min_seeds(self, arms: Sequence[str]) -> int:
        """The fewest seeds of an undecided comparison between these arms."""
        undecided = [difference for claim in self._claims for difference in claim.undecided]
        return min(len(d.per_seed) for d in undecided if {d.pair.a, d.pair.b} <= set(arms))

    def chances(self, arms: Sequence[str], num_seeds: int) -> Mapping[str, float]:
        """The chance of each claim to be decided once these arms have `num_seeds` seeds, by name."""
        return {claim.result.claim.name: claim.chance(arms, num_seeds) for claim in self._claims}


def _open_claim(result: ClaimResult) -> _OpenClaim:
    states, differences = [], []
    for difference in result.differences:
        estimate, p_value = difference.estimate, difference.p_value()
        if estimate is not None and p_value is not None:
            pair, count = difference.pair, len(difference.per_seed)
            arms = (pair.a, pair.measure), (pair.b, pair.measure)
            values = {"thresholds": pair.thresholds, "num_seeds": count, "estimate": estimate, "p_value": p_value}
            states.append(ComparisonState(arms=arms, **values))
            differences.append(difference)
    return _OpenClaim(result, differences, simulate_continuations(states, max_seeds=MAX_SEEDS))


def _is_decided(claim: Claim, signs: np.ndarray, *, is_complete: bool) -> np.ndarray:
    """`report.claims` on many draws at once: whether the claim holds or flips, [draws], from [draws, comparisons]."""
    agrees, opposes = signs == 1, signs == -1
    if claim.decide == "any":
        return agrees.any(1) != opposes.any(1)
    return opposes.any(1) | (agrees.all(1) & is_complete)
