"""Curves of training: each shared stage once, continuous where the learning rate continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import pytest

from firstsight.errors import RequestError
from firstsight.recipe.scales import get_scale
from firstsight.recipe.study import Study
from firstsight.report.figures.curves import (
    LEAST_BRANCH,
    MAX_CURVE_POINTS,
    learning_rate_chart,
    planned_curves,
    read_curves,
)
from firstsight.report.figures.style import vega_lite_spec
from firstsight.report.results import ArmResult
from firstsight.site import Site
from firstsight.studies.when import when
from firstsight.workspace.results import learning_rates
from firstsight.workspace.study_graph import StoredStudy
from tests.report.study_builder import FINETUNE_TOKENS, MIDTRAIN_TOKENS, TRUNK_TOKENS, MakeArms, study


def test_shared_trunk_is_read_once_and_arms_continue_at_its_end(make_arms: MakeArms) -> None:
    arms = make_arms(questions=5)
    curves = read_curves(arms)
    addresses = [stage["address"] for stage in curves.stages]
    assert len(addresses) == len(set(addresses)) == 2 * (5 + 2 * 6)
    points = {address: [row for row in curves.rows if row["address"] == address] for address in addresses}
    for arm in arms:
        if arm.group == "continued":
            trunk, branch = points[arm.stages[-3].address], points[arm.stages[-2].address]
            assert branch[0]["seen"] > trunk[-1]["seen"]
            assert branch[0]["lr"] == pytest.approx(trunk[-1]["lr"], rel=0.02)
    assert curves.total_tokens["start-000"] == MIDTRAIN_TOKENS + FINETUNE_TOKENS
    assert curves.total_tokens["start-100"] == TRUNK_TOKENS + MIDTRAIN_TOKENS + FINETUNE_TOKENS


def test_curves_are_short_and_keep_their_highest_rate(make_arms: MakeArms) -> None:
    curves = read_curves(make_arms(questions=5, seeds=(1,)))
    finetune = next(stage["address"] for stage in curves.stages if stage["stage"] == "finetune")
    rates = [row["lr"] for row in curves.rows if row["address"] == finetune]
    assert len(rates) <= MAX_CURVE_POINTS + 1
    assert max(rates) == pytest.approx(2e-3, rel=0.01)


def _chart_rows(arms: list[ArmResult], drawn: Study) -> list[dict[str, Any]]:
    spec = vega_lite_spec(learning_rate_chart(planned_curves(arms), drawn))
    alt.Chart.from_dict(spec, validate=True)
    return [row for rows in spec["datasets"].values() for row in rows]


def test_learning_rates_are_those_of_the_first_seed(make_arms: MakeArms) -> None:
    stages = [row for row in _chart_rows(make_arms(questions=5), study()) if "stage" in row]
    assert {row["label"].rpartition("s")[2] for row in stages if row["stage"] == "finetune"} == {"1"}


def test_learning_rates_need_no_log_and_have_the_published_ones(tmp_path: Path) -> None:
    """At 1b a branch has 30 billion tokens on a trunk of 4,319 billion: stretched to at least a tenth of it."""
    stored = StoredStudy(when(get_scale("1b")), tmp_path, Site())
    spec = vega_lite_spec(learning_rates(stored))
    rows = [row for data in spec["datasets"].values() for row in data]
    published = {row["arm"]: row for row in rows if "published" in row}
    assert len(published) == 6 and published["start-080"]["published"] == 0.000978897
    trunk, branches = 4.3194e12, [row for row in rows if "x" in row and "lr" in row and "published" not in row]
    longest = max(row["x"] for row in branches) - trunk
    assert 1 / 10 < longest / trunk < 1 / (LEAST_BRANCH - 1)
    assert published["start-080"]["x"] == pytest.approx(0.8 * trunk, rel=1e-4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_figure_of_a_plan_is_written(tmp_path: Path, suffix: str) -> None:
    stored = StoredStudy(when(get_scale("smoke")), tmp_path / "none", Site())
    learning_rates(stored, tmp_path / f"rates{suffix}")
    content = (tmp_path / f"rates{suffix}").read_bytes()
    assert content.startswith(b"<svg" if suffix == ".svg" else b"\x89PNG")
    with pytest.raises(RequestError, match=r"--figure: wanted a file that ends in .svg or .png. Got .*rates.pdf"):
        learning_rates(stored, tmp_path / "rates.pdf")
