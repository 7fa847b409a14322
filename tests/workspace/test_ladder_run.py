"""The study `ladder` from its plan to its report, at scale smoke."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import firstsight as fs


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ladder_runs_to_the_report_with_the_data_of_all_sizes_once(tmp_path: Path) -> None:
    """Two starts at three sizes: per measure and smaller size one pair, whose differences are those of scores.csv."""
    workspace = fs.Workspace(tmp_path / "runs")
    study = fs.study("ladder", scale="smoke", starts="40%,80%")
    summary = workspace.run(study)
    assert not summary.failed
    steps = [path.name for path in (tmp_path / "runs" / "steps").iterdir()]
    assert len([name for name in steps if name.startswith("contrast-")]) == 1
    assert len([name for name in steps if name.startswith("pretrain-")]) == 3 * 5
    accuracy = workspace.results(study).decision_accuracy
    assert accuracy is not None
    assert [(size.measure, len(size.pairs)) for size in accuracy.sizes[:2]] == [("vision", 1), ("vision", 1)]
    page = workspace.report(study)
    frame = pl.read_csv(page.parent / "decision-accuracy.csv").filter(measure="vision")
    scores = pl.read_csv(page.parent / "scores.csv").filter(task="stable", kind="vision", condition="sighted")
    means = dict(scores.select("arm", "score").iter_rows())
    for suffix, row in zip(("-w32", "-w64"), frame.iter_rows(named=True), strict=True):
        names = row["a"], row["b"]
        assert row["difference"] == pytest.approx(means[f"{names[0]}{suffix}"] - means[f"{names[1]}{suffix}"])
        assert row["largest_difference"] == pytest.approx(means[names[0]] - means[names[1]])
    assert "In vision, 99.4k orders" in page.read_text()
