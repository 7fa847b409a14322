"""What a user types, and what comes back: exit codes, one clear message, the nearest names, nothing half-written."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from firstsight.cli import command
from firstsight.errors import QuantityError, UnknownName
from firstsight.units import Share, Tokens
from firstsight.workspace import machine
from firstsight.workspace.study_functions import StudyParameter, find_study_function, shipped_studies

MINE = '''
"""A study of one arm."""
from dataclasses import replace
from typing import Literal

from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.study import Study, over_seeds
from firstsight.units import Share, Tokens


def late(scale: Scale, at: Share = Share(9, 10), *, budget: Tokens = Tokens(4096), again: bool = False,
         order: Literal["first", "last"] = "first", label: str = "late", copies: int = 1) -> Study:
    arm = replace(branch_at(scale, at), name=f"{label}-{order}-{budget}-{again}-{copies}")
    return Study(name="late", scale=scale.name, question="Is late enough?", arms=over_seeds([arm], range(scale.seeds)))


def _not_this(scale: Scale) -> Study:
    raise AssertionError
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def say(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, its lines joined as a reader joins them."""
    code = command([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), " ".join(err.split())


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The message of a command that must be refused with exit code 2, in one message and without a traceback."""
    code, _, err = say(capsys, *words)
    assert code == 2, err
    assert err.startswith("error: ") and err.count("error: ") == 1 and "Traceback" not in err
    return err


def test_plan_tells_the_papers_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """A branch asks 28,795,904,000 tokens, 109,848 steps of 256 x 1,024; a fifth of the trunk 863,877,120,000."""
    code, out, _ = say(capsys, "plan", "when", "--scale", "1b", "--device", "a100")
    assert code == 0
    for number in ("28,795,904,000", "109,848", "863,877,120,000"):
        assert number in out
    assert "start-080.s1" in out and "shared by 6 arms" in out and "one a100" in out


def test_plan_tells_the_rates_at_the_branches(capsys: pytest.CaptureFixture[str]) -> None:
    """Within 2 % of the published rates, whose checkpoints fell a little off the nominal shares. Source: paper 2."""
    _, out, _ = say(capsys, "plan", "when", "--scale", "1b")
    assert "trunk: 4,319,385,600,000 tokens" in out
    for percent, published in ((20, 9.080e-3), (40, 6.500e-3), (60, 3.447e-3), (80, 9.789e-4)):
        found = re.search(rf"start-0{percent} [\d,]+ \({percent} %\) Continue (\S+) to 3e-05", out)
        assert found is not None and float(found[1]) == pytest.approx(published, rel=0.02)
    assert len(re.findall(r"Rewarm 0 to 0.003 to 3e-05 28,795,904,000 109,848 256 x 1,024", out)) == 2


def test_seeds_make_arms(capsys: pytest.CaptureFixture[str]) -> None:
    _, one, _ = say(capsys, "plan", "when", "--scale", "smoke", "--seeds", "1")
    _, three, _ = say(capsys, "plan", "when", "--scale", "smoke", "--seeds", "3")
    assert "7 arms" in one and "21 arms" in three and "start-100.s3" in three


def test_explain_names_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = say(capsys, "explain", "start-020", "start-080", "--scale", "1b")
    assert code == 0
    assert "start: 1/5 | 4/5" in out and "schedule.branch_tokens: 863877726208 | 3455508807680" in out
    assert "optim" not in out and "seed" not in out


def test_explain_of_one_thing_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "are the same" in say(capsys, "explain", "start-020", "start-020.s1", "--scale", "smoke")[1]


def test_a_studys_parameters_are_options(capsys: pytest.CaptureFixture[str], mine: Path) -> None:
    words = ["--at", "40%", "--budget", "1.5k", "--again", "--order", "last", "--label", "x", "--copies", "3"]
    code, out, err = say(capsys, "plan", mine, "--scale", "smoke", *words)
    assert code == 0, err
    assert "x-last-1500-True-3.s0" in out and "pretrain-000-040" in out


def test_a_studys_defaults_are_its_own(capsys: pytest.CaptureFixture[str], mine: Path) -> None:
    code, out, _ = say(capsys, "plan", f"{mine}:late", "--scale", "smoke", "--seeds", "1")
    assert code == 0 and "late-first-4096-False-1.s0" in out and "pretrain-000-090" in out


def test_help_shows_a_studys_options(capsys: pytest.CaptureFixture[str], mine: Path) -> None:
    code, out, _ = say(capsys, "run", mine, "--help")
    assert code == 0 and "--budget" in out and "--copies" in out and "--executor" in out


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["run", "--help"], ["ask", "--help"]])
def test_help_is_not_an_error(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, _ = say(capsys, *words)
    assert code == 0 and "firstsight" in out


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["plan", "wen"], "Nearest: when"),
        (["plan", "when", "--scale", "2b"], "1b"),
        (["run", "when", "--scale", "smok"], "Nearest: smoke"),
        (["plan", "when", "--seds", "2"], "--seeds"),
        (["pln", "when"], "plan"),
        (["plan", "when", "--device", "h10"], "h100"),
        (["run", "when", "--executor", "locale"], "Nearest: local"),
        (["explain", "start-02", "start-080"], "start-020"),
        (["explain", "start-020", "start-080", "--study", "whn"], "Nearest: when"),
        (["report", "whenn"], "Nearest: when"),
        (["plan"], "Missing argument"),
    ],
)
def test_unknown_names_are_met_with_the_nearest(
    capsys: pytest.CaptureFixture[str], words: list[str], nearest: str
) -> None:
    assert nearest in refused(capsys, *words)


@pytest.mark.parametrize("share", ["1.5", "-1", "130%", "a tenth", "1/0"])
def test_shares_lie_between_nothing_and_all(capsys: pytest.CaptureFixture[str], mine: Path, share: str) -> None:
    assert "--at" in refused(capsys, "plan", mine, "--scale", "smoke", f"--at={share}")


@pytest.mark.parametrize("budget", ["-5", "few", "1.5", "1e9"])
def test_budgets_are_whole_tokens(capsys: pytest.CaptureFixture[str], mine: Path, budget: str) -> None:
    assert "--budget" in refused(capsys, "plan", mine, "--scale", "smoke", f"--budget={budget}")


def test_a_budget_of_no_step_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    text = MINE.replace(
        "arm = replace(branch_at(scale, at),",
        "base = branch_at(scale, at)\n    mid = replace(base.stages[0], tokens=Tokens(0))\n"
        "    arm = replace(base, stages=(mid, *base.stages[1:]),",
    )
    path.write_text(text)
    assert "at least one step" in refused(capsys, "plan", path, "--scale", "smoke")


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--seeds", "two"], ["--seeds"]])
def test_seeds_are_counted(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert "--seeds" in refused(capsys, "plan", "when", *words)


def test_no_jobs_is_no_number_of_jobs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, "run", "when", "--scale", "smoke", "--jobs", "0", "--out", tmp_path / "runs")
    assert "--jobs" in message


@pytest.mark.parametrize("utilisation", ["0", "1.2"])
def test_utilisation_is_a_part(capsys: pytest.CaptureFixture[str], utilisation: str) -> None:
    assert "utilisation" in refused(capsys, "plan", "when", "--utilisation", utilisation)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def late(scale: Scale) -> Study: ...", "NameError"),
        ("def late(:", "SyntaxError"),
        ("import nothing_of_that_name", "No module named"),
        ("x = 1", "-> Study"),
        (MINE + MINE.replace("def late", "def later"), "Name one"),
        (MINE.replace("scale: Scale, at", "at"), "scale: Scale"),
        (MINE.replace("copies: int", "copies: float"), "cannot become an option"),
        (MINE.replace("copies: int", "out: int"), "Rename the parameter"),
        (MINE.replace("    return Study(", "    return repr("), "TypeError"),
    ],
)
def test_a_study_file_that_is_none(capsys: pytest.CaptureFixture[str], mine: Path, text: str, told: str) -> None:
    mine.write_text(text)
    assert told in refused(capsys, "plan", mine, "--scale", "smoke")


def test_an_optional_package_that_is_missing(
    capsys: pytest.CaptureFixture[str], mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(machine.EXTRAS, "nothing_of_that_name", ("eval", "text tasks"))
    mine.write_text("import nothing_of_that_name.below")
    assert "pip install 'firstsight[eval]'" in refused(capsys, "plan", mine, "--scale", "smoke")


def test_a_study_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, mine: Path) -> None:
    assert "there is no such study file" in refused(capsys, "plan", tmp_path / "other.py")
    assert "late" in refused(capsys, "plan", f"{mine}:lat")


def test_an_output_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.write_text("not a folder")
    assert "--out" in refused(capsys, "run", "when", "--scale", "smoke", "--out", file)
    assert "--out" in refused(capsys, "run", "when", "--scale", "smoke", "--out", file / "below")
    assert file.read_text() == "not a folder"


def test_an_output_folder_of_someone_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "not a firstsight store" in refused(capsys, "run", "when", "--scale", "smoke", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_output_folder_of_another_version(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text(json.dumps({"firstsight": "store", "format": 999}))
    assert "999" in refused(capsys, "run", "when", "--scale", "smoke", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_data_that_only_its_owner_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, "run", "when", "--scale", "1b", "--out", tmp_path)
    assert "datacomp-dr-1b" in message and "Nothing was run" in message


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on(tmp_path: Path, by: signal.Signals) -> None:
    words = ["run", "when", "--scale", "smoke", "--out", str(tmp_path / "runs"), "--jobs", "1"]
    run = subprocess.Popen(
        [sys.executable, "-m", "firstsight", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    logs, until = tmp_path / "runs" / "logs", time.monotonic() + 60
    while not any(logs.glob("*.log")) and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(by)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130, told
    assert told == "error: stopped. The same command resumes from what is done.\n"
    assert (tmp_path / "runs" / "store.json").is_file()


def test_a_report_of_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nothing is stored" in refused(capsys, "report", "when", "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ["--scale", "smoke", "--out", tmp_path / "none"]
    assert "firstsight run when" in refused(capsys, "evaluate", "start-080", *where)
    assert "firstsight run when" in refused(capsys, "ask", "start-080", tmp_path / "a.png", "what ?", *where)
    assert "start-080" in refused(capsys, "ask", "start-08", tmp_path / "a.png", "what ?", *where)
    assert not (tmp_path / "none").exists()


def test_doctor_knows_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = say(capsys, "doctor", "--out", tmp_path)
    assert code == 0
    for thing in ("Python", "torch", "compiler", "cores", "memory", "device", "disk", "[eval]"):
        assert thing in out


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = say(capsys, "plan", "wen", "--debug")
    assert code == 2 and "Traceback" in err and "find_study_function" in err


def test_parameters_read_exactly() -> None:
    share, tokens = (StudyParameter(name="x_y", kind=kind, default=None) for kind in (Share, Tokens))
    assert share.option == "--x-y" and share.parse("12.5%") == Share(1, 8) and share.parse("1/3") == Share(1, 3)
    assert tokens.parse("28B") == 28_000_000_000
    with pytest.raises(QuantityError, match="--x-y"):
        tokens.parse("lots")


def test_every_shipped_study_is_found() -> None:
    assert "when" in shipped_studies()
    assert all(find_study_function(name).name == name for name in shipped_studies())
    with pytest.raises(UnknownName):
        find_study_function("never")
