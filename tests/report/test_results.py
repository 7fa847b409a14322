"""The order and texts of arms, and logs of training on the model's own token count."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.result_files import build_scores
from firstsight.recipe.analysis import Axis, Coordinate
from firstsight.recipe.scales import START
from firstsight.report.results import (
    ArmResult,
    arm_texts,
    arms_with_scores,
    compared_arms,
    damage_by_arms,
    read_achieved_file,
    read_training_log,
)
from firstsight.units import Share

SCHEDULE = Axis(name="schedule", label="Schedule", unit="category")


def _arm(name: str, **at: Coordinate) -> ArmResult:
    return ArmResult(name=name, label=f"{name}.s1", seed=1, at=at, address=f"evaluate-{name}", scores=build_scores({}))


def test_scored_arms_are_in_the_studys_order_with_baselines_last() -> None:
    baseline, late, early = replace(_arm("text"), role="baseline"), _arm("late"), _arm("early")
    second = replace(late, label="late.s2", seed=2)
    assert arms_with_scores([baseline, late, replace(early, scores=None), early, second]) == [
        late,
        second,
        early,
        baseline,
    ]
    assert compared_arms([baseline, late]) == [late]


def test_arms_are_described_by_unique_coordinates_or_by_name() -> None:
    arms = [_arm("a", start=Share(4, 5), schedule="matched"), _arm("b", start=Share(4, 5), schedule="re-warmed")]
    baseline = replace(_arm("text"), role="baseline")
    assert arm_texts([*arms, baseline], [START, SCHEDULE]) == {
        "a": "80 %, matched",
        "b": "80 %, re-warmed",
        "text": "text",
    }
    assert arm_texts(arms, [START]) == arm_texts(arms, []) == {"a": "a", "b": "b"}


def test_training_log_counts_from_the_models_first_token(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1, "seen": 10, "lr": 0.1, "loss": 2.5}) + "\n")
    assert read_training_log(path, start_tokens=100) == [{"seen": 110.0, "lr": 0.1, "loss": 2.5}]
    assert read_training_log(tmp_path / "missing.jsonl", start_tokens=100) == []


@pytest.mark.parametrize("line", ['{"seen": 1, "lr": 0.1}', "[1]", '{"seen": 1, "lr": 0.1, "loss": null}'])
def test_invalid_log_line_is_refused_with_its_location(line: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"log\.jsonl:1: a log line needs numbers"):
        read_training_log(path, start_tokens=0)


def test_an_achieved_mix_without_its_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "achieved.json"
    assert read_achieved_file(path) == {}
    path.write_text('{"asked": "1/10", "achieved": {}}')
    assert read_achieved_file(path) == {"asked": "1/10", "achieved": {}}
    path.write_text('{"asked": "1/10"}')
    with pytest.raises(DataError, match=r"achieved.json: wanted JSON with achieved\. Got none\. Restore it"):
        read_achieved_file(path)


def test_damage_that_arms_share_is_listed_once() -> None:
    arms = [replace(_arm("a"), damage=("x", "y")), _arm("b"), replace(_arm("c"), damage=("y",))]
    assert damage_by_arms(arms) == {"x": ["a.s1"], "y": ["a.s1", "c.s1"]}
