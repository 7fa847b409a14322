"""The gallery of the landing page: every shipped study once; results are added and stay; nothing of the scale smoke."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import firstsight as fs
from firstsight.report.analysis import StudyAnalysis
from firstsight.studies import shipped_studies
from tests.report.study_builder import StudyEffects, build_arms, study

DOCS = Path(__file__).parents[1] / "docs"
spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
assert spec and spec.loader
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)


def listed_studies(page: str) -> dict[str, str]:
    """The question of every study of a page, by its name in the command."""
    shown = re.findall(r"^% study (\S+)\n\n### (.*)$", page, re.MULTILINE)
    cards = re.findall(r"^\*\*(.*)\*\*\n\n`firstsight run (\S+)`$", page, re.MULTILINE)
    names = [*[name for name, _ in shown], *[name for _, name in cards]]
    assert len(names) == len(set(names))
    return dict(shown) | {name: question for question, name in cards}


def test_the_stored_page_has_every_shipped_study_with_its_question() -> None:
    page = (DOCS / "gallery.md").read_text()
    assert listed_studies(page) == {name: fs.study(name).question for name in shipped_studies()}
    for file in re.findall(r"^!\[.*\]\((\S+)\)$", page, re.MULTILINE):
        assert (DOCS / file).read_text().startswith("<svg")


@pytest.mark.slow
def test_the_stored_costs_are_those_of_the_plans() -> None:
    """If this fails, run `python docs/gallery.py`."""
    page = (DOCS / "gallery.md").read_text()
    for name in re.findall(r"`firstsight run (\S+)`", page):
        assert gallery.plan_card(name) in page


@pytest.fixture
def empty_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a page, and plans that cost nothing to make."""
    monkeypatch.setattr(gallery, "plan_costs", lambda name: iter([f"cost of {name}"]))
    monkeypatch.setattr(gallery, "FIGURES_OF_PLANS", {"schedules": "cpu"})
    return tmp_path


def test_a_section_has_figure_answer_verdicts_and_command_and_stays(
    tmp_path: Path, empty_docs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    analysis = StudyAnalysis(build_arms(StudyEffects(folder=tmp_path / "store")), study())
    (empty_docs / gallery.FIGURES).mkdir(parents=True)
    section = gallery.result_section(analysis, empty_docs, date="2026-12-01")
    assert (empty_docs / f"{gallery.FIGURES}/{study().name}.svg").read_text().startswith("<svg")
    assert analysis.answer in section
    assert analysis.claims
    for result in analysis.claims:
        assert f"- **{result.verdict.capitalize()}:** {result.claim.statement} {result.evidence}" in section
    (empty_docs / "gallery.md").write_text(gallery.render({"when": section}))
    gallery.main(["when", "--docs", str(empty_docs), "--store", str(tmp_path / "nothing")])
    page = (empty_docs / "gallery.md").read_text()
    assert "when: not shown" in capsys.readouterr().out
    assert section in page
    assert listed_studies(page).keys() == set(shipped_studies())
    assert gallery.shown_sections(page).keys() == {"when", "schedules"}


def test_scores_of_smoke_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gallery.parse_arguments(["--store", "runs", "--scale", "smoke"])
    assert "mean nothing" in capsys.readouterr().err
