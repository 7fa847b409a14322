"""Power analysis on studies with known variance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from firstsight.cli.app import command
from firstsight.errors import RequestError
from firstsight.plan.store import Store
from firstsight.report.power import combined_power_report, power_report
from firstsight.report.results import ArmResult
from firstsight.report.table import score_table
from tests.report.study_builder import MakeArms


def _report(arms: list[ArmResult], effect: float) -> str:
    return "\n".join(power_report(arms, score_table(arms), effect=effect, kind="vision", power=0.8)[0])


def test_more_questions_do_not_help_where_seeds_vary_widely(make_arms: MakeArms) -> None:
    text = _report(make_arms(noise=0.3, seeds=(1, 2, 3)), 0.02)
    assert "no number of questions is enough: the seeds' deviation is" in text
    assert "6 arms that vary alike" in text


def test_more_seeds_detect_smaller_effects(make_arms: MakeArms) -> None:
    arms = make_arms(noise=0.02)
    _, (header, *rows) = power_report(arms, score_table(arms), effect=0.05, kind="vision", power=0.8)
    sizes = [float(size) for _, size in rows]
    assert header[0] == "seeds"
    assert sizes == sorted(sizes, reverse=True)


def test_planned_seeds_that_are_not_stored_are_named(make_arms: MakeArms) -> None:
    arms = make_arms(noise=0.02, seeds=(1, 2, 3))
    rows = score_table(arms)
    partly = [replace(arm, scores=None) if arm.seed == 3 else arm for arm in arms]
    first, *_ = power_report(partly, rows.filter(pl.col("seed") < 3), effect=0.05, kind="vision", power=0.8)[0]
    assert first.startswith("Of 3 seeds that the study would have, all of the compared arms have 2 stored.")
    assert "would have" not in _report(arms, 0.02)


def test_several_studies_have_a_row_each_with_the_numbers_of_their_own_report(make_arms: MakeArms) -> None:
    arms, single = make_arms(noise=0.02), make_arms(seeds=(1,))
    parts = {"first": (arms, score_table(arms)), "single": (single, score_table(single))}
    lines, rows = combined_power_report(parts, effect=0.05, kind="vision", power=0.8)
    assert [row[0] for row in rows] == ["study", "first"] and lines[0].startswith("single: power needs two arms")
    own_lines, own_rows = power_report(arms, parts["first"][1], effect=0.05, kind="vision", power=0.8)
    _, seeds, smallest, needed = rows[1]
    assert (seeds, smallest) in own_rows and any(f"{needed} seeds with these questions" in line for line in own_lines)
    with pytest.raises(RequestError, match="two seeds"):
        combined_power_report({"single": parts["single"]}, effect=0.05, kind="vision", power=0.8)


def test_one_seed_is_refused(make_arms: MakeArms) -> None:
    with pytest.raises(RequestError, match="--seeds 2"):
        _report(make_arms(seeds=(1,)), 0.02)


EFFECTS = ("0", "-1", "nan", "inf", "101")


@pytest.mark.parametrize(
    "words",
    [
        *(["--effect", size] for size in EFFECTS),
        ["--effect", "2", "--kind", "taste"],
        ["--effect", "2", "--power", "1"],
        ["--effect", "2", "--power", "0.05"],
    ],
)
def test_command_refuses_invalid_values(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    Store(tmp_path)  # an empty one: without any, that is the error
    assert command(["power", "when", "--scale", "smoke", *words, "--out", str(tmp_path)]) == 2
    assert "wanted" in capsys.readouterr().err
