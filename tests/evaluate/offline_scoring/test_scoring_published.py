"""Published files have the published scores, and answers in LLaVA's form are joined with every question."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.offline_scoring.small_benchmarks import PROMPT_SUFFIX, run_command, score, write_file

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def llava(shared: Path) -> tuple[Path, Path]:
    folder = shared / "llava15_pope"
    return folder / "answers-llava-v1.5-13b.jsonl.gz", folder / "llava_pope_test.jsonl.gz"


def test_llava_pope(shared: Path, llava: tuple[Path, Path]) -> None:
    scored = score("pope", llava[0], shared / "pope" / "e3e3926", llava[1])
    f1 = {split: round(metrics["f1"], 4) for split, metrics in scored.splits.items()}
    assert (f1["random"], f1["popular"], f1["adversarial"]) == (0.8714, 0.8625, 0.8446)
    assert scored.splits["mean"]["f1"] == pytest.approx(0.859, abs=0.0006)
    assert (
        scored.missing_count,
        scored.unreadable_count,
        len(scored.joined_answers.unmatched),
        scored.joined_answers.duplicates,
    ) == (0, 0, 0, 0)


@pytest.mark.slow
def test_llava_pope_without_its_question_file(
    shared: Path, llava: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """LLaVA's ids run to 8,910 over all splits, POPE's restart in each."""
    assert run_command("pope", llava[0], shared / "pope" / "e3e3926") == 2
    message = capsys.readouterr().err
    assert "question file" in message and "answers fit several questions" in message


@pytest.mark.slow
def test_llava_pope_against_the_other_version(
    shared: Path, llava: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle counts pairs of image and question without an answer or with two different answers."""
    assert run_command("pope", llava[0], shared / "pope" / "head", llava[1]) == 0
    message = capsys.readouterr().out
    answer_lines, question_lines = (gzip.decompress(path.read_bytes()).splitlines() for path in llava)
    words = {row["question_id"]: row["text"] for row in map(json.loads, answer_lines)}
    metrics: dict[tuple[str, str], dict[str, str]] = {}
    for row in map(json.loads, question_lines):
        metrics.setdefault((row["image"], row["text"].split("\n")[0]), {})[row["category"]] = words[row["question_id"]]
    missing = 0
    for split in ("random", "popular", "adversarial"):
        for row in map(json.loads, (shared / "pope" / "head" / f"coco_pope_{split}.json").open()):
            answers = metrics.get((row["image"], row["text"]), {})
            missing += split not in answers and len(set(answers.values())) != 1
    assert f"{missing:,} questions have no answer" in message and missing > 300
    assert "e3e3926" in message and "another benchmark version" in message


def _constant(folder: Path, questions: Path, word: str) -> Path:
    rows = json.loads(questions.read_text())["questions"]
    return write_file(folder, "constant.json", [{"question_id": row["question_id"], "answer": word} for row in rows])


@pytest.mark.parametrize(("name", "word", "points"), [("textvqa", "yes", 5.46), ("vizwiz", "unanswerable", 52.12)])
def test_constant_answers(shared: Path, tmp_path: Path, name: str, word: str, points: float) -> None:
    folder = shared / "openflamingo_vqa_val" / name
    answers = _constant(tmp_path, folder / "val_questions_vqa_format.json", word)
    scored = score(name, answers, folder)
    assert round(100 * scored.score, 2) == points
    assert scored.interval[0] < scored.score < scored.interval[1]


@pytest.mark.slow
def test_textvqa_in_llavas_form_joins_all(shared: Path, tmp_path: Path) -> None:
    """LLaVA's `question_id` is the image's, and its prompt has OCR tokens between question and instruction."""
    folder = shared / "openflamingo_vqa_val" / "textvqa"
    rows = json.loads((folder / "val_questions_vqa_format.json").read_text())["questions"]
    generator = random.Random(0)
    words = [generator.choice(("yes", "coca cola", "2", "dakota", "stop", "nokia")) for _ in rows]
    tokens = "\nReference OCR token: IS, THERE, What is this?, 12"
    llava = [
        {"question_id": row["image_id"], "prompt": row["question"].capitalize() + tokens + PROMPT_SUFFIX, "text": word}
        for row, word in zip(rows, words, strict=True)
    ]
    generator.shuffle(llava)
    id_rows = [{"question_id": row["question_id"], "answer": word} for row, word in zip(rows, words, strict=True)]
    by_picture = score("textvqa", write_file(tmp_path, "llava.jsonl", llava), folder)
    by_id = score("textvqa", write_file(tmp_path, "plain.json", id_rows), folder)
    with_tokens = score("textvqa_ocr", tmp_path / "llava.jsonl", folder)
    assert by_picture.missing_count == by_id.missing_count == with_tokens.missing_count == 0
    assert with_tokens.score == by_id.score
    assert [row.score for row in by_picture.rows] == [row.score for row in by_id.rows]
    assert by_id.score > 0


def _boxes(shared: Path) -> list[dict[str, Any]]:
    return json.loads(gzip.open(shared / "refcoco" / "refcoco_val.json.gz", "rt").read())


def _share(row: dict[str, Any], shift: float) -> list[float]:
    left, top, width, height = row["bbox"]
    left += shift * width
    return [left / row["width"], top / row["height"], (left + width) / row["width"], (top + height) / row["height"]]


@pytest.mark.parametrize(("shift", "is_right"), [(0.0, True), (0.3, True), (0.35, False)])
def test_refcoco_overlap_formula(shared: Path, tmp_path: Path, shift: float, is_right: bool) -> None:
    """For a box moved by s widths, the overlap is (1 - s) / (1 + s): .538 for .3, .481 for .35."""
    rows = [row for row in _boxes(shared) if _share(row, 0.35)[2] <= 1 and row["bbox"][0] >= 0 and row["bbox"][1] >= 0]
    rows = [row for row in rows if _share(row, 0)[3] <= 1][:600]
    references = write_file(tmp_path, "refcoco_val.json", rows)
    answers = [{"img_id": row["img_id"], "sents": row["sents"], "answer": str(_share(row, shift))} for row in rows]
    random.Random(1).shuffle(answers)
    scored = score("refcoco", write_file(tmp_path, "answers.json", answers), references)
    assert len(rows) == 600 and (scored.score, scored.missing_count, scored.unreadable_count) == (float(is_right), 0, 0)


def test_refcoco_in_minigpts_form(shared: Path, tmp_path: Path) -> None:
    """An object's sentences are not distinguished: answers are lists by the object's name, in hundredths."""
    rows = _boxes(shared)[:900]
    references = write_file(tmp_path, "refcoco_val.json", rows)
    metrics: dict[str, list[str]] = {}
    for row in rows:
        box = [round(100 * min(max(edge, 0), 1)) for edge in _share(row, 0)]
        metrics.setdefault(row["img_id"], []).append("{" + "".join(f"<{edge}>" for edge in box) + "}")
    answers = write_file(tmp_path, "minigpt.json", metrics)
    scored = score("refcoco", answers, references)
    assert (scored.missing_count, len(scored.joined_answers.unmatched)) == (0, 0) and scored.score > 0.99
    name = rows[0]["img_id"]
    metrics[name] = metrics[name][:-1]
    incomplete = score("refcoco", write_file(tmp_path, "minigpt.json", metrics), references)
    assert incomplete.missing_count == 1 and incomplete.score == pytest.approx(scored.score - 1 / len(rows))


def test_two_boxes_for_one_sentence_and_image_are_contested(shared: Path, tmp_path: Path) -> None:
    """RefCOCO testA has one sentence about one image twice, for two boxes; the other 5,655 still count."""
    rows = json.loads(gzip.decompress((shared / "refcoco" / "refcoco_testA.json.gz").read_bytes()))
    pairs = [(row["img_id"].rpartition("_")[0], row["sents"]) for row in rows]
    answers = [
        {"image": image, "question": words, "answer": str(_share(row, 0))}
        for (image, words), row in zip(pairs, rows, strict=True)
    ]
    boxes: dict[tuple[str, str], set[str]] = {}
    for pair, row in zip(pairs, rows, strict=True):
        boxes.setdefault(pair, set()).add(str(row["bbox"]))
    ambiguous = [number for number, pair in enumerate(pairs) if len(boxes[pair]) > 1]
    scored = score(
        "refcoco",
        write_file(tmp_path, "answers.json", answers),
        shared / "refcoco" / "refcoco_testA.json.gz",
    )
    assert list(scored.joined_answers.contested_positions) == ambiguous and len(ambiguous) == 2
    assert scored.missing_count == len(ambiguous)
