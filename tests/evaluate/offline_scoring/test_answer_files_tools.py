"""A small file in the form of each published tool: all answers are joined and scored as computed by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.offline_scoring.small_benchmarks import (
    PROMPT_SUFFIX,
    run_command,
    score,
    write_file,
    write_pope,
    write_refcoco,
    write_vqa,
)

ANSWERS = ("w0", "no", "w2", "no", "w4", "w5")
"""Four of six are right."""


def _pairs() -> list[tuple[int, str, str]]:
    """(id, question, answer) in random order."""
    triples = [(100 + n, f"What is thing {n}?", word) for n, word in enumerate(ANSWERS)]
    random.Random(3).shuffle(triples)
    return triples


def _lmms(number: int, answer: Any, **options: Any) -> dict[str, Any]:
    """A line of lmms-eval's current samples: without the document, with ids inside the metrics' objects."""
    return {"doc_id": number, "target": "x", "filtered_resps": answer, "doc_hash": "0", **options}


VQA_FILES: dict[str, list[dict[str, Any]]] = {
    "lavis.json": [{"question_id": question_id, "pred_ans": word, "gt_ans": "w1"} for question_id, _, word in _pairs()],
    "internvl.json": [
        {"question": f"<image>\n{asked}{PROMPT_SUFFIX}", "question_id": question_id, "answer": word}
        for question_id, asked, word in _pairs()
    ],
    "qwen.json": [
        {"questionId": question_id, "answer": word, "annotation": ["w1"]} for question_id, _, word in _pairs()
    ],
    "llava.jsonl": [
        {
            "question_id": question_id,
            "prompt": asked.upper() + "  " + PROMPT_SUFFIX,
            "text": word + "\n",
            "metadata": {},
        }
        for question_id, asked, word in _pairs()
    ],
    "stripped.json": [  # ALBEF and BLIP take the marks out of questions.
        {"question_id": question_id, "question": asked.lower().strip("?"), "answer": word}
        for question_id, asked, word in _pairs()
    ],
    "spaced.json": [{"question_id": f" {question_id} ", "answer": word} for question_id, _, word in _pairs()],
    "lmms.jsonl": [
        _lmms(number, word, submission={"question_id": question_id, "answer": word}, input=asked + PROMPT_SUFFIX)
        for number, (question_id, asked, word) in enumerate(_pairs())
    ],
    "vlmevalkit.json": [
        {
            "index": 900 + number,
            "question": asked,
            "answer": "['w1']",
            "image_path": f"/d/{(question_id - 100) // 2}.jpg",
        }
        | {"prediction": word}
        for number, (question_id, asked, word) in enumerate(_pairs())
    ],
}


@pytest.mark.parametrize("name", VQA_FILES)
def test_vqa_files_of_each_tool(tmp_path: Path, name: str) -> None:
    scored = score("vqav2", write_file(tmp_path, name, VQA_FILES[name]), write_vqa(tmp_path / "vqav2", 6))
    assert (scored.score, scored.missing_count, len(scored.joined_answers.unmatched)) == (pytest.approx(4 / 6), 0, 0)


def test_questions_without_punctuation(tmp_path: Path) -> None:
    """Without commas and apostrophes too; the ids are used, since no field contradicts them."""
    asked = write_file(
        tmp_path / "gqa", "q.json", {"7": {"question": "Is the man's hat, uh, red?", "imageId": "1", "answer": "yes"}}
    )
    answers = write_file(
        tmp_path, "a.json", [{"question_id": 7, "question": "is the mans hat uh red", "answer": "Yes"}]
    )
    assert score("gqa", answers, asked).score == 1


def test_files_in_subfolders(tmp_path: Path) -> None:
    """LLaVA's parts and their concatenation, one folder per split; hidden files and notes are ignored."""
    rows = VQA_FILES["llava.jsonl"]
    folder = tmp_path / "answers" / "val" / "llava-v1.5-13b"
    for name, rows_part in (("2_0.jsonl", rows[:3]), ("2_1.jsonl", rows[3:]), ("merge.jsonl", rows)):
        write_file(folder, name, rows_part)
    write_file(folder, "notes.txt", "no answers")
    write_file(folder, ".cache.json", "no answers")
    scored = score("vqav2", tmp_path / "answers", write_vqa(tmp_path / "vqav2", 6))
    assert (scored.score, scored.missing_count, scored.joined_answers.duplicates) == (pytest.approx(4 / 6), 0, 6)


def _pope_answers(folder: Path) -> list[dict[str, Any]]:
    """All questions with their split and an answer: yes to the first of each split, no to the others."""
    rows = []
    for split in ("random", "popular", "adversarial"):
        lines = (write_pope(folder) / f"coco_pope_{split}.jsonl").read_text().splitlines()
        rows += [
            row | {"split": split, "run_command": "yes" if row["question_id"] == 1 else "no"}
            for row in map(json.loads, lines)
        ]
    random.Random(2).shuffle(rows)
    return rows


def test_pope_of_lmms_eval_has_neither_image_nor_split(tmp_path: Path) -> None:
    """Its ids restart in each split, so texts decide, and equal questions of several splits are one question."""
    rows = [
        _lmms(
            number,
            row["run_command"],
            pope_accuracy={"question_id": str(row["question_id"])},
            input=row["text"] + PROMPT_SUFFIX,
        )
        for number, row in enumerate(_pope_answers(tmp_path / "pope"))
    ]
    scored = score("pope", write_file(tmp_path, "samples_pope.jsonl", rows), tmp_path / "pope")
    assert (scored.score, scored.missing_count) == (pytest.approx(2 / 3), 0)


def test_pope_of_the_papers_harness_needs_its_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its ids are hashes that change with every process; its records have two probabilities and no answer."""
    results, index = {}, {}
    for number, row in enumerate(_pope_answers(tmp_path / "pope")):
        name = -(9**15) - number
        probabilities = [0.5, 0.5] if row["run_command"] == "yes" else [0.25, 0.75]
        results[name] = {"question_id": name, "question": row["text"], "yes_no_probabilities": probabilities}
        index[name] = {"question_id": name, "question": row["text"], "img_path": f"d/val2014/{row['image']}"}
        index[name] |= {"answer": row["label"], "split": row["split"], "split_question_id": row["question_id"]}
    answers, known = write_file(tmp_path, "results.json", results), write_file(tmp_path, "metadata-full.json", index)
    scored = score("pope", answers, tmp_path / "pope", known)
    assert (scored.score, scored.missing_count, scored.unreadable_count) == (pytest.approx(2 / 3), 0, 0)
    assert run_command("pope", answers, tmp_path / "pope") == 2
    assert "index of the paper's harness" in capsys.readouterr().err
    assert run_command("pope", answers, known) == 2
    assert "Got only the questions that a model was given" in capsys.readouterr().err


@pytest.mark.parametrize("probabilities", ["[0.5]", '["a", "b"]', "0.5"])
def test_invalid_probabilities_are_refused(
    tmp_path: Path, probabilities: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = write_file(tmp_path, "a.json", f'{{"1": {{"question_id": 1, "yes_no_probabilities": {probabilities}}}}}')
    assert run_command("pope", answers, write_pope(tmp_path / "pope")) == 2
    assert "are two numbers" in capsys.readouterr().err


def test_splits_of_pope_by_folder(tmp_path: Path) -> None:
    """A file's own name has precedence over its folder's."""
    rows = [{"question_id": n, "answer": word} for n, word in ((1, "yes"), (2, "no"), (3, "no"))]
    for name in ("popular/answers.jsonl", "adversarial/answers.jsonl", "popular/random.jsonl"):
        write_file(tmp_path / "a" / Path(name).parent, Path(name).name, rows)
    scored = score("pope", tmp_path / "a", write_pope(tmp_path / "pope"))
    assert (scored.score, scored.missing_count, scored.joined_answers.duplicates) == (pytest.approx(2 / 3), 0, 0)


def _vizwiz(folder: Path) -> Path:
    rows = [
        {"image": f"VizWiz_val_{n:08d}.jpg", "question": "What is this?", "answers": [{"answer": f"w{n}"}] * 10}
        for n in range(6)
    ]
    return write_file(folder, "val.json", rows)


VIZWIZ_FILES: dict[str, list[dict[str, Any]]] = {
    "llava.jsonl": [
        {
            "question_id": f"VizWiz_val_{question_id - 100:08d}.jpg",
            "prompt": "What is this?" + PROMPT_SUFFIX,
            "text": word,
        }
        for question_id, _, word in _pairs()
    ],
    "internvl.json": [
        {"image": f"data/vizwiz/val/VizWiz_val_{question_id - 100:08d}.jpg", "answer": word}
        for question_id, _, word in _pairs()
    ],
    "prismatic.json": [
        {
            "question_id": question_id - 100,
            "question": "What is this?",
            "model_output": word,
            "ground_truth_answer": ["w1"],
        }
        for question_id, _, word in _pairs()
    ],
    "lmms.jsonl": [
        _lmms(
            number,
            word,
            submission={"image": f"VizWiz_val_{question_id - 100:08d}.jpg", "answer": word},
            input="What is this?",
        )
        for number, (question_id, _, word) in enumerate(_pairs())
    ],
}


@pytest.mark.parametrize("name", VIZWIZ_FILES)
def test_vizwiz_files_of_each_tool(tmp_path: Path, name: str) -> None:
    scored = score("vizwiz", write_file(tmp_path, name, VIZWIZ_FILES[name]), _vizwiz(tmp_path / "vizwiz"))
    assert (scored.score, scored.missing_count) == (pytest.approx(4 / 6), 0)


@pytest.mark.parametrize("key", ["image", "question_id"])
def test_vizwiz_test_answers_are_not_those_to_val(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both splits number their images from 0, and most questions have the same text."""
    rows = [{key: f"VizWiz_test_{n:08d}.jpg", "prompt": "What is this?", "text": f"w{n}"} for n in range(6)]
    assert run_command("vizwiz", write_file(tmp_path, "test.json", rows), _vizwiz(tmp_path / "vizwiz")) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "none of 6 answers could be joined" in message and "VizWiz val has 4,319" in message


def test_nocaps_images_by_number_although_files_have_other_names(tmp_path: Path) -> None:
    texts = ("a black cat sleeps on a mat", "two dogs run over green grass", "a man rides a red bike")
    images = [{"id": n, "file_name": f"{99 - n:016x}.jpg", "domain": "in-domain"} for n in range(3)]
    captions = [{"image_id": n, "caption": text} for n, text in enumerate(texts)]
    references = write_file(tmp_path / "nocaps", "val.json", {"images": images, "annotations": captions})
    for name, rows in {
        "eval.json": [{"image_id": n, "caption": text} for n, text in reversed(list(enumerate(texts)))],
        "both.json": [row | {"file_name": images[row["image_id"]]["file_name"]} for row in captions[::-1]],
        "lmms.jsonl": [
            _lmms(9 - n, text, nocaps_CIDEr={"answer": ["x"], "pred": text, "image_id": n}, input="Describe it.")
            for n, text in enumerate(texts)
        ],
    }.items():
        scored = score("nocaps", write_file(tmp_path, name, rows), references)
        assert (scored.score, scored.missing_count) == (pytest.approx(10), 0), name


MMMU_ROWS = [
    {
        "id": f"validation_{subject}_{n}",
        "question": f"<image 1> Who drew picture {n}?",
        "options": "['Monet', 'Manet', 'Miro', 'Dali']",
        "image_1": f"{subject}{n}.png",
        "answer": "ABCD"[n],
    }
    for subject in ("Art", "Math")
    for n in range(4)
]
MMMU_ANSWERS = ("A", "B.", "(C)", "The answer is D", "Monet is who drew it, I think", "Z", "", "none")
"""Five are right, three have no letter."""


def _mmmu(row: dict[str, Any], answer: str, number: int) -> dict[str, dict[str, Any]]:
    """Records by tool; questions lack their options, or have MMMU's image markers."""
    fields = {"id": row["id"], "answer": row["answer"], "parsed_pred": [answer]}
    return {
        "internvl": {"question": row["question"], "answer": answer, "gt_answers": "C", "data_id": row["id"]},
        "megatron": {"sample_id": row["id"], "prompt": row["question"], "prediction": answer},
        "pro": row | {"response": answer, "pred_indexs": "A"},
        "lmms": _lmms(
            number, answer, mmmu_acc=fields, submission={row["id"]: "A"}, input=row["question"] + "\nA. Monet"
        ),
    }


@pytest.mark.parametrize("tool", ["internvl", "megatron", "pro", "lmms"])
def test_mmmu_files_of_each_tool(tmp_path: Path, tool: str) -> None:
    rows = [_mmmu(row, answer, n)[tool] for n, (row, answer) in enumerate(zip(MMMU_ROWS, MMMU_ANSWERS, strict=True))]
    scored = score(
        "mmmu", write_file(tmp_path, "a.jsonl", rows[::-1]), write_file(tmp_path / "mmmu", "val.jsonl", MMMU_ROWS)
    )
    assert (scored.score, scored.missing_count, scored.unreadable_count) == (5 / 8, 0, 3)


def test_mmmu_of_its_own_scripts_is_a_folder_per_subject(tmp_path: Path) -> None:
    for subject in ("Art", "Math"):
        pairs = [pair for pair in zip(MMMU_ROWS, MMMU_ANSWERS, strict=True) if subject in pair[0]["id"]]
        rows = [{"id": row["id"], "answer": "D", "all_choices": [], "response": word} for row, word in pairs]
        write_file(tmp_path / "out" / subject, "output.json", rows)
    references = write_file(tmp_path / "mmmu", "val.jsonl", MMMU_ROWS)
    assert score("mmmu", tmp_path / "out", references).score == 5 / 8
    whole = {row["id"]: word for row, word in zip(MMMU_ROWS, MMMU_ANSWERS, strict=True)}
    assert score("mmmu", write_file(tmp_path, "total.json", whole), references).score == 5 / 8


def _boxes(folder: Path) -> list[dict[str, Any]]:
    """All sentences with the true box in pixels and in shares, and an answer; three of four are right."""
    rows = json.loads((write_refcoco(folder, 40) / "refcoco_val.json").read_text())
    for number, row in enumerate(rows):
        left, top, width, height = row["bbox"]
        row["pixels"] = [left, top, left + width, top + height]
        row["shares"] = [left / 400, top / 200, (left + width) / 400, (top + height) / 200]
        row["run_command"] = row["shares"] if number % 4 else [0.9, 0.9, 1, 1]
        row["image"] = row["img_id"].rpartition("_")[0] + ".jpg"
        row["number"] = number
    random.Random(1).shuffle(rows)
    return rows


def _thousandths(box: Sequence[float]) -> str:
    return ",".join(f"{round(1000 * edge)}" for edge in box)


def _box_answers(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Records by tool. Qwen-VL and InternVL have only the true box; `image_id` of Ferret and MDETR counts sentences."""
    box = _thousandths(row["run_command"])
    fields = {"answer": row["sents"], "pred": row["run_command"], "ann_id": "77", "bbox": row["shares"]}
    return {
        "internvl": {"answer": f"<ref>x</ref><box>[[{box}]]</box>", "gt_bbox": row["pixels"], "hw": [200, 400]},
        "ferret": {
            "image_id": row["number"],
            "file_name": row["image"],
            "prompt": f"What is the location of {row['sents']}?",
        }
        | {"text": f"[{box}]", "width": 400, "height": 200},
        "lmms": _lmms(row["number"], str(row["run_command"]), refcoco_IoU=fields, input="Say where: " + row["sents"]),
    }


@pytest.mark.parametrize("tool", ["internvl", "ferret", "lmms"])
def test_box_files_of_each_tool(tmp_path: Path, tool: str) -> None:
    rows = [_box_answers(row)[tool] for row in _boxes(tmp_path / "refcoco")]
    scored = score("refcoco", write_file(tmp_path, "a.jsonl", rows), tmp_path / "refcoco")
    assert (scored.score, scored.missing_count, scored.unreadable_count) == (0.75, 0, 0)


def test_true_boxes_match_up_to_rounding(tmp_path: Path) -> None:
    """A difference of a tenth of a pixel is rounding, two pixels are another box."""
    rows = [_box_answers(row)["internvl"] for row in _boxes(tmp_path / "refcoco")]
    for moved, missing in ((0.1, 0), (2.0, 40)):
        moved_rows = [row | {"gt_bbox": [edge + moved for edge in row["gt_bbox"]]} for row in rows]
        moved_rows += [rows[0]] if missing else []
        assert score("refcoco", write_file(tmp_path, "a.json", moved_rows), tmp_path / "refcoco").missing_count == max(
            missing - 1, 0
        )


@pytest.mark.parametrize("size", [[0, 400], ["a", "b"], [200], [float("nan"), 400]])
def test_true_boxes_with_an_invalid_image_size_match_nothing(
    tmp_path: Path, size: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [_box_answers(row)["internvl"] | {"hw": size} for row in _boxes(tmp_path / "refcoco")]
    assert run_command("refcoco", write_file(tmp_path, "a.json", rows), tmp_path / "refcoco") == 2
    assert "none of 40 answers could be joined" in capsys.readouterr().err


def test_prompts_with_ocr_tokens_are_noted(tmp_path: Path) -> None:
    rows = [{"question_id": n, "image_id": "a", "question": f"what {n}?", "answers": [f"w{n}"] * 10} for n in range(3)]
    references = write_file(tmp_path / "textvqa", "val.json", {"data": rows})
    lines = [
        {"question_id": "a", "prompt": "what 0?\nReference OCR token: W0, WHAT\nAnswer.", "text": "w0"},
        {"question_id": "a", "prompt": "OCR tokens: x\nQuestion: what 1? Short answer:", "text": "w1"},
        {"question_id": "a", "prompt": "what 2?" + PROMPT_SUFFIX, "text": "w2"},
    ]
    scored = score("textvqa", write_file(tmp_path, "a.jsonl", lines), references)
    assert scored.score == 1
    assert scored.notes == ("2 prompts have OCR tokens: this is a score of textvqa_ocr, not of textvqa",)


def test_negations_that_pope_reads_as_yes_are_noted(tmp_path: Path) -> None:
    """POPE's script splits at spaces and recognises three words, so it reads the second case's two negations as yes."""
    references = write_pope(tmp_path / "pope")
    for words, count in ((("yes", "No", "no, it is not"), 0), (("Yes", "No\n", "NO!"), 2)):
        rows = [{"question_id": n + 1, "answer": word, "category": "random"} for n, word in enumerate(words)]
        scored = score("pope", write_file(tmp_path, "a.json", rows), references / "coco_pope_random.jsonl")
        # Truths are yes, no, yes.
        assert scored.score == pytest.approx(2 / 3)
        assert [f"{count} answers such as 'No\\n' count as yes" in note for note in scored.notes] == [True] * bool(
            count
        )


def test_a_custom_task_by_folder_and_by_file(tmp_path: Path) -> None:
    task_json = {"prompt": "{question}", "metric": "exact", "answered": "words", "chance": 0, "version": 1}
    write_file(tmp_path / "colours", "task.json", task_json)
    questions = write_file(
        tmp_path / "colours", "questions.jsonl", [{"id": "a", "question": "Which?", "image": "1.png", "answer": "red"}]
    )
    answers = write_file(tmp_path, "a.json", {"a": "Red."})
    assert run_command("colours", answers, tmp_path / "colours") == run_command("colours", answers, questions) == 0


def test_the_interval_is_1_96_standard_errors(tmp_path: Path) -> None:
    """1.96 standard errors for one question per image; three equal questions per image make it no narrower."""
    generator = random.Random(0)
    is_right = [generator.random() < 0.6 for _ in range(900)]
    share = sum(is_right) / 900
    expected_width = 2 * 1.96 * (share * (1 - share) / 900) ** 0.5
    for times in (1, 3):
        names = [(n, copy) for n in range(900) for copy in range(times)]
        asked = {f"{n}-{copy}": {"question": f"q {copy}?", "imageId": f"n{n}", "answer": "a"} for n, copy in names}
        answers = {f"{n}-{copy}": "a" if is_right[n] else "b" for n, copy in names}
        scored = score("gqa", write_file(tmp_path, "a.json", answers), write_file(tmp_path / "gqa", "q.json", asked))
        assert scored.score == pytest.approx(share)
        assert scored.interval[1] - scored.interval[0] == pytest.approx(expected_width, rel=0.1)


def test_an_unpaired_surrogate_is_stored(tmp_path: Path) -> None:
    """An answer truncated within an emoji ends with half a surrogate pair: no valid UTF-8, but valid JSON."""
    answers = write_file(tmp_path, "a.json", '[{"question_id": 100, "answer": "\\ud83d"}]')
    rows_path = tmp_path / "rows.jsonl"
    assert run_command("vqav2", answers, write_vqa(tmp_path / "vqav2", 1), options=("--rows", str(rows_path))) == 0
    assert json.loads(rows_path.read_text())["answer"] == "\ud83d"


@pytest.mark.parametrize("option", ["--json", "--rows"])
def test_a_missing_output_folder_is_refused_before_scoring(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_command("vqav2", tmp_path / "none.json", tmp_path, options=(option, str(tmp_path / "no" / "out.json"))) == 2
    )
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("missing_option", ["answers", "references"])
def test_a_missing_file_is_refused(tmp_path: Path, missing_option: str, capsys: pytest.CaptureFixture[str]) -> None:
    existing, missing_path = write_file(tmp_path, "a.json", VQA_FILES["lavis.json"]), tmp_path / "gone.json"
    assert (
        run_command(
            "vqav2",
            *((missing_path, write_vqa(tmp_path / "v")) if missing_option == "answers" else (existing, missing_path)),
        )
        == 2
    )
    assert "gone.json: there is no such file" in " ".join(capsys.readouterr().err.split())
