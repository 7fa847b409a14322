"""The claims of a study, tested on its results: holds, flips, undecided or not tested.

A comparison is decided for the claim where the whole interval is beyond its margin, and against it where the whole
interval is short of the smallest difference that matters; everything else is undecided, also a single seed or an arm
without scores. A claim is not tested where the study has none of its arms or tasks. The
comparisons of one claim are corrected together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from firstsight.evaluate.statistics.differences import FAMILY_ALPHA, Thresholds, holm
from firstsight.evaluate.statistics.sequential import DecisionRule
from firstsight.recipe.analysis import STABLE_MEASURES, Claim, Comparison, split_measure
from firstsight.report.compare import ArmComparison, ArmPair, PairedDifference
from firstsight.report.format import format_interval, format_p_value, format_points
from firstsight.report.results import ArmResult

ClaimVerdict = Literal["holds", "flips", "undecided", "not tested"]

MAX_LISTED = 2
"""With more differences the evidence counts them and describes one; the page's table has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimResult:
    """A claim and its result in this study."""

    claim: Claim
    verdict: ClaimVerdict
    evidence: str
    differences: tuple[PairedDifference, ...] = ()

    def __repr__(self) -> str:
        return f"{self.claim.name}: {self.verdict}. {self.evidence}"


def rule_sentence(rule: DecisionRule) -> str:
    """Which rule verdicts are made with."""
    if rule == "fixed":
        return "These verdicts are of fixed size: one test at the seeds that were planned."
    return "These verdicts are by the sequential rule, which allows a look after every added seed."


def family_sentence(results: Mapping[str, ClaimResult]) -> str:
    """What is decided where one error rate is shared by all claims, not one for each; empty for fewer than two claims.

    `results` by the name to print. The p-value of a claim is the smallest error rate at which its comparisons decide
    it; Holm's procedure corrects these over the tested claims.
    """
    tested = {name: result for name, result in results.items() if result.verdict != "not tested"}
    p_values = {name: p for name, result in tested.items() if (p := _decision_p_value(result)) is not None}
    if len(tested) < 2 or not p_values:
        return ""
    decisions = holm(list(p_values.values()), num_comparisons=len(tested))
    decided = [name for name, d in zip(p_values, decisions, strict=True) if d.adjusted <= FAMILY_ALPHA]
    listed = ", ".join(f"{name} {results[name].verdict}" for name in decided) or "none is decided"
    rate = f"{100 * FAMILY_ALPHA:g} %"
    return f"Each claim has its own error rate of {rate}. At {rate} for all {len(tested)} together: {listed}."


def _decision_p_value(result: ClaimResult) -> float | None:
    """The smallest error rate at which a claim is decided as it is; None for one that is not decided."""
    expected = {pair: 1 if part.expect == "more" else -1 for part, pair in claim_tests(result.claim)}
    verdict_sign = {"holds": 1, "flips": -1}.get(result.verdict)
    values = [d.adjusted_p for d in result.differences if d.sign and d.sign * expected[d.pair] == verdict_sign]
    p_values = [value for value in values if value is not None]
    needs_all = result.claim.decide == "all" and result.verdict == "holds"
    return (max if needs_all else min)(p_values, default=None)


def evaluate_claims(claims: Sequence[Claim], arms: Sequence[ArmResult], comparison: ArmComparison) -> list[ClaimResult]:
    """The result of each claim on `arms`."""
    return [_evaluate(claim, arms, comparison) for claim in claims]


def _evaluate(claim: Claim, arms: Sequence[ArmResult], comparison: ArmComparison) -> ClaimResult:
    tests = claim_tests(claim)
    corrected = comparison.corrected_differences([pair for _, pair in tests])
    tested = [(part, difference) for (part, _), difference in zip(tests, corrected, strict=True) if difference]
    gaps = [_missing_reason(pair, arms) for (_, pair), d in zip(tests, corrected, strict=True) if d is None]
    missing = "; ".join(dict.fromkeys(gaps))
    if not tested:
        is_absent = all(_absence(pair, arms) for _, pair in tests)
        verdict = "not tested" if is_absent else "undecided"
        return ClaimResult(claim=claim, verdict=verdict, evidence=f"Cannot be tested: {missing}.")
    signs = [difference.sign * (1 if part.expect == "more" else -1) for part, difference in tested]
    return ClaimResult(
        claim=claim,
        verdict=_verdict(claim, signs, is_complete=not missing),
        evidence=" ".join([*_evidence(tested, signs), *[f"Not compared: {missing}."] * bool(missing)]),
        differences=tuple(difference for _, difference in tested),
    )


def claim_tests(claim: Claim) -> list[tuple[Comparison, ArmPair]]:
    """The pairs of arms that a claim compares, each with the comparison that it is a part of."""
    pairs = [(part, a, b) for part in claim.compare for a in part.arms for b in part.others]
    return [
        (part, ArmPair(a=a, b=b, measure=part.measure, thresholds=Thresholds(part.margin, part.smallest_difference)))
        for part, a, b in pairs
    ]


def _verdict(claim: Claim, signs: Sequence[int], *, is_complete: bool) -> ClaimVerdict:
    """`signs`: 1 where a comparison is significantly as expected, -1 where it is the opposite or too small, else 0."""
    if claim.decide == "any":
        agree = (1 in signs) != (-1 in signs)
        return ("holds" if 1 in signs else "flips") if agree else "undecided"
    if -1 in signs:
        return "flips"
    return "holds" if is_complete and set(signs) == {1} else "undecided"


def _missing_reason(pair: ArmPair, arms: Sequence[ArmResult]) -> str:
    """Why two arms cannot be compared."""
    if absence := _absence(pair, arms):
        return absence
    for name in (pair.a, pair.b):
        if all(arm.scores is None for arm in arms if arm.name == name):
            return f"{name} has no scores"
    return f"{pair.a} and {pair.b} have no seed and no task of {pair.measure} in common"


def _absence(pair: ArmPair, arms: Sequence[ArmResult]) -> str:
    """Which arm or task of a comparison the study does not have; a task counts only once both arms are evaluated."""
    names = {arm.name for arm in arms}
    for name in (pair.a, pair.b):
        if name not in names:
            return f"this study has no arm {name}"
    scores = [arm.scores for arm in arms if arm.name in (pair.a, pair.b)]
    tasks = {task for arm in arms if arm.scores for task in arm.scores.tasks}
    is_unknown = split_measure(pair.measure)[0] not in (*STABLE_MEASURES, *tasks)
    return f"this study has no task {pair.measure}" if is_unknown and all(scores) else ""


def _evidence(tested: Sequence[tuple[Comparison, PairedDifference]], signs: Sequence[int]) -> Iterator[str]:
    differences = [difference for _, difference in tested]
    if len(tested) > MAX_LISTED:
        yield f"{signs.count(1)} of {len(tested)} comparisons are significantly as claimed. The least favourable:"
        yield f"{describe_difference(min(tested, key=_support)[1])}."
    else:
        yield f"{'; '.join(map(describe_difference, differences))}."
    for (part, difference), sign in zip(tested, signs, strict=True):
        if sign < 0 and part.smallest is not None:
            yield f"A difference of {format_points(part.smallest)} points, the smallest that matters, is excluded."
        if part.published is not None and difference.interval:
            low, high = difference.interval
            location = "inside" if low <= part.published <= high else "outside"
            yield f"The published difference of {format_points(part.published)} points is {location} the interval."
    if any(difference.interval is None for difference in differences):
        yield "One seed cannot distinguish an effect from a lucky run."


def _support(tested: tuple[Comparison, PairedDifference]) -> float:
    """By how much a difference is beyond the margin, on the side that the claim expects."""
    part, difference = tested
    return (difference.mean - part.margin) * (1 if part.expect == "more" else -1)


def describe_difference(difference: PairedDifference) -> str:
    """A difference as a sentence: size, interval, p-value, number of seeds, and the tasks that were left out."""
    pair, tasks = difference.pair, ", ".join(difference.missing_tasks)
    gap = f"{abs(100 * difference.mean):.1f} points {'more' if difference.mean >= 0 else 'less'}"
    sentence = f"{pair.a} scores {gap} in {pair.measure} than {pair.b}"
    omission = f", without {tasks}, on which not all of these runs were evaluated alike" if tasks else ""
    if difference.interval is not None:
        interval = f"{100 * difference.level:.3g} % interval {format_interval(difference.interval)}"
        p_value = format_p_value(difference.adjusted_p, difference.family_size)
        seeds = f"{len(difference.per_seed)} {f'of {len(difference.looks) + 1} ' * bool(difference.looks)}seeds"
        return f"{sentence} ({interval}, {p_value}, {seeds}{omission})"
    if difference.question_interval is not None:
        interval = format_interval(difference.question_interval)
        return f"{sentence} (95 % over questions alone {interval}, one seed{omission})"
    return sentence + omission
