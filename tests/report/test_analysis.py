"""Everything that results show is computed once, and from one table of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from firstsight.report import analysis
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.pages.report_page import write
from tests.report.study_builder import MakeArms, run_info, study


def test_a_report_makes_every_table_once(
    make_arms: MakeArms, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    names = ("score_table", "ArmComparison", "evaluate_claims", "study_noise", "answer_sentence")

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *values, **options: (calls.append(name), function(*values, **options))[1]

    for name in names:
        monkeypatch.setattr(analysis, name, counted(name, getattr(analysis, name)))
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'
    monkeypatch.setattr("firstsight.report.pages.report_page._render_svg", lambda spec: svg)  # the slowest part
    results = StudyAnalysis(make_arms(questions=10, seeds=(1,)), study())
    assert results.answer and results.claims and results.noise.tasks
    write(results, run=run_info(), folder=tmp_path_factory.mktemp("report"))
    assert sorted(calls) == sorted(names)
