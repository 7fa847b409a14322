"""The study `schedules`: the arms of `when`, and the rates of the paper's Figure 3 in its plan."""

from __future__ import annotations

import pytest

from firstsight.plan.graph import build_graph
from firstsight.plan.schedules import published_rate, stage_table
from firstsight.recipe.scales import get_scale
from firstsight.studies.schedules import schedules
from firstsight.studies.when import when


@pytest.mark.parametrize("scale", ["smoke", "1b"])
def test_its_steps_are_those_of_when(scale: str) -> None:
    ours, others = build_graph(schedules(get_scale(scale))), build_graph(when(get_scale(scale)))
    assert ours.steps == others.steps and ours.title != others.title


def test_its_table_has_the_published_rates_and_by_how_much_ours_differ() -> None:
    study = schedules(get_scale("1b"))
    head, *rows = stage_table(study)
    column = head.index("published rate")
    cells = {row[0]: row[column] for row in rows}
    assert cells.pop("all arms") == ""
    for name, cell in cells.items():
        rate = published_rate(study.arm(name))
        assert rate is not None and abs(rate.difference) < 0.02, "checkpoints were a little off the nominal shares"
        assert cell == f"{rate.published:.4g} ({rate.difference:+.1%})"
    assert cells["start-080"].startswith("0.0009789 (") and cells["start-100"] == "0.003 (+0.0%)"
    assert "published rate" not in stage_table(schedules(get_scale("79m")))[0]
