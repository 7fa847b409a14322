"""The `lm_eval` command evaluates a firstsight checkpoint on an offline copy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from firstsight.evaluate.lm_eval import evaluate_lm_eval_tasks, tasks
from firstsight.evaluate.lm_eval.__main__ import main
from tests.evaluate.lm_eval.conftest import native_model
from tests.evaluate.lm_eval.small_copies import RECORDS, ignore_progress, write_task


@pytest.mark.slow
def test_the_lm_eval_command_gives_our_accuracy(checkpoint_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_task(tmp_path / "benchmarks", "arc_easy", RECORDS["arc_easy"])
    write_command = [
        sys.executable,
        "-m",
        "firstsight.evaluate.lm_eval",
        str(tmp_path / "benchmarks"),
        str(tmp_path / "made"),
    ]
    paths = subprocess.run(write_command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.split()
    assert paths == [str(tmp_path / "made" / "arc_easy.yaml")]
    command = [str(Path(sys.executable).with_name("lm_eval")), "--model", "firstsight", "--device", "cpu"]
    command += [
        "--model_args",
        f"path={checkpoint_folder('openlm')}",
        "--tasks",
        *paths,
        "--output_path",
        str(tmp_path / "out"),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=110)
    [captured] = (tmp_path / "out").rglob("results_*.json")
    metrics = json.loads(captured.read_text())["results"]["arc_easy"]
    [result] = evaluate_lm_eval_tasks(
        native_model(checkpoint_folder("openlm")),
        ["arc_easy"],
        folder=tmp_path / "benchmarks",
        on_progress=ignore_progress,
        style="paper",
    )
    assert {measure: metrics[f"{measure},none"] for measure in ("acc", "acc_norm")} == dict(result.metrics)


@pytest.mark.slow
def test_the_command_runs_any_task_of_lm_eval(checkpoint_folder: Callable[[str], Path], tmp_path: Path) -> None:
    rows = [{"query": "two and two make", "choices": ["four", "five"], "gold": 0}] * 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\noutput_type: multiple_choice\ntest_split: train\n"
        f"dataset_kwargs: {{data_files: {tmp_path / 'rows.jsonl'}}}\n"
        "doc_to_text: query\ndoc_to_choice: choices\ndoc_to_target: gold\nmetric_list: [{metric: acc}]\n"
    )
    command = [sys.executable, "-m", "firstsight.evaluate.lm_eval.command", "--model", "firstsight", "--device", "cpu"]
    command += [
        "--model_args",
        f"path={checkpoint_folder('openlm')}",
        "--tasks",
        "sums",
        "--include_path",
        str(tmp_path),
    ]
    subprocess.run(
        [*command, "--output_path", str(tmp_path / "out")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=110,
    )
    [captured] = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(captured.read_text())["results"]["sums"]["acc,none"] in (0.0, 1.0)


def run_main(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> int:
    """The exit code of writing definitions for the copies in FOLDER/benchmarks."""
    monkeypatch.setattr(sys, "argv", ["lm_eval", str(folder / "benchmarks"), str(folder / "made"), *names])
    return main()


def test_only_the_paths_of_definitions_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_task(tmp_path / "benchmarks", "boolq", RECORDS["boolq"])
    assert run_main(tmp_path, monkeypatch, "boolq") == 0
    assert capfd.readouterr() == (f"{tmp_path / 'made' / 'boolq.yaml'}\n", "")
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("bolq", "no text task of lm-eval is called 'bolq'. Nearest: boolq."),
        ("piqa", "wanted a copy of the task's data set"),
        ("copa", "copa.jsonl: wanted JSON"),
    ],
)
def test_errors_are_one_line(
    name: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path / "benchmarks", "copa", [])
    assert run_main(tmp_path, monkeypatch, name) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert match in captured.err
    assert captured.err.count("\n") == 1


def test_without_lm_eval_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path / "benchmarks", "boolq", RECORDS["boolq"])
    monkeypatch.setattr(tasks, "find_spec", lambda name: None)
    assert run_main(tmp_path, monkeypatch) == 2
    assert "pip install 'firstsight[eval]'" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_a_folder_without_tasks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lm_eval", str(tmp_path), str(tmp_path / "made")])
    assert main() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{tmp_path}: wanted folders named after tasks. Got none of agieval_sat_en, ")
    assert captured.err.endswith("Add one of them.\n")
