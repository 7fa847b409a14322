"""Laws of joining: order says nothing, answers said twice change nothing, each one that is dropped costs its share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord, read_answer_files
from firstsight.evaluate.offline_scoring.joining import join_answers
from firstsight.evaluate.task import Question
from firstsight.evaluate.tasks import get_task
from tests.evaluate.offline_scoring.small_benchmarks import put, vqa

COUNT = 12


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Question, ...]:
    folder = vqa(tmp_path_factory.mktemp("vqa"), COUNT)
    return get_task("vqav2").read_questions([folder / "questions.json", folder / "annotations.json"])


def _given(name: int, answer: str, *, by_picture: bool) -> AnswerRecord:
    prompt = f"What is thing {name}?\nAnswer briefly."
    held = {"image": f"{name // 2}.jpg", "prompt": prompt, "id": ""} if by_picture else {"id": str(100 + name)}
    return AnswerRecord(
        **({"id": "", "image": "", "prompt": ""} | held), answer=answer, split="", true_box=(), file="a", location="a:1"
    )


@given(
    order=st.permutations(range(COUNT)),
    wrong=st.sets(st.integers(0, COUNT - 1)),
    by_picture=st.booleans(),
    twice=st.sets(st.integers(0, COUNT - 1)),
    dropped=st.sets(st.integers(0, COUNT - 1), max_size=COUNT - 1),
)
@settings(max_examples=40, deadline=None)
def test_order_doubles_and_gaps(
    questions: tuple[Question, ...],
    order: list[int],
    wrong: set[int],
    by_picture: bool,
    twice: set[int],
    dropped: set[int],
) -> None:
    names = [name for name in order if name not in dropped]
    names += [name for name in twice if name not in dropped]
    said = [_given(name, "no" if name in wrong else f"w{name}", by_picture=by_picture) for name in names]
    joined = join_answers(said, questions, {})
    found = [one.answer if one else None for one in joined.answers]
    wanted = [None if n in dropped else "no" if n in wrong else f"w{n}" for n in range(COUNT)]
    assert found == wanted
    assert joined.duplicates == len(twice - dropped) and not joined.unmatched


@given(dropped=st.sets(st.integers(0, COUNT - 1), max_size=COUNT - 1), wrong=st.sets(st.integers(0, COUNT - 1)))
@settings(max_examples=15, deadline=None)
def test_dropping_costs_exactly_the_right_ones(
    tmp_path_factory: pytest.TempPathFactory, dropped: set[int], wrong: set[int]
) -> None:
    from tests.evaluate.offline_scoring.small_benchmarks import scored

    folder = tmp_path_factory.mktemp("law")
    references = vqa(folder / "vqav2", COUNT)
    every = [{"question_id": 100 + n, "answer": "no" if n in wrong else f"w{n}"} for n in range(COUNT)]
    kept = [row for n, row in enumerate(every) if n not in dropped]
    whole = scored("vqav2", put(folder, "all.json", every), references)
    less = scored("vqav2", put(folder, "kept.json", kept), references)
    assert less.score == pytest.approx(whole.score - len(dropped - wrong) / COUNT)
    assert less.missing_count == len(dropped)
    there = COUNT - len(dropped)
    assert (less.answered_score is None) == (not dropped)
    if dropped:
        assert less.answered_score == pytest.approx(
            sum(n not in wrong and n not in dropped for n in range(COUNT)) / there
        )


def test_a_line_of_the_file_says_nothing(questions: tuple[Question, ...], tmp_path: Path) -> None:
    """As many answers as questions, and no word of which is which."""
    path = put(tmp_path, "answers.json", [{"answer": f"w{n}"} for n in range(COUNT)])
    with pytest.raises(Exception, match="none of 12 answers could be joined"):
        join_answers(read_answer_files([path], "vqav2"), questions, {})
