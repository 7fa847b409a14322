"""The real `lm_eval` command asks a checkpoint of firstsight about an offline copy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from firstsight.evaluate.eleuther import examine
from firstsight.evaluate.eleuther.__main__ import main
from tests.evaluate.eleuther.conftest import asked
from tests.evaluate.eleuther.test_judging import OWN, put, silent


@pytest.mark.slow
def test_the_lm_eval_command_gives_our_accuracy(folder: Callable[[str], Path], tmp_path: Path) -> None:
    put(tmp_path / "benchmarks", "arc_easy", OWN["arc_easy"])
    prepare = [
        sys.executable,
        "-m",
        "firstsight.evaluate.eleuther",
        str(tmp_path / "benchmarks"),
        str(tmp_path / "made"),
    ]
    made = subprocess.run(prepare, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.split()
    assert made == [str(tmp_path / "made" / "arc_easy.yaml")]
    command = [str(Path(sys.executable).with_name("lm_eval")), "--model", "firstsight", "--device", "cpu"]
    command += ["--model_args", f"path={folder('openlm')}", "--tasks", *made, "--output_path", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=110)
    [told] = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(told.read_text())["results"]["arc_easy"]
    [ours] = examine(asked(folder("openlm")), ["arc_easy"], folder=tmp_path / "benchmarks", tell=silent, style="paper")
    assert {measure: found[f"{measure},none"] for measure in ("acc", "acc_norm")} == dict(ours.measures)


@pytest.mark.slow
def test_with_our_model_known_any_task_of_lm_evals_can_be_asked(folder: Callable[[str], Path], tmp_path: Path) -> None:
    rows = [{"query": "two and two make", "choices": ["four", "five"], "gold": 0}] * 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\noutput_type: multiple_choice\ntest_split: train\n"
        f"dataset_kwargs: {{data_files: {tmp_path / 'rows.jsonl'}}}\n"
        "doc_to_text: query\ndoc_to_choice: choices\ndoc_to_target: gold\nmetric_list: [{metric: acc}]\n"
    )
    command = [sys.executable, "-m", "firstsight.evaluate.eleuther.run", "--model", "firstsight", "--device", "cpu"]
    command += ["--model_args", f"path={folder('openlm')}", "--tasks", "sums", "--include_path", str(tmp_path)]
    subprocess.run(
        [*command, "--output_path", str(tmp_path / "out")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=110,
    )
    [told] = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(told.read_text())["results"]["sums"]["acc,none"] in (0.0, 1.0)


def test_a_folder_without_tasks_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["eleuther", str(tmp_path), str(tmp_path / "made")])
    assert main() == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"{tmp_path}: wanted folders named after tasks. Got none of agieval_sat_en, ")
    assert told.err.endswith("Add one.\n")
