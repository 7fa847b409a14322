"""The paper's claims about when images enter, tested on a study that varies the start: holds, flips or undecided.

A claim holds when the whole interval is on its side of the threshold and flips when it is on the other; everything
else is undecided, also a single seed or a missing arm. The comparisons that decide one claim are corrected together.
Source of the claims: paper section 6, Figures 4 to 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from firstsight.report.compare import ArmPair, Comparison, PairedDifference
from firstsight.report.format import format_interval, format_p_value
from firstsight.report.results import ArmResult, arms_with_scores, main_sweep_arms

ClaimVerdict = Literal["holds", "flips", "undecided"]

TEXT_LOSS_TOLERANCE = 0.02
"""Text counts as retained while the loss is smaller than this: two points of stable score."""

START_80, START_100, START_0 = Fraction(4, 5), Fraction(1), Fraction(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One claim of the paper and its result in this study."""

    name: str
    statement: str
    verdict: ClaimVerdict
    evidence: str
    caution: str = ""
    """What confounds the comparison."""
    differences: tuple[PairedDifference, ...] = ()


def evaluate_claims(arms: Sequence[ArmResult], comparison: Comparison) -> list[Claim]:
    """The paper's claims about when images enter, tested on `arms`; empty when the arms do not vary their start."""
    sweep = main_sweep_arms(arms)
    if not 1 < len({arm.start for arm in sweep}) == len({arm.name for arm in sweep}):
        return []
    scored = arms_with_scores(arms)
    same_schedule = _same_schedule(scored, comparison)
    return [
        _best_start(scored, comparison),
        _two_points(scored, comparison),
        *([same_schedule] if same_schedule.differences else []),
        _from_scratch(scored, comparison),
        _text_retention(scored, comparison),
    ]


def arm_at_start(arms: Sequence[ArmResult], start: Fraction) -> str | None:
    """Name of the arm of the main sweep that branches at `start`."""
    return next((arm.name for arm in main_sweep_arms(arms) if arm.start == start), None)


def _best_start(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Vision is best when images enter at 80 % of the text training."
    arm_80 = arm_at_start(arms, START_80)
    others = list(dict.fromkeys(arm.name for arm in main_sweep_arms(arms) if arm.name != arm_80))
    if arm_80 is None or not others:
        return _untestable("best", statement, "it needs an arm at 80 % and at least one other start")
    differences = _differences(comparison, [(arm_80, name) for name in others])
    if not differences:
        return _untestable("best", statement, "no other start was evaluated with the same seeds")
    signs = [difference.sign for difference in differences]
    is_best = len(signs) == len(others) and set(signs) == {1}
    closest = min(differences, key=lambda difference: difference.mean)
    return Claim(
        name="best",
        statement=statement,
        verdict="holds" if is_best else "flips" if -1 in signs else "undecided",
        evidence=f"80 % is significantly better than {signs.count(1)} of {len(others)} other starts. "
        f"The closest: {_evidence([closest])}",
        caution="0 % and 100 % use another learning-rate schedule, so those comparisons are not of the start alone.",
        differences=differences,
    )


def _two_points(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    name, statement = (
        "two-points",
        "Images at 80 % give about two points more vision than images after all text (100 %).",
    )
    differences = _differences(comparison, [(arm_at_start(arms, START_80), arm_at_start(arms, START_100))])
    if not differences:
        return _untestable(name, statement, "it needs the arms at 80 % and at 100 % with a seed in common")
    verdict, evidence, interval = _verdict_of(differences[0]), _evidence(differences), differences[0].interval
    if interval:
        evidence += f" Two points are {'inside' if interval[0] <= 0.02 <= interval[1] else 'outside'} the interval."
    caution = "The test is of the sign. The 100 % arm re-warms its learning rate and the 80 % arm does not."
    return Claim(
        name=name, statement=statement, verdict=verdict, evidence=evidence, caution=caution, differences=differences
    )


def _same_schedule(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    """The comparison that the paper's reviewers asked for; without differences where its control arms were not run."""
    rewarm_80 = next((a.name for a in arms if a.schedule == "rewarm" and a.start == START_80), None)
    matched_100 = next((a.name for a in arms if a.schedule == "matched" and a.start == START_100), None)
    pairs = [(rewarm_80, arm_at_start(arms, START_100)), (arm_at_start(arms, START_80), matched_100)]
    differences = _differences(comparison, pairs)
    signs = {difference.sign for difference in differences}
    return Claim(
        name="same-schedule",
        statement="80 % stays ahead of 100 % when both use the same kind of learning-rate schedule.",
        verdict="holds" if signs == {1} else "flips" if signs == {-1} else "undecided",
        evidence=_evidence(differences),
        caution="Not a claim of the paper itself: a control that its reviewers asked for.",
        differences=differences,
    )


def _from_scratch(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Images from the very first step (0 %) hurt both vision and text."
    pair = (arm_at_start(arms, START_0), arm_at_start(arms, START_80))
    differences = _differences(comparison, [pair, pair], kinds=("vision", "text"))
    if len(differences) < 2:
        return _untestable("from-scratch", statement, "it needs vision and text of the arms at 0 % and at 80 %")
    signs = [difference.sign for difference in differences]
    return Claim(
        name="from-scratch",
        statement=statement,
        verdict="holds" if signs == [-1, -1] else "flips" if 1 in signs else "undecided",
        evidence=_evidence(differences),
        caution="The 0 % arm is also trained on fewer tokens in all: it may lack text rather than suffer from images.",
        differences=differences,
    )


def _text_retention(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    name, statement = "text-kept", "Adding images at 80 % retains text: less than two points of it are lost."
    trunk = next((arm.name for arm in arms if arm.schedule == "trunk"), None)
    pair = (arm_at_start(arms, START_80), trunk or arm_at_start(arms, START_100))
    differences = _differences(comparison, [pair], kinds=("text",), threshold=-TEXT_LOSS_TOLERANCE)
    if not differences:
        return _untestable(name, statement, "it needs text scores at 80 % and of the trunk (or of 100 %)")
    verdict, evidence = _verdict_of(differences[0]), _evidence(differences)
    caution = f"The reference is the {'finished trunk' if trunk else '100 % arm'}."
    return Claim(
        name=name, statement=statement, verdict=verdict, evidence=evidence, caution=caution, differences=differences
    )


def _differences(
    comparison: Comparison,
    pairs: Sequence[tuple[str | None, str | None]],
    *,
    kinds: Sequence[str] = (),
    threshold: float = 0.0,
) -> tuple[PairedDifference, ...]:
    """Differences of `pairs` in `kinds` (one for each pair; vision by default), corrected together.

    Pairs with an arm that the study lacks, or without a common seed, are left out.
    """
    arm_pairs = [
        ArmPair(a=a, b=b, kind=kind, threshold=threshold)
        for (a, b), kind in zip(pairs, kinds or ["vision"] * len(pairs), strict=True)
        if a and b
    ]
    return tuple(difference for difference in comparison.corrected_differences(arm_pairs) if difference is not None)


def _verdict_of(difference: PairedDifference) -> ClaimVerdict:
    return ("undecided", "holds", "flips")[difference.sign]


def _untestable(name: str, statement: str, reason: str) -> Claim:
    return Claim(name=name, statement=statement, verdict="undecided", evidence=f"Cannot be tested: {reason}.")


def _evidence(differences: Sequence[PairedDifference]) -> str:
    """The differences as sentences, and the limits of a single seed."""
    sentences = f"{'; '.join(map(describe_difference, differences))}."
    has_single_seed = any(difference.interval is None for difference in differences)
    return f"{sentences} One seed cannot distinguish an effect from a lucky run." if has_single_seed else sentences


def describe_difference(difference: PairedDifference) -> str:
    """A difference as a sentence: size, interval, p-value, number of seeds, and the tasks that were left out."""
    pair, tasks = difference.pair, ", ".join(difference.missing_tasks)
    gap = f"{abs(100 * difference.mean):.1f} points {'more' if difference.mean >= 0 else 'less'}"
    sentence = f"{pair.a} scores {gap} in {pair.kind} than {pair.b}"
    omission = f", without {tasks}, on which not all of these runs were evaluated" if tasks else ""
    if difference.interval is not None:
        interval = f"{100 * difference.level:.3g} % interval {format_interval(difference.interval)}"
        p_value = format_p_value(difference.adjusted_p, difference.family_size)
        return f"{sentence} ({interval}, {p_value}, {len(difference.per_seed)} seeds{omission})"
    if difference.question_interval is not None:
        interval = format_interval(difference.question_interval)
        return f"{sentence} (95 % over questions alone {interval}, one seed{omission})"
    return sentence + omission
