"""The commands plan, run, report, explain and power, as far as they need no run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.command_line import refused, run_command


def test_plan_prints_the_numbers_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    """A branch asks 28,795,904,000 tokens, 109,848 steps of 256 x 1,024; a fifth of the trunk 863,877,120,000."""
    code, out, _ = run_command(capsys, "plan", "when", "--scale", "1b", "--device", "a100")
    assert code == 0
    for number in ("28,795,904,000", "109,848", "863,877,120,000"):
        assert number in out
    assert "start-080.s1" in out and "shared by 6 arms" in out and "one a100" in out


def test_plan_prints_the_learning_rate_of_each_branch(capsys: pytest.CaptureFixture[str]) -> None:
    """Within 2 % of the published rates, whose checkpoints fell a little off the nominal shares. Source: paper 2."""
    _, out, _ = run_command(capsys, "plan", "when", "--scale", "1b")
    assert "trunk: 4,319,385,600,000 tokens" in out
    for percent, published in ((20, 9.080e-3), (40, 6.500e-3), (60, 3.447e-3), (80, 9.789e-4)):
        match = re.search(rf"start-0{percent} midtrain [\d,]+ \({percent} %\) 10 % Continue (\S+) to 3e-05", out)
        assert match is not None and float(match[1]) == pytest.approx(published, rel=0.02)
    assert (
        len(re.findall(r"Rewarm \(4.552 % warm-up\) 0 to 0.003 to 3e-05 28,795,904,000 109,848 256 x 1,024", out)) == 2
    )


def test_plan_draws_the_learning_rates_without_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("plan", "schedules", "--scale", "1b", "--out", tmp_path / "none", "--figure")
    code, out, _ = run_command(capsys, *options, tmp_path / "rates.svg")
    assert code == 0 and out.endswith(f"learning rates: {tmp_path / 'rates.svg'}")
    assert "published" in (tmp_path / "rates.svg").read_text() and not (tmp_path / "none").exists()
    assert "ends in .svg or .png" in refused(capsys, *options, tmp_path / "rates.pdf")


@pytest.mark.parametrize(
    "study", ["when", "when-controls", "schedules", "captions", "encoders", "frozen", "ladder", "scale"]
)
def test_every_shipped_study_has_the_option_horizon(capsys: pytest.CaptureFixture[str], study: str) -> None:
    """A branch at 80 % of the smoke trunk lacks 8 of its 40 steps, which the full horizon adds to its 20."""
    for horizon, length in (("branch", "20,480 20"), ("full", "28,672 28")):
        code, out, _ = run_command(capsys, "plan", study, "--scale", "smoke", "--horizon", horizon)
        assert code == 0 and f"horizon {horizon}: " in out
        assert re.search(rf"32,768 \(80 %\) 80 % Continue \S+ to 3e-05 {length} 16 x 64", out)
        assert "finetune after midtrain 87.5 % Rewarm (3 % warm-up) 0 to 0.004 to 0 20,480 20 16 x 64" in out
    assert "branch" in refused(capsys, "plan", study, "--scale", "smoke", "--horizon", "long")


def test_plan_prints_the_cost_of_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    """The hours of the sizes are the rows of the table; the sum of a size grows with its parameters and budget."""
    _, out, _ = run_command(capsys, "plan", "ladder", "--scale", "1b")
    sizes = {size: float(hours.replace(",", "")) for size, hours in re.findall(r"decoder (\S+): (\S+) h100 hours", out)}
    assert list(sizes) == ["78.9M", "154M", "412M", "1.44B"]
    assert list(sizes.values()) == sorted(sizes.values())
    match = re.search(r" total [\d,]+ \S+ [\d.]+ TB ([\d,]+)", out)
    assert match is not None
    assert sum(sizes.values()) == pytest.approx(float(match[1].replace(",", "")), rel=1e-3)
    _, cpu, _ = run_command(capsys, "plan", "ladder", "--scale", "cpu")
    assert "Steps of several sizes: 0.00" in cpu and "without the text tower" in cpu


def test_each_seed_adds_every_arm(capsys: pytest.CaptureFixture[str]) -> None:
    _, single, _ = run_command(capsys, "plan", "when", "--scale", "smoke", "--seeds", "1")
    _, three, _ = run_command(capsys, "plan", "when", "--scale", "smoke", "--seeds", "3")
    assert "7 arms" in single and "21 arms" in three and "start-100.s3" in three


def test_explain_prints_the_fields_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_command(capsys, "explain", "start-020", "start-080", "--scale", "1b")
    assert code == 0
    assert "start: 1/5 | 4/5" in out and "schedule.start.at: 863877726208 | 3455508807680" in out
    assert "optim" not in out and "seed" not in out


def test_explain_of_equal_arms_finds_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert "are the same" in run_command(capsys, "explain", "start-020", "start-020.s1", "--scale", "smoke")[1]


def test_zero_jobs_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, "run", "when", "--scale", "smoke", "--jobs", "0", "--out", tmp_path / "runs")
    assert "--jobs" in message


@pytest.mark.parametrize("utilisation", ["0", "1.2"])
def test_utilisation_is_a_share(capsys: pytest.CaptureFixture[str], utilisation: str) -> None:
    assert "utilisation" in refused(capsys, "plan", "when", "--utilisation", utilisation)


def test_a_study_of_data_without_a_path_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, "run", "when", "--scale", "1b", "--out", tmp_path)
    assert "datacomp-dr-1b" in message and "Nothing was run" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "when", "--until-decided"], "--until-decided --budget 8h"),
        (["run", "when", "--budget", "8h"], "--until-decided --budget 8h"),
        (["run", "when", "--until-decided", "--budget", "soon"], "--budget: wanted a time above 0 such as 2h"),
        (["run", "when", "--until-decided", "--budget", "8h"], "nothing is stored"),
        (["next", "when", "--budget", "0h"], "--budget: wanted a time above 0 such as 2h"),
        (["next", "when"], "nothing is stored"),
        (["next", "when", "--run"], "nothing is stored"),
    ],
)
def test_deciding_needs_a_stored_study_and_a_time(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    assert message in refused(capsys, *words, "--scale", "smoke", "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_report_without_results_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nothing is stored" in refused(capsys, "report", "when", "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_plan_and_run_refuse_a_study_that_could_not_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An encoder that is in the checkpoint of mid-training but not in that of fine-tuning; `refused` wants code 2."""
    file = tmp_path / "mixed.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from firstsight.recipe.scales import Scale, branch_at\n"
        "from firstsight.recipe.study import Study\n"
        "from firstsight.units import Share\n"
        "def mixed(scale: Scale) -> Study:\n"
        "    arm = branch_at(scale, Share(4, 5))\n"
        "    first = replace(arm.stages[0], model=replace(arm.stages[0].model, encoder='included'))\n"
        "    arms = (replace(arm, stages=(first, arm.stages[1])),)\n"
        "    return Study(name='mixed', scale=scale.name, question='?', arms=arms)\n"
    )
    for command in ("plan", "run"):
        message = refused(capsys, command, str(file), "--scale", "smoke", "--out", str(tmp_path / "out"))
        assert "start-080.s0: finetune.model.encoder: wanted" in message and "Got 'external'. Write" in message
    assert not (tmp_path / "out" / "steps").exists()
