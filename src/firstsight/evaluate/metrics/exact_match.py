"""Metrics for a single right answer: exact match, yes or no (POPE), and the index or letter of a choice (MMMU)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise, is_nonempty

_EDGE_PUNCTUATION = ",.!?;:'"
_MAX_SHORT_WORDS = 5
"""Answers of up to this many words are not searched for an option's text."""
_LETTERS = tuple("ABCDEFGH")
"""Letters searched for where the options are unknown; I would be a word."""


def exact_match(answer: str, truth: Truth) -> float:
    """1 for equal texts without regard to case, full stops at the end and white space around them.

    GQA's scorer compares exactly, and expects answers in lower case without a final full stop.
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
    return {"No", "not", "no"}.isdisjoint(first_sentence.split(" "))


def contains_yes_no(answer: str) -> bool:
    """Whether the answer contains the word yes, no or not, in any case and before any punctuation."""
    return re.search(r"\b(?:yes|no|not)\b", answer, re.IGNORECASE) is not None


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
    is_positive = (_normalise_word(label) != "no" for label in labels)
    pairs = Counter(zip(map(is_yes_answer, answers), is_positive, strict=True))
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


def letter_match(answer: str, truth: Truth) -> float:
    """1 for the right letter. `truth` is that letter, then every option's text in order: ("B", "a cat", "a dog")."""
    assert isinstance(truth, tuple)
    correct_letter, *options = (str(field) for field in truth)
    options_by_letter = {chr(ord("A") + index): option for index, option in enumerate(options)}
    return float(parse_choice_letter(answer, options_by_letter) == correct_letter)


def parse_choice_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter in an answer as MMMU's scorer parses it, or None. `options` are texts by letter.

    Punctuation at the ends is removed. Then it searches for letters in brackets, for letters between spaces, and in
    answers of more than five words for the options' texts (ignoring case); the last match of a kind counts. If there is
    none, MMMU's scorer draws a random letter. Here a letter before a full stop (as in MMMU-Pro's scorer) or at the end
    of a line counts; an answer without one is wrong.
    """

    def find(searched: str, pattern: str) -> str | None:
        return _last_occurrence(searched, {letter: pattern.format(letter) for letter in options})

    text = f" {_strip_edges(answer)} "
    if letter := find(text, "({})") or find(text, " {} "):
        return letter
    option_texts = {letter: option.lower() for letter, option in options.items()}
    if len(text.split()) > _MAX_SHORT_WORDS and (letter := _last_occurrence(text.lower(), option_texts)):
        return letter
    lines = "".join(f" {_strip_edges(line.strip())} " for line in answer.splitlines())
    return find(text, " {}.") or find(lines, " {} ")


def _strip_edges(answer: str) -> str:
    """The answer without punctuation at its ends; each mark is stripped once, in this order, as in MMMU's scorer."""
    for mark in _EDGE_PUNCTUATION:
        answer = answer.strip(mark)
    return answer


def _last_occurrence(text: str, patterns: Mapping[str, str]) -> str | None:
    positions = {letter: text.rfind(pattern) for letter, pattern in patterns.items()}
    letter = max(positions, key=positions.__getitem__, default=None)
    return letter if letter is not None and positions[letter] >= 0 else None


def _may_contain_choice(answer: str) -> bool:
    has_letter = parse_choice_letter(answer, dict.fromkeys(_LETTERS, "")) is not None
    return has_letter or len(answer.split()) > _MAX_SHORT_WORDS


EXACT_MATCH = Metric(name="exact", compute=elementwise(exact_match), is_readable=is_nonempty)
"""GQA."""
YES_NO_MATCH = Metric(name="yes_no", compute=elementwise(yes_no_match), is_readable=contains_yes_no)
"""POPE."""
_is_equal = elementwise(lambda answer, truth: float(answer == str(truth)))
CHOICE_MATCH = Metric(name="choice", compute=_is_equal, is_readable=str.isdecimal)
"""lm-eval's `acc`: whether the likeliest continuation is the right one; both are indices."""
LETTER_MATCH = Metric(name="letter", compute=elementwise(letter_match), is_readable=_may_contain_choice)
"""MMMU. An answer is readable if it has a letter from A to H or may be long enough for an option's text."""
