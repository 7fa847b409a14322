"""Which question an answer answers, told by what both sides say of themselves, not by the order of lines.

An answer that names a picture and a question answers every question of that picture in those words: POPE's splits share
some, and RefCOCO asks some twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from firstsight.errors import DataError
from firstsight.evaluate.offline_scoring import join_errors
from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord
from firstsight.evaluate.offline_scoring.question_index import QuestionIndex, has_box_truth, round_box
from firstsight.evaluate.offline_scoring.text_matching import contains_words, fold_text, match_prompt, match_prompt_line
from firstsight.evaluate.task import Question

_MIN_AGREEMENT = 0.9
"""Least share of answers whose prompt or picture must agree with the question that has their id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedAnswers:
    """Each question's answer, and what is left over."""

    answers: tuple[AnswerRecord | None, ...]
    """In the order of the questions; None where nothing answers."""
    unmatched: tuple[AnswerRecord, ...]
    """Answers to questions that the references do not hold."""
    duplicates: int
    """Answers that say again what another one to the same question said."""
    shared_across_splits: int
    """Questions answered by what was given in another split to the same words about the same picture."""
    contested_positions: tuple[int, ...]
    """Places of questions left unanswered: several answers name their picture and words, and so does another box."""
    method_counts: Mapping[str, int]
    """By what answers were joined, and how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Match:
    """Where an answer belongs."""

    positions: tuple[int, ...]
    method: str
    """How that was found; empty where it is not clear which of them is meant."""
    is_one_to_one: bool = False
    """Several answers go to one question each: the file names only the object that all of them ask for."""


def join_answers(
    raw_answers: Sequence[AnswerRecord], questions: Sequence[Question], question_records: Mapping[str, AnswerRecord]
) -> JoinedAnswers:
    """Each question's answer. `named`: what a model's question file says of the answers' ids.

    Raises DataError where an answer fits several questions, a question got two answers, or nothing fits.
    """
    index = QuestionIndex(questions)
    _check_question_file(raw_answers, question_records)
    answers = [_with_question_fields(answer, question_records.get(answer.id), index) for answer in raw_answers]
    matches = _match_answers(answers, index)
    if not any(matches):
        matches = _match_by_text(answers, index)
    if not any(matches):
        raise DataError(join_errors.no_match_message(raw_answers, questions, question_records))
    ambiguous = [
        (answer, match.positions) for answer, match in zip(answers, matches, strict=True) if match and not match.method
    ]
    if ambiguous:
        raise DataError(join_errors.ambiguous_match_message(ambiguous, questions))
    return _assign_answers(answers, matches, index)


def _check_question_file(answers: Sequence[AnswerRecord], question_records: Mapping[str, AnswerRecord]) -> None:
    """A question file of other numbering would send answers to other pictures wherever questions are worded alike."""
    pairs = [
        (answer, question_records[answer.id])
        for answer in answers
        if answer.prompt and answer.id in question_records and question_records[answer.id].prompt
    ]
    mismatched = [pair for pair in pairs if not _has_same_prompt(*pair)]
    if len(mismatched) > (1 - _MIN_AGREEMENT) * len(pairs):
        raise DataError(join_errors.wrong_question_file_message(mismatched[0], len(mismatched), total=len(pairs)))


def _has_same_prompt(answer: AnswerRecord, source: AnswerRecord) -> bool:
    answer_prompt, source_prompt = fold_text(answer.prompt), fold_text(source.prompt)
    return contains_words(answer_prompt, source_prompt) or contains_words(source_prompt, answer_prompt)


def _with_question_fields(answer: AnswerRecord, source: AnswerRecord | None, index: QuestionIndex) -> AnswerRecord:
    """An answer with what the model's question file says of its id; its split may also stand in its file's name."""
    split = source.split if source and source.split in index.splits else answer.split
    if split not in index.splits:
        split = _split_from_name(answer.file.rpartition("/")[2], index) or _split_from_name(answer.file, index)
    if source is None or not (not answer.prompt or not source.prompt or _has_same_prompt(answer, source)):
        return answer if split == answer.split else replace(answer, split=split)
    return replace(answer, image=source.image or answer.image, prompt=answer.prompt or source.prompt, split=split)


def _split_from_name(file_name: str, index: QuestionIndex) -> str:
    matching_splits = [split for split in index.splits if split in file_name.lower()]
    return matching_splits[0] if len(matching_splits) == 1 else ""


def _match_answers(answers: Sequence[AnswerRecord], index: QuestionIndex) -> list[_Match | None]:
    """By id where ids are the benchmark's own, else by picture and words, else by true box and words."""
    id_matches = [_match_by_id(answer, index) for answer in answers]
    agreements = [agreement for _, agreement in id_matches if agreement is not None]
    ids_are_trusted = not agreements or sum(agreements) >= _MIN_AGREEMENT * len(agreements)
    uses_benchmark_ids = ids_are_trusted and any(match for match, _ in id_matches)
    matches: list[_Match | None] = []
    for answer, (match, _) in zip(answers, id_matches, strict=True):
        matches.append(
            (match if ids_are_trusted else None)
            or _match_by_image(answer, index, uses_benchmark_ids=uses_benchmark_ids)
            or _match_by_box(answer, index)
        )
    return matches


def _match_by_id(answer: AnswerRecord, index: QuestionIndex) -> tuple[_Match | None, bool | None]:
    """The questions with an answer's id, and whether what else it says agrees; None where it says nothing else."""
    positions = index.filter_by_split(index.positions_by_id.get(answer.id, ()), answer.split) if answer.id else []
    if not positions:
        return None, None
    consistent: Sequence[int] = [position for position in positions if index.is_consistent(answer, position)]
    if not consistent:
        return None, False
    if len(consistent) > 1 and answer.prompt:
        consistent = match_prompt(answer.prompt, _group_by_text(consistent, index)) or consistent
    return _make_match(consistent, index, "question id"), True if index.has_evidence(answer, consistent[0]) else None


def _group_by_text(positions: Sequence[int], index: QuestionIndex) -> dict[str, list[int]]:
    positions_by_text: dict[str, list[int]] = {}
    for position in positions:
        positions_by_text.setdefault(index.texts[position], []).append(position)
    return positions_by_text


def _match_by_image(answer: AnswerRecord, index: QuestionIndex, *, uses_benchmark_ids: bool) -> _Match | None:
    """By the picture that an answer names; unless ids are the benchmark's `own`, the id may be it, as in LLaVA's."""
    candidates = [(answer.image, "picture and question")]
    candidates += [] if uses_benchmark_ids else [(answer.id, "question id as the picture's, and question")]
    if (
        index.is_uniform and answer.image in index.positions_by_id
    ):  # NoCaps' results name pictures by number, its pictures are files.
        return _make_match(index.positions_by_id[answer.image], index, "picture")
    for name, method in candidates:
        positions_by_text = index.positions_by_image.get(index.image_key(name)) if name else None
        if positions_by_text is None:
            continue
        if not answer.prompt or index.is_uniform:
            all_positions = [position for positions in positions_by_text.values() for position in positions]
            # An answer with an id that nobody knows, and no words, answers something else about this picture.
            is_unrelated = len(positions_by_text) > 1 and bool(answer.id) and name != answer.id
            return None if is_unrelated else _make_match(all_positions, index, "picture")
        if positions := match_prompt(answer.prompt, positions_by_text):
            return _Match(positions=tuple(positions), method=method)
    return None


def _match_by_box(answer: AnswerRecord, index: QuestionIndex) -> _Match | None:
    """By the true box that an answer repeats: with a sentence one question, without any all that ask for this box."""
    if not answer.true_box:
        return None
    if answer.prompt:
        positions = match_prompt(answer.prompt, index.positions_by_box.get(round_box(answer.true_box), {}))
        return _Match(positions=tuple(positions), method="sentence and true box") if positions else None
    positions = index.find_by_box(answer.true_box)
    return _Match(positions=tuple(positions), method="true box", is_one_to_one=True) if positions else None


def _make_match(positions: Sequence[int], index: QuestionIndex, method: str) -> _Match:
    """One identity; or one object, named without the words that ask for it; or nothing clear."""
    is_one_to_one = (
        not index.is_same_question(positions)
        and has_box_truth(index.questions[positions[0]])
        and index.has_single_truth(positions)
    )
    return _Match(
        positions=tuple(positions),
        method=method if is_one_to_one or index.is_same_question(positions) else "",
        is_one_to_one=is_one_to_one,
    )


def _match_by_text(answers: Sequence[AnswerRecord], index: QuestionIndex) -> list[_Match | None]:
    """For files that name neither ids nor pictures: questions asked only once, or a whole file in POPE's own form."""
    if any(answer.image for answer in answers) or not all(answer.prompt for answer in answers):
        return [None] * len(answers)
    positions_by_text = index.positions_by_text()
    matches = [match_prompt_line(answer.prompt, positions_by_text) for answer in answers]
    if all(len(positions) <= 1 for positions in matches):
        return [_Match(positions=tuple(positions), method="question") if positions else None for positions in matches]
    # An id that nobody knows is of another file, which may have as many questions in the same words.
    return [None] * len(answers) if any(answer.id for answer in answers) else _match_whole_files(answers, index)


def _match_whole_files(answers: Sequence[AnswerRecord], index: QuestionIndex) -> list[_Match | None]:
    """POPE's own form says nothing but the question: a file is taken that repeats a split's, each in its place."""
    matches: list[_Match | None] = [None] * len(answers)
    numbers_by_file: dict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(answers):
        numbers_by_file[record.file].append(number)
    positions_by_split = {
        split: [position for position, record in enumerate(index.questions) if record.split == split]
        for split in index.splits
    }
    for numbers in numbers_by_file.values():
        texts = [fold_text(answers[number].prompt) for number in numbers]
        for positions in positions_by_split.values() or [list(range(len(index.texts)))]:
            if [index.texts[position] for position in positions] == texts:
                for number, position in zip(numbers, positions, strict=True):
                    matches[number] = _Match(
                        positions=(position,), method="its file's questions, all repeated in their order"
                    )
    return matches


def _assign_answers(
    answers: Sequence[AnswerRecord], matches: Sequence[_Match | None], index: QuestionIndex
) -> JoinedAnswers:
    """Hand answers to their own split's questions, then to other splits' of the same identity that have none."""
    offered_answers: dict[int, list[AnswerRecord]] = defaultdict(list)
    spare_answers: dict[int, list[AnswerRecord]] = defaultdict(list)
    answers_by_positions: dict[tuple[int, ...], list[AnswerRecord]] = defaultdict(list)
    for answer, match in zip(answers, matches, strict=True):
        if match is None:
            continue
        positions = index.filter_by_split(match.positions, answer.split)
        answers_by_positions[tuple(positions)].append(answer)
        offset = (len(answers_by_positions[tuple(positions)]) - 1) % max(len(positions), 1)
        for position in positions[offset : offset + 1] if match.is_one_to_one else positions:
            offered_answers[position].append(answer)
        for position in set(index.equivalent_positions(match.positions[0])) - set(positions) if index.splits else ():
            spare_answers[position].append(answer)
    contested_positions = tuple(
        sorted(
            position for position, candidates in offered_answers.items() if _is_contested(position, candidates, index)
        )
    )
    resolved = {
        position: _resolve_answer(position, candidates, index)
        for position, candidates in offered_answers.items()
        if position not in set(contested_positions)
    }
    borrowed = {
        position: candidates[0]
        for position, candidates in spare_answers.items()
        if position not in resolved and len({answer.answer for answer in candidates}) == 1
    }
    assigned = resolved | borrowed
    return JoinedAnswers(
        answers=tuple(assigned.get(position) for position in range(len(index.questions))),
        unmatched=tuple(answer for answer, match in zip(answers, matches, strict=True) if match is None),
        duplicates=sum(
            max(0, len(candidates) - len(group)) for group, candidates in answers_by_positions.items() if group
        ),
        shared_across_splits=len(borrowed),
        contested_positions=contested_positions,
        method_counts=Counter(match.method for match in matches if match),
    )


def _is_contested(position: int, candidates: Sequence[AnswerRecord], index: QuestionIndex) -> bool:
    """Whether its different answers may be meant for another question with its words and another truth."""
    return len({answer.answer for answer in candidates}) > 1 and not index.has_single_truth(
        index.equivalents_in_split(position)
    )


def _resolve_answer(position: int, candidates: Sequence[AnswerRecord], index: QuestionIndex) -> AnswerRecord:
    """The answer that all agree on; or, of several to one sentence that is asked as often, the one in this turn."""
    if len({answer.answer for answer in candidates}) == 1:
        return candidates[0]
    equivalents = index.equivalents_in_split(position)
    if len(candidates) != len(equivalents):
        raise DataError(join_errors.conflicting_answers_message(candidates, index.questions[position]))
    return candidates[equivalents.index(position)]
