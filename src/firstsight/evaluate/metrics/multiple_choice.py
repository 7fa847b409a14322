"""Multiple choice in free text: which option's letter does the answer name?"""

from __future__ import annotations

from collections.abc import Mapping

from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise

_EDGE_PUNCTUATION = ",.!?;:'"
_MAX_SHORT_WORDS = 5
"""Words of an answer in which an option's text is not looked for."""
_LETTERS = tuple("ABCDEFGH")
"""What an answer is searched for where the options are unknown; an I would be a word."""


def letter_match(answer: str, truth: Truth) -> float:
    """The right letter was named. `truth` holds it, then every option's text in order: ("B", "a cat", "a dog")."""
    assert isinstance(truth, tuple)
    correct_letter, *options = (str(field) for field in truth)
    options_by_letter = {chr(ord("A") + index): option for index, option in enumerate(options)}
    return float(parse_choice_letter(answer, options_by_letter) == correct_letter)


def parse_choice_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that `answer` names, as MMMU's scorer finds it, or None.

    Letters in brackets come first, then letters between spaces, then, in more than five words, the options' texts
    (case aside); of several the one that is named last. Marks at the ends are dropped before. Where the scorer finds
    nothing it draws a letter by lot. Here a letter with a full stop behind it is taken, as MMMU-Pro's scorer does, or
    one at the end of a line; an answer without any names nothing and is wrong.
    """
    text = f" {_strip_edges(answer)} "
    for pattern in ("({})", " {} "):
        if letter := _last_occurrence(
            text, {option_letter: pattern.format(option_letter) for option_letter in options}
        ):
            return letter
    lower_text = text.lower()
    texts = {option_letter: option.lower() for option_letter, option in options.items()}
    if len(text.split()) > _MAX_SHORT_WORDS and (letter := _last_occurrence(lower_text, texts)):
        return letter
    lines = "".join(f" {_strip_edges(line.strip())} " for line in answer.splitlines())
    return _last_occurrence(
        text, {option_letter: f" {option_letter}." for option_letter in options}
    ) or _last_occurrence(lines, {option_letter: f" {option_letter} " for option_letter in options})


def _strip_edges(answer: str) -> str:
    """Without marks at the ends, taken off one kind after the other, each once."""
    for mark in _EDGE_PUNCTUATION:
        answer = answer.strip(mark)
    return answer


def _last_occurrence(text: str, patterns: Mapping[str, str]) -> str | None:
    """Which of the written forms stands last in `text`; of those that start at one place the first option's."""
    positions = {option_letter: text.rfind(pattern) for option_letter, pattern in patterns.items()}
    last_letter = max(positions, key=lambda option_letter: positions[option_letter], default=None)
    return last_letter if last_letter is not None and positions[last_letter] >= 0 else None


def _may_contain_choice(answer: str) -> bool:
    return (
        len(answer.split()) > _MAX_SHORT_WORDS or parse_choice_letter(answer, dict.fromkeys(_LETTERS, "")) is not None
    )


LETTER_MATCH = Metric(name="letter", compute=elementwise(letter_match), is_readable=_may_contain_choice)
"""MMMU. Readable is an answer that names any letter from A to H, or is long enough to hold an option's text."""
