"""Figures of decision accuracy: a mark for each share and each pair, and the page that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest

from firstsight.report.analysis import StudyAnalysis
from firstsight.report.decision_accuracy import study_decision_accuracy
from firstsight.report.figures import draw_figure
from firstsight.report.figures.layout import lay_out
from firstsight.report.figures.style import vega_lite_spec
from firstsight.report.pages.report_page import write
from firstsight.report.results import ArmResult
from firstsight.report.table import score_table
from tests.report.html_page import Page
from tests.report.ladder_builder import ladder_arms, ladder_study
from tests.report.study_builder import run_info

MEASURES = ["vision", "vision soft", "text", "text soft"]


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> list[ArmResult]:
    """Two seeds of each size, with few questions."""
    return ladder_arms(tmp_path_factory.mktemp("ladder"), questions=12)


def rows_of(chart: Any) -> list[dict[str, Any]]:
    spec = vega_lite_spec(chart)
    alt.Chart.from_dict(spec, validate=True)
    [rows] = spec["datasets"].values()
    assert spec["facet"]["sort"] == MEASURES
    return rows


def test_a_mark_for_every_share_and_a_hollow_one_for_the_decided_pairs(arms: list[ArmResult]) -> None:
    study = ladder_study()
    accuracy = study_decision_accuracy(arms, score_table(arms, study.axes), study)
    assert accuracy is not None
    rows = rows_of(draw_figure(StudyAnalysis(arms, study), "accuracy"))
    for size in accuracy.sizes:
        marks = [row for row in rows if (row["measure"], row["size"]) == (size.measure, study.axes[1].text(size.size))]
        expected = {size.kind: size.over_all.share}
        expected |= {"hollow": size.over_decided.share} if size.over_decided.num_pairs else {}
        assert {row["fill"]: row["share"] for row in marks} == pytest.approx(expected)
        assert all(row["interval_low"] <= row["share"] <= row["interval_high"] for row in marks)


def test_a_mark_for_every_pair_below_the_line_where_the_order_is_reversed(arms: list[ArmResult]) -> None:
    study = ladder_study()
    accuracy = study_decision_accuracy(arms, score_table(arms, study.axes), study)
    assert accuracy is not None
    rows = rows_of(draw_figure(StudyAnalysis(arms, study), "pairs"))
    assert len(rows) == 8 * 15 and all(row["large"] >= 0 for row in rows)
    for size in accuracy.sizes:
        text = study.axes[1].text(size.size)
        heights = [row["small"] for row in rows if (row["measure"], row["size"]) == (size.measure, text)]
        assert sum(height < 0 for height in heights) == sum(pair.agreement == 0 for pair in size.pairs)
    hollow = sum(row["fill"] == "hollow" for row in rows)
    assert hollow == sum(not pair.is_decided_at_largest for size in accuracy.sizes for pair in size.pairs)


def test_a_sweep_has_a_line_for_each_size_and_hollow_ends(arms: list[ArmResult]) -> None:
    study = ladder_study()
    layout = lay_out(study.score_figures[0], arms, study)
    assert layout.series == ["99.4k", "330k", "1.18M"]
    places = dict(layout.places.group_by("series").agg(pl.col("hollow").sum()).iter_rows())
    assert places == {"99.4k": 2, "330k": 2, "1.18M": 2}
    assert layout.places.group_by("series", "tick").len().get_column("len").to_list() == [1] * 18


def test_the_page_answers_with_the_pairs_and_has_their_table(
    arms: list[ArmResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'
    monkeypatch.setattr("firstsight.report.pages.report_page._render_svg", lambda spec: svg)  # the slowest part
    page = Page(write(StudyAnalysis(arms, ladder_study()), run=run_info(), folder=tmp_path).read_text(encoding="utf-8"))
    assert "In vision, 99.4k orders" in page.text
    assert "Does a smaller size decide alike?" in page.text and "by parameters of the decoder" in page.text
    frame = pl.read_csv(tmp_path / "decision-accuracy.csv")
    assert len(frame) == 8 * 15 and frame.equals(pl.read_parquet(tmp_path / "decision-accuracy.parquet"))
    assert (tmp_path / "figures" / "accuracy.svg").is_file() and (tmp_path / "figures" / "pairs.png").is_file()
