"""Scores of many runs as tables without gaps: of each task by run, and of each question by run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import polars as pl

from firstsight.evaluate.statistics.noise import question_influences
from firstsight.report.answers import QUESTION_KEY
from firstsight.report.compare import image_clusters
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

    def influences(self, runs: Sequence[tuple[str, int]], *, tasks: Sequence[str]) -> np.ndarray | None:
        """Influences of the questions that all these runs (arm, seed) answered, [runs, clusters]; None without any."""
        if self._questions.is_empty() or not self._runs.keys() >= set(runs):
            return None
        questions = self._questions.filter(pl.col("task").is_in(list(tasks)))
        scores = self._scores[[self._runs[run] for run in runs]][:, questions["index"].to_numpy()]
        common = np.flatnonzero(~np.isnan(scores).any(axis=0))
        questions, scores = questions[common.tolist()], scores[:, common]
        if set(questions["task"]) != set(tasks):
            return None
        return question_influences(
            scores,
            clusters=image_clusters(questions),
            tasks=questions["task"].to_list(),
            splits=questions["split"].to_list(),
        )
