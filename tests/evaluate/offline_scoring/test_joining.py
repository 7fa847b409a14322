"""Joining depends neither on order nor on duplicates, and each missing answer lowers the score by its share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord, read_answer_files
from firstsight.evaluate.offline_scoring.joining import join_answers
from firstsight.evaluate.task import Question
from firstsight.evaluate.tasks import get_task
from tests.evaluate.offline_scoring.small_benchmarks import write_file, write_vqa

COUNT = 12


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Question, ...]:
    folder = write_vqa(tmp_path_factory.mktemp("vqa"), COUNT)
    return get_task("vqav2").read_questions([folder / "questions.json", folder / "annotations.json"])


def _answer(number: int, answer: str, *, by_image: bool) -> AnswerRecord:
    prompt = f"What is thing {number}?\nAnswer briefly."
    fields = {"image": f"{number // 2}.jpg", "prompt": prompt, "id": ""} if by_image else {"id": str(100 + number)}
    return AnswerRecord(
        **({"id": "", "image": "", "prompt": ""} | fields),
        answer=answer,
        split="",
        true_box=(),
        file="a",
        location="a:1",
    )


@given(
    order=st.permutations(range(COUNT)),
    wrong=st.sets(st.integers(0, COUNT - 1)),
    by_image=st.booleans(),
    repeated=st.sets(st.integers(0, COUNT - 1)),
    dropped=st.sets(st.integers(0, COUNT - 1), max_size=COUNT - 1),
)
@settings(max_examples=40, deadline=None)
def test_order_and_duplicates_do_not_matter(
    questions: tuple[Question, ...],
    order: list[int],
    wrong: set[int],
    by_image: bool,
    repeated: set[int],
    dropped: set[int],
) -> None:
    numbers = [number for number in order if number not in dropped]
    numbers += [number for number in repeated if number not in dropped]
    answers = [_answer(number, "no" if number in wrong else f"w{number}", by_image=by_image) for number in numbers]
    joined = join_answers(answers, questions, {})
    texts = [answer.answer if answer else None for answer in joined.answers]
    expected = [None if n in dropped else "no" if n in wrong else f"w{n}" for n in range(COUNT)]
    assert texts == expected
    assert joined.duplicates == len(repeated - dropped) and not joined.unmatched


@given(dropped=st.sets(st.integers(0, COUNT - 1), max_size=COUNT - 1), wrong=st.sets(st.integers(0, COUNT - 1)))
@settings(max_examples=15, deadline=None)
def test_a_dropped_answer_costs_its_score(
    tmp_path_factory: pytest.TempPathFactory, dropped: set[int], wrong: set[int]
) -> None:
    from tests.evaluate.offline_scoring.small_benchmarks import score

    folder = tmp_path_factory.mktemp("law")
    references = write_vqa(folder / "vqav2", COUNT)
    rows = [{"question_id": 100 + n, "answer": "no" if n in wrong else f"w{n}"} for n in range(COUNT)]
    remaining_rows = [row for n, row in enumerate(rows) if n not in dropped]
    complete = score("vqav2", write_file(folder, "all.json", rows), references)
    incomplete = score("vqav2", write_file(folder, "kept.json", remaining_rows), references)
    assert incomplete.score == pytest.approx(complete.score - len(dropped - wrong) / COUNT)
    assert incomplete.missing_count == len(dropped)
    count = COUNT - len(dropped)
    assert (incomplete.answered_score is None) == (not dropped)
    if dropped:
        assert incomplete.answered_score == pytest.approx(
            sum(n not in wrong and n not in dropped for n in range(COUNT)) / count
        )


def test_line_numbers_are_no_identity(questions: tuple[Question, ...], tmp_path: Path) -> None:
    """As many answers as questions, without any identity."""
    path = write_file(tmp_path, "answers.json", [{"answer": f"w{n}"} for n in range(COUNT)])
    with pytest.raises(Exception, match="none of 12 answers could be joined"):
        join_answers(read_answer_files([path], "vqav2").records, questions, {})
