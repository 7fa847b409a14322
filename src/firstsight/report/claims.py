"""Each claim of the paper that a study of starts can speak to: holds, flips or undecided, with the evidence.

A claim holds when the whole interval lies on its side and flips when it lies on the other; everything else, a single
seed and a missing arm among it, is undecided. The comparisons that decide one claim are corrected together. Source of
the claims: paper section 6, Figures 4 to 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.report.compare import ArmPair, Comparison, PairedDifference
from firstsight.report.results import ArmResult, arms_with_scores, main_sweep_arms

ClaimVerdict = Literal["holds", "flips", "undecided"]

TEXT_LOSS_TOLERANCE = 0.02
"""Text counts as kept while it loses less than this: two points of stable score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One sentence of the paper and what this study says to it."""

    name: str
    statement: str
    verdict: ClaimVerdict
    evidence: str
    caution: str
    differences: tuple[PairedDifference, ...]


def evaluate_claims(arms: Sequence[ArmResult], comparison: Comparison) -> list[Claim]:
    """The paper's claims about when images enter, judged on `arms`; empty when the arms do not vary their start."""
    scored_arms = arms_with_scores(arms)
    sweep_arms = main_sweep_arms(arms)
    if not 1 < len({arm.start for arm in sweep_arms}) == len({arm.name for arm in sweep_arms}):
        return []
    return [
        _best_start(scored_arms, comparison),
        _two_points(scored_arms, comparison),
        *_same_schedule(scored_arms, comparison),
        _from_scratch(scored_arms, comparison),
        _text_retention(scored_arms, comparison),
    ]


def arm_at_start(arms: Sequence[ArmResult], start: Fraction) -> str | None:
    """Name of the judged arm on the study's line that branches at `start`."""
    return next((arm.name for arm in main_sweep_arms(arms) if arm.start == start), None)


START_80, START_100, START_0 = Fraction(4, 5), Fraction(1), Fraction(0)


def _best_start(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Vision is best when images enter at 80 % of the text training."
    arm_80 = arm_at_start(arms, START_80)
    other_arms = list(dict.fromkeys(arm.name for arm in main_sweep_arms(arms) if arm.name != arm_80))
    if arm_80 is None or not other_arms:
        return _undecided_claim("best", statement, "it needs an arm at 80 % and at least one other start")
    differences = _available_differences(
        comparison, [ArmPair(a=arm_80, b=other_arm, kind="vision") for other_arm in other_arms]
    )
    if not differences:
        return _undecided_claim("best", statement, "no other start has been judged with the same seeds")
    verdict: ClaimVerdict = "undecided"
    if len(differences) == len(other_arms) and all(difference.sign > 0 for difference in differences):
        verdict = "holds"
    elif any(difference.sign < 0 for difference in differences):
        verdict = "flips"
    closest = min(differences, key=lambda difference: difference.mean)
    win_count = sum(difference.sign > 0 for difference in differences)
    evidence = (
        f"80 % is clear of {win_count} of {len(other_arms)} other starts. The closest: {_evidence_text([closest])}"
    )
    caution = "0 % and 100 % follow another learning-rate schedule, so the two ends compare more than the moment."
    return Claim(
        name="best",
        statement=statement,
        verdict=verdict,
        evidence=evidence,
        caution=caution,
        differences=tuple(differences),
    )


def _two_points(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Entering at 80 % gives about two points more vision than entering after all text (100 %)."
    arm_80, arm_100 = arm_at_start(arms, START_80), arm_at_start(arms, START_100)
    difference = (
        comparison.paired_difference(ArmPair(a=arm_80, b=arm_100, kind="vision")) if arm_80 and arm_100 else None
    )
    if difference is None:
        return _undecided_claim("two-points", statement, "it needs the arms at 80 % and at 100 % with a seed in common")
    is_inside = difference.interval is not None and difference.interval[0] <= 0.02 <= difference.interval[1]
    size_note = f"Two points lie {'inside' if is_inside else 'outside'} the interval."
    return Claim(
        name="two-points",
        statement=statement,
        verdict=_verdict_of(difference),
        evidence=_evidence_text([difference]) + (f" {size_note}" if difference.interval else ""),
        caution="The verdict is about the sign. The 100 % arm re-warms its rate and the 80 % arm does not.",
        differences=(difference,),
    )


def _same_schedule(arms: Sequence[ArmResult], comparison: Comparison) -> list[Claim]:
    """The comparison that reviewers asked for, where its control arms were run."""
    statement = "80 % stays ahead of 100 % when both follow the same kind of schedule."
    arm_80, arm_100 = arm_at_start(arms, START_80), arm_at_start(arms, START_100)
    rewarm_80 = next((a.name for a in arms if a.schedule == "rewarm" and a.start == START_80), None)
    matched_100 = next((a.name for a in arms if a.schedule == "matched" and a.start == START_100), None)
    pairs = [(a, b) for a, b in ((rewarm_80, arm_100), (arm_80, matched_100)) if a and b]
    differences = _available_differences(comparison, [ArmPair(a=a, b=b, kind="vision") for a, b in pairs])
    if not differences:
        return []
    signs = {difference.sign for difference in differences}
    verdict: ClaimVerdict = "holds" if signs == {1} else "flips" if signs == {-1} else "undecided"
    return [
        Claim(
            name="same-schedule",
            statement=statement,
            verdict=verdict,
            evidence=_evidence_text(differences),
            caution="Not the paper's own claim: a control its reviewers asked for.",
            differences=tuple(differences),
        )
    ]


def _from_scratch(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Images from the very first step (0 %) hurt both vision and text."
    arm_0, arm_80 = arm_at_start(arms, START_0), arm_at_start(arms, START_80)
    kinds = ("vision", "text") if arm_0 and arm_80 else ()
    differences = _available_differences(
        comparison, [ArmPair(a=arm_0 or "", b=arm_80 or "", kind=kind) for kind in kinds]
    )
    if len(differences) < 2:
        return _undecided_claim("from-scratch", statement, "it needs vision and text of the arms at 0 % and at 80 %")
    signs = [difference.sign for difference in differences]
    verdict: ClaimVerdict = "holds" if signs == [-1, -1] else "flips" if 1 in signs else "undecided"
    return Claim(
        name="from-scratch",
        statement=statement,
        verdict=verdict,
        evidence=_evidence_text(differences),
        caution="The 0 % arm also saw fewer tokens in all: it may lack text rather than suffer from images.",
        differences=tuple(differences),
    )


def _text_retention(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Adding images at 80 % keeps text: less than two points of it are lost."
    arm_80 = arm_at_start(arms, START_80)
    trunk = next((arm.name for arm in arms if arm.schedule == "trunk"), None)
    reference_arm = trunk or arm_at_start(arms, START_100)
    difference = (
        comparison.paired_difference(ArmPair(a=arm_80, b=reference_arm, kind="text", threshold=-TEXT_LOSS_TOLERANCE))
        if arm_80 and reference_arm
        else None
    )
    if difference is None:
        return _undecided_claim("text-kept", statement, "it needs text scores at 80 % and of the trunk (or of 100 %)")
    return Claim(
        name="text-kept",
        statement=statement,
        verdict=_verdict_of(difference),
        evidence=_evidence_text([difference]),
        caution="The yardstick is the finished trunk itself." if trunk else "The yardstick is the 100 % arm.",
        differences=(difference,),
    )


def _available_differences(comparison: Comparison, pairs: Sequence[ArmPair]) -> list[PairedDifference]:
    """The differences that could be taken, corrected together."""
    return [difference for difference in comparison.corrected_differences(pairs) if difference is not None]


def _verdict_of(difference: PairedDifference) -> ClaimVerdict:
    return ("undecided", "holds", "flips")[difference.sign]


def _undecided_claim(name: str, statement: str, reason: str) -> Claim:
    return Claim(
        name=name,
        statement=statement,
        verdict="undecided",
        evidence=f"Cannot say: {reason}.",
        caution="",
        differences=(),
    )


def _evidence_text(differences: Sequence[PairedDifference]) -> str:
    """The differences as sentences, and what a single seed cannot tell."""
    sentences = f"{'; '.join(describe_difference(difference) for difference in differences)}."
    has_single_seed = any(difference.interval is None for difference in differences)
    return f"{sentences} One seed cannot tell an effect from a lucky run." if has_single_seed else sentences


def describe_difference(difference: PairedDifference) -> str:
    """A difference in words: who, by how much, how sure, from how many seeds, over which tasks."""
    seeds = len(difference.per_seed)
    gap = f"{abs(100 * difference.mean):.1f} points {'more' if difference.mean >= 0 else 'less'}"
    sentence = f"{difference.a} scores {gap} in {difference.kind} than {difference.b}"
    omission = (
        f", without {', '.join(difference.missing_tasks)}, which not all of these runs were judged on"
        if difference.missing_tasks
        else ""
    )
    if difference.interval is not None:
        confidence = f"{100 * difference.level:.3g} % interval {format_interval(difference.interval)}, {format_p_value(difference)}"
        return f"{sentence} ({confidence}, {seeds} seeds{omission})"
    if difference.question_interval is not None:
        return f"{sentence} (95 % over questions alone {format_interval(difference.question_interval)}, one seed{omission})"
    return sentence + omission


def format_interval(interval: Interval) -> str:
    """An interval in points: +0.3 to +4.1."""
    return f"{format_points(interval[0])} to {format_points(interval[1])}"


def format_p_value(difference: PairedDifference) -> str:
    """The adjusted p-value in words: p = 0.013 after Holm for 5."""
    p_value = difference.adjusted_p if difference.adjusted_p is not None else 1.0
    text = f"p = {p_value:.2g}" if p_value >= 0.0001 else "p < 0.0001"
    return f"{text} after Holm for {difference.family_size}" if difference.family_size > 1 else text


def format_points(share: float) -> str:
    """A difference of shares in points with its sign: +2.1."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
