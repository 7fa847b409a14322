"""The main sweep's arms, and logs of training on the model's own token count."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from firstsight.errors import DataError
from firstsight.report.results import (
    ArmResult,
    ArmSchedule,
    StageLog,
    arms_with_scores,
    main_sweep_arms,
    read_achieved,
    read_training_log,
)
from firstsight.report.table import has_varied_starts, score_table


def _arm(name: str, start: Fraction, schedule: ArmSchedule = "continue") -> ArmResult:
    scores = {"tasks": {}, "versions": {}, "stable": {"vision": 0.1}}
    return ArmResult(
        name=name, label=f"{name}.s1", seed=1, start=start, schedule=schedule, address=f"evaluate-{name}", scores=scores
    )


def test_main_sweep_is_the_name_pattern_with_most_starts() -> None:
    starts = [_arm(f"start-{percent:03d}", Fraction(percent, 100)) for percent in (0, 80, 100)]
    controls = [_arm("start-080-rewarm", Fraction(4, 5), "rewarm")]
    trunk = [_arm("trunk", Fraction(1), "trunk")]
    assert main_sweep_arms([*starts, *controls, *trunk]) == starts
    assert has_varied_starts(score_table([*starts, *controls, *trunk]))


def test_main_sweep_is_every_arm_with_images_where_starts_do_not_vary() -> None:
    encoders = [_arm(name, Fraction(4, 5)) for name in ("siglip", "patches")]
    assert main_sweep_arms(encoders) == encoders
    assert not has_varied_starts(score_table(encoders))


def test_arms_with_scores_are_sorted() -> None:
    late, early = _arm("start-100", Fraction(1)), _arm("start-000", Fraction(0))
    assert arms_with_scores([late, replace(early, scores=None), early]) == [early, late]


def test_training_log_counts_from_the_models_first_token(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1, "seen": 10, "lr": 0.1, "loss": 2.5}) + "\n")
    stage = StageLog(kind="midtrain", address="midtrain-0", start_tokens=100, log_path=path)
    assert read_training_log(stage) == [{"seen": 110.0, "lr": 0.1, "loss": 2.5}]
    assert read_training_log(replace(stage, log_path=None)) == []
    assert read_training_log(replace(stage, log_path=tmp_path / "missing.jsonl")) == []


@pytest.mark.parametrize("line", ['{"seen": 1, "lr": 0.1}', "[1]", '{"seen": 1, "lr": 0.1, "loss": null}'])
def test_invalid_log_line_is_refused_with_its_location(line: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"log\.jsonl:1: a log line needs numbers"):
        read_training_log(StageLog(kind="midtrain", address="midtrain-0", start_tokens=0, log_path=path))


def test_achieved_mix_is_that_of_the_image_phase(tmp_path: Path) -> None:
    stage = StageLog(kind="midtrain", address="midtrain-0", start_tokens=0, log_path=tmp_path / "log.jsonl")
    arm = replace(_arm("start-080", Fraction(4, 5)), stages=(stage,), achieved_mix={"asked": "1/2"})
    assert read_achieved(arm) == {"asked": "1/2"}
    (tmp_path / "achieved.json").write_text('{"asked": "1/10"}')
    assert read_achieved(arm) == {"asked": "1/10"}
