"""What others wrote is shown and never obeyed: in pipes, in a terminal and in logs, through the commands."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.command_line import STUDY_FILE
from tests.cli.processes import run_in_terminal, run_many, run_process
from tests.data.conftest import Workshop, add, picture
from tests.foreign_text import FOREIGN, OBEYED, SEQUENCES

CONTROLS = "\x1b[2J\x1b[31m\x1b]0;owned\x07\r\x08\x9b2J\u202egpj\u2028\ufeff"
"""Clears the screen, colours, sets the title, goes back, reorders and separates."""


def assert_nothing_is_obeyed(output: bytes) -> str:
    """The output as text, without control characters but line feeds and tabs, and without what reorders text."""
    text = output.decode()
    assert not set(OBEYED.findall(text)) - {"\n", "\t"}, ascii(text)
    return text


WORDS = st.lists(FOREIGN.filter(lambda text: "\0" not in text), min_size=1, max_size=2)


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(commands=st.lists(WORDS, min_size=20, max_size=20))
def test_no_word_of_a_command_is_obeyed(commands: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    names = ("plan", "report", "explain", "evaluate", "answers", "prepare", "export", "import", "score", "ask", "data")
    lines = [[name, *words] for name, words in zip(names * 2, commands, strict=False)]
    lines = [[os.fsdecode(word.encode(errors="surrogatepass")) for word in words] for words in lines]
    codes, output = run_many([[*line, "--out", "none"] for line in lines], tmp_path_factory.mktemp("empty"))
    assert "Traceback" not in assert_nothing_is_obeyed(output)
    assert set(codes) <= {0, 1, 2}


def captions_of_others(workshop: Workshop, mark: str) -> Path:
    """A tar whose members, JSON keys and texts contain `mark`, with a rejected sample of each kind."""
    folder = workshop.folder("captions")
    with tarfile.open(folder / f"0{mark.replace('/', '')}.tar", "w", errors="surrogateescape") as tar:
        add(tar, f"a{mark}.png", picture((1, 2, 3)))
        add(tar, f"a{mark}.txt", b"w1 w2")
        add(tar, f"a{mark}.json", json.dumps({mark: mark}).encode())
        add(tar, f"b{mark}.png", mark.encode(errors="replace"))
        add(tar, f"b{mark}.txt", b"w1")
        add(tar, f"c{mark}.png", picture((1, 2, 4)))
        add(tar, f"c{mark}.txt", b"\xff")
        add(tar, f"d{mark}.txt", b"w3")
    return folder


@pytest.mark.parametrize("in_terminal", [False, True])
def test_names_in_archives_are_shown(workshop: Workshop, in_terminal: bool) -> None:
    folder = captions_of_others(workshop, CONTROLS)
    words = ("prepare", folder, "--form", "captions", "--tokenizer", workshop.words(), "--jobs", "1")
    if in_terminal:
        _, output = run_in_terminal(*words, cwd=workshop.root)
        output = output.replace(b"\r\n", b"\n")
    else:
        code, out, err = run_process(*words, cwd=workshop.root)
        assert code == 1
        output = out + err
    text = assert_nothing_is_obeyed(output)
    assert r"\x1b[2J" in text and "(refused)" in text and "Traceback" not in text


def test_a_site_file_is_shown(tmp_path: Path) -> None:
    name, path = json.dumps(f"a{CONTROLS}"), json.dumps(f"b{CONTROLS}")  # the escapes of TOML are those of JSON
    (tmp_path / "site.toml").write_text(f"[sources.{name}]\npath = {path}\n")
    code, out, err = run_process("doctor", cwd=tmp_path)
    text = assert_nothing_is_obeyed(out + err)
    assert code == 1 and r"\x1b[2J" in text and "missing" in text
    (tmp_path / "site.toml").write_text(f"[machine]\n{name} = 1\n")
    code, out, err = run_process("plan", "when", "--scale", "smoke", cwd=tmp_path)
    assert code == 2 and r"\x1b[2J" in assert_nothing_is_obeyed(out + err)


@pytest.mark.parametrize("mark", [CONTROLS, "".join(text for text in SEQUENCES if not 0xD800 <= ord(text[0]) < 0xE000)])
def test_questions_and_answers_are_shown(tmp_path: Path, mark: str) -> None:
    rows = [{"question_id": n, "image": f"{mark}{n}.jpg", "text": f"{mark} {n}?", "label": "yes"} for n in range(4)]
    (tmp_path / "coco_pope_random.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [
        {"question_id": n, "image": f"{mark}{n}.jpg", "prompt": f"{mark} {n + 2}?", "text": mark} for n in range(4)
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    files = ("--answers", "answers.jsonl", "--references", "coco_pope_random.jsonl", "--missing", "100%")
    code, out, err = run_process("score", "pope", *files, cwd=tmp_path)
    text = assert_nothing_is_obeyed(out + err)
    assert code in (0, 2) and "Traceback" not in text and "4 answers" in text


def test_what_a_study_file_raises_is_shown_in_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        STUDY_FILE.replace("    return Study(", f"    raise ValueError({CONTROLS!r})\n    print(")
    )
    code, output = run_in_terminal("plan", "mine.py", cwd=tmp_path)
    text = assert_nothing_is_obeyed(output.replace(b"\r\n", b"\n"))
    assert code == 2 and r"mine.py:14: ValueError: \x1b[2J\x1b[31m" in text
    code, _, err = run_process("plan", "mine.py", "--debug", cwd=tmp_path)
    assert code == 2 and "Traceback" in assert_nothing_is_obeyed(err)
