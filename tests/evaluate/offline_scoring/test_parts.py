"""Benchmarks in several files: each part and the whole, and ids that an index gives to another set."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from firstsight.evaluate.offline_scoring.scoring import ScoredAnswers
from tests.evaluate.offline_scoring.small_benchmarks import run_command, score, write_file, write_refcoco, write_vqa


def _gqa(numbers: range) -> dict[str, Any]:
    return {str(n): {"question": f"q {n}?", "imageId": str(n), "answer": f"w{n}"} for n in numbers}


def _check_parts(scored: ScoredAnswers, head: tuple[str, int, float], tail: tuple[str, int, float]) -> None:
    """The parts' counts and scores, and the whole as their mean weighted by questions."""
    assert [(name, part.num_questions, part.score) for name, part in scored.parts.items()] == [
        (name, count, pytest.approx(share)) for name, count, share in (head, tail)
    ]
    total = head[1] + tail[1]
    assert len(scored.rows) == total
    assert scored.score == pytest.approx((head[1] * head[2] + tail[1] * tail[2]) / total)


def test_head_and_tail_of_a_list(tmp_path: Path) -> None:
    head = write_file(tmp_path, "head.json", _gqa(range(6)))
    tail = write_file(tmp_path, "tail.json", _gqa(range(6, 10)))
    answers = write_file(tmp_path, "a.json", {str(n): f"w{n}" if n < 7 else "no" for n in range(9)})
    scored = score("gqa", answers, head, tail)
    _check_parts(scored, ("head.json", 6, 1.0), ("tail.json", 4, 0.25))
    assert (scored.missing_count, scored.parts["tail.json"].missing_count) == (1, 1)
    for path, part in ((head, "head.json"), (tail, "tail.json")):
        assert score("gqa", answers, path).score == scored.parts[part].score
    assert score("gqa", answers, head).parts == {}


def test_head_and_tail_in_the_vqa_form(tmp_path: Path) -> None:
    """As two folders, and as four files in any order."""
    for name, numbers in (("head", range(6)), ("tail", range(6, 10))):
        rows = [{"question_id": n, "image_id": n, "question": f"What is {n}?"} for n in numbers]
        truths = [{"question_id": n, "answers": [{"answer": f"w{n}"}] * 10} for n in numbers]
        write_file(tmp_path / name, f"{name}_q.json", {"questions": rows})
        write_file(tmp_path / name, f"{name}_a.json", {"annotations": truths})
    answers = write_file(tmp_path, "a.json", {str(n): f"w{n}" if n < 8 else "no" for n in range(10)})
    _check_parts(score("vqav2", answers, tmp_path / "head", tmp_path / "tail"), ("head", 6, 1.0), ("tail", 4, 0.5))
    files = [tmp_path / name / f"{name}_{kind}.json" for kind in "qa" for name in ("head", "tail")]
    names = ("head_q.json + head_a.json", "tail_q.json + tail_a.json")
    _check_parts(score("vqav2", answers, *files), (names[0], 6, 1.0), (names[1], 4, 0.5))
    assert score("vqav2", answers, *files[::2]).parts == {}, "both files of one part"


def test_head_and_tail_of_pope_have_all_splits(tmp_path: Path) -> None:
    for name, numbers in (("head", range(4)), ("tail", range(4, 6))):
        for split in ("random", "popular", "adversarial"):
            rows = [{"question_id": n, "image": f"{n}.jpg", "text": f"Is {split} {n}?", "label": "no"} for n in numbers]
            write_file(tmp_path / name, f"coco_pope_{split}.jsonl", rows)
    rows = [
        {"question_id": n, "category": split, "answer": "no" if n < 5 else "yes"}
        for n in range(6)
        for split in ("random", "popular", "adversarial")
    ]
    scored = score("pope", write_file(tmp_path, "a.json", rows), tmp_path / "head", tmp_path / "tail")
    _check_parts(scored, ("head", 12, 1.0), ("tail", 6, 0.5))
    assert {split: metrics["n"] for split, metrics in scored.splits.items() if split != "mean"} == {
        "random": 6,
        "popular": 6,
        "adversarial": 6,
    }


def _refcoco_rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((write_refcoco(folder, 30) / "refcoco_val.json").read_text())


def _answer(row: dict[str, Any], *, is_right: bool) -> dict[str, Any]:
    left, top, width, height = row["bbox"]
    box = [left / 400, top / 200, (left + width) / 400, (top + height) / 200] if is_right else [0.9, 0.9, 1, 1]
    return {"img_id": row["img_id"], "sents": row["sents"], "answer": box}


@pytest.mark.parametrize("cut", [(slice(0, 20), slice(20, 30)), (slice(0, 30, 2), slice(1, 30, 2))])
def test_parts_of_a_list_of_boxes(tmp_path: Path, cut: tuple[slice, slice]) -> None:
    """Ids are made of object and line, so that lines of two files may have one id."""
    rows = _refcoco_rows(tmp_path)
    head, tail = (
        write_file(tmp_path, f"{name}.json", rows[part]) for name, part in zip(("head", "tail"), cut, strict=True)
    )
    answers = [_answer(row, is_right=row in rows[cut[0]]) for row in rows]
    scored = score("refcoco", write_file(tmp_path, "a.json", answers), head, tail)
    counts = [len(rows[part]) for part in cut]
    _check_parts(scored, ("head.json", counts[0], 1.0), ("tail.json", counts[1], 0.0))
    assert scored.missing_count == 0


def test_a_benchmark_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_file(tmp_path / name, "q.json", _gqa(range(4))) for name in ("a", "b"))
    answers = write_file(tmp_path, "a.json", {"1": "w1"})
    assert run_command("gqa", answers, first, second, options=("--missing", "100%")) == 2
    assert "4 of 4 questions are in another file of --references too" in " ".join(capsys.readouterr().err.split())
    overlapping = write_file(tmp_path, "c.json", _gqa(range(3, 20)))
    assert run_command("gqa", answers, first, overlapping, options=("--missing", "100%")) == 2
    assert "has the id 3 too" in " ".join(capsys.readouterr().err.split())


def test_an_unreadable_part_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = write_file(tmp_path, "head.json", _gqa(range(4)))
    tail = write_file(tmp_path, "tail.json", {"7": {"question": "q?", "imageId": "1"}})
    assert run_command("gqa", write_file(tmp_path, "a.json", {"1": "w1"}), head, tail) == 2
    assert "tail.json" in capsys.readouterr().err


def test_the_command_prints_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, tail = (
        write_file(tmp_path, f"{name}.json", _gqa(part)) for name, part in (("head", range(6)), ("tail", range(6, 8)))
    )
    answers, out = (
        write_file(tmp_path, "a.json", {str(n): f"w{n}" if n < 7 else "no" for n in range(8)}),
        tmp_path / "o.json",
    )
    assert run_command("gqa", answers, head, tail, options=("--json", str(out))) == 0
    printed = capsys.readouterr().out
    assert "head.json  100.00" in printed and "tail.json   50.00" in printed
    parts = json.loads(out.read_text())["parts"]
    assert {name: (part["score"], part["n"]) for name, part in parts.items()} == {
        "head.json": (1, 6),
        "tail.json": (0.5, 2),
    }


HASH = 9**15


def _harness(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The index and results of three sets of equal boxes and sentences; only RefCOCO's answers are right."""
    index, results = {}, {}
    for number, dataset in enumerate(("RefCOCO", "RefCOCO+", "RefCOCOg")):
        for line, row in enumerate(rows):
            key = str((-1) ** line * (HASH + 1000 * number + line))
            left, top, width, height = row["bbox"]
            box = [round(edge, 2) for edge in (left / 400, top / 200, (left + width) / 400, (top + height) / 200)]
            image = row["img_id"].rpartition("_")[0]
            index[key] = {
                "example_id": int(key),
                "ref_expression": row["sents"],
                "img_path": f"d/train2014/{image}.jpg",
            }
            index[key] |= {"bbox": box, "refer_dataset": dataset, "split": "val", "ref_id": line, "sent_id": line}
            output = str(box) if dataset == "RefCOCO" else "[0.9, 0.9, 1.0, 1.0]"
            results[key] = {
                "example_id": int(key),
                "ref_exp": row["sents"],
                "model_output": output,
                "ground_truth_bbox": box,
            }
    return index, results


def test_a_results_file_of_three_sets_with_the_index(tmp_path: Path) -> None:
    """Answers to other sets repeat sentence and true box of a RefCOCO question, and are never joined to it."""
    rows = _refcoco_rows(tmp_path / "own")
    index, results = _harness(rows)
    index_file = write_file(tmp_path, "metadata-full.json", index)
    for name, share in (("refcoco", 1.0), ("refcoco_plus", 0.0), ("refcocog", 0.0)):
        scored = score(name, write_file(tmp_path, "results+rank-0.json", results), index_file)
        assert (scored.score, scored.missing_count, len(scored.joined_answers.unmatched)) == (share, 0, 60), name
        assert any(
            "answers to other sets of the index do not count" in note and "(30)" in note for note in scored.notes
        )


def test_a_results_file_without_answers_to_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answers of another set alone are no answers, although every sentence and box fits."""
    index, results = _harness(_refcoco_rows(tmp_path / "own"))
    others = {key: result for key, result in results.items() if index[key]["refer_dataset"] != "RefCOCO"}
    answers = write_file(tmp_path, "results.json", others)
    assert run_command("refcoco", answers, write_file(tmp_path, "metadata-full.json", index)) == 2
    assert "none of 60 answers could be joined" in " ".join(capsys.readouterr().err.split())


def test_the_benchmarks_own_boxes_with_the_index_as_question_file(tmp_path: Path) -> None:
    """The index says which set an id belongs to; the truths are the list's, which are not rounded."""
    rows = _refcoco_rows(tmp_path / "own")
    index, results = _harness(rows)
    paths = (tmp_path / "own" / "refcoco_val.json", write_file(tmp_path, "metadata-full.json", index))
    scored = score("refcoco", write_file(tmp_path, "results.json", results), *paths)
    assert (scored.score, scored.missing_count, len(scored.joined_answers.unmatched), scored.parts) == (1, 0, 60, {})


def _refexp(folder: Path) -> Path:
    """Google RefExp's file, aligned with COCO: 12 objects with two expressions each."""
    images = {
        str(n): {"image_id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "width": 400, "height": 200}
        for n in range(4)
    }
    annotations = {
        str(50 + n): {
            "annotation_id": 50 + n,
            "image_id": n % 4,
            "bbox": [10 * n, 20, 100, 50],
            "refexp_ids": [2 * n, 2 * n + 1],
        }
        for n in range(12)
    }
    refexps = {str(n): {"refexp_id": n, "raw": f"the thing {n}", "tokens": []} for n in range(24)}
    content = {"annotations": annotations, "images": images, "refexps": refexps, "info": {}}
    return write_file(folder, "google_refexp_val_201511_coco_aligned.json", content)


@pytest.mark.parametrize("keys", [("refexp_id",), ("refexp",), ("refexp_id", "refexp"), ()])
def test_google_refexp(tmp_path: Path, keys: tuple[str, ...]) -> None:
    """Precision at 1 of its toolbox: the first box counts, IoU .5 is right. Boxes are left, top, width and height."""
    rows = []
    for n in range(12):
        for expression in (2 * n, 2 * n + 1):
            first = [10 * n, 20, 100, 50] if n < 9 else [10 * n + 60, 20, 100, 50]  # moved by .6 widths: IoU .25
            row = {"annotation_id": 50 + n, "predicted_bounding_boxes": [first, [10 * n, 20, 100, 50]]}
            fields = {"refexp_id": expression, "refexp": f"the thing {expression}"}
            rows.append(row | {key: fields[key] for key in keys})
    scored = score("refcocog", write_file(tmp_path, "results.json", rows), _refexp(tmp_path / "ref"))
    assert (scored.score, scored.missing_count, scored.unreadable_count) == (0.75, 0, 0)
    assert any("Google RefExp" in note for note in scored.notes)


@pytest.mark.parametrize(
    "content", ["annotation_id,descrip_0_0\n1,GEN\n", '[{"annotation_id": 50, "generated_refexp": "x"}]']
)
def test_generated_expressions_of_google_refexp_have_no_boxes(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = write_file(tmp_path, "a.csv" if content.startswith("a") else "a.json", content)
    assert run_command("refcocog", answers, _refexp(tmp_path / "ref")) == 2
    assert "generated expressions, which people compare" in " ".join(capsys.readouterr().err.split())


def test_captions_of_parts_use_the_weights_of_the_whole(tmp_path: Path) -> None:
    references = []
    for name, numbers in (("head", range(3)), ("tail", range(3, 5))):
        rows = [
            {"image": f"{n}.jpg", "caption": [f"a thing {n} on the green grass {n}", f"thing {n} outside"]}
            for n in numbers
        ]
        references.append(write_file(tmp_path, f"{name}.json", rows))
    answers = write_file(
        tmp_path, "a.json", [{"image": f"{n}.jpg", "caption": f"a thing {n} outside"} for n in range(5)]
    )
    scored = score("coco_captions", answers, *references)
    whole = write_vqa(tmp_path / "unused").parent / "whole.json"
    whole.write_text(json.dumps([row for path in references for row in json.loads(path.read_text())]))
    assert scored.score == pytest.approx(score("coco_captions", answers, whole).score)
    assert math.fsum(part.num_questions * part.score for part in scored.parts.values()) == pytest.approx(
        5 * scored.score
    )
