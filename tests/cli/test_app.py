"""Exit codes and messages of the command: one clear message, the nearest names, no half-written folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from firstsight.cli import app
from tests.cli.command_line import refused, run_command
from tests.cli.processes import run_in_terminal

STOPPED = "error: stopped. What was finished or saved is kept; the same command continues from there.\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["run", "--help"], ["ask", "--help"]])
def test_help_is_not_an_error(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, _ = run_command(capsys, *words)
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
        (["plan", "when", "--seeds", "2.5"], "--seeds: wanted a whole number. Got '2.5'."),
        (["plan", "when", "--seeds=x"], "--seeds: wanted a whole number. Got 'x'."),
        (["power", "when", "--effect", "two"], "--effect: wanted a number. Got 'two'."),
        (["plan", "when", "--scale", "smoke", "--average", "999"], "--average: wanted at most 20 checkpoints"),
        (["plan", "when", "--scale", "smoke", "--last", "21"], "--last: wanted at most 20 checkpoints"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    capsys: pytest.CaptureFixture[str], words: list[str], nearest: str
) -> None:
    assert nearest in refused(capsys, *words)


def test_an_output_folder_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.write_text("not a folder")
    for command in ("run", "plan", "report", "next", "noise"):
        assert "wanted a folder of results. Got a file." in refused(
            capsys, command, "when", "--scale", "smoke", "--out", file
        )
    assert "--out" in refused(capsys, "run", "when", "--scale", "smoke", "--out", file / "below")
    assert file.read_text() == "not a folder"


def test_an_output_folder_with_other_files_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "not a firstsight store" in refused(capsys, "run", "when", "--scale", "smoke", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("version", "message"), [(1, "cannot be continued"), (999, "Update firstsight")])
def test_an_output_folder_of_another_version_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, version: int, message: str
) -> None:
    (tmp_path / "store.json").write_text(json.dumps({"firstsight": "store", "format": version}))
    for words in (["run", "when"], ["report", "when"], ["evaluate", "start-080"], ["answers", "start-080"]):
        text = refused(capsys, *words, "--scale", "smoke", "--out", tmp_path)
        assert f"has format {version}" in text and message in text and "Choose another folder with --out" in text
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_prints_how_to_resume(tmp_path: Path, by: signal.Signals) -> None:
    words = ["run", "when", "--scale", "smoke", "--out", str(tmp_path / "runs"), "--jobs", "1"]
    run = subprocess.Popen(
        [sys.executable, "-m", "firstsight", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    logs, until = tmp_path / "runs" / "logs", time.monotonic() + 60
    while not any(logs.glob("*.log")) and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(by)
    run.send_signal(by)  # as `timeout` and `uv run` do
    _, expected = run.communicate(timeout=60)
    assert run.returncode == 130, expected
    assert expected == STOPPED
    assert (tmp_path / "runs" / "store.json").is_file()


def test_a_command_that_is_stopped_while_it_starts_prints_no_traceback() -> None:
    words = [sys.executable, "-v", "-m", "firstsight", "plan", "when"]  # -v: a line for each import
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("import 'firstsight.cli.terminal'"):  # app.py is being imported
            process.send_signal(signal.SIGINT)
            break
    assert "Traceback" not in process.stderr.read()
    assert process.wait() in (130, -signal.SIGINT)


def test_ctrl_c_in_a_terminal_prints_how_to_resume(tmp_path: Path) -> None:
    words = ("run", "when", "--scale", "smoke", "--out", "runs", "--jobs", "1")
    code, output = run_in_terminal(*words, cwd=tmp_path, interrupt_at=b"vocabulary for")
    assert code == 130 and b"Traceback" not in output
    assert output.endswith(STOPPED.encode())
    assert [path.name.partition("-")[0] for path in (tmp_path / "runs" / "steps").iterdir()] == ["texts"]


@pytest.mark.parametrize(
    ("words", "is_resumed"),
    [
        ("run when", True),
        ("evaluate start-080.s1", True),
        ("next when --run", True),
        ("doctor --store runs --repair", True),
        ("next when", False),
        ("plan when", False),
        ("noise when", False),
        ("report when", False),
    ],
)
def test_only_commands_that_continue_say_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, is_resumed: bool
) -> None:
    def stop(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "build", stop)
    code, _, message = run_command(capsys, *words.split())
    assert code == 130 and message.startswith("error: stopped. ")
    assert (message == STOPPED.strip()) == is_resumed


def test_a_checkpoint_that_is_not_stored_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ["--scale", "smoke", "--out", tmp_path / "none"]
    assert "firstsight run when" in refused(capsys, "evaluate", "start-080", *where)
    assert "firstsight run when" in refused(capsys, "ask", "start-080", tmp_path / "a.png", "what ?", *where)
    assert "start-080" in refused(capsys, "ask", "start-08", tmp_path / "a.png", "what ?", *where)
    assert not (tmp_path / "none").exists()


def test_doctor_lists_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run_command(capsys, "doctor", "--out", tmp_path)
    assert code == 0
    for thing in ("Python", "torch", "compiler", "cores", "memory", "device", "disk", "[eval]"):
        assert thing in out


def test_debug_prints_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_command(capsys, "plan", "wen", "--debug")
    assert code == 2 and "Traceback" in err and "find_study_function" in err
