"""A small part of the fault campaign: every fault is followed by the same bytes, or by the name of the damaged file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.chaos.damage import BATCH, Damage, batches
from benchmarks.chaos.outcome import Ending, Outcome, table
from benchmarks.chaos.projects import STUDIES

ROOT = Path(__file__).parents[1]
FAULTS = ("--kills", "34", "--damages", "12", "--disks", "9", "--logs", "2", "--clocks", "1")
"""Of each of the three studies: 102 kills in all."""


def test_the_table_counts_endings_by_kind_of_fault() -> None:
    endings: list[tuple[str, Ending]] = [
        ("cut", "named"),
        ("cut", "silent"),
        ("flipped", "named"),
        ("flipped", "named"),
    ]
    outcomes = [Outcome(study="texts", kind=kind, fault="", ending=ending) for kind, ending in endings]
    assert table(outcomes) == [
        "| kind of fault | faults | same bytes | named | silent |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| cut | 2 | 0 | 1 | 1 |",
        "| flipped | 2 | 0 | 2 | 0 |",
        "| all | 4 | 0 | 3 | 1 |",
    ]


def test_no_two_damages_of_a_batch_are_of_steps_that_need_each_other() -> None:
    trunk, midtrain, evaluate, vocabulary = (
        f"{kind}-{number:012x}" for number, kind in enumerate(("a", "b", "c", "d"))
    )
    graph = {trunk: [], midtrain: [trunk], evaluate: [midtrain], vocabulary: []}
    paths = [f"steps/{trunk}/x", f"provenance/{evaluate}.json", f"verified/{midtrain}.json", f"steps/{vocabulary}/x"]
    paths += [f"reports/{number}" for number in range(BATCH)]
    chosen = [Damage(form="cut", path=path, seed=0) for path in paths]
    first, *rest = batches(chosen, graph)
    assert [damage.path for damage in first] == [paths[0], *paths[3:8]]
    assert [[damage.path for damage in batch] for batch in rest] == [[paths[1], *paths[8:]], [paths[2]]]


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("study", STUDIES)
def test_no_fault_of_a_small_campaign_passes_in_silence(study: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--studies", study, *FAULTS, "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    campaign = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr
