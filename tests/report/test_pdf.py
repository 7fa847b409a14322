"""A report as PDF: with a browser a file of pages, without one a line that says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight.errors import RequestError
from firstsight.report import pdf
from firstsight.report.pdf import find_browser, print_pdf
from tests.browser import needs_browser


@needs_browser
def test_a_page_is_printed_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!doctype html><title>t</title><p>one</p><p style='break-before: page'>two</p>")
    path = print_pdf(page)
    assert path == tmp_path / "report.pdf"
    content = path.read_bytes()
    assert content.startswith(b"%PDF-") and b"/Count 2" in content
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.pdf"]


def test_without_a_browser_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser() is None
    with pytest.raises(RequestError, match=r"^--pdf: wanted one of chromium, .* Got none\. Install one \(Debian"):
        print_pdf(tmp_path / "report.html")


def test_a_browser_that_prints_nothing_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho cannot start >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(pdf, "find_browser", lambda: str(program))
    with pytest.raises(RequestError, match=r"did not print .*report\.html: cannot start\. Print it"):
        print_pdf(tmp_path / "report.html")
