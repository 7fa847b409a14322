"""The answers of an arm as a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.result_files import iter_answers
from firstsight.report.answers import ANSWER_SCHEMA, read_answers
from tests.report.answer_files import line, write_lines
from tests.report.study_builder import MakeArms


def test_an_arms_answers_are_a_table(make_arms: MakeArms) -> None:
    arm = make_arms(seeds=(1,), questions=5)[0]
    answers = arm.answers
    assert answers is not None and answers.columns == list(ANSWER_SCHEMA)
    assert len(answers) == 5 * (7 * 2 + 5)  # seven vision tasks with and without the image, five text tasks
    assert arm.scores
    for task in ("gqa", "boolq"):
        sighted = answers.filter(task=task, blind=False)
        assert sighted["score"].mean() == pytest.approx(arm.scores.tasks[task].score)


def test_held_out_questions_are_marked(tmp_path: Path) -> None:
    tags = ({}, {"combination": "heldout"}, {"combination": "seen", "domain": "heldout"}, {"domain": "seen"})
    lines = [line(str(number), **tag) for number, tag in enumerate(tags)]
    answers = read_answers(write_lines(tmp_path / "answers.jsonl", lines))
    assert answers.get_column("heldout").to_list() == [False, True, True, False]


@pytest.mark.parametrize("number", range(7))
def test_a_table_has_the_answers_that_are_read_line_by_line(tmp_path: Path, number: int) -> None:
    fields = (
        {},
        {"truth": [0.25, 0.5, 1e-7, 0.75], "soft": {"score": 0.25, "mean": 0.5}},
        {"image": None, "split": "popular", "blind": True},
        {"answer": "\ud800 \u2028 caf\u00e9", "readable": False},
        {"combination": "heldout", "domain": "seen"},
        {"prompt": "", "answer": "", "truth": "[1, 2"},
    )
    chosen = fields if number == len(fields) else fields[number : number + 1]
    lines = [line(f"q{index}", **chosen[index % len(chosen)]) for index in range(12)]
    path = write_lines(tmp_path / "answers.jsonl", lines)
    stored = [answer for _, answer in iter_answers(path)]
    for answer, row in zip(stored, read_answers(path).to_dicts(), strict=True):
        truth = row.pop("truth")
        assert (json.loads(truth) if isinstance(answer.truth, list) else truth) == answer.truth
        assert row == {
            "task": answer.task,
            "question": answer.question,
            "image": answer.image_name,
            "split": answer.split,
            "prompt": answer.prompt,
            "answer": answer.text,
            "score": answer.score,
            "soft": answer.soft and answer.soft.score,
            "blind": answer.blind,
            "heldout": "heldout" in dict(answer.tags).values(),
        }


@pytest.mark.parametrize("changes", [{"score": "high"}, {"score": None}, {"answer": None}, {"task": None}])
def test_an_invalid_line_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    path = write_lines(tmp_path / "answers.jsonl", [line("1"), line("2", **changes)])
    with pytest.raises(DataError, match=rf"answers\.jsonl:2: {next(iter(changes))}: wanted"):
        read_answers(path)
