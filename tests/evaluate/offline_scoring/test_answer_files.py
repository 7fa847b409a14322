"""The same answers in all forms of answer files have the same score, which is computed by hand."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from firstsight.evaluate.offline_scoring.answer_files import read_answer_files
from tests.evaluate.offline_scoring.small_benchmarks import (
    PROMPT_SUFFIX,
    score,
    write_file,
    write_pope,
    write_refcoco,
    write_vqa,
)

ANSWERS = {100: "w0", 101: "w1", 102: "no", 103: "w3"}
"""Three of four are right."""


def _rows(**keys: str) -> list[dict[str, Any]]:
    """Records with the named fields under the given keys."""
    scored = []
    for name, word in ANSWERS.items():
        n = name - 100
        fields = {"id": name, "answer": word, "image": n // 2, "prompt": f"What is thing {n}?" + PROMPT_SUFFIX}
        scored.append({key: fields[field] for field, key in keys.items()})
    return scored


FORMS: dict[str, Any] = {
    "vqa.json": _rows(id="question_id", answer="answer"),
    "llava.jsonl": _rows(id="question_id", prompt="prompt", answer="text"),
    "gqa.json": _rows(id="questionId", answer="prediction"),
    "keyed.json": {str(name): word for name, word in ANSWERS.items()},
    "keyed_records.json": {str(name): {"question_id": name, "model_output": word} for name, word in ANSWERS.items()},
    "wrapped.json": {"info": "x", "annotations": _rows(id="question_id", answer="answer")},
    "truth_beside.jsonl": [row | {"answer": "w2"} for row in _rows(id="id", answer="response")],
    "picture.jsonl": _rows(image="image", prompt="question", answer="answer"),
    "picture_as_id.jsonl": _rows(image="question_id", prompt="prompt", answer="text"),
    "words_alone.jsonl": _rows(prompt="question", answer="answer"),
    "floats.json": [
        row | {"question_id": float(row["question_id"])} for row in _rows(id="question_id", answer="answer")
    ],
    "lmms.jsonl": [
        {"doc_id": n, "doc": {"question_id": name, "answer": "w2"}, "resps": [["x"]], "filtered_resps": [word]}
        for n, (name, word) in enumerate(ANSWERS.items())
    ],
    "own.jsonl": [
        row | {"task": name, "blind": blind, "truth": "?"}
        for row in _rows(id="question_id", prompt="prompt", answer="answer")
        for name, blind in (("vqav2", False), ("vqav2", True), ("gqa", False))
    ],
}


@pytest.mark.parametrize("name", FORMS)
def test_all_forms_have_the_same_score(tmp_path: Path, name: str) -> None:
    scored = score("vqav2", write_file(tmp_path, name, FORMS[name]), write_vqa(tmp_path / "vqav2", 4))
    assert (scored.score, scored.missing_count, len(scored.joined_answers.unmatched)) == (0.75, 0, 0)


def test_gzip_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    """gzip under any name, a byte-order mark, a single line, Windows line endings."""
    references = write_vqa(tmp_path / "vqav2", 1)
    line = json.dumps({"question_id": 100, "prompt": "What is thing 0?", "text": "w0"})
    for content in (gzip.compress(line.encode()), b"\xef\xbb\xbf" + line.encode(), line.encode() + b"\r\n\r\n"):
        assert score("vqav2", write_file(tmp_path, "answers.jsonl", content), references).score == 1


def test_answers_that_are_numbers_booleans_or_null(tmp_path: Path) -> None:
    content = '{"a": 2, "b": true, "c": null, "d": NaN, "e": ["x"], "f": [0.1, 0.2, 0.3, 0.4], "g": "\\ud83d\\udc31"}'
    words = [
        answer.answer for answer in read_answer_files([write_file(tmp_path, "answers.json", content)], "vqav2").records
    ]
    assert words == ["2", "yes", "", "", "x", "[0.1, 0.2, 0.3, 0.4]", "\N{CAT FACE}"]


def test_textvqa_has_two_answers_in_the_papers_harness(tmp_path: Path) -> None:
    """The question contains OCR tokens, which were in the prompt of only one of the answers."""
    row = {"question_id": 1, "model_output_ocr": "with", "model_output_no_ocr": "without"}
    path = write_file(tmp_path, "results.json", {"1": row | {"question": "what?\nReference OCR token: A"}})
    scored = {name: read_answer_files([path], name).records[0] for name in ("textvqa", "textvqa_ocr")}
    assert {name: (answer.answer, "OCR" in answer.prompt) for name, answer in scored.items()} == {
        "textvqa": ("without", False),
        "textvqa_ocr": ("with", True),
    }


def test_pope_splits_by_file_name_or_category(tmp_path: Path) -> None:
    references = write_pope(tmp_path / "pope")
    all_rows = []
    for split in ("random", "popular", "adversarial"):
        rows = [{"question_id": n, "answer": word} for n, word in ((1, "yes"), (2, "no"), (3, "no"))]
        all_rows += [row | {"category": split} for row in rows]
        write_file(tmp_path / "all_rows", f"{split}_answers.jsonl", rows)
    for answers in (tmp_path / "all_rows", write_file(tmp_path, "all.jsonl", all_rows)):
        scored = score("pope", answers, references)
        assert scored.missing_count == 0 and scored.score == pytest.approx(2 / 3)
        assert scored.splits["mean"]["recall"] == 0.5


def test_pope_answers_count_for_all_splits_with_the_question(tmp_path: Path) -> None:
    references = write_pope(tmp_path / "pope")
    rows = [
        ("7", "cat", "yes"),
        ("7", "random", "no"),
        ("7", "popular", "no"),
        ("7", "adversarial", "no"),
        ("9", "cat", "no"),
    ]
    answers = [
        {"image": f"{name}.jpg", "question": f"is there a {field} in the image", "answer": a} for name, field, a in rows
    ]
    scored = score("pope", write_file(tmp_path, "answers.jsonl", answers), references)
    assert scored.missing_count == 0 and scored.score == pytest.approx(2 / 3)


def test_popes_own_form_must_repeat_a_whole_file(tmp_path: Path) -> None:
    """Answers have only questions: each line must repeat its file's question, so another order is refused."""
    references = write_pope(tmp_path / "pope")
    lines = ["Is there a cat in the image?", "Is there a random in the image?", "Is there a cat in the image?"]
    rows = [{"question": words, "answer": "yes"} for words in lines]
    scored = score("pope", write_file(tmp_path, "answers.jsonl", rows), references / "coco_pope_random.jsonl")
    assert scored.score == pytest.approx(2 / 3) and scored.missing_count == 0
    with pytest.raises(Exception, match="none of 3 answers could be joined"):
        score(
            "pope",
            write_file(tmp_path, "answers.jsonl", rows[1:] + rows[:1]),
            references / "coco_pope_random.jsonl",
        )


def test_vizwiz_by_image(tmp_path: Path) -> None:
    rows = [
        {"image": f"VizWiz_val_{n:08d}.jpg", "question": "What is this?", "answers": [{"answer": "a b"}] * 10}
        for n in range(3)
    ]
    references = write_file(tmp_path, "val.json", rows)
    answers = [{"image": row["image"], "answer": "a b"} for row in rows[::-1]]
    assert score("vizwiz", write_file(tmp_path, "upload.json", answers), references).score == 1


def test_captions_by_image(tmp_path: Path) -> None:
    """Prompts differ between models."""
    images = [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg"} for n in (1, 20)]
    texts = {1: "a black cat sleeps on a mat", 20: "two dogs run over green grass"}
    captions = [{"image_id": n, "caption": text} for n, text in texts.items()]
    references = write_file(tmp_path, "captions.json", {"images": images, "annotations": captions})
    answers = [{"image_id": n, "caption": text, "question": "Describe it."} for n, text in reversed(texts.items())]
    assert score("coco_captions", write_file(tmp_path, "answers.json", answers), references).score == pytest.approx(10)


@pytest.mark.parametrize("answer", ["1", "B", "(b)", "B. it melts", "it melts", " It melts "])
def test_choices_by_number_letter_or_words(tmp_path: Path, answer: str) -> None:
    references = write_file(tmp_path, "copa.jsonl", [{"query": "ice", "choices": ["it burns", "it melts"], "gold": 1}])
    scored = score("copa", write_file(tmp_path, "answers.json", {"0": answer}), references)
    assert (scored.score, scored.unreadable_count) == (1, 0)


UNITS = {
    "hundredths": lambda box: "{" + "".join(f"<{round(100 * edge)}>" for edge in box) + "}",
    "qwen": lambda box: "<ref>a 2 b</ref><box>({:.0f},{:.0f}),({:.0f},{:.0f})</box>".format(
        *(1000 * edge for edge in box)
    ),
    "cogvlm": lambda box: "[[{:03.0f},{:03.0f},{:03.0f},{:03.0f}]]".format(*(1000 * edge for edge in box)),
    "paligemma": lambda box: "".join(f"<loc{round(1024 * box[index]):04d}>" for index in (1, 0, 3, 2)) + " thing",
    "pixels": lambda box: [edge * size for edge, size in zip(box, (400, 200, 400, 200), strict=True)],
    "thousandths": lambda box: [round(1000 * edge) for edge in box],
    "shares": list,
}


@pytest.mark.parametrize("unit", UNITS)
def test_boxes_in_all_families_units(tmp_path: Path, unit: str) -> None:
    references = write_refcoco(tmp_path / "refcoco")
    rows = json.loads((references / "refcoco_val.json").read_text())
    answers = []
    for row in rows:
        left, top, width, height = row["bbox"]
        box = (left / 400, top / 200, (left + width) / 400, (top + height) / 200)
        answers.append({"img_id": row["img_id"], "sents": row["sents"], "pred_bbox": UNITS[unit](box)})
    scored = score("refcoco", write_file(tmp_path, "answers.json", answers), references)
    assert (scored.score, scored.unreadable_count, scored.missing_count) == (1, 0, 0)


def test_the_papers_harness_has_sentences_and_true_boxes(tmp_path: Path) -> None:
    references = write_refcoco(tmp_path / "refcoco", 4)
    rows = [
        {
            "example_id": 7 + n,
            "ref_exp": f"thing {n}",
            "model_output": "[0.25, 0.25, 0.75, 0.75]",
            "ground_truth_bbox": box,
        }
        for n, box in enumerate([[0.0, 0.25, 0.5, 0.75]] * 2 + [[0.25, 0.25, 0.75, 0.75]] * 2)
    ]
    scored = score(
        "refcoco", write_file(tmp_path, "results.json", {str(row["example_id"]): row for row in rows}), references
    )
    assert (scored.score, scored.missing_count) == (0.5, 0)


def test_scoring_loads_no_model() -> None:
    heavy = "{'torch', 'transformers', 'PIL'}"
    script = f"import sys, firstsight.evaluate.offline_scoring.scoring; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


def test_the_summary_and_the_rows_as_json(tmp_path: Path) -> None:
    from tests.evaluate.offline_scoring.small_benchmarks import run_command

    out, rows_path = tmp_path / "out.json", tmp_path / "rows.jsonl"
    answers = write_file(tmp_path, "answers.json", FORMS["vqa.json"])
    assert (
        run_command(
            "vqav2", answers, write_vqa(tmp_path / "vqav2", 4), options=("--json", str(out), "--rows", str(rows_path))
        )
        == 0
    )
    summary = json.loads(out.read_text())
    assert (summary["score"], summary["points"], summary["n"], summary["missing"]) == (0.75, 75.0, 4, 0)
    assert summary["interval"][0] < 0.75 < summary["interval"][1] and not math.isnan(sum(summary["interval"]))
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()]
    assert [row["score"] for row in rows] == [1, 1, 0, 1] and rows[2]["truth"] == "w2"
