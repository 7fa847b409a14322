"""The score table against a scores.json small enough to compute by hand."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from firstsight.evaluate.result_files import BaselineDifference, SoftTaskScores, SubsetScore, build_scores
from firstsight.recipe.analysis import RESERVED_NAMES, Axis
from firstsight.recipe.scales import START
from firstsight.report.results import ArmResult, StageLog
from firstsight.report.table import (
    SCORE_SCHEMA,
    changed_tasks,
    guesser_margins,
    mean_over_seeds,
    models_table,
    score_table,
    task_gains,
    task_overview,
)
from firstsight.units import Share
from tests.report.study_builder import task_scores


def _arm(name: str, seed: int, start: Share, *, gqa: float) -> ArmResult:
    tasks = {
        "gqa": task_scores(score=gqa, blind=0.3, question_blind=0.5, version=2),
        "pope": task_scores(score=0.9, chance=0.5, guess=0.5, blind=0.6, question_blind=0.5),
        "vizwiz": task_scores(score=0.2, chance=0.0, guess=0.1, stable=False, blind=0.3),
        "arc_easy": task_scores(kind="text", score=0.75, by={"domain": {"heldout": SubsetScore(n=4, score=0.5)}}),
    }
    return ArmResult(
        name=name,
        label=f"{name}.s{seed}",
        seed=seed,
        at={"start": start, "epochs": seed},
        address=f"evaluate-{name}-{seed}",
        scores=build_scores(tasks),
    )


LATE = _arm("start-080", 1, Share(4, 5), gqa=0.45)


def _score(rows: pl.DataFrame, **values: str) -> float:
    row = rows.filter(**values)
    assert row.height == 1
    return row.get_column("score").item()


def _soft(score: float | None, blind: float | None) -> SoftTaskScores:
    details = dict.fromkeys(("mean", "best", "bits_per_byte", "best_bits_per_byte"))
    return SoftTaskScores(n=7, score=score, interval=(0.1, 0.9), blind=blind, **details)


def test_soft_scores_are_rows_of_their_own_with_the_same_chance_subtracted() -> None:
    tasks = {
        "gqa": task_scores(score=0.5, soft=_soft(0.35, 0.2)),
        "pope": task_scores(score=0.9, chance=0.5, guess=0.5, soft=_soft(0.6, 0.4)),
        "textvqa": task_scores(score=0.9, chance=0.0, guess=0.0),
    }
    rows = score_table([replace(LATE, scores=build_scores(tasks))])
    assert [_score(rows, task="gqa", condition=name) for name in ("sighted", "soft", "soft_blind")] == [0.5, 0.35, 0.2]
    # (.35 - .25 + .6 - .5) / 2, and without the images (.2 - .25 + .4 - .5) / 2; textvqa has no soft score
    assert _score(rows, task="stable", kind="vision", condition="soft") == pytest.approx(0.1)
    assert _score(rows, task="stable", kind="vision", condition="soft_blind") == pytest.approx(-0.075)
    assert rows.filter(condition="soft", task="stable").get_column("questions").to_list() == [14]
    assert task_gains(rows, "start-080", "vision soft") == {1: {"gqa": pytest.approx(0.1), "pope": pytest.approx(0.1)}}
    assert task_gains(rows, "start-080", "gqa soft") == {1: {"gqa": pytest.approx(0.1)}}
    assert task_gains(rows, "start-080", "vision")[1].keys() == {"gqa", "pope", "textvqa"}


def test_one_row_for_each_arm_task_and_condition() -> None:
    rows = score_table([LATE])
    # gqa and pope 3 each, vizwiz 2, arc_easy 1 and its held-out part; stable: vision 3 and text 1; 2 other means.
    assert rows.height == 3 + 3 + 2 + 2 + 3 + 1 + 2 * 2
    assert _score(rows, task="arc_easy", condition="domain: heldout") == 0.5
    assert rows.filter(pl.col("task") == "gqa").get_column("version").unique().to_list() == ["2"]
    assert rows.filter(pl.col("task") == "stable").get_column("version").unique().to_list() == ["1"]


def test_guessers_have_a_stable_score_by_the_same_formula() -> None:
    rows = score_table([LATE])
    assert _score(rows, task="stable", kind="vision", condition="sighted") == pytest.approx(0.3)
    assert _score(rows, task="stable", kind="vision", condition="blind") == pytest.approx((0.05 + 0.1) / 2)
    assert _score(rows, task="stable", kind="vision", condition="question_blind") == pytest.approx((0.25 + 0) / 2)


def test_margin_is_over_the_better_guesser_and_over_chance_without_one() -> None:
    margins = {row["task"]: row for row in guesser_margins(score_table([LATE])).to_dicts()}
    assert (margins["gqa"]["guesser"], margins["gqa"]["margin"]) == ("question_blind", pytest.approx(-0.05))
    assert (margins["pope"]["guesser"], margins["pope"]["margin"]) == ("blind", pytest.approx(0.3))
    assert (margins["arc_easy"]["guesser"], margins["arc_easy"]["margin"]) == ("chance", pytest.approx(0.5))


def test_margin_has_the_interval_of_its_paired_difference() -> None:
    scores = LATE.scores
    assert scores
    over = {"blind": BaselineDifference(difference=0.3, interval=(0.22, 0.37))}
    tasks = {**scores.tasks, "pope": replace(scores.tasks["pope"], over=over)}
    rows = score_table([replace(LATE, scores=build_scores(tasks))])
    margins = {row["task"]: row for row in guesser_margins(rows).to_dicts()}
    assert (margins["pope"]["margin_low"], margins["pope"]["margin_high"]) == (0.22, 0.37)
    assert margins["gqa"]["margin_low"] is None  # scores.json has no paired difference with that guesser
    # Chance is a fixed number, so the interval is that of the score.
    assert (margins["arc_easy"]["margin_low"], margins["arc_easy"]["margin_high"]) == pytest.approx(
        (0.1 - 0.25, 0.9 - 0.25)
    )
    intervals = {row["task"]: row["margin_interval"] for row in task_overview(rows)}
    assert intervals["pope"] == (0.22, 0.37)
    assert intervals["gqa"] is None
    assert intervals["arc_easy"] == pytest.approx((-0.15, 0.65))


def test_gains_are_scores_of_the_stable_score_minus_their_baseline() -> None:
    assert task_gains(score_table([LATE]), "start-080", "vision") == {
        1: {"gqa": pytest.approx(0.2), "pope": pytest.approx(0.4)},
    }


def test_means_are_over_seeds_and_have_every_address() -> None:
    rows = score_table([_arm("start-080", seed, Share(4, 5), gqa=gqa) for seed, gqa in ((1, 0.4), (2, 0.6))])
    row = mean_over_seeds(rows.filter((pl.col("task") == "gqa") & (pl.col("condition") == "sighted"))).to_dicts()[0]
    assert (row["score"], row["min_score"], row["max_score"], row["seeds"]) == (pytest.approx(0.5), 0.4, 0.6, 2)
    assert row["address"] == "evaluate-start-080-1, evaluate-start-080-2"


def test_overview_names_the_best_arm_of_each_task_vision_first() -> None:
    rows = score_table([LATE, _arm("start-100", 1, Share(1), gqa=0.7)])
    overview = task_overview(rows)
    assert [row["task"] for row in overview] == ["gqa", "pope", "vizwiz", "arc_easy"]
    assert (overview[0]["arm"], overview[0]["margin"]) == ("start-100", pytest.approx(0.2))
    assert [row["stable"] for row in overview] == [True, True, False, True]


def test_each_axis_is_a_column_after_the_seed() -> None:
    axes = [START, Axis(name="epochs", label="Epochs", unit="count"), Axis(name="kind_of", label="?", unit="category")]
    rows = score_table([LATE], axes)
    assert rows.columns[2:7] == ["seed", "start", "epochs", "kind_of", "group"]
    assert rows.row(0, named=True) | {"start": 0.8, "epochs": 1, "kind_of": None} == rows.row(0, named=True)
    assert rows.drop("start", "epochs", "kind_of").equals(score_table([LATE]))
    assert (rows.schema["start"], rows.schema["epochs"], rows.schema["kind_of"]) == (pl.Float64, pl.Int64, pl.String)


def test_no_axis_can_have_the_name_of_another_column() -> None:
    assert set(SCORE_SCHEMA) == set(RESERVED_NAMES)


def test_single_task_without_a_baseline_gains_its_score() -> None:
    assert task_gains(score_table([LATE]), "start-080", "vizwiz") == {1: {"vizwiz": 0.2}}
    assert task_gains(score_table([LATE]), "start-080", "pope") == {1: {"pope": pytest.approx(0.4)}}


def test_tasks_that_changed_between_arms_are_listed() -> None:
    early = _arm("start-000", 1, Share(0), gqa=0.4)
    assert changed_tasks(score_table([LATE, early])) == []
    assert early.scores
    tasks = dict(early.scores.tasks)
    tasks |= {"pope": replace(tasks["pope"], n=9), "gqa": replace(tasks["gqa"], version=3)}
    early = replace(early, scores=build_scores(tasks))
    assert changed_tasks(score_table([LATE, early])) == ["gqa", "pope"]


def test_models_of_others_are_columns_beside_the_mean_of_what_was_trained() -> None:
    stages = (StageLog(kind="finetune", address="finetune-0"),)
    own = [replace(_arm("own", seed, Share(1), gqa=gqa), stages=stages) for seed, gqa in ((1, 0.4), (2, 0.6))]
    arms = [*own, _arm("published", 1, Share(1), gqa=0.75)]
    header, *rows = models_table(arms, score_table(arms))
    assert header == ("score, %", "own", "published (not trained here)")
    cells = {name: texts for name, *texts in rows}
    assert cells["gqa"] == ["50.0", "75.0"] and list(cells)[:2] == ["vision: stable score", "text: stable score"]
    assert own[0].scores is not None
    assert set(cells) == {"vision: stable score", "text: stable score", *own[0].scores.tasks}
    assert models_table(own, score_table(own)) == [] == models_table(arms[2:], score_table(arms[2:]))
