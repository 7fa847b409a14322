"""`firstsight prepare`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstsight.cli.app import command
from firstsight.data.index import Index
from firstsight.workspace.workspace import Workspace
from tests.data.conftest import Workshop

ROWS = 40


@pytest.fixture
def at(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """A workshop with a site file that knows `words` and `mine`."""
    workshop.texts([{"text": "w1 w2" if number else ""} for number in range(ROWS)])
    lines = f'[sources.words]\npath = "{workshop.words()}"\n[sources.mine]\npath = "{workshop.root / "texts"}"\n'
    (workshop.root / "site.toml").write_text(lines + 'most_bad = "5%"\n')
    monkeypatch.setenv("FIRSTSIGHT_SITE", str(workshop.root / "site.toml"))
    monkeypatch.chdir(workshop.root)
    return workshop


def run_prepare(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, each as one line with single spaces."""
    code = command(["prepare", *words, "--out", "runs"])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), " ".join(err.split())


def folder() -> Path:
    [found] = (path for path in (Path("runs") / "sources").iterdir() if path.suffix != ".audit")
    return found


def test_a_source_is_prepared_and_described(at: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_prepare(capsys, "mine", "--form", "text", "--tokenizer", "words", "--jobs", "1")
    index, good = Index.open(folder()), ROWS - 1
    assert code == 0 and len(index.samples) == good
    assert f"total {good} {4 * good} {3 * good} 0 0 1" in out
    assert "empty text 1 text-00000.jsonl, line 1: nothing but white space" in out
    assert index.digest in out and index.source_digest in out and str(folder()) in out
    assert f"{good - 1} of {good} (97.44%) records repeat an earlier one" in out
    code, out, _ = run_prepare(capsys, "mine", "--form", "text", "--tokenizer", "words", "--jobs", "1")
    assert code == 0 and "was prepared before" in out
    prepared = Workspace("runs").prepare("mine", form="text", tokenizer="words", jobs=1)
    assert prepared.folder == folder() and prepared.seconds is None and prepared.manifest["digest"] == index.digest
    assert f"{good - 1} of {good} (97.44%) records repeat an earlier one" in " ".join(prepared.audit())


def test_a_refused_source_is_described_and_the_next_is_prepared(
    at: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    at.texts([{"text": "w1"}] * 3 + [{"text": 7}], "rotten")
    words = ("rotten", "mine", "--form", "text", "--tokenizer", "words/tokenizer.json", "--jobs", "1")
    code, out, err = run_prepare(capsys, *words)
    assert code == 1 and "wanted at most 1 % rejected records. Got 1 of 4: 1 x field missing" in err
    assert "(refused)" in out and "field missing 1 text-00000.jsonl, line 4" in out
    assert len(list(Path("runs/sources").glob("*/manifest.json"))) == 1


def test_a_truncated_source_prints_nothing_of_an_earlier_run(at: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    rotten = at.texts([{"text": 7}], "rotten")
    words = ("rotten", "--form", "text", "--tokenizer", "words", "--jobs", "1")
    assert "field missing" in run_prepare(capsys, *words)[1]
    (rotten / "torn.jsonl.gz").write_bytes(b"nothing packed")
    code, out, err = run_prepare(capsys, *words)
    assert code == 1 and "torn.jsonl.gz" in err and out == ""


def test_progress_is_printed_in_lines_without_a_terminal(
    at: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firstsight.workspace.progress.LINE_INTERVAL", 0.0)
    _, out, _ = run_prepare(capsys, "mine", "--form", "text", "--tokenizer", "words", "--jobs", "1")
    size = (at.root / "texts" / "text-00000.jsonl").stat().st_size
    assert f"100%, {size:,} of {size:,} bytes, {ROWS} records" in out


def test_overlap_with_benchmarks_is_printed(at: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(f"w{number}" for number in range(20))
    at.texts([{"text": text}], "leaky")
    (at.folder("exam") / "questions.jsonl").write_text(json.dumps({"question": text}) + "\n")
    words = ("leaky", "--form", "text", "--tokenizer", "words", "--against", "exam", "--jobs", "1")
    code, out, _ = run_prepare(capsys, *words)
    assert code == 0 and "1 of 1 (100.00%) records contain 13 or more consecutive tokens of 1 of 1" in out
    assert sorted(file.name for file in folder().iterdir()).count("overlap.jsonl") == 0


def test_captions_with_and_without_synthetic_ones_have_their_own_folders(
    at: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    at.captions(["w1", "w2"])
    common = ("captions", "--form", "captions", "--tokenizer", "words", "--jobs", "1")
    assert run_prepare(capsys, *common)[0] == 0
    assert run_prepare(capsys, *common, "--synthetic", "0", "--seed", "3")[0] == 0
    names = sorted(path.name for path in Path("runs/sources").iterdir())
    assert [name.rpartition("-")[0] for name in names] == [
        "captions-captions",
        "captions-captions-synthetic-0-1-seed-3",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mien", "--form", "text"), "no source of the site file is called 'mien'. Nearest: mine"),
        (("mine",), "mine: wanted --form, one of text, captions, interleaved, dialogues. Got none."),
        (("mine", "--form", "tokenizer"), "wanted --form, one of"),
        (("mine", "--form", "text", "--seed", "1"), "Give --synthetic SHARE as well"),
        (("mine", "--form", "text", "--synthetic", "1/2"), "only captions can be recaptioned"),
        (("mine", "--form", "text", "--jobs", "0"), "--jobs: wanted at least 1. Got 0."),
        (
            ("mine", "--form", "text", "--tokenizer", "nosuch"),
            "--tokenizer: wanted a name of the site file or the path",
        ),
        (("mine", "--form", "text", "--against", "nosuch"), "--against: wanted a name of the site file or a path"),
        ((), "SOURCE"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_prepared(
    at: Workshop, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    code, _, err = run_prepare(capsys, *words, *(() if "--tokenizer" in words else ("--tokenizer", "words")))
    assert code == 2 and message in err and not Path("runs").exists()
