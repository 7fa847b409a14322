"""Letters in free text against a transcription of MMMU's parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.evaluate.metrics import METRICS
from firstsight.evaluate.metrics.exact_match import letter_match, parse_choice_letter

OPTIONS = {"A": "a cat", "B": "A small dog", "C": "two cats", "D": "none of the above"}


def mmmu_parse(response: str, options: dict[str, str]) -> str | None:
    """MMMU's parse_multi_choice_response; None where it would draw a random letter."""
    for mark in [",", ".", "!", "?", ";", ":", "'"]:
        response = response.strip(mark)
    response = " " + response + " "
    forms, text = {choice: f"({choice})" for choice in options}, response
    candidates = [choice for choice in options if forms[choice] in text]
    if not candidates:
        forms = {choice: f" {choice} " for choice in options}
        candidates = [choice for choice in options if forms[choice] in text]
    if not candidates and len(response.split()) > 5:
        forms, text = {choice: option.lower() for choice, option in options.items()}, response.lower()
        candidates = [choice for choice in options if forms[choice] in text]
    if not candidates:
        return None
    starts = [text.rfind(forms[choice]) for choice in candidates]
    return candidates[starts.index(max(starts))]


FRAGMENTS = [
    "A",
    "B",
    "C",
    "D",
    "(A)",
    "(D)",
    "B.",
    "C)",
    "a cat",
    "two cats",
    "small",
    "the answer is",
    "a",
    "'",
    "I",
    ".",
]
TEXTS = st.one_of(
    st.builds(
        lambda join, parts: join.join(parts), st.sampled_from([" ", "", "\n"]), st.lists(st.sampled_from(FRAGMENTS))
    ),
    st.text("ABCD(). ,'!abcde", max_size=30),
)


@given(TEXTS)
def test_letters_are_those_of_mmmus_parser(text: str) -> None:
    reference = mmmu_parse(text, OPTIONS)
    letter = parse_choice_letter(text, OPTIONS)
    if reference is not None:
        assert letter == reference
    elif letter is not None:
        lines = [mmmu_parse(line.strip(), OPTIONS) for line in text.splitlines()]
        assert f"{letter}." in text or letter in lines
    assert letter_match(text, ("B", *OPTIONS.values())) == float(letter == "B")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("Answer: (B) a small dog", "B"),
        ("B. a small dog", "B"),
        ("(A) is wrong, so it is (C)", "C"),
        ("It must be D because nothing else fits", "D"),
        ("I would say that it shows two cats", "C"),
        ("two cats", None),
        ("b", None),
        ("B) a small dog", None),
        ("E", None),
        ("", None),
        ("\U0001f436", None),
    ],
)
def test_examples(answer: str, expected: str | None) -> None:
    assert parse_choice_letter(answer, OPTIONS) == expected
    scores = METRICS["letter"].compute([answer] * 4, [(right, *OPTIONS.values()) for right in OPTIONS])
    assert scores == [float(right == expected) for right in OPTIONS]


@pytest.mark.parametrize(
    ("answer", "readable"),
    [
        ("B", True),
        ("(C)", True),
        ("D. a dog", True),
        ("some long text that may name it", True),
        ("dunno", False),
        ("", False),
    ],
)
def test_answers_without_a_letter_are_unreadable(answer: str, readable: bool) -> None:
    assert METRICS["letter"].is_readable(answer) is readable


def test_without_options_there_is_no_letter() -> None:
    assert parse_choice_letter("A", {}) is None


@pytest.mark.parametrize("answer", ["B\n", "\nB.", "B\r\n", "Answer:\nB\n", "\tB "])
def test_a_letter_on_a_line_of_its_own(answer: str) -> None:
    """MMMU's parser strips no line ends and would draw a random letter."""
    assert mmmu_parse(answer, OPTIONS) in (None, "B")
    assert parse_choice_letter(answer, OPTIONS) == "B"
