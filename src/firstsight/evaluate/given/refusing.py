"""What is said when answers cannot be joined: where, what both sides hold, and what to add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from firstsight.evaluate.given.answers import Given
from firstsight.evaluate.question import Question

_NAMED = 3
"""Most examples in a message."""
_ADD = (
    "Add what is lacking: with --references the questions that the model was given (LLaVA's question file, or the "
    "index of the paper's harness, says which picture and words an id means), or the picture and the question in each "
    "answer."
)


def nothing(given: Sequence[Given], questions: Sequence[Question], named: Mapping[str, Given]) -> str:
    """No answer could be joined."""
    files = ", ".join(dict.fromkeys(one.file for one in given))
    return (
        f"{files}: none of {len(given):,} answers could be joined to the {len(questions):,} questions. An answer says "
        f"{_said(given[0])}; a question says {_asks(questions[0])}. {_from_file(given, named)}{_ADD}"
    )


def _from_file(given: Sequence[Given], named: Mapping[str, Given]) -> str:
    if not named:
        return ""
    known = sum(one.id in named for one in given)
    return f"The question file knows the ids of {known:,} answers. "


def unclear(found: Sequence[tuple[Given, Sequence[int]]], questions: Sequence[Question]) -> str:
    """Answers that fit several questions."""
    shown = "; ".join(
        f"{one.where} ({_said(one)}) fits {', '.join(questions[at].id for at in fitting[:_NAMED])}"
        f"{f' and {len(fitting) - _NAMED:,} more' if len(fitting) > _NAMED else ''}"
        for one, fitting in found[:_NAMED]
    )
    return f"{len(found):,} answers fit several questions each: {shown}. {_ADD}"


def twice(own: Sequence[Given], question: Question) -> str:
    """Different answers to one question."""
    first = own[0]
    other = next(one for one in own if one.answer != first.answer)
    return (
        f"question {question.id} has several answers: {first.where} says {first.answer[:60]!r}, {other.where} says "
        f"{other.answer[:60]!r}. Keep one of them; or, where they are answers to different questions, say to which."
    )


def other_file(pair: tuple[Given, Given], wrong: int, *, of: int) -> str:
    """A question file that belongs to other answers."""
    one, source = pair
    return (
        f"{source.file}: is not the question file of these answers: of {of:,} ids that both hold, {wrong:,} have other "
        f"words. {one.where} was asked {one.prompt[:60]!r}, {source.where} asks {source.prompt[:60]!r}. Give the file "
        "that the model was run on."
    )


def strangers(others: Sequence[Given], questions: Sequence[Question]) -> str:
    """Answers to questions that are not there, the first few by name, beside what a question looks like."""
    first = "; ".join(f"{one.where} ({_said(one)})" for one in others[:_NAMED])
    return f"{first}; a question here says {_asks(questions[0])}"


def _said(one: Given) -> str:
    pairs = (("id", one.id), ("image", one.image), ("question", " ".join(one.prompt.split())), ("split", one.split))
    held = ", ".join(f"{key} {value[:60]!r}" for key, value in pairs if value)
    return held or f"only an answer, {one.answer[:40]!r}"


def _asks(question: Question) -> str:
    pairs = (("id", question.id), ("image", question.image or ""), ("question", " ".join(question.text.split())))
    return ", ".join(f"{key} {value[:60]!r}" for key, value in pairs if value)
