"""Tidy rows against a scores file small enough to add up by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import polars as pl
import pytest

from firstsight.report.results import ArmResult, main_sweep_arms
from firstsight.report.table import (
    guesser_margins,
    has_varied_starts,
    mean_over_seeds,
    score_table,
    stable_gains,
    stable_score_mismatches,
    task_overview,
)


def _facts(kind: str, score: float, **more: Any) -> dict[str, Any]:
    base = {"kind": kind, "metric": "accuracy", "n": 10, "score": score, "interval": [0.1, 0.9], "chance": 0.25}
    return base | {"guess": 0.25, "stable": True, "blind": None, "question_blind": None, "heldout": None} | more


def _arm(name: str, seed: int, start: Fraction, *, gqa: float, schedule: Any = "continue") -> ArmResult:
    tasks = {
        "gqa": _facts("vision", gqa, blind=0.3, question_blind=0.5),
        "pope": _facts("vision", 0.9, chance=0.5, guess=0.5, blind=0.6, question_blind=0.5),
        "vizwiz": _facts("vision", 0.2, chance=0.0, guess=0.1, stable=False, blind=0.3),
        "arc_easy": _facts("text", 0.75, by={"form": {"heldout": {"n": 4, "score": 0.5}}}),
    }
    stable = {"vision": (gqa - 0.25 + 0.4) / 2, "text": 0.5}
    return ArmResult(
        name=name,
        label=f"{name}.s{seed}",
        seed=seed,
        start=start,
        schedule=schedule,
        address=f"evaluate-{name}-{seed}",
        scores={"tasks": tasks, "stable": stable, "versions": {"scores": 1, "stable": 3, "gqa": 2}},
    )


LATE = _arm("start-080", 1, Fraction(4, 5), gqa=0.45)


def _value(rows: pl.DataFrame, **where: str) -> float:
    found = rows.filter(*(pl.col(name) == value for name, value in where.items()))
    assert found.height == 1
    return found.get_column("score").item()


def test_one_row_an_arm_task_and_condition() -> None:
    rows = score_table([LATE])
    # gqa and pope 3 each, vizwiz 2, arc_easy 1 and its held-out part, stable: vision 3 and text 1.
    assert rows.height == 3 + 3 + 2 + 2 + 3 + 1
    assert _value(rows, task="arc_easy", condition="form: heldout") == 0.5
    assert rows.filter(pl.col("task") == "gqa").get_column("version").unique().to_list() == ["2"]
    assert rows.filter(pl.col("task") == "stable").get_column("version").unique().to_list() == ["3"]


def test_guessers_get_a_stable_score_by_the_same_formula() -> None:
    rows = score_table([LATE])
    assert _value(rows, task="stable", kind="vision", condition="sighted") == pytest.approx(0.3)
    assert _value(rows, task="stable", kind="vision", condition="blind") == pytest.approx((0.05 + 0.1) / 2)
    assert _value(rows, task="stable", kind="vision", condition="question_blind") == pytest.approx((0.25 + 0) / 2)


def test_margin_is_over_the_better_guesser_and_over_chance_without_one() -> None:
    found = {row["task"]: row for row in guesser_margins(score_table([LATE])).to_dicts()}
    assert (found["gqa"]["guesser"], found["gqa"]["margin"]) == ("question_blind", pytest.approx(-0.05))
    assert (found["pope"]["guesser"], found["pope"]["margin"]) == ("blind", pytest.approx(0.3))
    assert (found["arc_easy"]["guesser"], found["arc_easy"]["margin"]) == ("chance", pytest.approx(0.5))


def test_a_margin_has_the_interval_of_its_paired_difference() -> None:
    arm = _arm("start-080", 1, Fraction(4, 5), gqa=0.45)
    tasks = dict((arm.scores or {})["tasks"])
    tasks["pope"] = tasks["pope"] | {"over": {"blind": {"difference": 0.3, "interval": [0.22, 0.37]}}}
    scores = dict(arm.scores or {}) | {"tasks": tasks}
    rows = score_table([ArmResult(**{name: getattr(arm, name) for name in arm.__slots__} | {"scores": scores})])
    found = {row["task"]: row for row in guesser_margins(rows).to_dicts()}
    assert (found["pope"]["margin_low"], found["pope"]["margin_high"]) == (0.22, 0.37)
    assert found["gqa"]["margin_low"] is None  # nobody compared it with that guesser question by question
    # Chance is a fixed number: what is uncertain is the score alone.
    assert (found["arc_easy"]["margin_low"], found["arc_easy"]["margin_high"]) == pytest.approx(
        (0.1 - 0.25, 0.9 - 0.25)
    )
    shown = {row["task"]: row["margin_interval"] for row in task_overview(rows)}
    assert shown["pope"] == (0.22, 0.37)
    assert shown["gqa"] is None
    assert shown["arc_easy"] == pytest.approx((-0.15, 0.65))


def test_what_the_stable_score_counts_stands_less_its_baseline() -> None:
    assert stable_gains(score_table([LATE]), "start-080", "vision") == {
        1: {"gqa": pytest.approx(0.2), "pope": pytest.approx(0.4)},
    }


def test_means_are_over_seeds_and_keep_every_address() -> None:
    rows = score_table([_arm("start-080", seed, Fraction(4, 5), gqa=gqa) for seed, gqa in ((1, 0.4), (2, 0.6))])
    row = mean_over_seeds(rows.filter((pl.col("task") == "gqa") & (pl.col("condition") == "sighted"))).to_dicts()[0]
    assert (row["score"], row["min_score"], row["max_score"], row["seeds"]) == (pytest.approx(0.5), 0.4, 0.6, 2)
    assert row["address"] == "evaluate-start-080-1, evaluate-start-080-2"


def test_overview_names_the_best_arm_of_each_task_vision_first() -> None:
    rows = score_table([LATE, _arm("start-100", 1, Fraction(1), gqa=0.7, schedule="rewarm")])
    found = task_overview(rows)
    assert [row["task"] for row in found] == ["gqa", "pope", "vizwiz", "arc_easy"]
    assert (found[0]["arm"], found[0]["margin"]) == ("start-100", pytest.approx(0.2))
    assert [row["stable"] for row in found] == [True, True, False, True]


def test_a_stable_score_that_its_tasks_do_not_give_is_said() -> None:
    honest = score_table([LATE])
    assert stable_score_mismatches([LATE], honest) == []
    scores = dict(LATE.scores or {}) | {"stable": {"vision": 0.9}}
    wrong = ArmResult(**{name: getattr(LATE, name) for name in LATE.__slots__} | {"scores": scores})
    assert stable_score_mismatches([wrong], score_table([wrong])) == [
        "start-080.s1: the vision stable score is 0.9000, but the mean of its tasks is 0.3000"
    ]


def test_the_line_joins_one_family_of_names() -> None:
    starts = [_arm(f"start-{p:03d}", 1, Fraction(p, 100), gqa=0.5) for p in (0, 80, 100)]
    controls = [_arm("start-080-rewarm", 1, Fraction(4, 5), gqa=0.5, schedule="rewarm")]
    trunk = [_arm("trunk", 1, Fraction(1), gqa=0.5, schedule="trunk")]
    assert main_sweep_arms([*starts, *controls, *trunk]) == starts
    assert has_varied_starts(score_table([*starts, *controls, *trunk]))
    encoders = [_arm(name, 1, Fraction(4, 5), gqa=0.5) for name in ("siglip", "patches")]
    assert main_sweep_arms(encoders) == encoders
    assert not has_varied_starts(score_table(encoders))
