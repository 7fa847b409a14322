"""The parameters of a study as options of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command_line import STUDY_FILE, refused, run_command


def test_the_parameters_of_a_study_are_options(capsys: pytest.CaptureFixture[str], study_file: Path) -> None:
    words = ["--at", "40%", "--length", "1.5k", "--again", "--order", "last", "--label", "x", "--copies", "3"]
    code, out, err = run_command(capsys, "plan", study_file, "--scale", "smoke", *words)
    assert code == 0, err
    assert "x-last-1500-True-3.s0" in out and "pretrain-020-040" in out


def test_the_defaults_of_a_study_are_those_of_its_function(
    capsys: pytest.CaptureFixture[str], study_file: Path
) -> None:
    code, out, _ = run_command(capsys, "plan", f"{study_file}:late", "--scale", "smoke", "--seeds", "1")
    assert code == 0 and "late-first-4096-False-1.s0" in out and "pretrain-080-090" in out


def test_help_lists_the_options_of_a_study(capsys: pytest.CaptureFixture[str], study_file: Path) -> None:
    code, out, _ = run_command(capsys, "run", study_file, "--help")
    assert code == 0 and "--length" in out and "--copies" in out and "--executor" in out


@pytest.mark.parametrize("share", ["1.5", "-1", "130%", "a tenth", "1/0"])
def test_shares_are_between_0_and_1(capsys: pytest.CaptureFixture[str], study_file: Path, share: str) -> None:
    assert "--at" in refused(capsys, "plan", study_file, "--scale", "smoke", f"--at={share}")


@pytest.mark.parametrize("length", ["-5", "few", "1.5", "1e9"])
def test_budgets_are_whole_tokens(capsys: pytest.CaptureFixture[str], study_file: Path, length: str) -> None:
    assert "--length" in refused(capsys, "plan", study_file, "--scale", "smoke", f"--length={length}")


def test_a_budget_without_a_step_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    text = STUDY_FILE.replace(
        "arm = replace(branch_at(scale, at),",
        "base = branch_at(scale, at)\n    mid = replace(base.stages[0], tokens=Tokens(0))\n"
        "    arm = replace(base, stages=(mid, *base.stages[1:]),",
    )
    path.write_text(text)
    assert "Midtrain.tokens: wanted at least 1. Got 0." in refused(capsys, "plan", path, "--scale", "smoke")


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--seeds", "two"], ["--seeds"]])
def test_seeds_are_a_positive_number(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert "--seeds" in refused(capsys, "plan", "when", *words)


def test_averages_and_last_checkpoints_are_options_of_every_study(
    capsys: pytest.CaptureFixture[str], study_file: Path
) -> None:
    code, plain, _ = run_command(capsys, "plan", study_file, "--scale", "smoke")
    assert code == 0
    code, out, _ = run_command(capsys, "plan", study_file, "--scale", "smoke", "--average", "4", "--last", "2")
    assert code == 0
    changed = [plain_line for plain_line in plain.splitlines() if plain_line not in out.splitlines()]
    assert any("finetune" in line for line in changed) and not any(
        "pretrain" in line for line in changed if "→" not in line
    )


@pytest.mark.parametrize("words", [["--average", "0"], ["--average", "-2"], ["--last", "1"], ["--last", "-1"]])
def test_averages_of_no_checkpoint_are_refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert words[0] in refused(capsys, "plan", "when", "--scale", "smoke", *words)


def test_more_last_checkpoints_than_the_stage_has_steps_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "plan", "when", "--scale", "smoke", "--average", "21")
    assert "--average: wanted at most 20 checkpoints" in message
