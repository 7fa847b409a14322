"""The tutorial pages: their files are written, their commands run, and the output compared with the page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGES = [Path(__file__).parents[1] / "docs" / "tutorial" / name for name in ("first-study.md", "own-question.md")]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pattern(shown: str) -> re.Pattern[str]:
    """A pattern for output shown on the page: `…` matches any text, and any amount of white space is equal."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in shown.split("…")]
    return re.compile(".*".join(parts), re.DOTALL)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output shown below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def run_command(command: str, folder: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "firstsight"
    return run([sys.executable, "-m", "firstsight", *words[1:]], folder)


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=1500, check=False)
    output = done.stdout + done.stderr
    assert "Traceback" not in output and done.returncode in (0, 2), output
    return output


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_tutorial_print_what_it_shows(tmp_path: Path, page: Path) -> None:
    for form, block in BLOCK.findall(page.read_text()):
        if form == "python":
            name = re.match(r"# (\w+\.py)\n", block)
            file = tmp_path / (name[1] if name else "snippet.py")
            file.write_text(block)
            if not name:
                run([sys.executable, file.name], tmp_path)
            continue
        for command, shown in commands(block):
            output = run_command(command, tmp_path)
            assert pattern(shown.strip()).search(" ".join(output.split())), (
                f"$ {command}\nshown:\n{shown}\noutput:\n{output}"
            )


def test_output_that_differs_from_the_page_does_not_match() -> None:
    assert pattern("7 arms, …\nsaved (…").search("x 7 arms, 35 steps and saved (33%)")
    assert not pattern("7 arms, …\nsaved (…").search("8 arms, 35 steps and saved (33%)")
