"""The answers of an arm as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    tags = ({}, {"form": "heldout"}, {"form": "seen", "combination": "heldout"}, {"domain": "seen"})
    lines = [line(str(number), **tag) for number, tag in enumerate(tags)]
    answers = read_answers(write_lines(tmp_path / "answers.jsonl", lines))
    assert answers.get_column("heldout").to_list() == [False, True, True, False]
