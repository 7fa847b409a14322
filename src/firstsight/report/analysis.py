"""What the results of a study show: everything that is computed from its arms, each value once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import polars as pl

from firstsight.evaluate.statistics.sequential import DecisionRule
from firstsight.recipe.study import Study
from firstsight.report.claims import ClaimResult, evaluate_claims
from firstsight.report.compare import ArmComparison
from firstsight.report.decision_accuracy import StudyDecisionAccuracy, study_decision_accuracy
from firstsight.report.noise import StudyNoise, study_noise
from firstsight.report.results import ArmResult
from firstsight.report.summary import answer_sentence
from firstsight.report.table import score_table


class StudyAnalysis:
    """The arms of a study and what their scores show, finished or not."""

    def __init__(self, arms: Sequence[ArmResult], study: Study, *, rule: DecisionRule = "fixed") -> None:
        """`rule` is how differences are tested: once, or at every added seed."""
        self.arms, self.study = list(arms), study
        self.rule: DecisionRule = rule

    @cached_property
    def scores(self) -> pl.DataFrame:
        """All scores: one row for one arm, task and condition, with the columns of scores.csv."""
        return score_table(self.arms, self.study.axes)

    @cached_property
    def comparison(self) -> ArmComparison:
        """Differences between the arms."""
        return ArmComparison(self.arms, self.scores, rule=self.rule)

    @cached_property
    def claims(self) -> list[ClaimResult]:
        """The claims of the study, tested on these results."""
        return evaluate_claims(self.study.claims, self.arms, self.comparison)

    @cached_property
    def noise(self) -> StudyNoise:
        """Signal and noise of every task and stable score, and the scores without the tasks that are only noise."""
        return study_noise(self.arms, self.scores, claims=self.claims, comparison=self.comparison)

    @cached_property
    def decision_accuracy(self) -> StudyDecisionAccuracy | None:
        """For which pairs of arms a smaller size has the order of the largest; None for a study without sizes."""
        return study_decision_accuracy(self.arms, self.scores, self.study)

    @cached_property
    def answer(self) -> str:
        """The report's first sentence: `report.summary.answer_sentence`."""
        accuracy = self.decision_accuracy
        return answer_sentence(self.arms, self.scores, self.comparison, axes=self.study.axes, accuracy=accuracy)
