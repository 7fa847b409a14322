"""What is said when answers cannot be joined: where, what both sides hold, and what to add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord
from firstsight.evaluate.task import Question

_MAX_EXAMPLES = 3
"""Most examples in a message."""
_ADVICE = (
    "Add what is lacking: with --references the questions that the model was given (LLaVA's question file, or the "
    "index of the paper's harness, says which picture and words an id means), or the picture and the question in each "
    "answer."
)


def no_match_message(
    answers: Sequence[AnswerRecord], questions: Sequence[Question], question_records: Mapping[str, AnswerRecord]
) -> str:
    """No answer could be joined."""
    file_names = ", ".join(dict.fromkeys(answer.file for answer in answers))
    return (
        f"{file_names}: none of {len(answers):,} answers could be joined to the {len(questions):,} questions. An answer says "
        f"{_describe_answer(answers[0])}; a question says {_describe_question(questions[0])}. {_question_file_note(answers, question_records)}{_ADVICE}"
    )


def _question_file_note(answers: Sequence[AnswerRecord], question_records: Mapping[str, AnswerRecord]) -> str:
    if not question_records:
        return ""
    known_count = sum(answer.id in question_records for answer in answers)
    return f"The question file knows the ids of {known_count:,} answers. "


def ambiguous_match_message(
    matches: Sequence[tuple[AnswerRecord, Sequence[int]]], questions: Sequence[Question]
) -> str:
    """Answers that fit several questions."""
    examples = "; ".join(
        f"{answer.location} ({_describe_answer(answer)}) fits {', '.join(questions[position].id for position in positions[:_MAX_EXAMPLES])}"
        f"{f' and {len(positions) - _MAX_EXAMPLES:,} more' if len(positions) > _MAX_EXAMPLES else ''}"
        for answer, positions in matches[:_MAX_EXAMPLES]
    )
    return f"{len(matches):,} answers fit several questions each: {examples}. {_ADVICE}"


def conflicting_answers_message(answers: Sequence[AnswerRecord], question: Question) -> str:
    """Different answers to one question."""
    first_answer = answers[0]
    conflicting_answer = next(answer for answer in answers if answer.answer != first_answer.answer)
    return (
        f"question {question.id} has several answers: {first_answer.location} says {first_answer.answer[:60]!r}, {conflicting_answer.location} says "
        f"{conflicting_answer.answer[:60]!r}. Keep one of them; or, where they are answers to different questions, say to which."
    )


def wrong_question_file_message(pair: tuple[AnswerRecord, AnswerRecord], mismatch_count: int, *, total: int) -> str:
    """A question file that belongs to other answers."""
    answer, source = pair
    return (
        f"{source.file}: is not the question file of these answers: of {total:,} ids that both hold, {mismatch_count:,} have other "
        f"words. {answer.location} was asked {answer.prompt[:60]!r}, {source.location} asks {source.prompt[:60]!r}. Give the file "
        "that the model was run on."
    )


def unmatched_answers_message(unmatched: Sequence[AnswerRecord], questions: Sequence[Question]) -> str:
    """Answers to questions that are not there, the first few by name, beside what a question looks like."""
    examples = "; ".join(f"{answer.location} ({_describe_answer(answer)})" for answer in unmatched[:_MAX_EXAMPLES])
    return f"{examples}; a question here says {_describe_question(questions[0])}"


def _describe_answer(answer: AnswerRecord) -> str:
    pairs = (
        ("id", answer.id),
        ("image", answer.image),
        ("question", " ".join(answer.prompt.split())),
        ("split", answer.split),
    )
    description = ", ".join(f"{key} {value[:60]!r}" for key, value in pairs if value)
    return description or f"only an answer, {answer.answer[:40]!r}"


def _describe_question(question: Question) -> str:
    pairs = (("id", question.id), ("image", question.image or ""), ("question", " ".join(question.text.split())))
    return ", ".join(f"{key} {value[:60]!r}" for key, value in pairs if value)
