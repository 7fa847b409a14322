"""One set of answers in every form that tools write it; each form scores the same, and by hand."""

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
from tests.evaluate.offline_scoring.small_benchmarks import ASKED, pope, put, refcoco, scored, vqa

RIGHT = {100: "w0", 101: "w1", 102: "no", 103: "w3"}
"""Three of four."""


def _rows(**keys: str) -> list[dict[str, Any]]:
    """Records that call a thing by the given key."""
    found = []
    for name, word in RIGHT.items():
        n = name - 100
        facts = {"id": name, "answer": word, "image": n // 2, "prompt": f"What is thing {n}?" + ASKED}
        found.append({key: facts[what] for what, key in keys.items()})
    return found


FORMS: dict[str, Any] = {
    "vqa.json": _rows(id="question_id", answer="answer"),
    "llava.jsonl": _rows(id="question_id", prompt="prompt", answer="text"),
    "gqa.json": _rows(id="questionId", answer="prediction"),
    "keyed.json": {str(name): word for name, word in RIGHT.items()},
    "keyed_records.json": {str(name): {"question_id": name, "model_output": word} for name, word in RIGHT.items()},
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
        for n, (name, word) in enumerate(RIGHT.items())
    ],
    "own.jsonl": [
        row | {"task": name, "blind": blind, "truth": "?"}
        for row in _rows(id="question_id", prompt="prompt", answer="answer")
        for name, blind in (("vqav2", False), ("vqav2", True), ("gqa", False))
    ],
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_scores_the_same(tmp_path: Path, name: str) -> None:
    found = scored("vqav2", put(tmp_path, name, FORMS[name]), vqa(tmp_path / "vqav2", 4))
    assert (found.score, found.missing_count, len(found.joined_answers.unmatched)) == (0.75, 0, 0)


def test_packed_and_marked_files(tmp_path: Path) -> None:
    """gzip under any name, a byte-order mark, a single line, Windows line ends."""
    references = vqa(tmp_path / "vqav2", 1)
    line = json.dumps({"question_id": 100, "prompt": "What is thing 0?", "text": "w0"})
    for content in (gzip.compress(line.encode()), b"\xef\xbb\xbf" + line.encode(), line.encode() + b"\r\n\r\n"):
        assert scored("vqav2", put(tmp_path, "answers.jsonl", content), references).score == 1


def test_numbers_truths_and_nothing_as_answers(tmp_path: Path) -> None:
    content = '{"a": 2, "b": true, "c": null, "d": NaN, "e": ["x"], "f": [0.1, 0.2, 0.3, 0.4], "g": "\\ud83d\\udc31"}'
    words = [one.answer for one in read_answer_files([put(tmp_path, "answers.json", content)], "vqav2")]
    assert words == ["2", "yes", "", "", "x", "[0.1, 0.2, 0.3, 0.4]", "\N{CAT FACE}"]


def test_textvqa_keeps_two_answers_in_the_papers_harness(tmp_path: Path) -> None:
    """Its question holds the tokens, which only one of the answers was given with."""
    row = {"question_id": 1, "model_output_ocr": "with", "model_output_no_ocr": "without"}
    path = put(tmp_path, "results.json", {"1": row | {"question": "what?\nReference OCR token: A"}})
    found = {name: read_answer_files([path], name)[0] for name in ("textvqa", "textvqa_ocr")}
    assert {name: (one.answer, "OCR" in one.prompt) for name, one in found.items()} == {
        "textvqa": ("without", False),
        "textvqa_ocr": ("with", True),
    }


def test_pope_splits_by_file_name_category_or_not_at_all(tmp_path: Path) -> None:
    references = pope(tmp_path / "pope")
    parts = []
    for split in ("random", "popular", "adversarial"):
        rows = [{"question_id": n, "answer": word} for n, word in ((1, "yes"), (2, "no"), (3, "no"))]
        parts += [row | {"category": split} for row in rows]
        put(tmp_path / "parts", f"{split}_answers.jsonl", rows)
    for answers in (tmp_path / "parts", put(tmp_path, "all.jsonl", parts)):
        found = scored("pope", answers, references)
        assert found.missing_count == 0 and found.score == pytest.approx(2 / 3)
        assert found.splits["mean"]["recall"] == 0.5


def test_pope_answers_serve_the_splits_that_share_a_question(tmp_path: Path) -> None:
    references = pope(tmp_path / "pope")
    rows = [
        ("7", "cat", "yes"),
        ("7", "random", "no"),
        ("7", "popular", "no"),
        ("7", "adversarial", "no"),
        ("9", "cat", "no"),
    ]
    answers = [
        {"image": f"{name}.jpg", "question": f"is there a {what} in the image", "answer": a} for name, what, a in rows
    ]
    found = scored("pope", put(tmp_path, "answers.jsonl", answers), references)
    assert found.missing_count == 0 and found.score == pytest.approx(2 / 3)


def test_popes_own_form_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    """Nothing but questions: every line must repeat its file's question, so a changed order is refused."""
    references = pope(tmp_path / "pope")
    lines = ["Is there a cat in the image?", "Is there a random in the image?", "Is there a cat in the image?"]
    rows = [{"question": words, "answer": "yes"} for words in lines]
    found = scored("pope", put(tmp_path, "answers.jsonl", rows), references / "coco_pope_random.jsonl")
    assert found.score == pytest.approx(2 / 3) and found.missing_count == 0
    with pytest.raises(Exception, match="none of 3 answers could be joined"):
        scored("pope", put(tmp_path, "answers.jsonl", rows[1:] + rows[:1]), references / "coco_pope_random.jsonl")


def test_vizwiz_by_picture(tmp_path: Path) -> None:
    rows = [
        {"image": f"VizWiz_val_{n:08d}.jpg", "question": "What is this?", "answers": [{"answer": "a b"}] * 10}
        for n in range(3)
    ]
    references = put(tmp_path, "val.json", rows)
    answers = [{"image": row["image"], "answer": "a b"} for row in rows[::-1]]
    assert scored("vizwiz", put(tmp_path, "upload.json", answers), references).score == 1


def test_captions_by_picture(tmp_path: Path) -> None:
    """Every model words the request in its own way."""
    pictures = [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg"} for n in (1, 20)]
    texts = {1: "a black cat sleeps on a mat", 20: "two dogs run over green grass"}
    captions = [{"image_id": n, "caption": text} for n, text in texts.items()]
    references = put(tmp_path, "captions.json", {"images": pictures, "annotations": captions})
    answers = [{"image_id": n, "caption": text, "question": "Describe it."} for n, text in reversed(texts.items())]
    assert scored("coco_captions", put(tmp_path, "answers.json", answers), references).score == pytest.approx(10)


@pytest.mark.parametrize("answer", ["1", "B", "(b)", "B. it melts", "it melts", " It melts "])
def test_choices_by_number_letter_or_words(tmp_path: Path, answer: str) -> None:
    references = put(tmp_path, "copa.jsonl", [{"query": "ice", "choices": ["it burns", "it melts"], "gold": 1}])
    found = scored("copa", put(tmp_path, "answers.json", {"0": answer}), references)
    assert (found.score, found.unreadable_count) == (1, 0)


UNITS = {
    "hundredths": lambda box: "{" + "".join(f"<{round(100 * edge)}>" for edge in box) + "}",
    "qwen": lambda box: "<ref>a 2 b</ref><box>({:.0f},{:.0f}),({:.0f},{:.0f})</box>".format(
        *(1000 * edge for edge in box)
    ),
    "cogvlm": lambda box: "[[{:03.0f},{:03.0f},{:03.0f},{:03.0f}]]".format(*(1000 * edge for edge in box)),
    "paligemma": lambda box: "".join(f"<loc{round(1024 * box[at]):04d}>" for at in (1, 0, 3, 2)) + " thing",
    "pixels": lambda box: [edge * size for edge, size in zip(box, (400, 200, 400, 200), strict=True)],
    "thousandths": lambda box: [round(1000 * edge) for edge in box],
    "shares": list,
}


@pytest.mark.parametrize("unit", UNITS)
def test_boxes_in_every_familys_units(tmp_path: Path, unit: str) -> None:
    references = refcoco(tmp_path / "refcoco")
    rows = json.loads((references / "refcoco_val.json").read_text())
    answers = []
    for row in rows:
        left, top, width, height = row["bbox"]
        box = (left / 400, top / 200, (left + width) / 400, (top + height) / 200)
        answers.append({"img_id": row["img_id"], "sents": row["sents"], "pred_bbox": UNITS[unit](box)})
    found = scored("refcoco", put(tmp_path, "answers.json", answers), references)
    assert (found.score, found.unreadable_count, found.missing_count) == (1, 0, 0)


def test_the_papers_harness_names_sentences_and_true_boxes(tmp_path: Path) -> None:
    references = refcoco(tmp_path / "refcoco", 4)
    rows = [
        {
            "example_id": 7 + n,
            "ref_exp": f"thing {n}",
            "model_output": "[0.25, 0.25, 0.75, 0.75]",
            "ground_truth_bbox": box,
        }
        for n, box in enumerate([[0.0, 0.25, 0.5, 0.75]] * 2 + [[0.25, 0.25, 0.75, 0.75]] * 2)
    ]
    found = scored("refcoco", put(tmp_path, "results.json", {str(row["example_id"]): row for row in rows}), references)
    assert (found.score, found.missing_count) == (0.5, 0)


def test_scoring_loads_no_model() -> None:
    script = "import sys, firstsight.evaluate.offline_scoring.scoring; print({'torch', 'transformers', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


def test_numbers_for_machines(tmp_path: Path) -> None:
    from tests.evaluate.offline_scoring.small_benchmarks import said

    out, kept = tmp_path / "out.json", tmp_path / "rows.jsonl"
    answers = put(tmp_path, "answers.json", FORMS["vqa.json"])
    assert said("vqav2", answers, vqa(tmp_path / "vqav2", 4), more=("--json", str(out), "--rows", str(kept))) == 0
    held = json.loads(out.read_text())
    assert (held["score"], held["points"], held["n"], held["missing"]) == (0.75, 75.0, 4, 0)
    assert held["interval"][0] < 0.75 < held["interval"][1] and not math.isnan(sum(held["interval"]))
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [row["score"] for row in rows] == [1, 1, 0, 1] and rows[2]["truth"] == "w2"
