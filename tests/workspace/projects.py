"""A user's project: data, site file, study file and results, of own data or with a donor's checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from firstsight.cli.app import command
from firstsight.recipe.study import Study
from firstsight.workspace.study_functions import find_study_function
from tests.own_data import DONOR_STUDY, STUDY, OwnData


class OwnProject:
    """A study of the user's own data."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        self.data = root / "data"
        OwnData(self.data).write()
        (root / "mine.py").write_text(STUDY)
        self.use(root / "site.toml", self.data)

    def use(self, file: Path, data: Path) -> None:
        """Write a site file that locates the data at `data`, and use it."""
        OwnData(data).write_site(file)
        self.monkeypatch.setenv("FIRSTSIGHT_SITE", str(file))

    def run(self, capsys: pytest.CaptureFixture[str], name: str, *options: str) -> tuple[int, str]:
        """The exit code and the output of a command about the study."""
        code = command([name, str(self.root / "mine.py"), "--scale", "79m", "--out", str(self.root / "runs"), *options])
        out, err = capsys.readouterr()
        return code, " ".join((out + err).split())

    def steps(self, kind: str) -> list[Path]:
        """The results of stored steps of a kind."""
        return sorted(folder for folder in (self.root / "runs" / "steps").iterdir() if folder.name.startswith(kind))


class DonorProject:
    """A study of branches of a donor, whose checkpoints are among the data."""

    def __init__(self, root: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.data = root, root / "data"
        shutil.copytree(written, self.data)
        OwnData(self.data).write_site(root / "site.toml")
        self.name = f"{root / 'mine.py'}:donated"
        (root / "mine.py").write_text(DONOR_STUDY)
        monkeypatch.setenv("FIRSTSIGHT_SITE", str(root / "site.toml"))

    def run(self, capsys: pytest.CaptureFixture[str], name: str, *options: str) -> tuple[int, str]:
        """The exit code and the output of a command about the study."""
        code = command([name, self.name, "--scale", "79m", "--out", str(self.root / "runs"), *options])
        out, err = capsys.readouterr()
        return code, " ".join((out + err).split())

    def study(self) -> Study:
        return find_study_function(self.name).build("79m", seeds=1, options={})

    def replace(self, file: str, *changes: tuple[str, str]) -> None:
        """Replace texts in a file of the project."""
        text = (self.root / file).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (self.root / file).write_text(text)
