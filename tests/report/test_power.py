"""What it would take, told from a study whose truth is known; and the command's refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from firstsight.cli.app import command
from firstsight.errors import DataError
from firstsight.report.power import power_report
from firstsight.report.results import ArmResult
from firstsight.report.table import score_table

Make = Callable[..., list[ArmResult]]


def _told(arms: list[ArmResult], effect: float) -> str:
    return "\n".join(power_report(arms, score_table(arms), effect=effect, kind="vision", power=0.8).lines)


def test_where_seeds_spread_widely_questions_cannot_help(make: Make) -> None:
    text = _told(make(noise=0.3, seeds=(1, 2, 3)), 0.02)
    assert "no number of questions is enough: the seeds' own spread is" in text
    assert "6 arms, 3 seeds" in text


def test_more_seeds_show_less(make: Make) -> None:
    arms = make(noise=0.02)
    head, *rows = power_report(arms, score_table(arms), effect=0.05, kind="vision", power=0.8).table
    sizes = [float(size) for _, size in rows]
    assert head[0] == "seeds"
    assert sizes == sorted(sizes, reverse=True)


def test_one_seed_tells_nothing_of_the_next(make: Make) -> None:
    with pytest.raises(DataError, match="--seeds 2"):
        _told(make(seeds=(1,)), 0.02)


EFFECTS = ("0", "-1", "nan", "inf", "101")


@pytest.mark.parametrize(
    "words",
    [
        *(["--effect", size] for size in EFFECTS),
        ["--effect", "2", "--kind", "taste"],
        ["--effect", "2", "--power", "1"],
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert command(["power", "when", *words, "--out", str(tmp_path)]) == 2
    assert "wanted" in capsys.readouterr().err
