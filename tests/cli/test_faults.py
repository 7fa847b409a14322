"""Faults of users and disks: one message that says where and what to do, a documented exit code, and no traceback."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from firstsight.plan.store import Store
from tests.cli.command_line import refused, run_command
from tests.cli.processes import COMMAND, SOURCE, run_process

SMOKE = ("when", "--scale", "smoke", "--out", "runs")
ENVIRONMENT = {**os.environ, **SOURCE}
BYTES = b"\xff\xfe{\x00"
"""No UTF-8, no JSON, no TOML, no Python."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words", [("run", *SMOKE), ("report", *SMOKE), ("power", *SMOKE, "--effect", "2"), ("noise", *SMOKE)]
)
def test_a_store_of_other_bytes_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    Path("runs").mkdir()
    Path("runs/store.json").write_bytes(BYTES)
    assert "store.json does not belong to a firstsight store. Choose another folder" in refused(capsys, *words)


SITES: dict[str, tuple[Callable[[Path], object], str]] = {
    "bytes": (lambda path: path.write_bytes(BYTES), "wanted a site file in TOML. Got 'utf-8' codec can't decode"),
    "device": (lambda path: path.write_text("[machine]\ndevice='banana'"), "device: wanted cpu, cuda or cuda:N"),
    "folder": (lambda path: path.mkdir(), "below/site.toml: wanted a site file. Got Is a directory"),
    "absent": (lambda path: None, "below/site.toml: wanted a site file. Got No such file or directory"),
    "below a file": (lambda path: path.parent.write_text(""), "wanted a site file. Got Not a directory"),
    "loop": (lambda path: path.symlink_to("site.toml"), "wanted a site file. Got Too many levels of symbolic links"),
}


@pytest.mark.parametrize("command", [("plan", *SMOKE), ("run", *SMOKE), ("prepare", "x"), ("evaluate", "start-080")])
@pytest.mark.parametrize(("make", "message"), SITES.values(), ids=SITES)
def test_a_site_file_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    make: Callable[[Path], object],
    message: str,
) -> None:
    path = Path("below/site.toml")
    if "Not a directory" not in message:
        path.parent.mkdir()
    make(path)
    monkeypatch.setenv("FIRSTSIGHT_SITE", str(path.absolute()))
    assert message in refused(capsys, *command)


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    if not version("torch").endswith("+cpu"):
        pytest.skip("this torch may find a GPU")
    Path("site.toml").write_text('[machine]\ndevice = "cuda:1"')
    assert 'device = "cuda:1": wanted a torch with GPU support' in refused(capsys, "run", *SMOKE)
    assert not any(Path("runs/logs").iterdir())


def test_a_cache_that_cannot_be_written_names_the_line_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    Path("site.toml").write_text('[machine]\ncache = "file/cache"')
    message = refused(capsys, "run", *SMOKE)
    assert "file/cache" in message and "cache = " in message and "[machine]" in message


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="Linux's full device")
@pytest.mark.parametrize("words", [("plan", *SMOKE), ("--help",), ("doctor",)])
def test_output_that_cannot_be_written_is_one_message(words: tuple[str, ...], tmp_path: Path) -> None:
    with FULL.open("w") as full:
        process = subprocess.run(
            [*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, text=True, env=ENVIRONMENT
        )
    assert process.returncode == 1
    assert process.stderr.startswith("error: the output: No space left on device. ") and process.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("plan", *SMOKE), ("doctor",), ("--help",), ("run", "--help"), ("--version",)])
def test_a_reader_that_ends_first_ends_the_command_silently(words: tuple[str, ...], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=ENVIRONMENT
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    error = process.stderr.read().decode()
    assert (process.wait(), error) == (141, "")


def test_closed_streams_are_no_fault(tmp_path: Path) -> None:
    for closed in (">&-", ">&- 2>&- <&-"):
        line = f"{sys.executable} -m firstsight plan when --scale smoke {closed}"
        process = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, env=ENVIRONMENT)
        assert (process.returncode, process.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_text_is_printed_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": encoding}
    code, out, _ = run_process("run", "--help", cwd=tmp_path, environment=environment)
    assert code == 0 and b"Usage" in out
    code, _, err = run_process("plan", "\u753b\udcff", cwd=tmp_path, environment=environment)
    assert code == 2 and b"Traceback" not in err and rb"\u753b" in err


@pytest.mark.slow
def test_a_full_disk_fails_the_steps_and_says_what_to_free(tmp_path: Path) -> None:
    """Files of more than 40,000 bytes cannot be written, as on a full disk; then the same command ends the study."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    command = [*COMMAND, "run", *SMOKE, "--jobs", "1"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # noqa: E731
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit, env=ENVIRONMENT)
    assert process.returncode == 1 and "Traceback" not in process.stdout + process.stderr
    assert "failed: " in process.stdout and "File too large. Free disk space" in process.stdout
    assert (soft, hard) == resource.getrlimit(resource.RLIMIT_FSIZE)


@pytest.mark.parametrize("name", ["steps", "logs", "locks", "work", "provenance"])
def test_a_folder_of_the_store_that_is_a_file_is_one_message(capsys: pytest.CaptureFixture[str], name: str) -> None:
    root = Store(Path("runs")).root
    (root / name).rmdir()
    (root / name).write_text("")
    code, out, err = run_command(capsys, "run", *SMOKE, "--jobs", "1")
    assert code in (1, 2) and "Traceback" not in err + out and "runs" in err + out


@pytest.mark.parametrize("name", [".", "steps", "logs", "locks", "work", "provenance"])
def test_a_folder_without_permission_is_one_message(capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = Store(Path("runs")).root / name
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    try:
        code, out, err = run_command(capsys, "run", *SMOKE, "--jobs", "1")
    finally:
        folder.chmod(0o700)
    assert code in (1, 2) and "Traceback" not in err + out
    assert "ermission" in err + out or "cannot be written" in err
