"""Curves of training: each shared stage once, continuous where the learning rate continues."""

from __future__ import annotations

import pytest

from firstsight.report.figures.curves import MAX_CURVE_POINTS, learning_rate_chart, read_curves
from firstsight.report.figures.style import vega_lite_spec
from tests.report.study_builder import FINETUNE_TOKENS, MIDTRAIN_TOKENS, TRUNK_TOKENS, MakeArms


def test_shared_trunk_is_read_once_and_arms_continue_at_its_end(make_arms: MakeArms) -> None:
    arms = make_arms(questions=5)
    curves = read_curves(arms)
    addresses = [stage["address"] for stage in curves.stages]
    assert len(addresses) == len(set(addresses)) == 2 * (5 + 2 * 6)
    points = {address: [row for row in curves.rows if row["address"] == address] for address in addresses}
    for arm in arms:
        if arm.group == "continued":
            trunk, branch = points[arm.stages[-3].address], points[arm.stages[-2].address]
            assert branch[0]["seen"] > trunk[-1]["seen"]
            assert branch[0]["lr"] == pytest.approx(trunk[-1]["lr"], rel=0.02)
    assert curves.total_tokens["start-000"] == MIDTRAIN_TOKENS + FINETUNE_TOKENS
    assert curves.total_tokens["start-100"] == TRUNK_TOKENS + MIDTRAIN_TOKENS + FINETUNE_TOKENS


def test_curves_are_short_and_keep_their_highest_rate(make_arms: MakeArms) -> None:
    curves = read_curves(make_arms(questions=5, seeds=(1,)))
    finetune = next(stage["address"] for stage in curves.stages if stage["stage"] == "finetune")
    rates = [row["lr"] for row in curves.rows if row["address"] == finetune]
    assert len(rates) <= MAX_CURVE_POINTS + 1
    assert max(rates) == pytest.approx(2e-3, rel=0.01)


def test_learning_rates_are_those_of_the_first_seed(make_arms: MakeArms) -> None:
    spec = vega_lite_spec(learning_rate_chart(read_curves(make_arms(questions=5))))
    stages = [row for rows in spec["datasets"].values() for row in rows if "stage" in row]
    assert {row["label"].rpartition("s")[2] for row in stages if row["stage"] == "finetune"} == {"1"}
