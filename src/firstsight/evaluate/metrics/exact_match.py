"""Metrics for a single right answer: exact match, yes or no (POPE), and the index of a choice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise, is_nonempty

_NEGATIVE_WORDS = frozenset(("No", "not", "no"))
_YES_NO_PATTERN = re.compile(r"\b(?:yes|no|not)\b", re.IGNORECASE)


def exact_match(answer: str, truth: Truth) -> float:
    """1 for equal texts without regard to case, full stops at the end and white space around them.

    GQA's scorer compares exactly, on answers that were lower-cased and stripped of their final full stop before.
    """
    return float(_normalise_word(answer) == _normalise_word(str(truth)))


def yes_no_match(answer: str, truth: Truth) -> float:
    """1 if answer and truth are both yes or both no."""
    return float(is_yes_answer(answer) == (_normalise_word(str(truth)) != "no"))


def is_yes_answer(answer: str) -> bool:
    """POPE's parse of free text: no if the first sentence contains "No", "no" or "not", yes for everything else.

    Words end only at spaces, so that "NO", "Not", "no!" and "no" before a line break are yes, as in POPE's script.
    """
    first_sentence = answer.partition(".")[0].replace(",", "")
    return _NEGATIVE_WORDS.isdisjoint(first_sentence.split(" "))


def contains_yes_no(answer: str) -> bool:
    """Whether the answer contains the word yes, no or not, in any case and before any punctuation."""
    return _YES_NO_PATTERN.search(answer) is not None


def choice_match(answer: str, truth: Truth) -> float:
    """1 if the answer is the index of the right choice."""
    return float(answer == str(truth))


@dataclass(frozen=True, kw_only=True, slots=True)
class PopeReport:
    """POPE's report on one split, where yes is the positive class."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes: float
    """The share of yes among the answers; the truth is yes for half of the questions."""


def pope_report(answers: Sequence[str], labels: Iterable[str]) -> PopeReport:
    """POPE's report for answers and labels in the same order; a ratio with denominator 0 is 0."""
    pairs = Counter(
        (is_yes_answer(answer), _normalise_word(label) != "no") for answer, label in zip(answers, labels, strict=True)
    )
    hits, total = pairs[True, True], max(len(answers), 1)
    num_yes, num_positive = hits + pairs[True, False], hits + pairs[False, True]
    return PopeReport(
        accuracy=(hits + pairs[False, False]) / total,
        precision=hits / max(num_yes, 1),
        recall=hits / max(num_positive, 1),
        f1=2 * hits / max(num_yes + num_positive, 1),
        yes=num_yes / total,
    )


def _normalise_word(answer: str) -> str:
    return answer.strip().rstrip(".").lower()


EXACT_MATCH = Metric(name="exact", compute=elementwise(exact_match), is_readable=is_nonempty)
"""GQA."""
YES_NO_MATCH = Metric(name="yes_no", compute=elementwise(yes_no_match), is_readable=contains_yes_no)
"""POPE."""
CHOICE_MATCH = Metric(name="choice", compute=elementwise(choice_match), is_readable=str.isdecimal)
"""lm-eval's `acc`: whether the likeliest continuation is the right one."""
