"""Multiple choice in free text: which option's letter does the answer name?"""

from __future__ import annotations

from collections.abc import Mapping

from firstsight.evaluate.metrics.metric import Metric, Truth, each

_ENDS = ",.!?;:'"
_SHORT = 5
"""Words of an answer in which an option's text is not looked for."""
_LETTERS = tuple("ABCDEFGH")
"""What an answer is searched for where the options are unknown; an I would be a word."""


def letter(answer: str, truth: Truth) -> float:
    """The right letter was named. `truth` holds it, then every option's text in order: ("B", "a cat", "a dog")."""
    assert isinstance(truth, tuple)
    right, *options = (str(part) for part in truth)
    named = {chr(ord("A") + place): option for place, option in enumerate(options)}
    return float(named_letter(answer, named) == right)


def named_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that `answer` names, as MMMU's scorer finds it, or None.

    Letters in brackets come first, then letters between spaces, then, in more than five words, the options' texts
    (case aside); of several the one that is named last. Marks at the ends are dropped before. Where the scorer finds
    nothing it draws a letter by lot. Here a letter with a full stop behind it is taken, as MMMU-Pro's scorer does, or
    one at the end of a line; an answer without any names nothing and is wrong.
    """
    text = f" {_trimmed(answer)} "
    for form in ("({})", " {} "):
        if found := _last(text, {one: form.format(one) for one in options}):
            return found
    lowered = text.lower()
    texts = {one: option.lower() for one, option in options.items()}
    if len(text.split()) > _SHORT and (found := _last(lowered, texts)):
        return found
    lines = "".join(f" {_trimmed(line.strip())} " for line in answer.splitlines())
    return _last(text, {one: f" {one}." for one in options}) or _last(lines, {one: f" {one} " for one in options})


def _trimmed(answer: str) -> str:
    """Without marks at the ends, taken off one kind after the other, each once."""
    for mark in _ENDS:
        answer = answer.strip(mark)
    return answer


def _last(text: str, written: Mapping[str, str]) -> str | None:
    """Which of the written forms stands last in `text`; of those that start at one place the first option's."""
    places = {one: text.rfind(form) for one, form in written.items()}
    best = max(places, key=lambda one: places[one], default=None)
    return best if best is not None and places[best] >= 0 else None


def _may_name(answer: str) -> bool:
    return len(answer.split()) > _SHORT or named_letter(answer, dict.fromkeys(_LETTERS, "")) is not None


LETTER = Metric(name="letter", marks=each(letter), readable=_may_name)
"""MMMU. Readable is an answer that names any letter from A to H, or is long enough to hold an option's text."""
