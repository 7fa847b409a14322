"""The data of the comparison of two arms: the scores of results, the intervals of claims, pictures that differ."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from firstsight.report.analysis import StudyAnalysis
from firstsight.report.compare import ArmPair
from firstsight.report.pages import arm_pairs
from firstsight.report.pages.arm_pairs import PICTURES_OF_A_PAIR, pair_data
from firstsight.report.results import ArmResult
from tests.report.study_builder import MakeArms, study


def _data(arms: list[ArmResult]) -> Any:
    """As the page's script reads it."""
    return json.loads(json.dumps(pair_data(StudyAnalysis(arms, study()), {})))


def test_differences_are_those_of_one_comparison(make_arms: MakeArms) -> None:
    results = StudyAnalysis(make_arms(questions=20), study())
    data = pair_data(results, {})
    names = [arm["name"] for arm in data["arms"]]
    for number, measure in (("0 4", "vision"), ("4 6", "text")):
        first, second = map(int, number.split())
        pair = ArmPair(a=names[first], b=names[second], measure=measure)
        [difference] = results.comparison.corrected_differences([pair])
        assert difference and difference.interval
        values = data["intervals"][f"{number} {measure}"]
        assert values["mean"] == pytest.approx(difference.mean, abs=1e-6)
        assert values["interval"] == pytest.approx(difference.interval, abs=1e-6)
    assert "4 6 vision" not in data["intervals"], "the trunk has no vision"


def test_every_score_of_every_seed_is_there(make_arms: MakeArms) -> None:
    arms = make_arms(questions=10)
    data = _data(arms)
    measures = {measure["name"]: measure for measure in data["measures"]}
    names = [arm["name"] for arm in data["arms"]]
    for arm in arms:
        assert arm.scores
        for task, scores in arm.scores.tasks.items():
            stored = measures[task]["scores"][names.index(arm.name)][str(arm.seed)]
            assert stored == pytest.approx(scores.score, abs=1e-6)


def test_each_pair_has_pictures_that_its_arms_answer_differently(make_arms: MakeArms) -> None:
    arms = make_arms(questions=60)
    data = _data(arms)
    names = [arm["name"] for arm in data["arms"]]
    compared = [number for number, name in enumerate(names) if name != "trunk"]
    answers = [question["answers"] for question in data["questions"]]
    for first, second in combinations(compared, 2):
        differing = sum(row[first][1] != row[second][1] for row in answers)
        assert differing >= PICTURES_OF_A_PAIR, (names[first], names[second])
    assert all(question["uri"].startswith("data:image/") for question in data["questions"])
    assert all(row[names.index("trunk")] is None for row in answers)


def test_the_recipes_of_a_pair_are_in_its_order(make_arms: MakeArms) -> None:
    arms = make_arms(questions=5, seeds=(1,))
    recipes = {("trunk", "start-000"): [("start", "1/1", "0/1")], ("start-000", "start-020"): [("start", "0/1", "1/5")]}
    data = pair_data(StudyAnalysis(arms, study()), recipes)
    numbers = {arm["name"]: number for number, arm in enumerate(data["arms"])}
    assert data["recipes"] == {
        "0 1": [["start", "0/1", "1/5"]],
        f"0 {numbers['trunk']}": [["start", "0/1", "1/1"]],
    }


def test_many_arms_have_differences_without_intervals(make_arms: MakeArms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arm_pairs, "MAX_COMPARED_ARMS", 6)
    data = _data(make_arms(questions=5, seeds=(1,)))
    assert len(data["arms"]) == 7 and data["intervals"] == {} and data["questions"]


def test_a_task_in_two_versions_is_marked(make_arms: MakeArms) -> None:
    first, *others = make_arms(questions=5, seeds=(1,))
    assert first.scores
    tasks = {**first.scores.tasks, "gqa": replace(first.scores.tasks["gqa"], version=9)}
    data = _data([replace(first, scores=replace(first.scores, tasks=tasks)), *others])
    alike = {measure["name"]: measure["alike"] for measure in data["measures"]}
    assert not alike["gqa"] and alike["pope"]


def test_arms_without_answers_or_images_have_no_pictures(make_arms: MakeArms) -> None:
    arms = make_arms(questions=5, seeds=(1,))
    assert _data([replace(arm, answers=None) for arm in arms])["questions"] == []
    assert _data([replace(arm, benchmarks_dir=None) for arm in arms])["questions"] == []
    assert _data([])["arms"] == []


def test_names_like_columns_are_arms(make_arms: MakeArms) -> None:
    arms = [
        replace(arm, name="task") if arm.name == "start-000" else arm for arm in make_arms(questions=20, seeds=(1,))
    ]
    assert _data(arms)["questions"]
