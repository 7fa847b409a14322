"""Coverage of 95 % intervals on simulated data with known true values."""

from __future__ import annotations

import pytest

from tests.evaluate.statistics.simulations import (
    BENCHMARKS,
    STUDIES,
    Benchmark,
    Study,
    difference_coverage,
    score_coverage,
    study_coverage,
)

BENCHMARK = Benchmark(images=120, questions_per_image=3, accuracy=0.3, correlation=0.3)


def test_coverage_score_coverage() -> None:
    assert 0.93 < score_coverage(BENCHMARK, trials=1500, draws=800) < 0.97


def test_coverage_of_a_paired_difference() -> None:
    assert 0.93 < difference_coverage(BENCHMARK, trials=1500, draws=800) < 0.97


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_coverage_over_seeds_and_questions(seeds: int) -> None:
    assert 0.93 < study_coverage(Study(seeds=seeds, arms=6, images=60, seed_spread=0.05), trials=1500) < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=str)
def test_coverage_of_scores_on_all_benchmarks(benchmark: Benchmark) -> None:
    # Of 100 images, nearly all have full scores: the others are rarely sampled. Percentile intervals cover 0.89.
    hardest = benchmark.scored == "vqa" and benchmark.images == 100 and benchmark.accuracy > 0.5
    assert (0.90 if hardest else 0.93) < score_coverage(benchmark, trials=2000, draws=1000) < 0.97
    if benchmark.scored == "binary":
        assert 0.93 < difference_coverage(benchmark, trials=2000, draws=1000) < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=str)
def test_coverage_over_seeds_and_questions_in_all_studies(study: Study) -> None:
    """With few degrees of freedom of the seeds no method is exact at every spread; there it may only be too wide."""
    dof = (study.arms - 1) * (study.seeds - 1)
    max_coverage = 0.995 if dof < 3 else 0.99 if dof < 6 else 0.98
    assert (0.925 if dof == 1 else 0.93) < study_coverage(study, trials=2000) < max_coverage


@pytest.mark.slow
def test_coverage_with_an_outlier_arm() -> None:
    # Pooling alone covers 77 % of such studies. The F test improves that; docs/why/differences says how much.
    assert study_coverage(Study(seeds=5, arms=6, outlier_factor=5.0, seed_spread=0.03), trials=2000) > 0.84
    assert study_coverage(Study(seeds=5, arms=2, outlier_factor=5.0, seed_spread=0.03), trials=2000) > 0.93
