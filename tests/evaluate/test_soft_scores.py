"""Soft scores by hand: what an answer drawn from a known distribution is expected to score."""

from __future__ import annotations

from math import inf, log, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.evaluate.metrics.metric import Truth
from firstsight.evaluate.models.interface import RawAnswer
from firstsight.evaluate.result_files import SoftScore
from firstsight.evaluate.soft_scores import SAMPLE_COUNT, reference_forms, sample_keys, soft_score
from firstsight.evaluate.task import Question
from firstsight.evaluate.tasks import TASKS

PROBABILITIES = st.floats(1e-6, 1.0)


def question(truth: Truth, *, choices: tuple[str, ...] = (), question_id: str = "1") -> Question:
    return Question(id=question_id, text="what is it ?", truth=truth, choices=choices)


def logs(*probabilities: float) -> tuple[float, ...]:
    return tuple(map(log, probabilities))


def test_words_score_the_sum_over_references_of_probability_times_accuracy() -> None:
    """Of ten annotators eight say cat and two say dog: their accuracies are 1 and .6 (official VQA scorer)."""
    item, task = question(("cat",) * 8 + ("dog",) * 2), TASKS["vqav2"]
    assert reference_forms(task, item) == ("cat", "Cat", "dog", "Dog")
    soft = soft_score(task, item, RawAnswer("cat", logs(0.25, 0.25, 0.125, 1e-30)))
    assert soft is not None
    assert soft.score == pytest.approx(0.5 + 0.6 * 0.125)
    assert (soft.mean, soft.best) == (pytest.approx(0.8 * 0.5 + 0.2 * 0.125), pytest.approx(0.5))
    # cat: 1 bit over 3 bytes; dog: 3 bits over 3 bytes
    assert soft.bits_per_byte == pytest.approx(0.8 / 3 + 0.2)
    assert soft.best_bits_per_byte == pytest.approx(1 / 3)


def test_a_reference_that_the_tokenizer_cannot_write_has_no_probability() -> None:
    item = question(("cat", "zebra"))
    soft = soft_score(TASKS["vizwiz"], item, RawAnswer("cat", (log(0.5), None, None, None)))
    assert soft is not None and soft.mean == 0.25 and soft.best == 0.5
    assert soft.bits_per_byte == soft.best_bits_per_byte == pytest.approx(1 / 3)
    none = soft_score(TASKS["gqa"], question("zebra"), RawAnswer("cat", (None, None)))
    assert none == SoftScore(score=0.0, mean=0.0, best=0.0)


@pytest.mark.parametrize(("task", "truth"), [("gqa", "left"), ("pope", "yes"), ("pope", "no")])
@given(lower=st.floats(0.0, 0.5), upper=st.floats(0.0, 0.5))
def test_a_single_reference_scores_its_probability_in_both_cases(
    task: str, truth: str, lower: float, upper: float
) -> None:
    values = tuple(log(p) if p else -inf for p in (lower, upper))
    soft = soft_score(TASKS[task], question(truth), RawAnswer("", values))
    assert soft is not None and soft.score == pytest.approx(lower + upper, abs=1e-9)
    assert soft.score == pytest.approx(soft.mean, abs=2e-9) == pytest.approx(soft.best, abs=2e-9)


@given(values=st.lists(st.floats(-200.0, 0.0), min_size=2, max_size=6), shift=st.floats(-500.0, 0.0), data=st.data())
def test_the_probabilities_of_choices_sum_to_one_whatever_the_prompt_adds(
    values: list[float], shift: float, data: st.DataObject
) -> None:
    choices = tuple(map(str, range(len(values))))
    scores: list[float] = []
    for gold in range(len(values)):
        raw = RawAnswer("0", tuple(value + shift for value in values))
        soft = soft_score(TASKS["arc_easy"], question(gold, choices=choices), raw)
        assert soft is not None and 0 <= soft.score <= 1
        scores.append(soft.score)
    assert sum(scores) == pytest.approx(1.0, abs=1e-7)
    a, b = data.draw(st.permutations(range(len(values))))[:2]
    assert (scores[a] >= scores[b] - 1e-9) if values[a] >= values[b] else (scores[a] <= scores[b] + 1e-9)


def test_a_choice_may_be_right_by_its_text() -> None:
    item = question("no", choices=("Yes", "No"))
    soft = soft_score(TASKS["pope_p"], item, RawAnswer("0", logs(0.3, 0.1)))
    assert soft == SoftScore(score=0.25)


def test_a_box_scores_its_mean_overlap_and_text_without_a_box_nothing() -> None:
    """The true box is the left half: the whole image overlaps it by a half, its left half by all, the right by none."""
    samples = ("0 0 1 1", "[0, 0, 0.5, 1]", "0.5 0 1 1", "a cat")
    soft = soft_score(TASKS["refcoco"], question((0.0, 0.0, 0.5, 1.0)), RawAnswer("", (), samples))
    assert soft == SoftScore(score=0.375)
    assert soft_score(TASKS["refcoco"], question((0.0, 0.0, 0.5, 1.0)), RawAnswer("0 0 1 1")) is None


def test_captions_score_the_probability_of_a_byte_of_the_likeliest() -> None:
    captions = ("a cat", "two red dogs")
    assert reference_forms(TASKS["coco_captions"], question(captions)) == captions
    soft = soft_score(TASKS["coco_captions"], question(captions), RawAnswer("", logs(2.0**-10, 2.0**-12)))
    assert soft is not None and soft.best_bits_per_byte == 1.0
    assert soft.bits_per_byte == pytest.approx((10 / 5 + 12 / 12) / 2)
    assert -log2(soft.score) == pytest.approx(1.0)


def test_a_letter_is_its_only_reference() -> None:
    assert reference_forms(TASKS["mmmu"], question(("B", "a cat", "a dog"))) == ("B",)
    soft = soft_score(TASKS["mmmu"], question(("B", "a cat", "a dog")), RawAnswer("A", logs(0.125)))
    assert soft is not None and soft.score == soft.best == 0.125


def test_samples_are_of_boxes_alone_and_their_keys_of_one_question() -> None:
    box = (0.0, 0.0, 0.5, 1.0)
    questions = [(TASKS[name], question(box, question_id=n)) for n in "12" for name in ("refcoco", "ocid_ref")]
    keys = [key for task, item in questions for key in sample_keys(task, item)]
    assert len(set(keys)) == 4 * SAMPLE_COUNT and all(0 <= key < 2**64 for key in keys)
    assert sample_keys(TASKS["gqa"], question("left")) == ()
