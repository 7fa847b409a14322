"""The tutorial page, typed word by word: its files are written, its commands run, its shown output compared."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "tutorial" / "first-study.md"
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pattern(shown: str) -> re.Pattern[str]:
    """What the page shows, with `…` for any words; spaces may be fewer or more."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in shown.split("…")]
    return re.compile(".*".join(parts), re.DOTALL)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output shown below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def typed(command: str, where: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "firstsight"
    return run([sys.executable, "-m", "firstsight", *words[1:]], where)


def run(words: list[str], where: Path) -> str:
    done = subprocess.run(words, cwd=where, env=os.environ, capture_output=True, text=True, timeout=400, check=False)
    told = done.stdout + done.stderr
    assert "Traceback" not in told and done.returncode in (0, 2), told
    return told


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_is_true(tmp_path: Path) -> None:
    for form, block in BLOCK.findall(PAGE.read_text()):
        if form == "python":
            name = re.match(r"# (\w+\.py)\n", block)
            file = tmp_path / (name[1] if name else "snippet.py")
            file.write_text(block)
            if not name:
                run([sys.executable, file.name], tmp_path)
            continue
        for command, shown in commands(block):
            told = typed(command, tmp_path)
            assert pattern(shown.strip()).search(" ".join(told.split())), f"$ {command}\nshown:\n{shown}\ntold:\n{told}"


def test_a_page_that_lies_is_caught() -> None:
    assert pattern("7 arms, …\nsaved (…").search("x 7 arms, 35 steps and saved (33%)")
    assert not pattern("7 arms, …\nsaved (…").search("8 arms, 35 steps and saved (33%)")
