"""Task scores, their intervals and the stable score."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import DataError
from firstsight.evaluate.result_files import (
    aggregate_scores,
)
from firstsight.evaluate.statistics.bootstrap import ClusteredScores, bca_interval, cluster_scores
from firstsight.evaluate.tasks import TASKS


def question_scores(
    scores: list[float], clusters: list[str] | None = None, splits: list[str] | None = None
) -> ClusteredScores:
    names = [str(n) for n in range(len(scores))]
    return cluster_scores(scores, splits=splits, clusters=clusters or names)


WITH_IMAGES = {"vqav2": 0.7639, "gqa": 0.6108, "vizwiz": 0.1088, "textvqa": 0.468, "refcoco": 0.642, "ocid_ref": 0.461}
WITHOUT = {"vqav2": 0.7469, "gqa": 0.606, "vizwiz": 0.1169, "textvqa": 0.416, "refcoco": 0.589, "ocid_ref": 0.397}


@pytest.mark.parametrize(
    ("table", "pope", "expected"), [(WITH_IMAGES, 0.875, 0.4701), (WITHOUT, 0.871, 0.4377)], ids=["with", "without"]
)
def test_stable_score_of_the_papers_7b_models(table: dict[str, float], pope: float, expected: float) -> None:
    aggregate = aggregate_scores(table | {"pope": pope}, "vision")
    assert aggregate.stable == pytest.approx(expected, abs=0.00006)
    assert aggregate.missing_tasks == ()
    # VizWiz is outside the stable score: any other score of it changes empty.
    assert aggregate_scores(table | {"pope": pope, "vizwiz": 0.9}, "vision") == aggregate


def test_missing_tasks_are_named() -> None:
    scores = {"pope": 0.8, "gqa": 0.55, "kinds": 1.0}
    aggregate = aggregate_scores(scores, "vision")
    assert aggregate.stable == pytest.approx((0.3 + 0.3) / 2)
    assert aggregate.missing_tasks == ("vqav2", "textvqa", "refcoco", "ocid_ref")
    empty = aggregate_scores({}, "text")
    assert (empty.stable, empty.centred, empty.raw) == (None, None, None)
    assert len(empty.missing_tasks) == 9


DCLM = {
    "arc_easy": "arc_easy",
    "copa": "copa",
    "hellaswag": "hellaswag_zeroshot",
    "mathqa": "math_qa",
    "piqa": "piqa",
    "agieval_sat_en": "agi_eval_sat_en",
}
DIFFERENT = {
    # task: (DCLM's name, its baseline in %, ours). DCLM takes BoolQ's commoner answer for chance, rounds three and four
    # choices to 33, and lets PubMedQA's and CS algorithms' answers be written freely.
    "boolq": ("boolq", 62.0, 0.5),
    "pubmedqa": ("pubmed_qa_labeled", 0.0, 1 / 3),
    "bigbench_cs_algorithms": ("bigbench_cs_algorithms", 0.0, 0.5),
    "bigbench_conceptual_combinations": ("bigbench_conceptual_combinations", 33.0, 0.25),
}


@pytest.mark.shared
def test_chances_equal_dclms_for_equal_tasks(shared: Path) -> None:
    with (shared / "dclm_baselines" / "eval_meta_data.csv").open() as file:
        dclm = {row["Eval Task"]: float(row["Random baseline"]) for row in csv.DictReader(file)}
    assert {name: 100 * TASKS[name].chance for name in DCLM} == pytest.approx({n: dclm[d] for n, d in DCLM.items()})
    # The authors' own baselines are the same but for sat_en, where they took five choices.
    assert {name for name in DCLM if TASKS[name].baseline != TASKS[name].chance} == {"agieval_sat_en"}
    text = {name for name, task in TASKS.items() if task.kind == "text"}
    assert text == DCLM.keys() | {name for name in text if any(name.startswith(other) for other in DIFFERENT)}
    for name, (other, percent, ours) in DIFFERENT.items():
        assert dclm[other] == percent
        assert next(task.chance for key, task in TASKS.items() if key.startswith(name)) == pytest.approx(
            ours, abs=0.001
        )


def test_centred_scores_of_guessing_and_of_right_answers() -> None:
    text = {name: task for name, task in TASKS.items() if task.kind == "text"}
    assert aggregate_scores({name: task.chance for name, task in text.items()}, "text").centred == pytest.approx(0)
    perfect = aggregate_scores(dict.fromkeys(text, 1.0), "text")
    assert perfect.centred == perfect.raw == pytest.approx(1)
    # The authors take .2 for sat_en although it has four choices, so guessing everything stays just above 0.
    assert aggregate_scores({name: task.chance for name, task in text.items()}, "text").stable == pytest.approx(
        (0.05 + 1 / 3 - 0.333) / 9
    )


def test_splits_have_equal_weights() -> None:
    scores = question_scores([1.0, 1.0, 1.0, 0.0], splits=["a", "a", "a", "b"])
    assert scores.mean == 0.5


def test_no_question_is_an_error() -> None:
    with pytest.raises(DataError, match="without questions"):
        question_scores([])


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=1, max_size=40), st.integers(1, 5))
def test_the_interval_is_within_bounds_and_deterministic(scores: list[float], groups: int) -> None:
    sample = question_scores(scores, clusters=[str(n % groups) for n in range(len(scores))])
    low, high = bca_interval(sample)
    assert -1e-9 <= low <= sample.mean + 1e-9
    assert sample.mean - 1e-9 <= high <= 1 + 1e-9
    assert bca_interval(sample) == (low, high)


def test_twenty_right_answers_have_a_binomial_interval() -> None:
    # Exact binomial: had one in six been wrong, twenty right ones would still turn up in 2.5 % of samples.
    low, high = bca_interval(question_scores([1.0] * 20, splits=["a", "b"] * 10))
    assert (low, high) == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert bca_interval(question_scores([0.0] * 20), bounds=(-1.0, 1.0)) == pytest.approx((low - 1, 1 - low))


def test_one_cluster_is_one_observation() -> None:
    low, high = bca_interval(question_scores([0.0, 1.0] * 50, clusters=["same"] * 100))
    assert low < 0.02
    assert high > 0.98


def test_the_interval_has_the_width_of_a_normal_one() -> None:
    scores = [1.0] * 300 + [0.0] * 700
    low, high = bca_interval(question_scores(scores))
    width = 2 * 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert high - low == pytest.approx(width, rel=0.1)
