"""report.html in a headless Chromium: nothing fails or is loaded or cut off, and the mouse finds the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.recipe.analysis import Axis, ParetoFront
from firstsight.recipe.study import Study
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.pages.report_page import write
from firstsight.report.results import RunState
from tests.browser import OVERFLOWS, Browser, needs_browser, open_browser
from tests.report.study_builder import HOSTILE_TEXT, StudyEffects, WrittenStudy, build_arms, run_info, study

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


TOOLTIP = "document.querySelector('#vg-tooltip-element.visible')?.innerText"


def _show_pair(browser: Browser) -> None:
    browser.value("document.getElementById('pairs').scrollIntoView()")
    browser.wait("document.querySelectorAll('#pair table').length > 0")


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_a_page_is_whole_and_silent_at_every_width(finished_study: WrittenStudy, browser: Browser, width: int) -> None:
    browser.open(finished_study[1], width=width)
    _show_pair(browser)
    assert browser.value(OVERFLOWS) == []
    assert browser.messages == []
    assert {request.partition(":")[0] for request in browser.requests[1:]} <= {"data"}
    assert browser.requests[0] == finished_study[1].resolve().as_uri()


CATEGORY = Axis(name="encoder", label="Encoder of the images", unit="category")
COUNT = Axis(name="epochs", label="Epochs of fine-tuning", unit="count")


@pytest.mark.parametrize("axes", [(), (CATEGORY,), (COUNT,), (COUNT, CATEGORY)])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_figures_of_other_studies_are_whole_and_silent(
    axes: tuple[Axis, ...], width: int, tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bars, lines and grids, with more arms than a row of a legend has room for."""
    monkeypatch.setattr("firstsight.report.pages.report_page._render_svg", lambda spec: "<svg/>")  # the slowest part
    monkeypatch.setattr("vl_convert.svg_to_png", lambda svg, scale: b"")
    vision = {start: 0.05 * number for number, start in enumerate(range(0, 101, 10))}
    effects = StudyEffects(folder=tmp_path / "store", questions=8, seeds=(1,), vision=vision, text=vision)
    arms = [
        replace(arm, at={"encoder": f"an-encoder-{number}", "epochs": number + 1}, group="")
        for number, arm in enumerate(build_arms(effects))
    ]
    user_study = Study(
        name="mine", scale="cpu", question="?", arms=study().arms[:1], axes=axes, figures=(ParetoFront(),)
    )
    page = write(StudyAnalysis(arms, user_study), run=run_info(), folder=tmp_path / "report")
    browser.open(page, width=width)
    assert browser.messages == []
    assert browser.value(OVERFLOWS) == []


def test_a_mark_shows_its_numbers_and_address(finished_study: WrittenStudy, browser: Browser) -> None:
    arms, path = finished_study
    browser.open(path)
    for chart in ("stable", "single", "pareto", "forgetting"):
        tooltip = browser.hover(f"#chart-{chart} .role-mark path[aria-label*=evaluate-]", TOOLTIP)
        assert any(arm.address in tooltip for arm in arms), (chart, tooltip)
    assert browser.messages == []


def test_text_of_users_is_text(hostile_study: WrittenStudy, browser: Browser) -> None:
    browser.open(hostile_study[1], width=1280)
    _show_pair(browser)
    assert HOSTILE_TEXT in browser.value("document.getElementById('pair').innerText")
    assert browser.value("document.querySelectorAll('img[onerror], img[src^=http]').length") == 0
    assert browser.messages == []
    assert not [request for request in browser.requests if request.startswith("http")]


def test_any_two_arms_are_compared(finished_study: WrittenStudy, browser: Browser) -> None:
    browser.open(finished_study[1])
    _show_pair(browser)
    for name, arm in (("first", "start-080"), ("second", "trunk")):
        browser.value(
            f"""(() => {{
              const select = document.querySelector("#pairs select[name={name}]");
              select.value = [...select.options].find((option) => option.textContent === "{arm}").value;
              select.dispatchEvent(new Event("change"));
            }})()"""
        )
    text = browser.value("document.getElementById('pair').innerText")
    assert "firstsight explain start-080 trunk" in text
    assert "text, all tasks" in text and "vision, all tasks" not in text, "the trunk has no vision"
    assert browser.messages == []


def test_a_page_without_scores_and_one_of_a_running_study_are_silent(tmp_path: Path, browser: Browser) -> None:
    labels = [f"start-{percent:03d}.s1" for percent in range(0, 101, 20)] + ["trunk.s1"]
    effects = StudyEffects(folder=tmp_path / "store", seeds=(1,), missing=dict.fromkeys(labels, "not run yet"))
    run = replace(run_info(), state=RunState(stored=3, total=9, running=("midtrain, 40 %",)))
    page = write(StudyAnalysis(build_arms(effects), study()), run=run, folder=tmp_path / "report")
    browser.open(page, width=390)
    assert browser.value(OVERFLOWS) == [] and browser.messages == []
    assert "3 of 9 steps are stored. Now: midtrain, 40 %." in browser.value("document.body.innerText")
