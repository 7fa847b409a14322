"""The table of public data: its site-file lines parse, and it covers what the paper evaluates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from firstsight.errors import UnknownName
from firstsight.hub.public_data import PUBLIC_DATA, overview, public_data
from firstsight.recipe.scales.base import VISION_TASKS
from firstsight.recipe.scales.paper import PAPER_DIALOGUES, PAPER_TEXT, PAPER_TEXT_TASKS
from firstsight.site_file import read_site


@pytest.mark.parametrize("name", PUBLIC_DATA)
def test_site_lines_are_read_as_a_site_file(name: str, tmp_path: Path) -> None:
    """Oracle: the reader of site files; what is printed after the last empty line is what a user pastes."""
    data = public_data(name)
    lines = list(data.lines())
    pasted = lines[len(lines) - lines[::-1].index("") :]
    (tmp_path / "site.toml").write_text("\n".join(pasted))
    source = read_site(tmp_path / "site.toml").sources[data.source or name]
    folder = "benchmarks" if data.form == "benchmarks" else name
    assert Path(source.path) == tmp_path / "data" / folder / data.file


def test_every_task_and_source_of_the_paper_is_in_the_table() -> None:
    """Oracle: the recipes of the paper's scales."""
    tasks = {name for name, data in PUBLIC_DATA.items() if data.form == "benchmarks"}
    assert tasks == {*VISION_TASKS, *PAPER_TEXT_TASKS}
    read = {data.source or name for name, data in PUBLIC_DATA.items()}
    assert {PAPER_TEXT.name, "datacomp-dr-1b", PAPER_DIALOGUES.name} <= read
    names = [line.partition(":")[0] for line in overview() if line and line[0] not in " [H"]
    assert names == list(PUBLIC_DATA)
    assert all(bool(data.url) == bool(data.pattern) for data in PUBLIC_DATA.values())


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="cc12m"):
        public_data("cc13m")


def test_the_table_loads_no_heavy_package() -> None:
    """Oracle: the modules of a fresh interpreter."""
    code = "import sys, firstsight.hub.public_data; print({'torch', 'numpy', 'polars'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
