"""Scores of many runs as tables without gaps: of each task by run, and of each question by run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from firstsight.evaluate.statistics.bootstrap import ClusteredScores, cluster_scores
from firstsight.evaluate.statistics.noise import question_influences
from firstsight.report.answers import QUESTION_KEY
from firstsight.report.results import ArmResult

RunScores = Mapping[tuple[str, int], float]
"""Score by arm and seed."""


def scores_by_task(sighted: pl.DataFrame) -> dict[str, dict[tuple[str, int], float]]:
    """The scores of a table by task, then by arm and seed."""
    scores: dict[str, dict[tuple[str, int], float]] = {}
    for task, arm, seed, score in sighted.select("task", "arm", "seed", "score").iter_rows():
        scores.setdefault(task, {})[arm, seed] = score
    return scores


def complete_table(runs: Collection[tuple[str, int]]) -> tuple[list[str], list[int]]:
    """The arms and seeds of a table without gaps: of the seeds of some arm, those with which it is the largest.

    A table of two arms and two seeds comes before a larger one of a single arm or seed.
    """
    seeds: dict[str, set[int]] = {}
    for arm, seed in runs:
        seeds.setdefault(arm, set()).add(seed)
    tables = [
        ([arm for arm, others in seeds.items() if chosen <= others], sorted(chosen))
        for chosen in dict.fromkeys(map(frozenset, seeds.values()))
    ]
    return max(tables, key=lambda table: (min(map(len, table)) > 1, len(table[0]) * len(table[1])))


class SharedAnswers(NamedTuple):
    """Questions that several runs answered with the image, and how they scored."""

    questions: pl.DataFrame
    """task, question, image, split."""
    scores: np.ndarray
    """[runs, questions]"""

    def sample(self) -> ClusteredScores:
        """The means over the runs, clustered by image."""
        return cluster_scores(self.scores.mean(0), **self._design())

    def influences(self) -> np.ndarray:
        """Influences of the images on the score of each run, [runs, clusters]."""
        return question_influences(self.scores, **self._design())

    def _design(self) -> dict[str, list[str]]:
        tasks, splits = (self.questions[name].to_list() for name in ("task", "split"))
        return {"clusters": _image_clusters(self.questions), "tasks": tasks, "splits": splits}


class QuestionScores:
    """The scores of all questions by all runs with the image, [runs, questions]; NaN without an answer."""

    def __init__(self, arms: Sequence[ArmResult], *, column: Literal["score", "soft"] = "score") -> None:
        answered = [(arm, arm.answers.filter(blind=False)) for arm in arms if arm.answers is not None]
        self._runs = {(arm.name, arm.seed): index for index, (arm, _) in enumerate(answered)}
        layouts: list[pl.DataFrame] = []  # runs that answered the same questions in the same order share one
        layout_of_run: list[int] = []
        for _, answers in answered:
            layout = answers.select(*QUESTION_KEY, "image", "split")
            if not layouts or not layout.equals(layouts[-1]):
                layouts.append(layout)
            layout_of_run.append(len(layouts) - 1)
        questions = pl.concat(layouts) if layouts else pl.DataFrame(schema={"task": pl.String, "question": pl.String})
        self._questions = questions.unique(QUESTION_KEY, keep="first", maintain_order=True).with_row_index("index")
        columns = [
            layout.join(self._questions, on=QUESTION_KEY, maintain_order="left")["index"].to_numpy()
            for layout in layouts
        ]
        self._scores = np.full((len(answered), len(self._questions)), np.nan)
        for run, (_, answers) in enumerate(answered):
            # Of two answers to one question the first counts: it is written last.
            self._scores[run, columns[layout_of_run[run]][::-1]] = answers[column].to_numpy()[::-1]

    def shared(self, runs: Sequence[tuple[str, int]], *, tasks: Collection[str]) -> SharedAnswers | None:
        """The answers of these runs (arm, seed) to the questions of `tasks` that all of them answered; None without."""
        if not runs or self._questions.is_empty() or not self._runs.keys() >= set(runs):
            return None
        questions = self._questions.filter(pl.col("task").is_in(list(tasks)))
        scores = self._scores[[self._runs[run] for run in runs]][:, questions["index"].to_numpy()]
        common = np.flatnonzero(~np.isnan(scores).any(axis=0))
        return SharedAnswers(questions[common.tolist()], scores[:, common]) if len(common) else None

    def influences(self, runs: Sequence[tuple[str, int]], *, tasks: Collection[str]) -> np.ndarray | None:
        """`SharedAnswers.influences` of these runs, [runs, clusters]; None where they share no question of a task."""
        answers = self.shared(runs, tasks=tasks)
        return None if answers is None or set(answers.questions["task"]) != set(tasks) else answers.influences()


def _image_clusters(answers: pl.DataFrame) -> list[str]:
    """The cluster of each answer: its image over all tasks; a question without an image is a cluster of its own."""
    question_cluster = pl.concat_str(pl.col("task"), pl.lit("\0"), pl.col("question"))
    return (
        answers.select(pl.when(pl.col("image") == "").then(question_cluster).otherwise("image")).to_series().to_list()
    )
