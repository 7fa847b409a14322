"""DCLM's aggregates: its own files, its script's formula written down a second time, and the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.cli.app import command
from firstsight.errors import DataError
from firstsight.evaluate.dclm import BASELINES, CORE_TASKS, dclm_scores, read_accuracies


@pytest.mark.shared
def test_tasks_chances_and_categories_are_dclms(shared: Path) -> None:
    folder = shared / "dclm_baselines"
    with (folder / "eval_meta_data.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in rows} == BASELINES
    groups = json.loads((folder / "additional_aggregation.json").read_text())
    assert list(CORE_TASKS) == groups["low_variance_datasets"]
    for row in rows:  # a single task's score is that of its category
        accuracy, chance = 0.7, float(row["Random baseline"]) / 100
        centred = round((accuracy - chance) / (1 - chance), 9)
        assert dclm_scores({row["Eval Task"]: accuracy}).categories == {row["Task Category"]: centred}


@given(st.lists(st.floats(0, 1), min_size=len(BASELINES), max_size=len(BASELINES)))
def test_aggregates_are_means_of_centred_accuracies(values: list[float]) -> None:
    accuracies = dict(zip(BASELINES, values, strict=True))
    centred = {name: (accuracies[name] - chance) / (1 - chance) for name, chance in BASELINES.items()}
    scores = dclm_scores(accuracies)
    assert scores.core == pytest.approx(sum(centred[name] for name in CORE_TASKS) / 22, abs=1e-8)
    assert scores.extended == pytest.approx(sum(centred.values()) / 53, abs=1e-8)
    assert scores.missing_core == scores.missing_extended == scores.unknown == ()


def test_chance_is_0_and_all_right_is_1() -> None:
    assert (dclm_scores(BASELINES).core, dclm_scores(BASELINES).extended) == (0, 0)
    perfect = dclm_scores(dict.fromkeys(BASELINES, 1.0))
    assert (perfect.core, perfect.extended, set(perfect.categories.values())) == (1, 1, {1.0})


def test_an_aggregate_without_one_task_is_none() -> None:
    """As in DCLM's script, which writes N/A; the other aggregate may be complete."""
    scores = dclm_scores(dict.fromkeys(CORE_TASKS, 0.9) | {"mystery": 1.0})
    assert scores.core is not None and scores.extended is None
    assert (len(scores.missing_extended), scores.unknown) == (53 - 22, ("mystery",))
    assert dclm_scores({name: 0.9 for name in CORE_TASKS if name != "copa"}).missing_core == ("copa",)


@pytest.mark.parametrize("content", [[], {}, {"a": 1.5}, {"a": "0.5"}, {"a": True}, {"eval_metrics": {"icl": []}}, "x"])
def test_other_files_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"results\.json: "):
        read_accuracies(path)


def test_the_command_prints_them_beside_the_stable_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracies = dict.fromkeys(CORE_TASKS, 0.8)
    path, out = tmp_path / "eval.json", tmp_path / "out.json"
    path.write_text(json.dumps({"name": "x", "eval_metrics": {"icl": accuracies}}))
    assert command(["score", "dclm", "--answers", str(path), "--json", str(out)]) == 0
    printed, summary = capsys.readouterr().out, json.loads(out.read_text())
    assert summary["core"] == dclm_scores(accuracies).core and summary["extended"] is None
    # of the stable score's text tasks: arc_easy, boolq, copa, hellaswag and piqa are in Core by the same names
    assert summary["stable"] == pytest.approx(0.8 - (0.25 + 0.5 + 0.5 + 0.25 + 0.5) / 5)
    assert f"Core {100 * summary['core']:.2f} 22 0" in " ".join(printed.split())
    assert "Extended n/a 53 31" in " ".join(printed.split()) and "Extended lacks mmlu_zeroshot" in printed


def test_other_tasks_need_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["score", "pope", "--answers", str(tmp_path / "a.json")]) == 2
    assert "--references: wanted the benchmark's own files" in capsys.readouterr().err
