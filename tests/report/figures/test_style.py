"""All figures are valid Vega-Lite, and every mark has its address."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pytest

from firstsight.report.analysis import StudyAnalysis
from firstsight.report.figures import study_charts
from firstsight.report.figures.curves import read_curves
from firstsight.report.figures.style import compact_rows, field_tooltips, vega_lite_spec
from tests.report.figures.charts import nodes
from tests.report.study_builder import MakeArms, study


@pytest.fixture
def charts(make_arms: MakeArms) -> dict[str, Any]:
    arms = make_arms(questions=20)
    return dict(study_charts(StudyAnalysis(arms, study()), read_curves(arms)))


def test_every_figure_is_valid(charts: dict[str, Any]) -> None:
    names = {"stable", "single", "pareto", "forgetting", "soft", "tasks", "main", "heat", "schedules", "losses"}
    assert set(charts) == names
    for chart in charts.values():
        spec = vega_lite_spec(chart)
        spec["datasets"] = {name: rows[:1] for name, rows in spec["datasets"].items()}
        alt.Chart.from_dict(spec, validate=True)


def test_every_mark_has_its_address(charts: dict[str, Any]) -> None:
    for name in ("stable", "single", "soft", "tasks", "heat", "losses"):
        spec = vega_lite_spec(charts[name])
        for dataset_name, dataset in spec["datasets"].items():
            assert all(row["address"] for row in dataset), dataset_name
        marks = [node for node in nodes(spec) if isinstance(node.get("mark"), dict) and node["mark"]["type"] != "text"]
        with_address = [node for node in marks if "address" in json.dumps(node.get("encoding", {}).get("tooltip", ""))]
        # Lines that only join points have no tooltip; their points have.
        assert all(node in with_address or node["mark"]["type"] == "line" for node in marks)


def test_tooltips_have_titles_and_formats() -> None:
    score, arm = (tooltip.to_dict() for tooltip in field_tooltips("score", "arm"))
    assert score == {"field": "score", "type": "quantitative", "title": "score", "format": ".1%"}
    assert arm == {"field": "arm", "type": "nominal", "title": "arm"}


def test_rows_are_compact() -> None:
    assert compact_rows([{"a": 1 / 3, "b": None, "c": "x", "d": 7}]) == [{"a": 0.333333, "c": "x", "d": 7}]
