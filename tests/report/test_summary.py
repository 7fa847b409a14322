"""The report's first sentence and its limits, on studies with known effects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.evaluate.result_files import build_scores
from firstsight.recipe.scales import START
from firstsight.report.compare import ArmComparison
from firstsight.report.results import ArmResult
from firstsight.report.summary import answer_sentence, comparability_warnings, seed_gaps, study_limits
from firstsight.report.table import score_table
from firstsight.studies.when import TWO_POINTS
from tests.report.study_builder import VISION, MakeArms, run_info, study

AS_IN_PAPER = {0: 0.05, 20: 0.2, 40: 0.3, 60: 0.45, 80: 0.8, 100: 0.6}
FLAT = dict.fromkeys(range(0, 101, 20), 0.5)


def _answer(arms: list[ArmResult]) -> str:
    rows = score_table(arms)
    return answer_sentence(arms, rows, ArmComparison(arms, rows), axes=[START])


def test_answer_names_the_best_and_the_next_arm_and_the_seeds(make_arms: MakeArms) -> None:
    text = _answer(make_arms(vision=AS_IN_PAPER, questions=80))
    assert text.startswith("Best in vision: 80 % (Text pre-training before images), ")
    assert "(mean of 2 seeds), significantly better than every other arm; 100 % is next, " in text
    assert "cannot distinguish it from" in _answer(make_arms(vision=FLAT, noise=0.05))


def test_there_is_no_answer_where_a_guesser_scores_as_much(make_arms: MakeArms) -> None:
    near_chance = dict.fromkeys(range(0, 101, 20), 0.01)
    answer = _answer(make_arms(vision=near_chance))
    assert "a guesser without" in answer and " % (Text pre-training before images), scores" in answer
    assert "a guesser without" not in _answer(make_arms(vision=AS_IN_PAPER))


def test_a_score_below_chance_is_said_to_be_below(make_arms: MakeArms) -> None:
    arms = [
        replace(
            arm,
            scores=build_scores(
                {name: replace(task, score=task.chance - 0.017) for name, task in arm.scores.tasks.items()}
            ),
        )
        for arm in make_arms(questions=10)
        if arm.scores
    ]
    assert "scores 1.7 points below chance in vision" in _answer(arms)
    assert " points above chance, so the order of the arms means nothing" in _answer(arms)


def test_labels_of_axes_keep_their_capitals(make_arms: MakeArms) -> None:
    arms = make_arms(vision=AS_IN_PAPER, questions=80)
    rows = score_table(arms)
    answer = answer_sentence(arms, rows, ArmComparison(arms, rows), axes=[replace(START, label="Adam step")])
    assert answer.startswith("Best in vision: 80 % (Adam step), ")


def test_arms_that_lack_a_seed_are_named(make_arms: MakeArms) -> None:
    arms = make_arms(questions=10, seeds=(1, 2, 3))
    assert seed_gaps(arms) == []
    uneven = [arm for arm in arms if arm.label not in ("start-020.s2", "start-080.s1", "start-080.s3")]
    assert seed_gaps(uneven) == ["start-020 lacks seed 2", "start-080 lacks seeds 1 and 3"]
    _, limitations = study_limits(uneven, score_table(uneven), study(), run=run_info(), tokens={})
    assert "Arms over equal seeds: start-020 lacks seed 2, start-080 lacks seeds 1 and 3." in limitations


@pytest.mark.parametrize("source", ["paper, Figure 4", "me", "newspaper", None])
def test_only_studies_with_claims_of_the_paper_speak_of_it(make_arms: MakeArms, source: str | None) -> None:
    arms = make_arms(questions=10)
    claims = () if source is None else (replace(TWO_POINTS, source=source),)
    _, limitations = study_limits(arms, score_table(arms), study(claims=claims), run=run_info(), tokens={})
    text = " ".join(limitations)
    assert text.count("paper") == (2 if source == "paper, Figure 4" else 0)
    assert "the order of the arms can change with the budget" in text and "this mean lacks big" in text


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3)])
def test_limits_name_seeds_budgets_and_missing_tasks(make_arms: MakeArms, seeds: tuple[int, ...]) -> None:
    arms = make_arms(seeds=seeds, questions=20)
    _, limitations = study_limits(
        arms, score_table(arms), study(), run=run_info(), tokens={"start-000": 1_392_640.0, "start-100": 2_826_240.0}
    )
    text = " ".join(limitations)
    assert ("The result of another seed" in text) == (len(seeds) < 3)
    assert "start-000 on 1.39M and start-100 on 2.83M" in text
    assert "The effect of Text pre-training before images alone at 0 % and 100 %: those arms are re-warmed" in text
    assert "this mean lacks bigbench_conceptual_combinations_multiple_choice, copa, piqa, pubmedqa, which" in text


def test_one_seed_cannot_separate_arms(make_arms: MakeArms) -> None:
    answer = _answer(make_arms(vision=AS_IN_PAPER, seeds=(1,), questions=80))
    assert "one seed cannot distinguish an effect from a lucky run" in answer


def test_findings_count_the_scores_above_both_guessers(make_arms: MakeArms) -> None:
    arms = make_arms(vision=dict.fromkeys(range(0, 101, 20), 0.9), questions=20)
    findings, _ = study_limits(arms, score_table(arms), study(), run=run_info(), tokens={})
    assert "How 7 arms compare" in findings[0]
    assert "42 of 42 vision scores" in findings[1]


def _with_tasks(arm: ArmResult, **versions: int | None) -> ArmResult:
    """The arm with other versions of some tasks, or without those whose version is None."""
    assert arm.scores
    tasks = dict(arm.scores.tasks)
    for name, version in versions.items():
        task = tasks.pop(name)
        tasks |= {} if version is None else {name: replace(task, version=version)}
    return replace(arm, scores=build_scores(tasks))


def test_scores_that_cannot_be_compared_are_named(make_arms: MakeArms) -> None:
    arms = make_arms(questions=10)
    assert comparability_warnings(arms, score_table(arms)) == []
    changed_arms = [
        _with_tasks(arm, gqa=None)
        if arm.label == "start-020.s1"
        else _with_tasks(arm, pope=7)
        if arm.label == "start-040.s2"
        else arm
        for arm in arms
    ]
    changed, hole = comparability_warnings(changed_arms, score_table(changed_arms))
    assert changed.startswith("Not all arms were evaluated on pope in the same version")
    assert hole.startswith("No score on gqa: start-020.s1. The vision stable score")
    blind = [_with_tasks(arm, **dict.fromkeys(VISION)) if arm.name == "start-020" else arm for arm in arms]
    (absent,) = comparability_warnings(blind, score_table(blind))
    assert absent == "No vision score, because no vision task was evaluated: start-020.s1, start-020.s2."
