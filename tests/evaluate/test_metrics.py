"""Metrics against hand-worked cases, laws and published numbers."""

from __future__ import annotations

import gzip
import json
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.evaluate import metrics
from firstsight.evaluate.metrics import normalise
from firstsight.evaluate.tasks import TASKS
from firstsight.evaluate.tasks.pope import read_split

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")

WORDS = st.sampled_from(["cat", "a cat", "2", "two", "Dog.", "don't", "dont", "unanswerable", ""])


@pytest.mark.parametrize(
    ("given_text", "wanted"),
    [
        ("A Cat.", "cat"),
        ("the dog, the cat", "dog cat"),
        ("Two", "2"),
        ("none", "0"),
        ("10,000", "10000"),
        ("2.5", "2.5"),
        ("U.S.", "u s"),
        ("dont know", "don't know"),
        ("don't know", "don't know"),
        ("dog's", "dog's"),
        ("10:30", "10:30"),
        ("red/white", "red white"),
        ("well-done!", "well done"),
        ("  an  apple ", "apple"),
        ("anthem", "anthem"),
    ],
)
def test_answers_meet_in_one_form(given_text: str, wanted: str) -> None:
    assert normalise(given_text) == wanted


@given(st.text(st.characters(codec="latin-1"), max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(("same", "wanted"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_of_ten_annotators(same: int, wanted: float) -> None:
    # One match: nine of ten subsets hold it, each worth 1/3 -> 0.3; two -> 0.6; three -> 0.9; four or more -> 1.
    truth = ("yes",) * same + tuple(f"other {n}" for n in range(10 - same))
    assert metrics.vqa("Yes", truth) == pytest.approx(wanted)


@given(WORDS, st.lists(WORDS, min_size=2, max_size=10))
def test_vqa_accuracy_is_the_mean_over_all_leave_one_out_subsets(answer: str, truth: list[str]) -> None:
    said, given_answers = normalise(answer), [normalise(text) for text in truth]
    subsets = list(combinations(given_answers, len(truth) - 1))
    direct = sum(min(1.0, sum(other == said for other in subset) / 3) for subset in subsets) / len(subsets)
    assert metrics.vqa(answer, tuple(truth)) == pytest.approx(direct)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=10), st.randoms())
def test_vqa_accuracy_is_a_share_and_forgets_the_order(answer: str, truth: list[str], shuffle: object) -> None:
    mixed = list(truth)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    score = metrics.vqa(answer, tuple(truth))
    assert 0 <= score <= 1
    assert score == metrics.vqa(answer, tuple(mixed))


def test_a_single_reference_is_right_or_wrong() -> None:
    assert metrics.vqa("the cat", ("cat",)) == 1
    assert metrics.vqa("dog", ("cat",)) == 0


@pytest.mark.parametrize(
    ("answer", "wanted"), [("Picture", 1), ("picture.", 1), (" picture ", 1), ("the picture", 0), ("", 0)]
)
def test_exact_match_ignores_case_and_full_stop_only(answer: str, wanted: int) -> None:
    assert metrics.exact(answer, "picture") == wanted


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("yes, there is", True),
        ("No", False),
        ("No, there is not.", False),
        ("There is not a dog.", False),
        ("Yes. But not here", True),
        ("snowboard", True),
        ("nothing", True),
        ("", True),
    ],
)
def test_pope_reads_free_text(answer: str, yes: bool) -> None:
    assert metrics.says_yes(answer) is yes


def test_pope_numbers_of_a_small_split() -> None:
    found = metrics.presence(["yes", "yes", "yes", "no"], ["yes", "yes", "no", "yes"])
    assert (found.accuracy, found.yes) == (0.5, 0.75)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(2 / 3)


def test_pope_answers_need_a_label_each() -> None:
    with pytest.raises(ValueError):
        metrics.presence(["yes"], ["yes", "no"])


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("0.1 0.2 0.3 0.4", (0.1, 0.2, 0.3, 0.4)),
        ("(.1,.2,.3,1)", (0.1, 0.2, 0.3, 1.0)),
        ("0.1 , 0.2 , 0.3 , 0.4", (0.1, 0.2, 0.3, 0.4)),
        ("", None),
        ("[]", None),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", None),
        ("[0.3, 0.2, 0.1, 0.4]", None),
        ("[0.1, 0.2, 0.1, 0.4]", None),
        ("[0.1, 0.2, 0.3, 1.4]", None),
        ("[-0.1, 0.2, 0.3, 0.4]", None),
        ("[10, 20, 30, 40]", None),
        ("[nan, 0.2, 0.3, 0.4]", None),
        ("box: 0.1 0.2 0.3 0.4", None),
        ("the dog on the left", None),
    ],
)
def test_boxes_are_four_ordered_shares_or_nothing(answer: str, box: metrics.Box | None) -> None:
    assert metrics.parse_box(answer) == box


SIDE = st.tuples(st.floats(0.0, 0.5), st.floats(0.6, 1.0))


@given(SIDE, SIDE, SIDE, SIDE)
def test_overlap_is_symmetric_a_share_and_whole_with_itself(
    ax: tuple[float, float], ay: tuple[float, float], bx: tuple[float, float], by: tuple[float, float]
) -> None:
    a, b = (ax[0], ay[0], ax[1], ay[1]), (bx[0], by[0], bx[1], by[1])
    assert metrics.iou(a, b) == pytest.approx(metrics.iou(b, a))
    assert 0 < metrics.iou(a, b) <= 1 + 1e-9
    assert metrics.iou(a, a) == pytest.approx(1)


def test_overlap_by_hand_and_its_threshold() -> None:
    # Two unit squares that share half: 0.5 / 1.5.
    assert metrics.iou((0.0, 0.0, 1.0, 1.0), (0.5, 0.0, 1.5, 1.0)) == pytest.approx(1 / 3)
    assert metrics.iou((0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 1.0, 1.0)) == 0
    truth = (0.0, 0.0, 1.0, 1.0)
    assert metrics.iou50("0 0 1 0.5", truth) == 1
    assert metrics.iou50("0 0 1 0.49", truth) == 0
    assert metrics.iou25("0 0 1 0.49", truth) == 1
    assert metrics.iou50("somewhere", truth) == 0


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "questions", "answer", "wanted"),
    [("textvqa", 5000, "yes", 5.46), ("vizwiz", 4319, "unanswerable", 52.12)],
)
def test_constant_answers_score_what_is_published(task: str, questions: int, answer: str, wanted: float) -> None:
    read = TASKS[task].read(SHARED / "openflamingo_vqa_val" / task)
    assert len(read) == questions
    scores = [TASKS[task].check(answer, question.truth) for question in read]
    assert 100 * sum(scores) / len(scores) == pytest.approx(wanted, abs=0.005)


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize(("split", "f1"), [("random", 0.8714), ("popular", 0.8625), ("adversarial", 0.8446)])
def test_llava_scores_on_pope_what_is_published(split: str, f1: float) -> None:
    asked = _jsonl(SHARED / "llava15_pope" / "llava_pope_test.jsonl.gz")
    pictures = {
        row["question_id"]: (row["image"], row["text"].split("\n")[0]) for row in asked if row["category"] == split
    }
    answers = _jsonl(SHARED / "llava15_pope" / "answers-llava-v1.5-13b.jsonl.gz")
    # By picture and question: the order of the lines differs between versions of the benchmark.
    said = {pictures[row["question_id"]]: row["text"] for row in answers if row["question_id"] in pictures}
    read = read_split(SHARED / "pope" / "e3e3926" / f"coco_pope_{split}.json", split)
    found = metrics.presence([said[str(q.image), q.text] for q in read], [str(q.truth) for q in read])
    assert found.f1 == pytest.approx(f1, abs=0.00005)
    checked = [TASKS["pope"].check(said[str(q.image), q.text], q.truth) for q in read]
    assert found.accuracy == pytest.approx(sum(checked) / len(checked))


def _jsonl(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]
