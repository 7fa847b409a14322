"""The page of a combined study in a headless Chromium: nothing fails, is loaded or is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import OVERFLOWS, Browser, needs_browser, open_browser
from tests.report.pages.test_index_page import written
from tests.report.study_builder import HOSTILE_TEXT

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_the_index_is_whole_and_silent_at_every_width(width: int, tmp_path: Path, browser: Browser) -> None:
    """Users' text is text: nothing of it becomes an element or an address that is loaded."""
    _, entries = written(tmp_path)
    path = tmp_path / "all-smoke" / "report.html"
    browser.open(path, width=width)
    assert browser.value(OVERFLOWS) == [] and browser.messages == []
    assert browser.requests[0] == path.resolve().as_uri()
    assert {request.partition(":")[0] for request in browser.requests[1:]} <= {"data"}
    assert HOSTILE_TEXT in browser.value("document.body.innerText")
    assert browser.value("document.querySelectorAll('img[onerror], img[src^=http], script').length") == 0
    links = browser.value("[...document.querySelectorAll('h2 a')].map((link) => link.href)")
    assert links == [entry.page.resolve().as_uri() for entry in entries]
