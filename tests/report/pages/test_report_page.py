"""report.html and its files: complete, self-contained, and safe whatever users wrote."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.dom.minidom import parse

import polars as pl
import pytest
from PIL import Image

from firstsight.evaluate.result_files import build_scores
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.pages.report_page import write
from firstsight.report.table import score_table
from tests.foreign_text import OBEYED, SEQUENCES
from tests.full_disk import file_size_limit
from tests.report.html_page import Page
from tests.report.study_builder import (
    HOSTILE_TEXT,
    MakeArms,
    StudyEffects,
    WrittenStudy,
    build_arms,
    run_info,
    study,
)

FIGURES = ("main", "stable", "single", "pareto", "forgetting", "soft", "tasks", "heat", "schedules", "losses")


def _page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_page_has_every_address_and_every_score(finished_study: WrittenStudy) -> None:
    arms, path = finished_study
    page = _page(path)
    for arm in arms:
        assert arm.address in page.text
        assert all(stage.address in page.text for stage in arm.stages)
    assert len(arms) == 14
    for arm in arms:
        assert arm.scores
        for task, scores in arm.scores.tasks.items():
            row = f"{arm.label}{task}{scores.kind}sighted{100 * (scores.score or 0):.2f}"
            assert row in page.text.replace("\n", ""), row


def test_a_full_disk_leaves_the_old_page(
    finished_study: WrittenStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'
    monkeypatch.setattr("firstsight.report.pages.report_page._render_svg", lambda spec: svg)  # the slowest part
    page = tmp_path / "report.html"
    page.write_text("old")
    for limit in (500_000, 5_000):  # at the page, at scores.parquet
        with file_size_limit(limit), pytest.raises(OSError, match="File too large"):
            write(StudyAnalysis(finished_study[0], study()), run=run_info(), folder=tmp_path)
        assert page.read_text() == "old"
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")
    }


def test_every_figure_states_the_horizon(finished_study: WrittenStudy) -> None:
    figures = sorted((finished_study[1].parent / "figures").glob("*.svg"))
    assert [file.stem for file in figures] == sorted(FIGURES)
    assert all("horizon branch" in file.read_text(encoding="utf-8") for file in figures)


def test_other_findings_stand_beside_their_claim(finished_study: WrittenStudy) -> None:
    page = finished_study[1].read_text()
    dissents = [claim.dissent for claim in study().claims if claim.dissent]
    assert dissents and page.count("Other findings.") == len(dissents)
    assert all(html.escape(dissent, quote=False) in page for dissent in dissents)


def test_page_loads_nothing(finished_study: WrittenStudy) -> None:
    page = _page(finished_study[1])
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "action", "poster", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
        if tag != "a":
            assert not (attributes.get("href") or "").startswith("http"), (tag, attributes)
        assert "url(" not in (attributes.get("style") or "")
    assert "link" not in {tag for tag, _ in page.elements}
    for style in page.styles:
        assert "@import" not in style
        assert "url(" not in style
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_hostile_data_is_text(finished_study: WrittenStudy, hostile_study: WrittenStudy) -> None:
    page, harmless = _page(hostile_study[1]), _page(finished_study[1])
    assert len(page.scripts) == len(harmless.scripts) == 4
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    assert all((image.get("src") or "data:").startswith("data:") for image in page.all("img"))
    for heading in ("Questions and model answers", "Unfinished", "The plan", "Provenance"):
        assert HOSTILE_TEXT in page.text[page.text.index(heading) :], heading
    for svg in (hostile_study[1].parent / "figures").glob("*.svg"):
        assert "<script" not in svg.read_text()
        assert "<img" not in svg.read_text()


def test_unfinished_study_lists_what_is_missing(hostile_study: WrittenStudy) -> None:
    arms, path = hostile_study
    text = " ".join(_page(path).text.split())
    missing = [arm for arm in arms if arm.scores is None]
    assert f"{len(missing)} of 14 arms have no scores" in text
    for arm in missing:
        assert f"{arm.label} {arm.missing_reason} {arm.address}" in text


@pytest.mark.parametrize("scored", [("trunk",), ("start-080",), ("start-000", "trunk")])
def test_every_state_of_a_run_has_a_page(make_arms: MakeArms, tmp_path: Path, scored: tuple[str, ...]) -> None:
    all_arms = make_arms(seeds=(1,), questions=5)
    done = {stage.address for arm in all_arms if arm.name in scored for stage in arm.stages}
    arms = [
        replace(
            arm,
            scores=arm.scores if arm.name in scored else None,
            stages=tuple(stage if stage.address in done else replace(stage, rows=()) for stage in arm.stages),
        )
        for arm in all_arms
    ]
    page = _page(write(StudyAnalysis(arms, study()), run=run_info(), folder=tmp_path / "report"))
    assert f"{7 - len(scored)} of 7 arms have no scores" in page.text
    specs = json.loads(page.scripts[1])
    assert ("stable" in specs) == any(name.startswith("start") for name in scored)
    assert {"heat", "schedules", "losses"} <= specs.keys()
    for name in specs:
        with Image.open(tmp_path / "report" / "figures" / f"{name}.png") as image:
            assert image.width > 800


def test_study_without_scores_has_a_page(make_arms: MakeArms, tmp_path: Path) -> None:
    labels = [f"start-{percent:03d}.s1" for percent in range(0, 101, 20)] + ["trunk.s1"]
    arms = make_arms(seeds=(1,), missing=dict.fromkeys(labels, "not run yet"))
    page = _page(write(StudyAnalysis(arms, study()), run=run_info(), folder=tmp_path))
    assert "No answer yet" in page.text
    assert (tmp_path / "figures" / "schedules.svg").exists()
    assert not (tmp_path / "figures" / "main.svg").exists()


def test_figures_and_scores_are_written_as_files(finished_study: WrittenStudy) -> None:
    arms, path = finished_study
    rows = score_table(arms, study().axes)
    assert pl.read_parquet(path.parent / "scores.parquet").equals(rows)
    assert pl.read_csv(path.parent / "scores.csv").shape == rows.shape
    for name in FIGURES:
        assert (path.parent / "figures" / f"{name}.svg").read_text().startswith("<svg")
        with Image.open(path.parent / "figures" / f"{name}.png") as image:
            assert image.width > 800
    svg = (path.parent / "figures" / "main.svg").read_text()
    assert all(arm.address in svg for arm in arms if arm.role == "compared")


def test_equal_input_gives_equal_bytes(finished_study: WrittenStudy, tmp_path: Path) -> None:
    arms, first = finished_study
    second = write(StudyAnalysis(arms, study()), run=run_info(), folder=tmp_path)
    for path in sorted(path for path in first.parent.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(first.parent)).read_bytes(), path
    assert second.stat().st_size < 3_000_000


def test_the_command_for_all_answers_names_an_address_which_works_for_any_study(finished_study: WrittenStudy) -> None:
    arms, path = finished_study
    [address] = re.findall(r"<code>firstsight answers ([^<]+)</code>", path.read_text(encoding="utf-8"))
    assert address in {arm.address for arm in arms}


def test_drawings_are_credited_below_the_images(finished_study: WrittenStudy) -> None:
    page = _page(finished_study[1])
    samples = page.text.index("Questions and model answers")
    assert samples < page.text.index("CC BY-SA 4.0") < page.text.index("How the arms trained")
    links = {link.get("href") for link in page.all("a")}
    assert {"https://openmoji.org", "https://creativecommons.org/licenses/by-sa/4.0/"} <= links


def test_requested_and_achieved_image_shares_are_shown(finished_study: WrittenStudy) -> None:
    shown = 2  # in the arm's row, and with its stage
    assert _page(finished_study[1]).text.count("10 → 10.0 · 9.7 · 3.1 %") == 12 * shown


CONTROLS = "\x1b[2J\x07\x9b\u202egpj\u2066\u2028\ufeff\ufffe\r\n\0\x85"


@pytest.mark.parametrize("mark", [CONTROLS, "".join(SEQUENCES)], ids=["controls", "sequences"])
def test_control_characters_of_every_text_are_shown_in_page_and_figures(tmp_path: Path, mark: str) -> None:
    """The SVG figures are XML, which has no control characters; the PNG figures are drawn from them."""
    mark = mark.encode(errors="replace").decode()
    arms = build_arms(StudyEffects(folder=tmp_path / "store", questions=20, suffix=mark))
    arms = [replace(arm, group=f"{arm.group}{mark}") for arm in arms]
    page = write(StudyAnalysis(arms, study(mark)), run=run_info(mark), folder=tmp_path / "report")
    texts = [page.read_bytes().decode(), *_svg_texts(tmp_path / "report")]
    assert len(texts) == 1 + len(FIGURES)
    for text in texts:
        assert not set(OBEYED.findall(text)) - {"\n", "\t"}
    assert all(r"\x1b[2J" in text for text in texts)


def _svg_texts(folder: Path) -> list[str]:
    files = sorted((folder / "figures").glob("*.svg"))
    for file in files:
        parse(str(file))
        with Image.open(file.with_suffix(".png")) as image:
            assert min(image.size) > 100
    return [file.read_bytes().decode() for file in files]


def test_many_scores_are_in_the_csv_alone(make_arms: MakeArms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstsight.report.pages.report_page.MAX_SCORE_ROWS", 20)
    results = StudyAnalysis(make_arms(questions=5, seeds=(1,)), study())
    page = _page(write(results, run=run_info(), folder=tmp_path))
    assert f"{len(results.scores)} scores, too many for a table on this page." in page.text
    assert "vqav2visionsighted" not in page.text.replace("\n", "")
    [link] = [link for link in page.all("a") if "download" in link]
    assert base64.b64decode(str(link["href"]).partition(",")[2]).decode() == results.scores.write_csv()


def test_scores_that_are_not_comparable_are_marked_where_they_are_shown(make_arms: MakeArms, tmp_path: Path) -> None:
    first, *others = make_arms(questions=10, seeds=(1,))
    assert first.scores
    holes = {name: scores for name, scores in first.scores.tasks.items() if name != "gqa"}
    changed = {**holes, "pope": replace(holes["pope"], version=9)}
    arms = [replace(first, scores=build_scores(changed)), *others]
    text = _page(write(StudyAnalysis(arms, study()), run=run_info(), folder=tmp_path)).text
    assert "No score on gqa: start-000.s1." in text
    assert "Not all arms were evaluated on pope in the same version" in text
    mark = "Not all of these scores are comparable: see above."
    for heading in ("The stable score is", "Each point is an arm", "A claim holds where", "In %, means over seeds"):
        start = text.index(heading)
        assert mark in text[start - 2 * len(mark) : start], heading
    assert mark not in _page(write(StudyAnalysis(others, study()), run=run_info(), folder=tmp_path)).text
