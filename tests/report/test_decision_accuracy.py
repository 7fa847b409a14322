"""Decision accuracy of a study at three sizes, against pairs counted from its scores and against tested differences."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean

import pytest

from firstsight.report.compare import ArmComparison, ArmPair, PairedDifference
from firstsight.report.decision_accuracy import FRAME_SCHEMA, StudyDecisionAccuracy, study_decision_accuracy
from firstsight.report.results import ArmResult
from firstsight.report.summary import answer_sentence
from firstsight.report.table import score_table, task_gains
from tests.report.ladder_builder import SIZES, ladder_arms, ladder_study
from tests.report.study_builder import study as study_of_one_size

STARTS = ("start-000", "start-020", "start-040", "start-060", "start-080", "start-100")


def accuracy_of(arms: list[ArmResult]) -> StudyDecisionAccuracy:
    study = ladder_study()
    accuracy = study_decision_accuracy(arms, score_table(arms, study.axes), study)
    assert accuracy is not None
    return accuracy


def differences_of(arms: list[ArmResult], suffix: str, measure: str) -> list[PairedDifference | None]:
    """All pairs of a study that has one size alone."""
    some = [arm for arm in arms if arm.at["decoder_size"] == SIZES[suffix]]
    pairs = [ArmPair(a=f"{a}{suffix}", b=f"{b}{suffix}", measure=measure) for a, b in combinations(STARTS, 2)]
    return ArmComparison(some, score_table(some, ladder_study().axes)).corrected_differences(pairs)


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> list[ArmResult]:
    """Two seeds of each size."""
    return ladder_arms(tmp_path_factory.mktemp("ladder"), noise=0.04)


def test_pairs_are_those_of_the_scores(arms: list[ArmResult]) -> None:
    """Orders of the mean stable scores, counted pair by pair; decisions are those of the tested differences."""
    rows = score_table(arms, ladder_study().axes)
    accuracy = accuracy_of(arms)
    assert [size.measure for size in accuracy.sizes[::2]] == ["vision", "vision soft", "text", "text soft"]
    for size in accuracy.sizes:
        suffix = next(suffix for suffix, number in SIZES.items() if number == size.size)
        means = {
            name: mean(mean(tasks.values()) for tasks in task_gains(rows, name, size.measure).values())
            for start in STARTS
            for name in (start, f"{start}{suffix}")
        }
        tested = {end: differences_of(arms, end, size.measure) for end in (suffix, "")}
        assert [(pair.a, pair.b) for pair in size.pairs] == list(combinations(STARTS, 2))
        for pair, small, large in zip(size.pairs, tested[suffix], tested[""], strict=True):
            assert pair.largest_difference == pytest.approx(means[pair.a] - means[pair.b])
            assert pair.difference == pytest.approx(means[f"{pair.a}{suffix}"] - means[f"{pair.b}{suffix}"])
            assert pair.agreement == (pair.difference * pair.largest_difference > 0)
            assert small is not None and large is not None
            assert (pair.is_decided, pair.is_decided_at_largest) == (small.sign != 0, large.sign != 0)
        decided = [pair for pair in size.pairs if pair.is_decided_at_largest]
        assert (size.over_all.num_pairs, size.over_decided.num_pairs) == (15, len(decided))
        assert size.over_all.num_alike == sum(pair.agreement for pair in size.pairs)
        assert size.over_decided.num_alike == sum(pair.agreement for pair in decided)


def test_a_size_with_other_effects_orders_fewer_pairs(arms: list[ArmResult]) -> None:
    """The effects of the middle size are those of the largest but for one pair, those of the smallest are not."""
    small, middle = (size.over_all.share for size in accuracy_of(arms).sizes[:2])
    assert small is not None and middle is not None and small < 0.6 < 0.85 < middle
    assert any(pair.is_reversed for pair in accuracy_of(arms).sizes[0].pairs)


def test_sizes_may_have_other_seeds_and_lack_arms(tmp_path: Path) -> None:
    arms = ladder_arms(tmp_path, seeds={"-w32": (1, 2, 3), "-w64": (2,), "": (1, 2)}, questions=20)
    arms = [replace(arm, scores=None) if arm.name == "start-040-w64" else arm for arm in arms]
    smallest, middle, *_ = accuracy_of(arms).sizes
    assert (smallest.num_seeds, smallest.num_seeds_at_largest, len(smallest.pairs)) == (3, 2, 15)
    assert (middle.num_seeds, middle.num_seeds_at_largest, len(middle.pairs)) == (1, 2, 10)
    assert not any(pair.is_decided for pair in middle.pairs), "one seed decides nothing"
    assert middle.over_all.interval is not None, "over questions, and over the seeds of the largest size"


def test_one_evaluated_size_has_no_accuracy(arms: list[ArmResult]) -> None:
    largest = [arm if arm.at["decoder_size"] == SIZES[""] else replace(arm, scores=None) for arm in arms]
    for some in (largest, [replace(arm, scores=None) for arm in arms]):
        accuracy = accuracy_of(some)
        assert accuracy.sizes == () and accuracy.frame().is_empty()
        axes, scores = ladder_study().axes, score_table(some, ladder_study().axes)
        answer = answer_sentence(some, scores, ArmComparison(some, scores), axes=axes, accuracy=accuracy)
        assert re.match("Best in vision: 80 %|No answer yet", answer)


def test_a_study_that_does_not_state_it_has_none(arms: list[ArmResult]) -> None:
    study = study_of_one_size()
    assert study_decision_accuracy(arms, score_table(arms, study.axes), study) is None


def test_table_and_sentence_have_the_shares(arms: list[ArmResult]) -> None:
    accuracy = accuracy_of(arms)
    header, *rows = accuracy.table()
    assert len(rows) == 8 and {len(row) for row in rows} == {len(header)}
    smallest, middle = accuracy.sizes[:2]
    assert rows[0][:3] == ("vision", "99.4k", f"{smallest.over_all.num_alike:g} of 15")
    axes, scores = ladder_study().axes, score_table(arms, ladder_study().axes)
    answer = answer_sentence(arms, scores, ArmComparison(arms, scores), axes=axes, accuracy=accuracy)
    assert answer == accuracy.sentence()
    assert f"330k orders {middle.over_all.num_alike:g} of 15 pairs" in accuracy.sentence()
    assert "as 1.18M does" in accuracy.sentence()
    frame = accuracy.frame()
    assert frame.columns == list(FRAME_SCHEMA) and len(frame) == 8 * 15
    assert frame.filter(measure="vision", size=99_360.0)["agreement"].sum() == smallest.over_all.num_alike
