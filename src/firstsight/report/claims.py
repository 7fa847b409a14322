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
from firstsight.report.compare import Comparison, Difference, Pair
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
    found = _family(comparison, [Pair(a=late, b=rival, kind="vision") for rival in rivals])
    if not found:
        return _silent("best", statement, "no other start has been judged with the same seeds")
    verdict: Verdict = "undecided"
    if len(found) == len(rivals) and all(d.side > 0 for d in found):
        verdict = "holds"
    elif any(d.side < 0 for d in found):
        verdict = "flips"
    closest = min(found, key=lambda d: d.mean)
    beaten = sum(d.side > 0 for d in found)
    evidence = f"80 % is clear of {beaten} of {len(rivals)} other starts. The closest: {_evidence([closest])}"
    caution = "0 % and 100 % follow another learning-rate schedule, so the two ends compare more than the moment."
    return Claim(
        name="best", statement=statement, verdict=verdict, evidence=evidence, caution=caution, differences=tuple(found)
    )


def _two_points(arms: Sequence[ArmResult], comparison: Comparison) -> Claim:
    statement = "Entering at 80 % gives about two points more vision than entering after all text (100 %)."
    late, end = at(arms, LATE), at(arms, END)
    found = comparison.difference(Pair(a=late, b=end, kind="vision")) if late and end else None
    if found is None:
        return _silent("two-points", statement, "it needs the arms at 80 % and at 100 % with a seed in common")
    inside = found.interval is not None and found.interval[0] <= 0.02 <= found.interval[1]
    size = f"Two points lie {'inside' if inside else 'outside'} the interval."
    return Claim(
        name="two-points",
        statement=statement,
        verdict=_verdict(found),
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
    found = _family(comparison, [Pair(a=a, b=b, kind="vision") for a, b in pairs])
    if not found:
        return []
    sides = {d.side for d in found}
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
    birth, late = at(arms, BIRTH), at(arms, LATE)
    kinds = ("vision", "text") if birth and late else ()
    found = _family(comparison, [Pair(a=birth or "", b=late or "", kind=kind) for kind in kinds])
    if len(found) < 2:
        return _silent("from-scratch", statement, "it needs vision and text of the arms at 0 % and at 80 %")
    sides = [d.side for d in found]
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
    found = comparison.difference(Pair(a=late, b=base, kind="text", bar=-KEPT)) if late and base else None
    if found is None:
        return _silent("text-kept", statement, "it needs text scores at 80 % and of the trunk (or of 100 %)")
    return Claim(
        name="text-kept",
        statement=statement,
        verdict=_verdict(found),
        evidence=_evidence([found]),
        caution="The yardstick is the finished trunk itself." if trunk else "The yardstick is the 100 % arm.",
        differences=(found,),
    )


def _family(comparison: Comparison, pairs: Sequence[Pair]) -> list[Difference]:
    """The differences that could be taken, corrected together."""
    return [found for found in comparison.family(pairs) if found is not None]


def _verdict(found: Difference) -> Verdict:
    return ("undecided", "holds", "flips")[found.side]


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
    """A difference in words: who, by how much, how sure, from how many seeds, over which tasks."""
    seeds = len(found.per_seed)
    size = f"{abs(100 * found.mean):.1f} points {'more' if found.mean >= 0 else 'less'}"
    words = f"{found.a} scores {size} in {found.kind} than {found.b}"
    without = (
        f", without {', '.join(found.lacking)}, which not all of these runs were judged on" if found.lacking else ""
    )
    if found.interval is not None:
        sure = f"{100 * found.level:.3g} % interval {span(found.interval)}, {probability(found)}"
        return f"{words} ({sure}, {seeds} seeds{without})"
    if found.questions is not None:
        return f"{words} (95 % over questions alone {span(found.questions)}, one seed{without})"
    return words + without


def span(ends: Interval) -> str:
    """An interval in points: +0.3 to +4.1."""
    return f"{points(ends[0])} to {points(ends[1])}"


def probability(found: Difference) -> str:
    """The adjusted p-value in words: p = 0.013 after Holm for 5."""
    value = found.adjusted if found.adjusted is not None else 1.0
    shown = f"p = {value:.2g}" if value >= 0.0001 else "p < 0.0001"
    return f"{shown} after Holm for {found.family}" if found.family > 1 else shown


def points(share: float) -> str:
    """A difference of shares in points with its sign: +2.1."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
