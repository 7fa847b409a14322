"""The report's first sentence and its limits, on studies with known effects."""

from __future__ import annotations

import pytest

from firstsight.report.compare import Comparison
from firstsight.report.results import ArmResult
from firstsight.report.summary import answer_sentence, study_limits
from firstsight.report.table import score_table
from tests.report.study_builder import MakeArms, MakeStudyInfo

AS_IN_PAPER = {0: 0.05, 20: 0.2, 40: 0.3, 60: 0.45, 80: 0.8, 100: 0.6}
FLAT = dict.fromkeys(range(0, 101, 20), 0.5)


def _answer(arms: list[ArmResult]) -> str:
    rows = score_table(arms)
    return answer_sentence(arms, rows, Comparison(arms, rows))


def test_answer_names_the_best_and_the_next_arm_and_the_seeds(make_arms: MakeArms) -> None:
    text = _answer(make_arms(vision=AS_IN_PAPER, questions=80))
    assert text.startswith("Vision is best when images enter at 80 % of the text training: ")
    assert "(mean of 2 seeds), significantly better than every other arm; 100 % is next, " in text
    assert "cannot distinguish it from" in _answer(make_arms(vision=FLAT, noise=0.05))


def test_there_is_no_answer_where_a_guesser_scores_as_much(make_arms: MakeArms) -> None:
    near_chance = dict.fromkeys(range(0, 101, 20), 0.01)
    assert "a guesser without" in _answer(make_arms(vision=near_chance))
    assert "a guesser without" not in _answer(make_arms(vision=AS_IN_PAPER))


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3)])
def test_limits_name_seeds_budgets_and_missing_tasks(
    make_arms: MakeArms, make_facts: MakeStudyInfo, seeds: tuple[int, ...]
) -> None:
    arms = make_arms(seeds=seeds, questions=20)
    _, limitations = study_limits(
        arms, score_table(arms), make_facts(""), tokens={"start-000": 1_392_640.0, "start-100": 2_826_240.0}
    )
    text = " ".join(limitations)
    assert ("The result of another seed" in text) == (len(seeds) < 3)
    assert "1.39M tokens in all and the latest on 2.83M" in text
    assert "The start alone at 0 % and 100 %" in text
    assert "this mean lacks bigbench_conceptual_combinations_multiple_choice, copa, piqa, pubmedqa, which" in text


def test_one_seed_cannot_separate_arms(make_arms: MakeArms) -> None:
    answer = _answer(make_arms(vision=AS_IN_PAPER, seeds=(1,), questions=80))
    assert "one seed cannot distinguish an effect from a lucky run" in answer


def test_findings_count_the_scores_above_both_guessers(make_arms: MakeArms, make_facts: MakeStudyInfo) -> None:
    arms = make_arms(vision=dict.fromkeys(range(0, 101, 20), 0.9), questions=20)
    findings, _ = study_limits(arms, score_table(arms), make_facts(""), tokens={})
    assert "How 7 arms compare" in findings[0]
    assert "42 of 42 vision scores" in findings[1]
