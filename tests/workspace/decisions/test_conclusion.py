"""The last lines of a run: the answer, what is decided, and what the next claim would cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.workspace.decision_store import DecisionStore, combined_study, small_study


def filled_store(folder: Path, *, late: float, seeds: int = 2) -> DecisionStore:
    """Images at 100 % are answered with the ability `late`, at 80 % with .8."""
    store = DecisionStore(folder, {80: 0.8, 100: late}, noise=0.1)
    store.fill(small_study(seeds))
    return store


def test_an_undecided_claim_has_its_cost(tmp_path: Path) -> None:
    store = filled_store(tmp_path, late=0.65)
    answer, claims, cost = store.workspace.conclusion(small_study())
    assert answer == store.workspace.results(small_study()).answer and answer.startswith("Best in vision: ")
    assert claims == "Claims decided: none. Undecided: two-points."
    look = store.workspace.next(small_study(), budget="1000h")
    assert cost.startswith(f"{look.cost_line()} More, by the stricter rule")
    assert cost.endswith(f"firstsight next when --scale smoke --out {store.workspace.root}")


def test_a_decided_claim_has_its_verdict(tmp_path: Path) -> None:
    _, claims, cost = filled_store(tmp_path, late=0.2, seeds=3).workspace.conclusion(small_study(3))
    assert claims == "Claims decided: two-points holds. Undecided: none."
    assert cost == "No claim is left to decide."


def test_one_seed_says_what_to_run_first(tmp_path: Path) -> None:
    *_, cost = filled_store(tmp_path, late=0.2, seeds=1).workspace.conclusion(small_study(1))
    assert "is not known" in cost and cost.endswith("give --seeds 2 here too.")


@pytest.mark.parametrize("seeds", [1, 2])
def test_without_claims_there_is_the_answer_alone(tmp_path: Path, seeds: int) -> None:
    store = filled_store(tmp_path, late=0.2, seeds=seeds)
    study = replace(small_study(seeds), claims=())
    assert store.workspace.conclusion(study) == [store.workspace.results(study).answer]


def test_a_combined_study_has_the_answers_and_claims_of_its_parts(tmp_path: Path) -> None:
    study = combined_study(3)
    lines = filled_store(tmp_path, late=0.2, seeds=3).workspace.conclusion(study)
    assert [line.partition(":")[0] for line in lines[:2]] == ["when", "when-text"]
    assert lines[2] == "2 of 2 studies have the scores of all their arms."
    assert lines[3] == "Claims decided: when.two-points holds. Undecided: when-text.text-kept."
    assert "when-text.text-kept" in lines[4] or "No open claim" in lines[4]
