"""The answers of an arm as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.report.answers import arm_answers
from tests.report.study_builder import MakeArms


def test_an_arms_answers_are_a_table(make_arms: MakeArms) -> None:
    arm = make_arms(seeds=(1,), questions=5)[0]
    answers = arm_answers(arm)
    assert len(answers) == 5 * (7 * 2 + 5)  # seven vision tasks with and without the image, five text tasks
    assert arm.scores
    for task in ("gqa", "boolq"):
        sighted = answers.filter(task=task, blind=False)
        assert sighted["score"].mean() == pytest.approx(arm.scores.tasks[task].score)
    assert arm_answers(replace(arm, answers_path=None)).is_empty()
