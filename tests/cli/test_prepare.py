"""`firstsight prepare` as it is typed: what it tells, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstsight.cli import command
from firstsight.data.index import Index
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


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, each as one line with single spaces."""
    code = command(["prepare", *words, "--out", "runs"])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), " ".join(err.split())


def folder() -> Path:
    [found] = (path for path in (Path("runs") / "sources").iterdir() if path.suffix != ".audit")
    return found


def test_a_source_is_prepared_and_told(at: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = say(capsys, "mine", "--form", "text", "--tokenizer", "words", "--jobs", "1")
    index, good = Index.open(folder()), ROWS - 1
    assert code == 0 and len(index.samples) == good
    assert f"total {good} {4 * good} {3 * good} 0 0 1" in out
    assert "empty text 1 text-00000.jsonl, line 1: nothing but white space" in out
    assert index.digest in out and index.source_digest in out and str(folder()) in out
    assert f"{good - 1} of {good} (97.44%) records repeat an earlier one" in out
    code, out, _ = say(capsys, "mine", "--form", "text", "--tokenizer", "words", "--jobs", "1")
    assert code == 0 and "was there already" in out


def test_a_refused_source_is_told_and_the_next_one_is_prepared(
    at: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    at.texts([{"text": "w1"}] * 3 + [{"text": 7}], "rotten")
    words = ("rotten", "mine", "--form", "text", "--tokenizer", "words/tokenizer.json", "--jobs", "1")
    code, out, err = say(capsys, *words)
    assert code == 1 and "wanted at most 1 % bad records. Got 1 of 4: 1 x field missing" in err
    assert "(refused)" in out and "field missing 1 text-00000.jsonl, line 4" in out
    assert len(list(Path("runs/sources").glob("*/manifest.json"))) == 1


def test_a_torn_source_tells_nothing_of_an_earlier_try(at: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    rotten = at.texts([{"text": 7}], "rotten")
    words = ("rotten", "--form", "text", "--tokenizer", "words", "--jobs", "1")
    assert "field missing" in say(capsys, *words)[1]
    (rotten / "torn.jsonl.gz").write_bytes(b"nothing packed")
    code, out, err = say(capsys, *words)
    assert code == 1 and "torn.jsonl.gz" in err and out == ""


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    at: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firstsight.cli.progress.LINE_INTERVAL", 0.0)
    _, out, _ = say(capsys, "mine", "--form", "text", "--tokenizer", "words", "--jobs", "1")
    size = (at.root / "texts" / "text-00000.jsonl").stat().st_size
    assert f"100%, {size:,} of {size:,} bytes, {ROWS} records" in out


def test_what_benchmarks_share_with_it_is_told(at: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    said = " ".join(f"w{number}" for number in range(20))
    at.texts([{"text": said}], "leaky")
    (at.folder("exam") / "questions.jsonl").write_text(json.dumps({"question": said}) + "\n")
    words = ("leaky", "--form", "text", "--tokenizer", "words", "--against", "exam", "--jobs", "1")
    code, out, _ = say(capsys, *words)
    assert code == 0 and "1 of 1 (100.00%) records contain 13 or more consecutive tokens of 1 of 1" in out
    assert sorted(file.name for file in folder().iterdir()).count("overlap.jsonl") == 0


def test_both_ways_to_read_captions_lie_apart(at: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    at.captions(["w1", "w2"])
    common = ("captions", "--form", "captions", "--tokenizer", "words", "--jobs", "1")
    assert say(capsys, *common)[0] == 0
    assert say(capsys, *common, "--synthetic", "0", "--seed", "3")[0] == 0
    names = sorted(path.name for path in Path("runs/sources").iterdir())
    assert [name.rpartition("-")[0] for name in names] == [
        "captions-captions",
        "captions-captions-synthetic-0-1-seed-3",
    ]


@pytest.mark.parametrize(
    ("words", "why"),
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
def test_a_wrong_request_runs_nothing(
    at: Workshop, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    code, _, err = say(capsys, *words, *(() if "--tokenizer" in words else ("--tokenizer", "words")))
    assert code == 2 and why in err and not Path("runs").exists()
