"""GQA's and POPE's metrics against transcriptions of their scripts, and against published scores."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.evaluate.metrics import METRICS, exact_match
from firstsight.evaluate.metrics.vqa import VQA_ACCURACY

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")

WORDS = ["No", "no", "not", "NO", "Not", "nothing", "yes", "Yes", ",", ".", "no,", "not.", "\n", "dog", "😀", "no!"]
TEXTS = st.one_of(
    st.builds(lambda join, parts: join.join(parts), st.sampled_from(["", " ", "  "]), st.lists(st.sampled_from(WORDS))),
    st.text(max_size=20),
)


def pope_parse(text: str) -> str:
    """POPE's evaluate.py, line by line."""
    if text.find(".") != -1:
        text = text.split(".")[0]
    text = text.replace(",", "")
    parts = text.split(" ")
    return "no" if "No" in parts or "not" in parts or "no" in parts else "yes"


def pope_reference(answers: Sequence[str], labels: Sequence[str]) -> tuple[float, float, float, float, float]:
    """POPE's evaluate.py again: accuracy, precision, recall, F1, share of yes."""
    cells = {(said, true): 0 for said in (0, 1) for true in (0, 1)}
    for answer, label in zip(answers, labels, strict=True):
        cells[int(pope_parse(answer) != "no"), int(label != "no")] += 1
    hit, false, missed, right = cells[1, 1], cells[1, 0], cells[0, 1], cells[0, 0]
    precision, recall = hit / (hit + false), hit / (hit + missed)
    accuracy = (hit + right) / (hit + right + false + missed)
    return accuracy, precision, recall, 2 * precision * recall / (precision + recall), (hit + false) / len(answers)


def test_metrics_are_listed_by_name() -> None:
    assert {name: metric.name for name, metric in METRICS.items()} == {name: name for name in METRICS}
    names = {"vqa", "textvqa", "vizwiz", "exact", "yes_no", "iou50", "iou25", "choice", "letter", "cider"}
    assert names <= set(METRICS)
    assert METRICS["vqa"] is VQA_ACCURACY


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Picture", 1),
        ("picture.", 1),
        ("picture..", 1),
        (" picture\n", 1),
        ("picture .", 0),
        ("the picture", 0),
        ("images", 0),
        ("", 0),
    ],
)
def test_exact_match_ignores_case_and_final_full_stops(answer: str, expected: int) -> None:
    assert exact_match.exact_match(answer, "picture") == expected


@given(st.text(max_size=12), st.text(st.characters(categories=["Ll"]), min_size=1, max_size=5))
def test_exact_match_is_gqas_comparison_after_its_normalisation(text: str, truth: str) -> None:
    # Answers reach the conversion without white space at their ends, and GQA's answers are in lower case.
    for answer in (text.strip(), truth, truth.upper(), truth + ".", text.strip() + truth):
        assert exact_match.exact_match(answer, truth) == float(answer.rstrip(".").lower() == truth.lower())


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("yes, there is", True),
        ("No", False),
        ("No, there is not.", False),
        ("There is not a dog.", False),
        ("Yes. But not here", True),
        ("NO", True),
        ("Not really", True),
        ("no!", True),
        ("no\n", True),
        ("snowboard", True),
        ("nothing", True),
        ("", True),
    ],
)
def test_yes_and_no_in_free_text(answer: str, yes: bool) -> None:
    assert exact_match.is_yes_answer(answer) is yes
    assert pope_parse(answer) == ("yes" if yes else "no")


@given(TEXTS)
def test_any_text_is_parsed_as_by_pope(text: str) -> None:
    assert exact_match.is_yes_answer(text) == (pope_parse(text) == "yes")
    assert exact_match.yes_no_match(text, "no") == float(pope_parse(text) == "no")
    assert exact_match.yes_no_match(text, "yes") == 1 - exact_match.yes_no_match(text, "no")


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["yes", "no"])), max_size=20))
def test_the_report_is_popes(pairs: list[tuple[str, str]]) -> None:
    answers, labels = [*(answer for answer, _ in pairs), "yes"], [*(label for _, label in pairs), "yes"]
    report = exact_match.pope_report(answers, labels)
    numbers = (report.accuracy, report.precision, report.recall, report.f1, report.yes)
    assert numbers == pytest.approx(pope_reference(answers, labels))


def test_ratios_with_denominator_zero_are_zero() -> None:
    report = exact_match.pope_report(["no", "no"], ["no", "no"])
    assert (report.accuracy, report.precision, report.recall, report.f1, report.yes) == (1, 0, 0, 0, 0)


def test_every_answer_needs_a_label() -> None:
    with pytest.raises(ValueError):
        exact_match.pope_report(["yes"], ["yes", "no"])


@pytest.mark.parametrize(
    ("answer", "readable"),
    [("Yes.", True), ("NO!", True), ("It is not", True), ("a dog", False), ("", False), ("nono", False)],
)
def test_answers_without_yes_or_no_are_unreadable(answer: str, readable: bool) -> None:
    assert METRICS["yes_no"].is_readable(answer) is readable


def test_a_choice_is_its_index() -> None:
    assert METRICS["choice"].compute(["2", "1"], [2, 2]) == [1, 0]
    assert METRICS["choice"].is_readable("2") and not METRICS["choice"].is_readable("two")


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize(("split", "f1"), [("random", 0.8714), ("popular", 0.8625), ("adversarial", 0.8446)])
def test_llavas_published_pope_scores(split: str, f1: float) -> None:
    questions = _jsonl(SHARED / "llava15_pope" / "llava_pope_test.jsonl.gz")
    images = {
        row["question_id"]: (row["image"], row["text"].split("\n")[0]) for row in questions if row["category"] == split
    }
    answers = _jsonl(SHARED / "llava15_pope" / "answers-llava-v1.5-13b.jsonl.gz")
    # By image and question: the order of the lines differs between versions of the benchmark.
    texts = {images[row["question_id"]]: row["text"] for row in answers if row["question_id"] in images}
    path = SHARED / "pope" / "e3e3926" / f"coco_pope_{split}.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    answer_texts, labels = [texts[row["image"], row["text"]] for row in rows], [row["label"] for row in rows]
    report = exact_match.pope_report(answer_texts, labels)
    assert report.f1 == pytest.approx(f1, abs=0.00005)
    scores = METRICS["yes_no"].compute(answer_texts, labels)
    assert report.accuracy == pytest.approx(sum(scores) / len(scores))


def _jsonl(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]
