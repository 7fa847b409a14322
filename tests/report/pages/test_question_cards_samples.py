"""The questions drawn for report.html."""

from __future__ import annotations

from dataclasses import replace

from firstsight.report.pages.question_cards import draw_samples
from firstsight.report.results import ArmResult
from firstsight.report.table import score_table
from tests.report.study_builder import VISION, MakeArms


def _samples(arms: list[ArmResult], count: int = 12) -> list:
    rows = score_table(arms)
    return draw_samples(arms, rows, count=count)


def test_every_task_has_samples_and_images_are_unique(make_arms: MakeArms) -> None:
    samples = _samples(make_arms(questions=20))
    assert {sample.task for sample in samples} == set(VISION)
    assert len({sample.thumbnail.uri for sample in samples}) == len(samples) == 12


def test_each_has_answers_of_the_best_and_worst_run_and_without_the_image(make_arms: MakeArms) -> None:
    arms = make_arms(questions=20)
    stable = {arm.label: arm.scores.stable["vision"] for arm in arms if arm.scores and arm.role == "compared"}
    for sample in _samples(arms):
        best, worst, blind = sample.answers
        assert (best.blind, worst.blind, blind.blind) == (False, False, True)
        assert best.label == blind.label and stable[best.label] == max(stable.values())
        assert stable[worst.label] == min(stable.values())


def test_draw_is_the_same_every_time(make_arms: MakeArms) -> None:
    arms = make_arms(questions=10)
    assert _samples(arms) == _samples(arms[::-1])


def test_there_are_none_without_images_or_scores(make_arms: MakeArms) -> None:
    arms = make_arms(questions=5, seeds=(1,))
    assert _samples([replace(arm, benchmarks_dir=None) for arm in arms]) == []
    assert _samples([replace(arm, scores=None) for arm in arms]) == []
