"""GQA's and POPE's readings of free text against transcriptions of their scripts, and against published numbers."""

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

PIECES = ["No", "no", "not", "NO", "Not", "nothing", "yes", "Yes", ",", ".", "no,", "not.", "\n", "dog", "😀", "no!"]
TEXTS = st.one_of(
    st.builds(
        lambda join, parts: join.join(parts), st.sampled_from(["", " ", "  "]), st.lists(st.sampled_from(PIECES))
    ),
    st.text(max_size=20),
)


def popes_reading(text: str) -> str:
    """POPE's evaluate.py, line by line."""
    if text.find(".") != -1:
        text = text.split(".")[0]
    text = text.replace(",", "")
    parts = text.split(" ")
    return "no" if "No" in parts or "not" in parts or "no" in parts else "yes"


def popes_numbers(answers: Sequence[str], labels: Sequence[str]) -> tuple[float, float, float, float, float]:
    """POPE's evaluate.py again: accuracy, precision, recall, F1, share of yes."""
    cells = {(said, true): 0 for said in (0, 1) for true in (0, 1)}
    for answer, label in zip(answers, labels, strict=True):
        cells[int(popes_reading(answer) != "no"), int(label != "no")] += 1
    hit, false, missed, right = cells[1, 1], cells[1, 0], cells[0, 1], cells[0, 0]
    precision, recall = hit / (hit + false), hit / (hit + missed)
    accuracy = (hit + right) / (hit + right + false + missed)
    return accuracy, precision, recall, 2 * precision * recall / (precision + recall), (hit + false) / len(answers)


def test_every_metric_is_known_by_its_own_name() -> None:
    assert {name: metric.name for name, metric in METRICS.items()} == {name: name for name in METRICS}
    wanted = {"vqa", "textvqa", "vizwiz", "exact", "yes_no", "iou50", "iou25", "choice", "letter", "cider"}
    assert wanted <= set(METRICS)
    assert METRICS["vqa"] is VQA_ACCURACY


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("Picture", 1),
        ("picture.", 1),
        ("picture..", 1),
        (" picture\n", 1),
        ("picture .", 0),
        ("the picture", 0),
        ("pictures", 0),
        ("", 0),
    ],
)
def test_exact_match_ignores_case_and_final_full_stops_only(answer: str, wanted: int) -> None:
    assert exact_match.exact_match(answer, "picture") == wanted


@given(st.text(max_size=12), st.text(st.characters(categories=["Ll"]), min_size=1, max_size=5))
def test_exact_match_is_gqas_comparison_after_the_usual_conversion(text: str, truth: str) -> None:
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
def test_pope_reads_free_text(answer: str, yes: bool) -> None:
    assert exact_match.is_yes_answer(answer) is yes
    assert popes_reading(answer) == ("yes" if yes else "no")


@given(TEXTS)
def test_any_text_is_read_as_pope_reads_it(text: str) -> None:
    assert exact_match.is_yes_answer(text) == (popes_reading(text) == "yes")
    assert exact_match.yes_no_match(text, "no") == float(popes_reading(text) == "no")
    assert exact_match.yes_no_match(text, "yes") == 1 - exact_match.yes_no_match(text, "no")


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["yes", "no"])), max_size=20))
def test_pope_numbers_are_its_own(pairs: list[tuple[str, str]]) -> None:
    answers, labels = [*(answer for answer, _ in pairs), "yes"], [*(label for _, label in pairs), "yes"]
    found = exact_match.pope_report(answers, labels)
    ours = (found.accuracy, found.precision, found.recall, found.f1, found.yes_rate)
    assert ours == pytest.approx(popes_numbers(answers, labels))


def test_ratios_with_nothing_under_them_are_nothing() -> None:
    found = exact_match.pope_report(["no", "no"], ["no", "no"])
    assert (found.accuracy, found.precision, found.recall, found.f1, found.yes_rate) == (1, 0, 0, 0, 0)


def test_pope_answers_need_a_label_each() -> None:
    with pytest.raises(ValueError):
        exact_match.pope_report(["yes"], ["yes", "no"])


@pytest.mark.parametrize(
    ("answer", "readable"),
    [("Yes.", True), ("NO!", True), ("It is not", True), ("a dog", False), ("", False), ("nono", False)],
)
def test_answers_without_a_side_are_told(answer: str, readable: bool) -> None:
    assert METRICS["yes_no"].is_readable(answer) is readable


def test_a_choice_is_its_number() -> None:
    assert METRICS["choice"].compute(["2", "1"], [2, 2]) == [1, 0]
    assert METRICS["choice"].is_readable("2") and not METRICS["choice"].is_readable("two")


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
    path = SHARED / "pope" / "e3e3926" / f"coco_pope_{split}.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    given_answers, labels = [said[row["image"], row["text"]] for row in rows], [row["label"] for row in rows]
    found = exact_match.pope_report(given_answers, labels)
    assert found.f1 == pytest.approx(f1, abs=0.00005)
    checked = METRICS["yes_no"].compute(given_answers, labels)
    assert found.accuracy == pytest.approx(sum(checked) / len(checked))


def _jsonl(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]
