"""Fixtures of the workspace: a user's projects, and a study file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import study_file
from tests.own_data import OwnData
from tests.workspace.projects import DonorProject, OwnProject

__all__ = ["study_file"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's data, written once."""
    root = tmp_path_factory.mktemp("written") / "data"
    OwnData(root).write()
    return root


@pytest.fixture
def donor(tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> DonorProject:
    return DonorProject(tmp_path, written, monkeypatch)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnProject:
    return OwnProject(tmp_path, monkeypatch)
