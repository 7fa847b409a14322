"""The paper's claims about when images enter, tested on a study that varies the start: holds, flips or undecided.

A claim holds when the whole interval is on its side of the threshold and flips when it is on the other; everything
else is undecided, also a single seed or a missing arm. The comparisons that decide one claim are corrected together.
Source of the claims: paper section 6, Figures 4 to 6.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from firstsight.report.compare import ArmPair, Comparison, PairedDifference
from firstsight.report.format import format_interval, format_p_value
from firstsight.report.results import ArmResult, arms_with_scores, main_sweep_arms

ClaimVerdict = Literal["holds", "flips", "undecided"]

TEXT_LOSS_TOLERANCE = 0.02
"""Text counts as retained while the loss is smaller than this: two points of stable score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One claim of the paper and its result in this study."""

    name: str
    statement: str
    verdict: ClaimVerdict
    evidence: str
    caution: str = ""
    differences: tuple[PairedDifference, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _ClaimTest:
    """How a claim is tested: it holds where all differences have `sign`, and flips where one has the opposite sign."""

    name: str
    statement: str
    pairs: Collection[tuple[str | None, str | None]]
    requirement: str
    caution: str
    kinds: Collection[str] = ("vision",)
    sign: int = 1
    threshold: float = 0.0
    min_count: int = 1
    """With fewer differences the claim cannot be tested."""
    may_lack_pairs: bool = False
    """The pairs whose arms exist decide it, if they agree."""

    def evaluate(self, comparison: Comparison) -> Claim:
        """The claim's result, from comparisons that are corrected together."""
        pairs = [(a, b, kind) for a, b in self.pairs if a and b for kind in self.kinds]
        arm_pairs = [ArmPair(a=a, b=b, kind=kind, threshold=self.threshold) for a, b, kind in pairs]
        differences = tuple(filter(None, comparison.corrected_differences(arm_pairs)))
        if len(differences) < self.min_count:
            evidence = f"Cannot be tested: {self.requirement}."
            return Claim(name=self.name, statement=self.statement, verdict="undecided", evidence=evidence)
        signs = [difference.sign * self.sign for difference in differences]
        is_decidable = self.may_lack_pairs or len(signs) == len(self.pairs) * len(self.kinds)
        verdict: ClaimVerdict = "holds" if set(signs) == {1} and is_decidable else "undecided"
        if -1 in signs and not (self.may_lack_pairs and set(signs) != {-1}):
            verdict = "flips"
        evidence = self._evidence(differences, signs)
        fields = {"evidence": evidence, "caution": self.caution, "differences": differences}
        return Claim(name=self.name, statement=self.statement, verdict=verdict, **fields)

    def _evidence(self, differences: Sequence[PairedDifference], signs: Sequence[int]) -> str:
        if self.name == "best":
            closest = min(differences, key=lambda difference: difference.mean)
            better = f"80 % is significantly better than {signs.count(1)} of {len(self.pairs)} other starts."
            return f"{better} The closest: {_evidence([closest])}"
        interval = differences[0].interval
        if self.name == "two-points" and interval:
            location = "inside" if interval[0] <= 0.02 <= interval[1] else "outside"
            return f"{_evidence(differences)} Two points are {location} the interval."
        return _evidence(differences)


def evaluate_claims(arms: Sequence[ArmResult], comparison: Comparison) -> list[Claim]:
    """The paper's claims about when images enter, tested on `arms`; empty when the arms do not vary their start."""
    sweep = main_sweep_arms(arms)
    if not 1 < len({arm.start for arm in sweep}) == len({arm.name for arm in sweep}):
        return []
    claims = [test.evaluate(comparison) for test in _claim_tests(arms_with_scores(arms))]
    return [claim for claim in claims if claim.differences or claim.name != "same-schedule"]


def _claim_tests(arms: Sequence[ArmResult]) -> list[_ClaimTest]:
    sweep = main_sweep_arms(arms)
    at_0, at_80, at_100 = (_arm_name([arm for arm in sweep if arm.start == Fraction(n, 5)]) for n in (0, 4, 5))
    rewarm_80 = _arm_name([arm for arm in arms if arm.schedule == "rewarm" and arm.start == Fraction(4, 5)])
    matched_100 = _arm_name([arm for arm in arms if arm.schedule == "matched" and arm.start == 1])
    trunk = _arm_name([arm for arm in arms if arm.schedule == "trunk"])
    others = list(dict.fromkeys(arm.name for arm in sweep if arm.name != at_80))
    return [
        _ClaimTest(
            name="best",
            statement="Vision is best when images enter at 80 % of the text training.",
            pairs=[(at_80, name) for name in others],
            requirement="no other start was evaluated with the same seeds"
            if at_80 and others
            else "it needs an arm at 80 % and at least one other start",
            caution="0 % and 100 % use another learning-rate schedule, so those comparisons are not of the start "
            "alone.",
        ),
        _ClaimTest(
            name="two-points",
            statement="Images at 80 % give about two points more vision than images after all text (100 %).",
            pairs=[(at_80, at_100)],
            requirement="it needs the arms at 80 % and at 100 % with a seed in common",
            caution="The test is of the sign. The 100 % arm re-warms its learning rate and the 80 % arm does not.",
        ),
        _ClaimTest(
            name="same-schedule",
            statement="80 % stays ahead of 100 % when both use the same kind of learning-rate schedule.",
            pairs=[(rewarm_80, at_100), (at_80, matched_100)],
            requirement="its control arms were not run",
            caution="Not a claim of the paper itself: a control that its reviewers requested.",
            may_lack_pairs=True,
        ),
        _ClaimTest(
            name="from-scratch",
            statement="Images from the very first step (0 %) hurt both vision and text.",
            pairs=[(at_0, at_80)],
            kinds=("vision", "text"),
            sign=-1,
            min_count=2,
            requirement="it needs vision and text of the arms at 0 % and at 80 %",
            caution="The 0 % arm is also trained on fewer tokens in all: it may lack text rather than suffer from "
            "images.",
        ),
        _ClaimTest(
            name="text-kept",
            statement="Adding images at 80 % retains text: less than two points of it are lost.",
            pairs=[(at_80, trunk or at_100)],
            kinds=("text",),
            threshold=-TEXT_LOSS_TOLERANCE,
            requirement="it needs text scores at 80 % and of the trunk (or of 100 %)",
            caution=f"The reference is the {'finished trunk' if trunk else '100 % arm'}.",
        ),
    ]


def _arm_name(arms: Sequence[ArmResult]) -> str | None:
    return arms[0].name if arms else None


def _evidence(differences: Sequence[PairedDifference]) -> str:
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
