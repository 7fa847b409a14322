"""Which question each answer belongs to, decided by ids, images, prompts and true boxes, never by the order of lines.

An answer with an image and a prompt belongs to every question with that image and text: POPE's splits share some
questions, and RefCOCO has some twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from firstsight.errors import DataError
from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord
from firstsight.evaluate.offline_scoring.question_index import (
    QuestionIndex,
    contains_words,
    fold_text,
    has_box_truth,
    match_prompt,
    match_prompt_line,
    round_box,
)
from firstsight.evaluate.task import Question

_MIN_AGREEMENT = 0.9
"""Ids are trusted if at least this share of answers agrees in prompt and image with the question of their id."""
_MAX_EXAMPLES = 3
_ADVICE = (
    "Add the image and the question to each answer, or name with --references the file of the questions that the model "
    "was given: LLaVA's question file and the index of the paper's harness have the image and the text of each id."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedAnswers:
    """Each question's answer, and the answers without a question."""

    answers: tuple[AnswerRecord | None, ...]
    """In the order of the questions; None for a question without an answer."""
    unmatched: tuple[AnswerRecord, ...]
    """Answers to questions that are not in the references."""
    duplicates: int
    """Answers that repeat another answer to the same question."""
    shared_across_splits: int
    """Questions with the answer of another split to the same text and image."""
    contested_positions: tuple[int, ...]
    """Questions left without an answer: different answers fit both them and a question with another truth."""
    method_counts: Mapping[str, int]
    """Number of answers by joining method."""


class _Match(NamedTuple):
    """The questions that an answer fits."""

    positions: Sequence[int]
    method: str
    """How they were determined; empty if the answer is ambiguous."""
    is_one_to_one: bool = False
    """Whether each answer goes to one of the questions, since they are about one object and have the same truth."""


def join_answers(
    raw_answers: Sequence[AnswerRecord],
    questions: Sequence[Question],
    question_records: Mapping[str, AnswerRecord],
    *,
    other_sets: Mapping[str, str] | None = None,
) -> JoinedAnswers:
    """Each question's answer. `question_records` are the entries of a model's question file by the answers' ids.

    Answers with an id of `other_sets`, which an index gives to another set, belong to no question here, whatever they
    repeat of a question.

    Raises DataError for an answer that fits several questions, a question with different answers, or no match at all.
    """
    index = QuestionIndex(questions)
    _check_question_file(raw_answers, question_records)
    answers = [_with_question_fields(answer, question_records.get(answer.id), index) for answer in raw_answers]
    others = other_sets or {}
    candidates = [answer for answer in answers if answer.id not in others]
    matches = _match_answers(candidates, index)
    if not any(matches):
        matches = _match_by_text(candidates, index)
    candidate_matches = iter(matches)
    matches = [None if answer.id in others else next(candidate_matches) for answer in answers]
    if not any(matches):
        raise DataError(_no_match_message(raw_answers, index, question_records))
    pairs = zip(answers, matches, strict=True)
    if ambiguous := [(answer, match.positions) for answer, match in pairs if match and not match.method]:
        raise DataError(_ambiguous_match_message(ambiguous, index))
    return _assign_answers(answers, matches, index)


def _check_question_file(answers: Sequence[AnswerRecord], question_records: Mapping[str, AnswerRecord]) -> None:
    """DataError for the question file of another run: its ids would join answers to questions about other images."""
    sources = ((answer, question_records.get(answer.id)) for answer in answers if answer.prompt)
    pairs = [(answer, source) for answer, source in sources if source and source.prompt]
    mismatched = [pair for pair in pairs if not _has_same_prompt(*pair)]
    if len(mismatched) > (1 - _MIN_AGREEMENT) * len(pairs):
        answer, source = mismatched[0]
        raise DataError(
            f"{source.file}: is not the question file of these answers: of {len(pairs):,} ids in both, "
            f"{len(mismatched):,} have other words. {answer.location} has the prompt {answer.prompt[:60]!r}, "
            f"{source.location} {source.prompt[:60]!r}. Give the file that the model was run on."
        )


def _has_same_prompt(answer: AnswerRecord, source: AnswerRecord) -> bool:
    first, second = fold_text(answer.prompt), fold_text(source.prompt)
    return contains_words(first, second) or contains_words(second, first)


def _with_question_fields(answer: AnswerRecord, source: AnswerRecord | None, index: QuestionIndex) -> AnswerRecord:
    """An answer with image, prompt and split of the question file; the split may also be in its file's name."""
    split = source.split if source and source.split in index.splits else answer.split
    if split not in index.splits:
        split = _split_from_name(answer.file.rpartition("/")[2], index) or _split_from_name(answer.file, index)
    if source is None or (answer.prompt and source.prompt and not _has_same_prompt(answer, source)):
        return answer if split == answer.split else replace(answer, split=split)
    return replace(answer, image=source.image or answer.image, prompt=answer.prompt or source.prompt, split=split)


def _split_from_name(name: str, index: QuestionIndex) -> str:
    splits = [split for split in index.splits if split in name.lower()]
    return splits[0] if len(splits) == 1 else ""


def _match_answers(answers: Sequence[AnswerRecord], index: QuestionIndex) -> list[_Match | None]:
    """By id if the ids are the benchmark's, else by image and text, else by true box and text."""
    id_matches = [_match_by_id(answer, index) for answer in answers]
    agreements = [agreement for _, agreement in id_matches if agreement is not None]
    ids_are_trusted = not agreements or sum(agreements) >= _MIN_AGREEMENT * len(agreements)
    uses_benchmark_ids = ids_are_trusted and any(match for match, _ in id_matches)
    return [
        (match if ids_are_trusted else None)
        or _match_by_image(answer, index, uses_benchmark_ids=uses_benchmark_ids)
        or _match_by_box(answer, index)
        for answer, (match, _) in zip(answers, id_matches, strict=True)
    ]


def _match_by_id(answer: AnswerRecord, index: QuestionIndex) -> tuple[_Match | None, bool | None]:
    """The questions with an answer's id, and whether its other fields agree; None if it has no other fields."""
    positions = index.filter_by_split(index.positions_by_id.get(answer.id, ()), answer.split) if answer.id else []
    if not positions:
        return None, None
    consistent: Sequence[int] = [p for p in positions if index.is_consistent(answer, p)]
    if not consistent:
        return None, False
    if len(consistent) > 1 and answer.prompt:
        consistent = match_prompt(answer.prompt, index.group_by_text(consistent)) or consistent
    return _make_match(consistent, index, "question id"), True if index.has_evidence(answer, consistent[0]) else None


def _match_by_image(answer: AnswerRecord, index: QuestionIndex, *, uses_benchmark_ids: bool) -> _Match | None:
    """By the answer's image; also by its id, which LLaVA sets to the image's, unless ids are the benchmark's."""
    names = [(answer.image, "image and question")]
    names += [] if uses_benchmark_ids else [(answer.id, "question id as the image's, and question")]
    if index.is_uniform and answer.image in index.positions_by_id:
        # NoCaps' results name images by number, its questions by file
        return _make_match(index.positions_by_id[answer.image], index, "image")
    for name, method in names:
        by_text = index.positions_by_image.get(index.image_key(name)) if name else None
        if by_text is None:
            continue
        if not answer.prompt or index.is_uniform:
            # An answer with an unknown id and no prompt belongs to another question about this image.
            is_unrelated = len(by_text) > 1 and bool(answer.id) and name != answer.id
            positions = [position for group in by_text.values() for position in group]
            return None if is_unrelated else _make_match(positions, index, "image")
        if positions := match_prompt(answer.prompt, by_text):
            return _Match(index.narrow_by_box(positions, answer.true_box), method)
    return None


def _match_by_box(answer: AnswerRecord, index: QuestionIndex) -> _Match | None:
    """By the true box in an answer: with a prompt one question, without any all questions with this box."""
    if not answer.true_box:
        return None
    if answer.prompt:
        positions = match_prompt(answer.prompt, index.positions_by_box.get(round_box(answer.true_box), {}))
        return _Match(positions, "sentence and true box") if positions else None
    positions = index.find_by_box(answer.true_box)
    return _Match(positions, "true box", is_one_to_one=True) if positions else None


def _make_match(positions: Sequence[int], index: QuestionIndex, method: str) -> _Match:
    """A match of equal questions, or of several questions about one object; else an ambiguous match."""
    is_same = index.is_same_question(positions)
    is_one_object = has_box_truth(index.questions[positions[0]]) and index.has_single_truth(positions)
    return _Match(positions, method if is_same or is_one_object else "", is_one_to_one=is_one_object and not is_same)


def _match_by_text(answers: Sequence[AnswerRecord], index: QuestionIndex) -> list[_Match | None]:
    """For files without ids and images: by unique question texts, or a whole file in the order of POPE's own."""
    matches: list[_Match | None] = [None] * len(answers)
    if any(answer.image for answer in answers) or not all(answer.prompt for answer in answers):
        return matches
    by_text = index.group_by_text()
    text_matches = [match_prompt_line(answer.prompt, by_text) for answer in answers]
    if all(len(positions) <= 1 for positions in text_matches):
        return [_Match(positions, "question") if positions else None for positions in text_matches]
    if any(answer.id for answer in answers):
        # An unknown id belongs to another file, which may have as many questions with the same texts.
        return matches
    numbers_by_file: dict[str, list[int]] = defaultdict(list)
    for number, answer in enumerate(answers):
        numbers_by_file[answer.file].append(number)
    positions_by_split: dict[str, list[int]] = defaultdict(list)
    for position, question in enumerate(index.questions):
        positions_by_split[question.split].append(position)
    positions_by_texts = {tuple(index.texts[p] for p in group): group for group in positions_by_split.values()}
    for numbers in numbers_by_file.values():
        positions = positions_by_texts.get(tuple(fold_text(answers[number].prompt) for number in numbers), ())
        for number, position in zip(numbers, positions, strict=False):
            matches[number] = _Match([position], "its file's questions, all repeated in their order")
    return matches


def _assign_answers(answers: list[AnswerRecord], matches: list[_Match | None], index: QuestionIndex) -> JoinedAnswers:
    """Assign answers to questions of their split, then to equal questions of other splits that have no answer."""
    own_split: dict[int, list[AnswerRecord]] = defaultdict(list)
    other_splits: dict[int, list[AnswerRecord]] = defaultdict(list)
    groups: dict[tuple[int, ...], list[AnswerRecord]] = defaultdict(list)
    matched = [(answer, match) for answer, match in zip(answers, matches, strict=True) if match]
    for answer, match in matched:
        positions = index.filter_by_split(match.positions, answer.split)
        group = groups[tuple(positions)]
        offset = len(group) % max(len(positions), 1)
        group.append(answer)
        for position in positions[offset : offset + 1] if match.is_one_to_one else positions:
            own_split[position].append(answer)
        for position in set(index.equivalent_positions(match.positions[0])) - set(positions) if index.splits else ():
            other_splits[position].append(answer)
    contested = {position for position, candidates in own_split.items() if _is_contested(position, candidates, index)}
    uncontested = {position: candidates for position, candidates in own_split.items() if position not in contested}
    final = {position: _resolve_answer(position, candidates, index) for position, candidates in uncontested.items()}
    unanimous = [position for position, candidates in other_splits.items() if _are_equal(candidates)]
    shared = {position: other_splits[position][0] for position in unanimous if position not in final}
    final |= shared
    return JoinedAnswers(
        answers=tuple(final.get(position) for position in range(len(index.questions))),
        unmatched=tuple(answer for answer, match in zip(answers, matches, strict=True) if match is None),
        duplicates=sum(max(0, len(group) - len(positions)) for positions, group in groups.items() if positions),
        shared_across_splits=len(shared),
        contested_positions=tuple(sorted(contested)),
        method_counts=Counter(match.method for _, match in matched),
    )


def _are_equal(answers: Sequence[AnswerRecord]) -> bool:
    return len({answer.answer for answer in answers}) == 1


def _is_contested(position: int, candidates: Sequence[AnswerRecord], index: QuestionIndex) -> bool:
    """Whether its different answers may belong to another question with its text and another truth."""
    return not _are_equal(candidates) and not index.has_single_truth(index.equivalents_in_split(position))


def _resolve_answer(position: int, candidates: Sequence[AnswerRecord], index: QuestionIndex) -> AnswerRecord:
    """The common answer; else, with one candidate for each equivalent question, the one of this question's rank."""
    first = candidates[0]
    if _are_equal(candidates):
        return first
    equivalents = index.equivalents_in_split(position)
    if len(candidates) == len(equivalents):
        return candidates[equivalents.index(position)]
    different = next(answer for answer in candidates if answer.answer != first.answer)
    raise DataError(
        f"question {index.questions[position].id} has several answers: {first.location} has {first.answer[:60]!r}, "
        f"{different.location} {different.answer[:60]!r}. Keep one of them; or, if they belong to different "
        "questions, add the id of each."
    )


def _no_match_message(answers: Sequence[AnswerRecord], index: QuestionIndex, known_ids: Mapping[str, object]) -> str:
    files = ", ".join(dict.fromkeys(answer.file for answer in answers))
    known_count = sum(answer.id in known_ids for answer in answers)
    note = f"The question file has the ids of {known_count:,} answers. " if known_ids else ""
    return (
        f"{files}: none of {len(answers):,} answers could be joined to the {len(index.questions):,} questions. An "
        f"answer has {_describe_answer(answers[0])}; a question has {_describe_question(index.questions[0])}. "
        f"{note}{_ADVICE}"
    )


def _ambiguous_match_message(matches: Sequence[tuple[AnswerRecord, Sequence[int]]], index: QuestionIndex) -> str:
    examples: list[str] = []
    for answer, positions in matches[:_MAX_EXAMPLES]:
        ids = ", ".join(index.questions[position].id for position in positions[:_MAX_EXAMPLES])
        rest = f" and {len(positions) - _MAX_EXAMPLES:,} more" if len(positions) > _MAX_EXAMPLES else ""
        examples.append(f"{answer.location} ({_describe_answer(answer)}) fits {ids}{rest}")
    return f"{len(matches):,} answers fit several questions each: {'; '.join(examples)}. {_ADVICE}"


def describe_unmatched_answers(unmatched: Sequence[AnswerRecord], question: Question) -> str:
    """The first few answers to questions that are not in the references, and the fields of one question that is."""
    examples = "; ".join(f"{answer.location} ({_describe_answer(answer)})" for answer in unmatched[:_MAX_EXAMPLES])
    return f"{examples}; a question here has {_describe_question(question)}"


def _describe_answer(answer: AnswerRecord) -> str:
    fields = _describe_fields(id=answer.id, image=answer.image, question=answer.prompt, split=answer.split)
    return fields or f"only an answer, {answer.answer[:40]!r}"


def _describe_question(question: Question) -> str:
    return _describe_fields(id=question.id, image=question.image or "", question=question.text)


def _describe_fields(**fields: str) -> str:
    return ", ".join(f"{key} {' '.join(value.split())[:60]!r}" for key, value in fields.items() if value)
