"""One right answer: the same words, the same side, the same choice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from firstsight.evaluate.metrics.metric import Metric, Truth, each, said

_NEGATIVE = frozenset(("No", "not", "no"))
_SIDE = re.compile(r"\b(?:yes|no|not)\b", re.IGNORECASE)


def exact(answer: str, truth: Truth) -> float:
    """The same words, whatever their case, the full stops at their end and white space around them.

    GQA's scorer compares letter by letter, and answers reach it lower-cased and without their final full stop.
    """
    return float(_plain(answer) == _plain(str(truth)))


def yes_no(answer: str, truth: Truth) -> float:
    """The same side."""
    return float(says_yes(answer) == (_plain(str(truth)) != "no"))


def says_yes(answer: str) -> bool:
    """POPE's reading of free text: no where the first sentence holds "No", "no" or "not", yes for everything else.

    Words end at spaces alone, so that "NO", "Not", "no!" and "no" before a new line are read as yes, as POPE does.
    """
    first = answer.partition(".")[0].replace(",", "")
    return _NEGATIVE.isdisjoint(first.split(" "))


def takes_side(answer: str) -> bool:
    """The answer says yes, no or not at all, in any case and with any mark behind it."""
    return _SIDE.search(answer) is not None


def choice(answer: str, truth: Truth) -> float:
    """The right number was chosen."""
    return float(answer == str(truth))


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """POPE's report of one split: yes counts as positive."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes: float
    """Share of yes among the answers; .5 of the questions are true."""


def presence(answers: Sequence[str], labels: Iterable[str]) -> Presence:
    """POPE's numbers over questions in any one order; a ratio with nothing under it is 0."""
    pairs = Counter((says_yes(answer), _plain(label) != "no") for answer, label in zip(answers, labels, strict=True))
    hits, total = pairs[True, True], max(len(answers), 1)
    said, true = hits + pairs[True, False], hits + pairs[False, True]
    return Presence(
        accuracy=(hits + pairs[False, False]) / total,
        precision=hits / max(said, 1),
        recall=hits / max(true, 1),
        f1=2 * hits / max(said + true, 1),
        yes=said / total,
    )


def _plain(answer: str) -> str:
    return answer.strip().rstrip(".").lower()


EXACT = Metric(name="exact", marks=each(exact), readable=said)
"""GQA: the same word or phrase."""
YES_NO = Metric(name="yes_no", marks=each(yes_no), readable=takes_side)
"""POPE: yes or no."""
CHOICE = Metric(name="choice", marks=each(choice), readable=str.isdecimal)
"""lm-eval's `acc`: the likeliest continuation is the right one."""
