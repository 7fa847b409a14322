"""The commands ask, import, export and data verify: what they print and refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from firstsight.data import verify_ledger
from firstsight.data.verify_ledger import LedgerCheck, SourceCoverage
from tests.cli.command_line import refused, run_command

COVERAGE = SourceCoverage(name="text", rows=1500, distinct_rows=1000, passes=1.5, repeated_rows=0, skipped_rows=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "nowhere", "--out", "x", "--to", "hg"], "no form is called 'hg'. Nearest: hf"),
        (["export", "nowhere", "--out", "x", "--dtype", "float16"], "no dtype is called 'float16'. Nearest: "),
        (["export", "nowhere", "--out", "x"], "nowhere"),
        (["import", "no/such/folder", "--out", "x"], "no/such/folder"),
        (["import", "somewhere", "--out", "x", "--seen", "many"], "wanted a number of tokens"),
        (["data", "verify", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_request_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_verified_ledgers_are_printed_as_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verify_ledger, "verify_ledgers", lambda ledgers: LedgerCheck(coverage=(COVERAGE,), problems=()))
    code, out, _ = run_command(capsys, "data", "verify", "a", "b")
    assert code == 0 and "text 1,500 1,000 1.500 0 0 proved: " in out


def test_an_exported_checkpoint_is_described(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_command(capsys, "export", checkpoint("lm"), "--out", tmp_path / "out")
    assert code == 0, err
    assert out.startswith(f"{tmp_path / 'out'}: ") and "parameters, float32" in out
    assert (tmp_path / "out" / "config.json").is_file()


def test_ask_prints_one_answer(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    words = ("--out", tmp_path / "runs", "--scale", "smoke")
    code, _, err = run_command(capsys, "ask", checkpoint("patches"), tmp_path / "red.png", "what is it ?", *words)
    assert code == 0, err
    assert not (tmp_path / "runs").exists()
    message = refused(capsys, "ask", checkpoint("patches"), tmp_path / "blue.png", "what is it ?", *words)
    assert "blue.png: wanted an image file" in message
