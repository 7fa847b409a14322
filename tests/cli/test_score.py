"""`firstsight score` as it is typed: the table, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command_line import refused, run_command

WORDS = ("yes", "no", "yes", "no")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """References of POPE with four questions, and answers of which three are right."""
    references = tmp_path / "coco_pope_random.jsonl"
    rows = [
        {
            "question_id": n,
            "image": f"COCO_val2014_{n:012d}.jpg",
            "text": f"Is there a thing {n} in the image?",
            "label": word,
        }
        for n, word in enumerate(WORDS)
    ]
    references.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = tmp_path / "answers.jsonl"
    given = ("Yes.", "No, there is none.", "no", "no")
    lines = [
        {"question_id": n, "image": row["image"], "prompt": row["text"], "text": text}
        for n, (row, text) in enumerate(zip(rows, given, strict=True))
    ]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return references, answers


def test_scores_are_printed_and_written(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three of four: accuracy 75; one of two positives found without a false one: F1 2/3."""
    references, answers = files
    written = ("--json", tmp_path / "scores.json", "--rows", tmp_path / "rows.jsonl")
    code, out, err = run_command(capsys, "score", "pope", "--answers", answers, "--references", references, *written)
    assert code == 0, err
    assert "split accuracy precision recall F1 yes" in out and "random 75.00 100.00 50.00 66.67 25.00" in out
    assert "scores are percent" in out
    assert json.loads((tmp_path / "scores.json").read_text())
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4


def test_too_many_missing_answers_are_refused(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    references, answers = files
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:2]))
    words = ("score", "pope", "--answers", answers, "--references", references)
    assert "2 of 4 questions have no answer (50.0%); at most 5 % may lack one" in refused(capsys, *words)
    code, out, _ = run_command(capsys, *words, "--missing", "1/2")
    assert code == 0 and "2 questions have no answer, which counts as wrong" in out


def test_the_limits_of_the_site_file_apply(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    references, answers = files
    words = ("score", "pope", "--answers", answers, "--references", references)
    monkeypatch.setenv("FIRSTSIGHT_SITE", str(tmp_path / "site.toml"))
    (tmp_path / "site.toml").write_text('[limits]\nfile = "200 B"\n')
    message = refused(capsys, *words)
    assert ".jsonl: wanted a file of at most 200 B after unpacking" in message
    assert 'set file = "1 MB" under [limits] in the site file' in message
    (tmp_path / "site.toml").write_text('[limits]\nfile = "1 MB"\n')
    code, out, err = run_command(capsys, *words)
    assert code == 0 and "random 75.00" in out, err


def test_an_output_file_without_a_folder_is_refused_before_scoring(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references, answers = files
    target = tmp_path / "none" / "scores.json"
    words = ("score", "pope", "--answers", answers, "--references", references, "--json", target)
    assert f"there is no folder {tmp_path / 'none'}" in refused(capsys, *words)
