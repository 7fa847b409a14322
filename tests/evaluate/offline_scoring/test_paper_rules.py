"""`--as paper`: the numbers of the paper's harness, computed by its rules written down a second time."""

from __future__ import annotations

import ast
import gzip
import json
import random
import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firstsight.evaluate.metrics.boxes import iou
from firstsight.evaluate.offline_scoring.paper_rules import as_paper, paper_exact_match, parse_paper_box
from firstsight.evaluate.offline_scoring.scoring import score_answer_files
from firstsight.evaluate.tasks import TASKS, get_task
from tests.evaluate.metrics.test_boxes import LISTS, harness_box
from tests.evaluate.offline_scoring.small_benchmarks import run_command, write_file, write_vqa


@given(st.one_of(LISTS, st.text("0123456789.,[]()# ", max_size=20)))
@example("[0.1, 0.2, 0.3, 0.4] # a remark")
@example("(0.1, 0.2, 0.3, 0.4)")
@example("([0.1, 0.2, 0.3, 0.4])")
def test_boxes_are_those_of_the_harness(text: str) -> None:
    assert parse_paper_box(text) == harness_box(text)


@given(st.text(max_size=12), st.text("ab c", max_size=6))
@example("T-shirt.", "tshirt")
def test_gqa_is_compared_as_in_the_harness(answer: str, truth: str) -> None:
    """Its conversion: no ASCII punctuation, lower case; then its script's `predicted == gold`."""
    cleaned = "".join(letter for letter in answer if letter not in string.punctuation).lower()
    assert paper_exact_match(answer, truth) == float(cleaned == truth)


def test_tasks_without_another_rule_are_the_same() -> None:
    different = {name for name, task in TASKS.items() if as_paper(task) != task}
    assert different == {"vqav2", "kinds", "gqa", "refcoco", "refcoco_plus", "refcocog", "ocid_ref"}


def test_scores_by_both_rules(tmp_path: Path) -> None:
    """GQA: the harness joins the parts of T-shirt; ours keeps the hyphen. White space at the end counts."""
    truths = ["tshirt", "t-shirt", "yes", "no", "left"]
    asked = {str(n): {"question": f"q {n}?", "imageId": str(n), "answer": word} for n, word in enumerate(truths)}
    references = write_file(tmp_path / "gqa", "q.json", asked)
    answers = dict(enumerate(["T-shirt", "T-shirt", "Yes.", "no ", "left</s>"]))
    path = write_file(tmp_path, "a.json", {str(n): text for n, text in answers.items()})
    own = score_answer_files(get_task("gqa"), [path], [references])
    paper = score_answer_files(get_task("gqa"), [path], [references], rules="paper")
    assert [row.score for row in own.rows] == [0, 1, 1, 1, 1]
    assert [row.score for row in paper.rows] == [1, 0, 1, 0, 0]
    assert (paper.score, paper.cleaned, paper.task.metric.name) == (0.4, {}, "exact_paper")


def test_boxes_in_parentheses_and_rounded_truths(tmp_path: Path) -> None:
    """The harness accepts only lists, and compares with truths of two decimals: .145 becomes .14, or .15."""
    rows = [
        {"img_id": f"{n}.jpg", "sents": f"thing {n}", "bbox": [0, 0, 291, 200], "width": 1000, "height": 200}
        for n in range(3)
    ]
    references = write_file(tmp_path / "refcoco", "refcoco_val.json", rows)
    # the truth is .291 wide: the overlap with .1452 is .499, with the rounded .29 it is .5007
    boxes = ["[0, 0, 0.291, 1]", "(0, 0, 0.291, 1)", "[0, 0, 0.1452, 1]"]
    answers = [{"img_id": f"{n}.jpg", "sents": f"thing {n}", "answer": box} for n, box in enumerate(boxes)]
    path = write_file(tmp_path, "a.json", answers)
    own = score_answer_files(get_task("refcoco"), [path], [references])
    paper = score_answer_files(get_task("refcoco"), [path], [references], rules="paper")
    assert [row.score for row in own.rows] == [1, 1, 0]
    assert [row.score for row in paper.rows] == [1, 0, 1] and paper.unreadable_count == 1


def test_vqav2_by_the_harness(tmp_path: Path) -> None:
    """It only removes the punctuation of annotations, so that "the dog" is never matched."""
    write_file(tmp_path / "v", "q.json", {"questions": [{"question_id": 1, "image_id": 1, "question": "what?"}]})
    write_file(tmp_path / "v", "a.json", {"annotations": [{"question_id": 1, "answers": [{"answer": "the dog"}] * 10}]})
    path = write_file(tmp_path, "a.json", {"1": "the dog"})
    assert score_answer_files(get_task("vqav2"), [path], [tmp_path / "v"]).score == 1
    assert score_answer_files(get_task("vqav2"), [path], [tmp_path / "v"], rules="paper").score == 0


def test_missing_answers_do_not_count_by_the_papers_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The harness tolerates 5 % without an answer, and divides by the number of its results."""
    references = write_vqa(tmp_path / "vqav2", 40)
    rows = [{"question_id": 100 + n, "answer": f"w{n}" if n < 19 else "no"} for n in range(38)]
    path, out = write_file(tmp_path, "a.json", rows), tmp_path / "out.json"
    assert run_command("vqav2", path, references, options=("--as", "paper", "--json", str(out))) == 0
    summary = json.loads(out.read_text())
    assert (summary["score"], summary["missing"], summary["rules"], summary["metric"]) == (0.5, 2, "paper", "vqa_paper")
    assert "does not count in the paper's harness" in capsys.readouterr().out


@pytest.mark.shared
def test_refcoco_val_has_the_number_of_the_harness(shared: Path, tmp_path: Path) -> None:
    """Its results file for its own index, and for the list with the boxes as annotated, scored by its formula."""
    rows = json.loads(gzip.decompress((shared / "refcoco" / "refcoco_val.json.gz").read_bytes()))[:3000]
    generator = random.Random(5)
    index, results, is_right = {}, {}, []
    for line, row in enumerate(rows):
        left, top, width, height = row["bbox"]
        edges = (left / row["width"], top / row["height"])
        edges += ((left + width) / row["width"], (top + height) / row["height"])
        truth = [round(min(max(edge, 0.0), 1.0), 2) for edge in edges]
        moved = [round(edge + generator.uniform(-0.1, 0.1), 3) for edge in truth]
        output = generator.choice((str(moved), str(tuple(moved)), f"{moved}.", " ".join(map(str, moved))))
        key, image = str(9**15 + line), row["img_id"].rpartition("_")[0]
        index[key] = {"example_id": int(key), "ref_expression": row["sents"], "img_path": f"{image}.jpg", "bbox": truth}
        index[key] |= {"refer_dataset": "RefCOCO", "split": "val"}
        results[key] = {"example_id": int(key), "ref_exp": row["sents"], "model_output": output}
        results[key] |= {"ground_truth_bbox": truth}
        box = harness_box(output)
        true_box = (truth[0], truth[1], truth[2], truth[3])
        is_right.append(box is not None and iou((box[0], box[1], box[2], box[3]), true_box) >= 0.5)
    answers = write_file(tmp_path, "results.json", results)
    paths = (write_file(tmp_path, "metadata-full.json", index), write_file(tmp_path, "refcoco_val.json", rows))
    scored = score_answer_files(get_task("refcoco"), [answers], paths[:1], rules="paper")
    assert (scored.score, scored.missing_count) == (pytest.approx(sum(is_right) / len(rows)), 0)
    # Without its ids, two boxes of "green chair" that are equal in hundredths cannot be told apart.
    scored = score_answer_files(get_task("refcoco"), [answers], paths, rules="paper")
    contested = scored.joined_answers.contested_positions
    assert len(contested) == scored.missing_count == 4
    expected = [right for line, right in enumerate(is_right) if line not in contested]
    assert scored.score == pytest.approx(sum(expected) / len(expected))
    assert score_answer_files(get_task("refcoco"), [answers], paths).score > scored.score > 0


def test_the_harness_reading_is_a_literal() -> None:
    assert parse_paper_box("[0, 0, 1, True]") == (0, 0, 1, 1) == tuple(ast.literal_eval("[0, 0, 1, True]"))
