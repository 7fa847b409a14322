"""The page against the study it was whole from: nothing missing, nothing loaded, nothing that users wrote run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from firstsight.errors import DataError
from firstsight.report.format import format_duration, format_percent
from firstsight.report.pages.report_page import write
from firstsight.report.pages.templates import inline_json
from firstsight.report.results import ArmResult, StudyFacts
from firstsight.report.table import score_table

Make = Callable[..., list[ArmResult]]
Frame = Callable[[str], StudyFacts]
Whole = tuple[list[ArmResult], Path]


class Page(HTMLParser):
    """What a browser would find: elements with attributes, the text outside scripts and styles, script bodies."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.styles = ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles += data
        else:
            self.text += data


def test_every_address_and_every_number_stands_on_the_page(whole: Whole) -> None:
    arms, path = whole
    page = Page(path)
    for arm in arms:
        assert arm.address in page.text
        assert all(stage.address in page.text for stage in arm.stages)
    assert len(arms) == 14
    for arm in arms:
        for task, facts in (arm.scores or {})["tasks"].items():
            row = f"{arm.label}{task}{facts['kind']}sighted{100 * facts['score']:.2f}"
            assert row in page.text.replace("\n", ""), row


def test_page_loads_nothing(whole: Whole) -> None:
    page = Page(whole[1])
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "action", "poster", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
        if tag != "a":
            assert not (attributes.get("href") or "").startswith("http"), (tag, attributes)
        assert "url(" not in (attributes.get("style") or "")
    assert "link" not in {tag for tag, _ in page.elements}
    assert "@import" not in page.styles
    assert "url(" not in page.styles
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_what_users_wrote_is_text(whole: Whole, wounded: Whole, evil: str) -> None:
    page, plain = Page(wounded[1]), Page(whole[1])
    assert len(page.scripts) == len(plain.scripts) == 3
    assert not [a for _, a in page.elements if "onerror" in a]
    assert all((a.get("src") or "data:").startswith("data:") for tag, a in page.elements if tag == "img")
    for part in ("Questions and model answers", "Unfinished", "The plan", "Provenance"):
        assert evil in page.text[page.text.index(part) :], part
    for svg in (wounded[1].parent / "figures").glob("*.svg"):
        assert "<script" not in svg.read_text()
        assert "<img" not in svg.read_text()


def test_specs_survive_the_script_element(whole: Whole) -> None:
    hostile = {"a": "</script><!--<script>", "b": ["\u2028&"]}
    assert json.loads(inline_json(hostile)) == hostile
    assert not set("<>&") & set(inline_json(hostile))
    page = Page(whole[1])
    assert json.loads(page.scripts[1]).keys() == {"stable", "tasks", "heat", "schedules", "losses"}


def test_half_a_study_says_what_is_missing(wounded: Whole) -> None:
    arms, path = wounded
    text = " ".join(Page(path).text.split())
    gone = [arm for arm in arms if arm.scores is None]
    assert f"{len(gone)} of 14 arms have no scores" in text
    for arm in gone:
        assert f"{arm.label} {arm.missing_reason} {arm.address}" in text


@pytest.mark.parametrize("judged", [("trunk",), ("start-080",), ("start-000", "trunk")])
def test_every_stage_of_a_run_has_a_page(make: Make, study: Frame, tmp_path: Path, judged: tuple[str, ...]) -> None:
    whole = make(seeds=(1,), questions=5)
    done = {stage.address for arm in whole if arm.name in judged for stage in arm.stages}
    arms = [
        replace(
            arm,
            scores=arm.scores if arm.name in judged else None,
            stages=tuple(stage if stage.address in done else replace(stage, log_path=None) for stage in arm.stages),
        )
        for arm in whole
    ]
    page = Page(write(arms, study=study(""), folder=tmp_path / "report"))
    assert f"{7 - len(judged)} of 7 arms have no scores" in page.text
    drawn = json.loads(page.scripts[1])
    assert ("stable" in drawn) == any(name.startswith("start") for name in judged)
    assert {"heat", "schedules", "losses"} <= drawn.keys()
    for name in drawn:
        with Image.open(tmp_path / "report" / "figures" / f"{name}.png") as image:
            assert image.width > 800


def test_a_study_without_scores_is_a_page_too(make: Make, study: Frame, tmp_path: Path) -> None:
    labels = [f"start-{percent:03d}.s1" for percent in range(0, 101, 20)] + ["trunk.s1"]
    arms = make(seeds=(1,), missing=dict.fromkeys(labels, "not run yet"))
    page = Page(write(arms, study=study(""), folder=tmp_path))
    assert "No answer yet" in page.text
    assert (tmp_path / "figures" / "schedules.svg").exists()
    assert not (tmp_path / "figures" / "main.svg").exists()


def test_figures_and_scores_lie_beside_the_page(whole: Whole) -> None:
    arms, path = whole
    rows = score_table(arms)
    assert pl.read_parquet(path.parent / "scores.parquet").equals(rows)
    assert pl.read_csv(path.parent / "scores.csv").shape == rows.shape
    for name in ("main", "stable", "tasks", "heat", "schedules", "losses"):
        assert (path.parent / "figures" / f"{name}.svg").read_text().startswith("<svg")
        with Image.open(path.parent / "figures" / f"{name}.png") as image:
            assert image.width > 800
    svg = (path.parent / "figures" / "main.svg").read_text()
    assert all(arm.address in svg for arm in arms if arm.schedule != "trunk")


def test_equal_input_gives_equal_bytes(whole: Whole, study: Frame, tmp_path: Path) -> None:
    arms, first = whole
    second = write(arms, study=study(""), folder=tmp_path)
    for path in sorted(path for path in first.parent.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(first.parent)).read_bytes(), path
    assert second.stat().st_size < 3_000_000


def test_drawings_are_credited_where_they_appear(whole: Whole) -> None:
    page = Page(whole[1])
    samples = page.text.index("Questions and model answers")
    credit = page.text.index("CC BY-SA 4.0")
    assert samples < credit < page.text.index("How the arms trained")
    links = {a.get("href") for tag, a in page.elements if tag == "a"}
    assert {"https://openmoji.org", "https://creativecommons.org/licenses/by-sa/4.0/"} <= links


def test_a_foreign_scores_file_is_refused_by_name(make: Make, study: Frame, tmp_path: Path) -> None:
    arms = make(seeds=(1,), questions=5)
    (arms[0].scores or {})["tasks"].pop("gqa")  # type: ignore[union-attr]
    (arms[0].scores or {})["tasks"]["vqav2"].pop("n")  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"start-000\.s1 .*KeyError: 'n'.*Evaluate the checkpoint again"):
        write(arms, study=study(""), folder=tmp_path)


def test_numbers_read_as_people_write_them() -> None:
    assert [format_percent(0.5312), format_percent(-0.02), format_percent(None)] == ["53.1", "\N{MINUS SIGN}2.0", ""]
    assert [format_duration(42.0), format_duration(570.0), format_duration(111_600.0)] == ["42 s", "9.5 min", "31 h"]


def test_asked_and_achieved_image_shares_are_shown(whole: Whole) -> None:
    assert Page(whole[1]).text.count("10 → 10.0 · 9.7 · 3.1 %") == 12
