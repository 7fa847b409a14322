"""Multiple choice in free text: parses the letter of an option from an answer (MMMU)."""

from __future__ import annotations

from collections.abc import Mapping

from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise

_EDGE_PUNCTUATION = ",.!?;:'"
_MAX_SHORT_WORDS = 5
"""Answers of up to this many words are not searched for an option's text."""
_LETTERS = tuple("ABCDEFGH")
"""Letters searched for where the options are unknown; I would be a word."""


def letter_match(answer: str, truth: Truth) -> float:
    """1 for the right letter. `truth` is that letter, then every option's text in order: ("B", "a cat", "a dog")."""
    assert isinstance(truth, tuple)
    correct_letter, *options = (str(field) for field in truth)
    options_by_letter = {chr(ord("A") + index): option for index, option in enumerate(options)}
    return float(parse_choice_letter(answer, options_by_letter) == correct_letter)


def parse_choice_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter in an answer as MMMU's scorer parses it, or None. `options` are texts by letter.

    Letters in brackets come first, then letters between spaces, then, in more than five words, the options' texts
    (ignoring case); of several the last one in the answer. Punctuation at the ends is removed before. Where the scorer
    finds nothing it draws a random letter. Here a letter before a full stop counts, as in MMMU-Pro's scorer, or one at
    the end of a line; an answer without any is wrong.
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
    """The answer without punctuation at its ends, one character after the other removed once, as in MMMU's scorer."""
    for mark in _EDGE_PUNCTUATION:
        answer = answer.strip(mark)
    return answer


def _last_occurrence(text: str, patterns: Mapping[str, str]) -> str | None:
    """The key of the pattern that occurs last in `text`, the first one on a tie; None without any."""
    positions = {letter: text.rfind(pattern) for letter, pattern in patterns.items()}
    letter = max(positions, key=positions.__getitem__, default=None)
    return letter if letter is not None and positions[letter] >= 0 else None


def _may_contain_choice(answer: str) -> bool:
    has_letter = parse_choice_letter(answer, dict.fromkeys(_LETTERS, "")) is not None
    return has_letter or len(answer.split()) > _MAX_SHORT_WORDS


LETTER_MATCH = Metric(name="letter", compute=elementwise(letter_match), is_readable=_may_contain_choice)
"""MMMU. An answer is readable if it has a letter from A to H or may be long enough for an option's text."""
