"""The page of a combined study: every part with its question, verdicts and a link that leads to its report."""

from __future__ import annotations

import os
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

from firstsight.recipe.study import combine
from firstsight.report.claims import ClaimResult
from firstsight.report.pages.index_page import IndexEntry, write
from tests.report.html_page import Page
from tests.report.study_builder import HOSTILE_TEXT, run_info, study

QUESTIONS = ("When?", HOSTILE_TEXT)


def written(folder: Path, *, has_figure: bool = True) -> tuple[Page, list[IndexEntry]]:
    """The page of two studies, of which the first has a figure, and what it was made of."""
    entries: list[IndexEntry] = []
    for number, question in enumerate(QUESTIONS):
        part = replace(study(), name=f"part{number}", question=question)
        page = folder / f"{part.name}-smoke" / "report.html"
        page.parent.mkdir(parents=True)
        page.write_text("a report")
        claims = [
            ClaimResult(claim=claim, verdict=verdict, evidence=f"evidence {number}.")
            for claim, verdict in zip(part.claims, ("holds", "undecided"), strict=False)
        ]
        ways = {result.claim.name: f"Run {HOSTILE_TEXT}." for result in claims if result.verdict == "undecided"}
        entries.append(IndexEntry(study=part, answer=f"answer {number}", claims=claims, next_runs=ways, page=page))
    if has_figure:
        (entries[0].page.parent / "figures").mkdir()
        (entries[0].page.parent / "figures" / "stable.svg").write_text("<svg/>")
    whole = combine("all", question="Which?", parts=[entry.study for entry in entries])
    path = write(entries, study=whole, run=run_info(), folder=folder / "all-smoke")
    return Page(path.read_text(encoding="utf-8")), entries


def test_each_part_has_its_question_answer_verdicts_and_report(tmp_path: Path) -> None:
    page, entries = written(tmp_path)
    assert list(page.cards) == ["part0", "part1"]
    for number, (text, entry) in enumerate(zip(page.cards.values(), entries, strict=True)):
        assert QUESTIONS[number] in text and f"answer {number}" in text
        assert text.count(f"evidence {number}.") == 2
        for result in entry.claims:
            assert f"{result.verdict}{result.claim.statement}" in text
    assert page.text.count(f"The cheapest way to decide it. Run {HOSTILE_TEXT}.") == 2, "of the undecided claims"
    assert "2 studies; claims: 2 holds, 2 undecided." in page.text
    links = [str(link["href"]) for link in page.all("a") if "report.html" in str(link["href"])]
    targets = {os.path.normpath(tmp_path / "all-smoke" / link) for link in links}
    assert targets == {str(entry.page) for entry in entries}


def test_the_page_needs_no_other_file_and_executes_nothing(tmp_path: Path) -> None:
    page, _ = written(tmp_path)
    (image,) = page.all("img")
    head, _, data = str(image["src"]).partition(",")
    assert head == "data:image/svg+xml;base64" and b64decode(data) == b"<svg/>"
    assert page.scripts == []
    assert any("default-src 'none'" in str(meta.get("content")) for meta in page.all("meta"))
    assert written(tmp_path / "again", has_figure=False)[0].all("img") == []
