"""Fixtures: arms of a synthetic study with given effects, and two written reports that tests only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight.report.analysis import StudyAnalysis
from firstsight.report.pages.report_page import write
from tests.report.study_builder import (
    HOSTILE_TEXT,
    MakeArms,
    StudyEffects,
    WrittenStudy,
    build_arms,
    run_info,
    study,
)


@pytest.fixture
def make_arms(tmp_path: Path) -> MakeArms:
    """Builds the arms of a study; keywords are fields of StudyEffects."""
    return lambda **effects: build_arms(StudyEffects(folder=tmp_path / "store", **effects))


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> WrittenStudy:
    """A finished study."""
    folder = tmp_path_factory.mktemp("finished")
    arms = build_arms(StudyEffects(folder=folder / "store"))
    return arms, write(StudyAnalysis(arms, study()), run=run_info(), folder=folder / "report")


@pytest.fixture(scope="session")
def hostile_study(tmp_path_factory: pytest.TempPathFactory) -> WrittenStudy:
    """An unfinished study in which every name, answer and note contains HOSTILE_TEXT."""
    folder = tmp_path_factory.mktemp("hostile")
    missing = {"start-080.s2": "midtrain failed: out of memory", "start-020.s1": "not run yet", "trunk.s1": "stopped"}
    effects = StudyEffects(folder=folder / "store", questions=20, suffix=HOSTILE_TEXT, missing=missing)
    arms = build_arms(effects)
    return arms, write(StudyAnalysis(arms, study(HOSTILE_TEXT)), run=run_info(HOSTILE_TEXT), folder=folder / "report")
