"""One right answer: the same words, the same side, the same choice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise, is_nonempty

_NEGATIVE_WORDS = frozenset(("No", "not", "no"))
_YES_NO_PATTERN = re.compile(r"\b(?:yes|no|not)\b", re.IGNORECASE)


def exact_match(answer: str, truth: Truth) -> float:
    """The same words, whatever their case, the full stops at their end and white space around them.

    GQA's scorer compares letter by letter, and answers reach it lower-cased and without their final full stop.
    """
    return float(_normalise_word(answer) == _normalise_word(str(truth)))


def yes_no_match(answer: str, truth: Truth) -> float:
    """The same side."""
    return float(is_yes_answer(answer) == (_normalise_word(str(truth)) != "no"))


def is_yes_answer(answer: str) -> bool:
    """POPE's reading of free text: no where the first sentence holds "No", "no" or "not", yes for everything else.

    Words end at spaces alone, so that "NO", "Not", "no!" and "no" before a new line are read as yes, as POPE does.
    """
    first_sentence = answer.partition(".")[0].replace(",", "")
    return _NEGATIVE_WORDS.isdisjoint(first_sentence.split(" "))


def contains_yes_no(answer: str) -> bool:
    """The answer says yes, no or not at all, in any case and with any mark behind it."""
    return _YES_NO_PATTERN.search(answer) is not None


def choice_match(answer: str, truth: Truth) -> float:
    """The right number was chosen."""
    return float(answer == str(truth))


@dataclass(frozen=True, kw_only=True, slots=True)
class PopeReport:
    """POPE's report of one split: yes counts as positive."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_rate: float
    """Share of yes among the answers; .5 of the questions are true."""


def pope_report(answers: Sequence[str], labels: Iterable[str]) -> PopeReport:
    """POPE's numbers over questions in any one order; a ratio with nothing under it is 0."""
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
        yes_rate=num_yes / total,
    )


def _normalise_word(answer: str) -> str:
    return answer.strip().rstrip(".").lower()


EXACT_MATCH = Metric(name="exact", compute=elementwise(exact_match), is_readable=is_nonempty)
"""GQA: the same word or phrase."""
YES_NO_MATCH = Metric(name="yes_no", compute=elementwise(yes_no_match), is_readable=contains_yes_no)
"""POPE: yes or no."""
CHOICE_MATCH = Metric(name="choice", compute=elementwise(choice_match), is_readable=str.isdecimal)
"""lm-eval's `acc`: the likeliest continuation is the right one."""
