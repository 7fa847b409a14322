"""`firstsight answers`: the question that it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workspace.answer_store import answers, out, printed

__all__ = ["out"]


def test_one_question_is_printed_and_no_page_written(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers("start-000.s1", "start-080.s1", "--question", "vqav2/1", "--out", str(out)) == 0
    assert "truth: cat start-000.s1: cat [score 1] start-080.s1: dog [score 0]" in printed(capsys)
    assert not (out / "answers").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start-020.s1"], "Run it first: firstsight run when --scale smoke"),
        (["start-080", "--task", "vqav3"], "Nearest: vqav2"),
        (["start-080", "--question", "99"], "wanted the id of a question"),
        (["start-080", "start-080"], "Got it twice"),
        (["start-080", "--rows", "0"], "at least 1"),
        (["start-080", "strat-000"], "Nearest: start-000"),
    ],
)
def test_a_wrong_request_is_refused(
    words: list[str], message: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answers(*words, "--out", str(out)) == 2
    assert message in printed(capsys)
    assert not (out / "answers").exists()


def test_no_folder_is_made_without_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers("start-080", "--out", str(tmp_path / "none")) == 2
    assert "Run it first" in printed(capsys)
    assert not (tmp_path / "none").exists()


def test_a_damaged_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "answers.jsonl").write_text("no answers\n")
    assert answers(str(tmp_path / "answers.jsonl"), "--out", str(tmp_path / "out")) == 2
    assert "answers.jsonl:1" in printed(capsys)
