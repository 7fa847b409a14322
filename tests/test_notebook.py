"""The tutorial for notebooks and README's example: their cells run in one program without a file, in an event loop."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_tutorial import pattern

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial" / "notebook.md"
CELL = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
END = "=== end of a cell ==="

PROGRAM = """
import asyncio

async def run_cells(cells, end):
    values = {{"__name__": "__main__"}}
    for cell in cells:
        if "summary = ws.run" in cell:
            interrupt(values)
        exec(compile(cell, "<cell>", "exec"), values)
        print(end, flush=True)

def interrupt(values):
    def stop(line):
        if " done in " in line:
            raise KeyboardInterrupt
    try:
        values["ws"].run(values["study"], on_progress=stop)
    except KeyboardInterrupt:
        print("interrupted")

asyncio.run(run_cells({cells!r}, {end!r}))
"""


def readme_cell() -> str:
    """The example of README.md, about the study of the page, whose steps are all stored."""
    cell = next(cell for cell, _ in CELL.findall((ROOT / "README.md").read_text()) if "fs.Workspace" in cell)
    shipped = 'fs.study("when", scale="cpu", seeds=4)'
    assert shipped in cell
    return cell.replace(shipped, 'fs.study(image_share, scale="smoke", seeds=1, start="80%")')


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_cells_of_the_page_print_what_it_shows(tmp_path: Path) -> None:
    cells, shown = zip(*CELL.findall(PAGE.read_text()), (readme_cell(), ""), strict=True)
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n" + PROGRAM.format(cells=cells, end=END)
    done = subprocess.run(
        [sys.executable], input=program, cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = done.stdout.split(f"{END}\n")
    for cell, expected, output in zip(cells, shown, outputs, strict=False):
        assert pattern(expected.strip()).search(" ".join(output.split())), (
            f"{cell}\nshown:\n{expected}\noutput:\n{output}"
        )
    run_output = next(output for cell, output in zip(cells, outputs, strict=False) if "ws.run" in cell)
    resumed = re.search(r"(\d+) steps run, (\d+) stored already", run_output)
    assert run_output.startswith("interrupted\n") and resumed and int(resumed[2]) > 0
    assert (tmp_path / "runs" / "reports" / "image-share-smoke" / "report.html").is_file()
    assert (tmp_path / "image-share.png").read_bytes().startswith(b"\x89PNG")
    assert (ROOT / "docs" / "figures" / "image-share-smoke.png").is_file()
