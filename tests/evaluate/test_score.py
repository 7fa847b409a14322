"""Task scores, their intervals and the stable score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import DataError
from firstsight.evaluate.score import Judged, interval, means, total
from firstsight.evaluate.tasks import TASKS


def judged(scores: list[float], clusters: list[str] | None = None, splits: list[str] | None = None) -> Judged:
    names = [str(n) for n in range(len(scores))]
    return Judged(scores=scores, splits=splits or [""] * len(scores), clusters=clusters or names)


WITH_IMAGES = {"vqav2": 0.7639, "gqa": 0.6108, "vizwiz": 0.1088, "textvqa": 0.468, "refcoco": 0.642, "ocid_ref": 0.461}
WITHOUT = {"vqav2": 0.7469, "gqa": 0.606, "vizwiz": 0.1169, "textvqa": 0.416, "refcoco": 0.589, "ocid_ref": 0.397}


@pytest.mark.parametrize(
    ("table", "pope", "wanted"), [(WITH_IMAGES, 0.875, 0.4701), (WITHOUT, 0.871, 0.4377)], ids=["with", "without"]
)
def test_stable_score_of_the_papers_7b_models(table: dict[str, float], pope: float, wanted: float) -> None:
    found = means(table | {"pope": pope}, "vision")
    assert found.stable == pytest.approx(wanted, abs=0.00006)
    assert found.missing == ()
    # VizWiz is judged but stays outside: any other score of it changes nothing.
    assert means(table | {"pope": pope, "vizwiz": 0.9}, "vision") == found


def test_missing_tasks_are_named_and_skipped() -> None:
    found = means({"pope": 0.8, "gqa": 0.55, "kinds": 1.0}, "vision")
    assert found.stable == pytest.approx((0.3 + 0.3) / 2)
    assert found.missing == ("vqav2", "textvqa", "refcoco", "ocid_ref")
    nothing = means({}, "text")
    assert (nothing.stable, nothing.centred, nothing.raw) == (None, None, None)
    assert len(nothing.missing) == 9


def test_guessing_is_zero_and_perfection_is_one_when_centred() -> None:
    text = {name: task for name, task in TASKS.items() if task.kind == "text"}
    assert means({name: task.chance for name, task in text.items()}, "text").centred == pytest.approx(0)
    perfect = means(dict.fromkeys(text, 1.0), "text")
    assert perfect.centred == perfect.raw == pytest.approx(1)
    # The authors take .2 for sat_en although it has four choices, so guessing everything stays just above 0.
    assert means({name: task.chance for name, task in text.items()}, "text").stable == pytest.approx(
        (0.05 + 1 / 3 - 0.333) / 9
    )


def test_a_split_counts_the_same_whatever_its_size() -> None:
    scores = judged([1.0, 1.0, 1.0, 0.0], splits=["a", "a", "a", "b"])
    assert total(scores) == 0.5


def test_nothing_judged_is_an_error() -> None:
    with pytest.raises(DataError, match="without questions"):
        total(judged([]))


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=1, max_size=40), st.integers(1, 5))
def test_interval_lies_in_the_range_and_repeats(scores: list[float], groups: int) -> None:
    sample = judged(scores, clusters=[str(n % groups) for n in range(len(scores))])
    low, high = interval(sample)
    assert min(scores) - 1e-9 <= low <= high <= max(scores) + 1e-9
    assert interval(sample) == (low, high)


def test_constant_scores_have_no_width() -> None:
    assert interval(judged([1.0] * 20, splits=["a", "b"] * 10)) == (1.0, 1.0)


def test_one_cluster_is_one_observation() -> None:
    one = judged([0.0, 1.0] * 50, clusters=["same"] * 100)
    assert interval(one) == (0.5, 0.5)


def test_interval_is_as_wide_as_the_normal_law_says() -> None:
    scores = [1.0] * 300 + [0.0] * 700
    low, high = interval(judged(scores))
    width = 2 * 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert high - low == pytest.approx(width, rel=0.1)


def test_interval_covers_the_truth_when_pictures_bind_questions_together() -> None:
    rng = np.random.default_rng(0)
    covered, naive = 0, 0
    for _ in range(100):
        # 60 pictures of 5 questions each that stand or fall together, right with probability .4.
        right = np.repeat(rng.random(60) < 0.4, 5).astype(float).tolist()
        pictures = [str(n // 5) for n in range(300)]
        low, high = interval(judged(right, clusters=pictures))
        covered += low <= 0.4 <= high
        low, high = interval(judged(right))
        naive += low <= 0.4 <= high
    assert 0.88 <= covered / 100 <= 0.99
    assert naive / 100 < 0.8
