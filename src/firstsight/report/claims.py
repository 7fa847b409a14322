"""Each claim of the paper that a study of starts can speak to: holds, flips or undecided, with the evidence.

A claim holds when the whole interval lies on its side and flips when it lies on the other; everything else, a single
seed and a missing arm among it, is undecided. Source of the claims: paper section 6, Figures 4 to 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from firstsight.report.compare import Comparison, Difference
from firstsight.report.results import ArmResult, judged, ordinary

Verdict = Literal["holds", "flips", "undecided"]

KEPT = 0.02
"""Text counts as kept while it loses less than this: two points of stable score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One sentence of the paper and what this study says to it."""

    name: str
    statement: str
    verdict: Verdict
    evidence: str
    caution: str
    differences: tuple[Difference, ...]


def claims(arms: Sequence[ArmResult], comparison: Comparison) -> list[Claim]:
    """The paper's claims about when images enter, judged on `arms`; empty when the arms do not vary their start."""
    done = judged(arms)
    line = ordinary(arms)
    if not 1 < len({arm.start for arm in line}) == len({arm.name for arm in line}):
        return []
    return [
        _best(done, comparison),
        _two_points(done, comparison),
        *_same_schedule(done, comparison),
        _scratch(done, comparison),
        _text_kept(done, comparison),
    ]


def at(arms: Sequence[ArmResult], start: Fraction) -> str | None:
    """Name of the judged arm on the study's line that branches at `start`."""
    return next((arm.name for arm in ordinary(arms) if arm.start == start), None)


LATE, END, BIRTH = Fraction(4, 5), Fraction(1), Fraction(0)


def _best(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Vision is best when images enter at 80 % of the text training."
    late = at(arms, LATE)
    rivals = list(dict.fromkeys(arm.name for arm in ordinary(arms) if arm.name != late))
    if late is None or not rivals:
        return _silent("best", statement, "it needs an arm at 80 % and at least one other start")
    found = _all(comparison, late, rivals, kind="vision")
    if not found:
        return _silent("best", statement, "no other start has been judged with the same seeds")
    verdict: Verdict = "undecided"
    if len(found) == len(rivals) and all(_side(d, 0.0) > 0 for d in found):
        verdict = "holds"
    elif any(_side(d, 0.0) < 0 for d in found):
        verdict = "flips"
    closest = min(found, key=lambda d: d.mean)
    beaten = sum(_side(d, 0.0) > 0 for d in found)
    evidence = f"80 % is clear of {beaten} of {len(rivals)} other starts. The closest: {_evidence([closest])}"
    caution = "0 % and 100 % follow another learning-rate schedule, so the two ends compare more than the moment."
    return Claim(
        name="best", statement=statement, verdict=verdict, evidence=evidence, caution=caution, differences=tuple(found)
    )


def _two_points(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Entering at 80 % gives about two points more vision than entering after all text (100 %)."
    found = _pair(arms, comparison, kind="vision", ends=(LATE, END))
    if found is None:
        return _silent("two-points", statement, "it needs the arms at 80 % and at 100 % with a seed in common")
    inside = found.interval is not None and found.interval[0] <= 0.02 <= found.interval[1]
    size = f"Two points lie {'inside' if inside else 'outside'} the interval."
    return Claim(
        name="two-points",
        statement=statement,
        verdict=_verdict(found, 0.0),
        evidence=_evidence([found]) + (f" {size}" if found.interval else ""),
        caution="The verdict is about the sign. The 100 % arm re-warms its rate and the 80 % arm does not.",
        differences=(found,),
    )


def _same_schedule(arms: Sequence[ArmResult], comparison: Comparison) -> list[Claim]:
    """The comparison that reviewers asked for, where its control arms were run."""
    statement = "80 % stays ahead of 100 % when both follow the same kind of schedule."
    late, end = at(arms, LATE), at(arms, END)
    rewarmed = next((a.name for a in arms if a.schedule == "Rewarm" and a.start == LATE), None)
    matched = next((a.name for a in arms if a.schedule == "Matched" and a.start == END), None)
    pairs = [(a, b) for a, b in ((rewarmed, end), (late, matched)) if a and b]
    found = [d for a, b in pairs if (d := comparison.difference(a, b, kind="vision", among=len(pairs)))]
    if not found:
        return []
    sides = {_side(d, 0.0) for d in found}
    verdict: Verdict = "holds" if sides == {1} else "flips" if sides == {-1} else "undecided"
    return [
        Claim(
            name="same-schedule",
            statement=statement,
            verdict=verdict,
            evidence=_evidence(found),
            caution="Not the paper's own claim: a control its reviewers asked for.",
            differences=tuple(found),
        )
    ]


def _scratch(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Images from the very first step (0 %) hurt both vision and text."
    kinds = ("vision", "text")
    found = [d for kind in kinds if (d := _pair(arms, comparison, kind=kind, ends=(BIRTH, LATE), among=2))]
    if len(found) < len(kinds):
        return _silent("from-scratch", statement, "it needs vision and text of the arms at 0 % and at 80 %")
    sides = [_side(d, 0.0) for d in found]
    verdict: Verdict = "holds" if sides == [-1, -1] else "flips" if 1 in sides else "undecided"
    return Claim(
        name="from-scratch",
        statement=statement,
        verdict=verdict,
        evidence=_evidence(found),
        caution="The 0 % arm also saw fewer tokens in all: it may lack text rather than suffer from images.",
        differences=tuple(found),
    )


def _text_kept(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Adding images at 80 % keeps text: less than two points of it are lost."
    late = at(arms, LATE)
    trunk = next((arm.name for arm in arms if arm.schedule == "trunk"), None)
    base = trunk or at(arms, END)
    found = comparison.difference(late, base, kind="text") if late and base else None
    if found is None:
        return _silent("text-kept", statement, "it needs text scores at 80 % and of the trunk (or of 100 %)")
    return Claim(
        name="text-kept",
        statement=statement,
        verdict=_verdict(found, -KEPT),
        evidence=_evidence([found]),
        caution="The yardstick is the finished trunk itself." if trunk else "The yardstick is the 100 % arm.",
        differences=(found,),
    )


def _pair(
    arms: Sequence[ArmResult], comparison: Comparison, *, kind: str, ends: tuple[Fraction, Fraction], among: int = 1
) -> Difference | None:
    a, b = at(arms, ends[0]), at(arms, ends[1])
    return comparison.difference(a, b, kind=kind, among=among) if a and b else None


def _all(comparison: Comparison, a: str, rivals: Sequence[str], *, kind: str) -> list[Difference]:
    return [d for b in rivals if (d := comparison.difference(a, b, kind=kind, among=len(rivals)))]


def _side(found: Difference, bar: float) -> int:
    """1 if the whole interval lies above `bar`, -1 if it lies below, else 0."""
    if found.interval is None:
        return 0
    low, high = found.interval
    return 1 if low > bar else -1 if high < bar else 0


def _verdict(found: Difference, bar: float) -> Verdict:
    return ("undecided", "holds", "flips")[_side(found, bar)]


def _silent(name: str, statement: str, why: str) -> Claim:
    return Claim(
        name=name, statement=statement, verdict="undecided", evidence=f"Cannot say: {why}.", caution="", differences=()
    )


def _evidence(found: Sequence[Difference]) -> str:
    """The differences as sentences, and what a single seed cannot tell."""
    sentences = f"{'; '.join(told(d) for d in found)}."
    single = any(d.interval is None for d in found)
    return f"{sentences} One seed cannot tell an effect from a lucky run." if single else sentences


def told(found: Difference) -> str:
    """A difference in words: who, by how much, how sure, from how many seeds."""
    seeds = len(found.per_seed)
    size = f"{abs(100 * found.mean):.1f} points {'more' if found.mean >= 0 else 'less'}"
    words = f"{found.a} scores {size} in {found.kind} than {found.b}"
    if found.interval is None:
        return words
    low, high = found.interval
    return f"{words} ({100 * found.level:.3g} % interval {points(low)} to {points(high)}, {seeds} seeds)"


def points(share: float) -> str:
    """A difference of shares in points with its sign: +2.1."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
