"""Signal and noise of every task of a study and of its stable scores, and these without the tasks that are only noise.

Only compared arms count, those of them that have all seeds of a table without gaps. A task that arms answered in
different versions is left out, as in differences.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl

from firstsight.evaluate.result_files import Scores
from firstsight.evaluate.statistics.noise import SignalAndNoise, signal_and_noise
from firstsight.recipe.analysis import STABLE_MEASURES
from firstsight.report.claims import ClaimResult
from firstsight.report.compare import ArmComparison, ArmPair, PairedDifference
from firstsight.report.format import format_interval, format_percent, format_points
from firstsight.report.question_scores import QuestionScores, RunScores, complete_table, scores_by_task
from firstsight.report.results import ArmResult, arms_with_scores, compared_arms
from firstsight.report.table import STABLE, changed_tasks, single_task_rows, soft_rows

HEADER = (
    *("score", "verdict", "ratio", "ordered", "range", "signal", "noise"),
    *("seeds", "paired seeds", "questions", "paired questions"),
)
LAST_COLUMN = "last checkpoints"
"""The last column of `StudyNoise.table` where checkpoints were evaluated each by itself."""
EXPLANATION = (
    "In points. range: largest mean of an arm less the smallest. signal: standard deviation between arms, less noise.",
    "seeds, questions: standard deviation of an arm's score at one seed; paired: of a difference between two arms.",
    "noise: of an arm's mean over the seeds. ratio: signal to noise. ordered: share of pairs of arms in true order.",
    "decides: the arms differ (F test at 5 %), at least 4 of 5 pairs in order. noise only: the arms may be equal.",
)
"""What the columns of `StudyNoise.table` mean."""
LAST_EXPLANATION = "last checkpoints: standard deviation over those of one run, each by itself; no part of the noise."


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreNoise:
    """Signal and noise of one task, or of a mean over tasks."""

    name: str
    """The task, or STABLE."""
    kind: str
    tasks: tuple[str, ...]
    """The task, or those that the mean is over."""
    in_stable: bool
    """Whether the task is part of the stable score; True for a mean."""
    estimate: SignalAndNoise
    arm_means: Mapping[str, float]
    """Mean over the seeds by arm, of the score or for a mean over tasks of score - baseline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyNoise:
    """Signal and noise of the tasks and stable scores of a study."""

    tasks: tuple[ScoreNoise, ...]
    """In the order of scores.json."""
    stable: Mapping[str, ScoreNoise]
    """The stable score by kind, over the tasks that all its arms have."""
    reduced: Mapping[str, ScoreNoise]
    """The stable score by kind without its tasks that are only noise; kinds without such tasks are absent, and those
    of which no other task is left. The tasks are selected by these very scores, so it is no evidence of its own."""
    soft: tuple[ScoreNoise, ...] = ()
    """Of the soft scores of `tasks` and of the soft stable scores; their names end in soft."""
    differences: tuple[tuple[PairedDifference, PairedDifference], ...] = ()
    """Differences of stable scores that claims compare: over all tasks, and of the kinds in `reduced`."""

    def frame(self) -> pl.DataFrame:
        """One row for each task and mean, the columns of noise.csv; deviations are shares of 1, null is unknown."""
        means = [*self.stable.values(), *self.reduced.values(), *self.soft]
        return pl.DataFrame([_frame_row(score) for score in (*self.tasks, *means)], schema=NOISE_SCHEMA)

    def table(self) -> list[tuple[str, ...]]:
        """The rows of `frame` as text in points, with a header row."""
        soft = {score.name: score for score in self.soft}
        paper = [(score.name, score.name, score) for score in self.tasks]
        paper += [(f"{kind}: stable score", kind, score) for kind, score in self.stable.items()]
        names = list[tuple[str, ScoreNoise]]()
        for name, measure, score in paper:
            names.append((name, score))
            names += [(f"{name}, soft", soft[f"{measure} soft"])] * (f"{measure} soft" in soft)
        names += [(f"{kind}: without noise-only tasks", score) for kind, score in self.reduced.items()]
        rows = [(name, *_estimate_texts(score.estimate)) for name, score in names]
        if not self.has_last_checkpoints:
            return [HEADER, *rows]
        last = [format_percent(score.estimate.checkpoint_deviation) or "unknown" for _, score in names]
        return [(*HEADER, LAST_COLUMN), *((*row, text) for row, text in zip(rows, last, strict=True))]

    @property
    def has_last_checkpoints(self) -> bool:
        """Whether the last checkpoints were evaluated each by itself."""
        return any(score.estimate.checkpoint_deviation is not None for score in self.tasks)

    def lines(self) -> list[str]:
        """What the columns of `table` mean, and what is unknown or left out, as sentences."""
        unknown = [score.name for score in self.tasks if score.estimate.verdict == "unknown"]
        names = "all tasks" if len(unknown) == len(self.tasks) else ", ".join(unknown)
        needs = "unknown: it needs two arms with the same two seeds and their answers to the same questions"
        left_out = [f"{kind} {', '.join(self.noise_only(kind))}" for kind in self.reduced]
        selection = "selected by these scores, so the scores without them are no evidence of their own"
        return [
            *EXPLANATION,
            *self._soft_lines(),
            *[LAST_EXPLANATION] * self.has_last_checkpoints,
            *[f"{needs} ({names})."] * bool(unknown),
            *[f"Noise-only tasks of the stable scores ({selection}): {'; '.join(left_out)}."] * bool(left_out),
        ]

    def _soft_lines(self) -> list[str]:
        """How many tasks decide by the paper's score and by the soft one; empty without soft scores."""
        soft = {score.name.removesuffix(" soft"): score.estimate.verdict for score in self.soft}
        pairs = [(score.estimate.verdict, soft[score.name]) for score in self.tasks if score.name in soft]
        if not pairs:
            return []
        by_paper, by_soft = (sum(verdict == "decides" for verdict in column) for column in zip(*pairs, strict=True))
        return [f"Of {len(pairs)} tasks {by_paper} decide by the paper's score, {by_soft} by the soft score beside it."]

    def arm_table(self) -> list[tuple[str, ...]]:
        """Stable scores of each arm in points, means over seeds: of all tasks and beside it of `reduced`; a header."""
        scores = [(kind, self.stable[kind], self.reduced[kind]) for kind in self.reduced]
        arms = dict.fromkeys(arm for _, full, reduced in scores for arm in (*full.arm_means, *reduced.arm_means))
        header = [text for kind, *_ in scores for text in (kind, f"{kind} without {', '.join(self.noise_only(kind))}")]
        texts = [
            (arm, *(format_percent(score.arm_means.get(arm)) for _, *pair in scores for score in pair)) for arm in arms
        ]
        return [("arm", *header), *texts] if texts else []

    def difference_table(self) -> list[tuple[str, ...]]:
        """`differences` in points with their intervals, and a header."""
        texts = [
            (f"{full.kind}: {full.pair.a} − {full.pair.b}", _difference_text(full), _difference_text(reduced))
            for full, reduced in self.differences
        ]
        return [("difference", "all tasks", "without noise-only tasks"), *texts] if texts else []

    def noise_only(self, kind: str) -> tuple[str, ...]:
        """The tasks of a kind's stable score that are only noise."""
        return tuple(
            score.name
            for score in self.tasks
            if score.kind == kind and score.in_stable and score.estimate.verdict == "noise only"
        )


NOISE_SCHEMA = {
    **dict.fromkeys(("score", "kind", "tasks"), pl.String),
    "in_stable": pl.Boolean,
    **dict.fromkeys(("num_arms", "num_seeds"), pl.Int64),
    **dict.fromkeys(("arm_range", "arm_deviation", "signal"), pl.Float64),
    **dict.fromkeys(("seed_deviation", "paired_seed_deviation"), pl.Float64),
    **dict.fromkeys(("question_error", "paired_question_error"), pl.Float64),
    **dict.fromkeys(("checkpoint_deviation", "noise", "ratio", "ordered_share", "p_value"), pl.Float64),
    "verdict": pl.String,
}
"""Columns of `StudyNoise.frame`; those that `ScoreNoise` lacks are of `SignalAndNoise`."""


def _frame_row(score: ScoreNoise) -> dict[str, object]:
    row = {"score": score.name, "kind": score.kind, "tasks": ", ".join(score.tasks), "in_stable": score.in_stable}
    return row | {name: getattr(score.estimate, name) for name in NOISE_SCHEMA if name not in row}


def _estimate_texts(estimate: SignalAndNoise) -> tuple[str, ...]:
    """The columns after the first of `StudyNoise.table`."""
    deviations = (
        *(estimate.arm_range, estimate.signal, estimate.noise, estimate.seed_deviation),
        *(estimate.paired_seed_deviation, estimate.question_error, estimate.paired_question_error),
    )
    ratio = "unknown" if estimate.ratio is None else f"{estimate.ratio:.1f}"
    ordered = "unknown" if estimate.ordered_share is None else f"{format_percent(estimate.ordered_share, 0)} %"
    return (estimate.verdict, ratio, ordered, *(format_percent(value) or "unknown" for value in deviations))


def _difference_text(difference: PairedDifference) -> str:
    interval = difference.display_interval
    return format_points(difference.mean) + (f" ({format_interval(interval)})" if interval else "")


def study_noise(
    arms: Sequence[ArmResult], rows: pl.DataFrame, *, claims: Sequence[ClaimResult] = (), comparison: ArmComparison
) -> StudyNoise:
    """Signal and noise of all tasks and stable scores, and the differences of `claims` without noise-only tasks.

    `rows` is the score table of `arms`, and `comparison` made from it.
    """
    compared = compared_arms(arms_with_scores(arms))
    table = _TaskTable(compared, rows.filter(~pl.col("task").is_in(changed_tasks(rows))), comparison)
    noise = StudyNoise(tasks=tuple(table.task_rows()), stable={}, reduced={})
    stable, reduced = dict[str, ScoreNoise](), dict[str, ScoreNoise]()
    for kind in STABLE_MEASURES:
        if score := table.stable_row(kind):
            stable[kind] = score
        noise_only = noise.noise_only(kind)
        if noise_only and (score := table.stable_row(kind, without=noise_only)):
            reduced[kind] = score
    soft_table = _TaskTable(compared, rows, comparison, is_soft=True, tasks=table.tasks)
    soft_stable = (soft_table.stable_row(kind) for kind in STABLE_MEASURES)
    soft = (*soft_table.task_rows(), *(score for score in soft_stable if score))
    noise = replace(noise, stable=stable, reduced=reduced, soft=soft)
    left_out = [task for kind in reduced for task in noise.noise_only(kind)]
    return replace(noise, differences=_reduced_differences(claims, comparison.without_tasks(left_out), kinds=reduced))


class _TaskTable:
    """Scores of tasks by run, or soft scores, and their noise."""

    def __init__(
        self,
        compared: Sequence[ArmResult],
        rows: pl.DataFrame,
        comparison: ArmComparison,
        *,
        is_soft: bool = False,
        tasks: Mapping[str, tuple[str, float | None]] | None = None,
    ) -> None:
        """`tasks` are those to include, with kind and baseline; None for all of `rows`."""
        table = single_task_rows((soft_rows(rows) if is_soft else rows).filter(condition="sighted", role="compared"))
        columns = table.select("task", "kind", "baseline").unique("task", keep="first", maintain_order=True).rows()
        known = {task: (kind, baseline) for task, kind, baseline in columns} if tasks is None else tasks
        self._values = {task: runs for task, runs in scores_by_task(table).items() if task in known}
        self.tasks = {task: known[task] for task in known if task in self._values}
        """Kind and baseline of each task."""
        self._is_soft = is_soft
        last_scores = {
            (arm.name, arm.seed): [_task_scores(scores, is_soft=is_soft) for scores in arm.last_scores]
            for arm in compared
        }
        answers = comparison.question_scores(is_soft=is_soft)
        self._noise = partial(_score_noise, answers=answers, last_scores=last_scores)

    def task_rows(self) -> Iterator[ScoreNoise]:
        """Of each task."""
        for task, runs in self._values.items():
            kind, baseline = self.tasks[task]
            name = f"{task} soft" if self._is_soft else task
            yield self._noise(name, kind, {task: runs}, baselines={}, in_stable=baseline is not None)

    def stable_row(self, kind: str, *, without: Collection[str] = ()) -> ScoreNoise | None:
        """Of the mean over the tasks with a baseline; None without one, and where no run has the scores of all."""
        baselines = {task: b for task, (k, b) in self.tasks.items() if k == kind and b is not None}
        scores = {task: self._values[task] for task in baselines if task not in without}
        if not scores or not set.intersection(*map(set, scores.values())):
            return None
        return self._noise(f"{kind} soft" if self._is_soft else STABLE, kind, scores, baselines=baselines)


def _task_scores(scores: Scores, *, is_soft: bool = False) -> dict[str, float | None]:
    """The scores of tasks, or their soft scores."""
    if is_soft:
        return {name: task.soft.score if task.soft else None for name, task in scores.tasks.items()}
    return {name: task.score for name, task in scores.tasks.items()}


def _reduced_differences(
    claims: Sequence[ClaimResult], comparison: ArmComparison, *, kinds: Collection[str]
) -> tuple[tuple[PairedDifference, PairedDifference], ...]:
    """Differences of the claims on `kinds`, and the same by `comparison`, corrected for equally many comparisons."""
    differences: dict[ArmPair, tuple[PairedDifference, PairedDifference]] = {}
    for result in claims if kinds else ():
        pairs = [full.pair for full in result.differences]
        reduced = comparison.corrected_differences(pairs, candidates=len(pairs))
        for full, other in zip(result.differences, reduced, strict=True):
            if other is not None and full.pair.measure in kinds:
                differences.setdefault(full.pair, (full, other))
    return tuple(differences.values())


def _score_noise(
    name: str,
    kind: str,
    scores: Mapping[str, RunScores],
    *,
    answers: QuestionScores,
    last_scores: Mapping[tuple[str, int], Sequence[Mapping[str, float | None]]],
    baselines: Mapping[str, float],
    in_stable: bool = True,
) -> ScoreNoise:
    """Of the mean over tasks of the scores less their baselines, from the scores of each task."""
    first, *others = scores.values()
    arms, seeds = complete_table([run for run in first if all(run in by_run for by_run in others)])
    values = [
        [np.mean([by_run[arm, seed] - baselines.get(task, 0.0) for task, by_run in scores.items()]) for seed in seeds]
        for arm in arms
    ]
    table = np.array(values)
    runs = [(arm, seed) for arm in arms for seed in seeds]
    influences = answers.influences(runs, tasks=list(scores))
    return ScoreNoise(
        name=name,
        kind=kind,
        tasks=tuple(scores),
        in_stable=in_stable,
        estimate=signal_and_noise(
            table,
            None if influences is None else influences.reshape(*table.shape, -1),
            _means_over_tasks([last_scores[run] for run in runs], tasks=list(scores)),
        ),
        arm_means=dict(zip(arms, table.mean(1).tolist(), strict=True)),
    )


def _means_over_tasks(
    last_scores: Sequence[Sequence[Mapping[str, float | None]]], *, tasks: Sequence[str]
) -> np.ndarray | None:
    """Means over tasks of the scores of the last checkpoints, [runs, checkpoints]; None where a run lacks some."""
    if len({len(run) for run in last_scores}) > 1 or len(last_scores[0]) < 2:
        return None
    values = [[[scores[task] for task in tasks] for scores in run] for run in last_scores]
    means = np.array(values, dtype=float).mean(-1)
    return None if np.isnan(means).any() else means
