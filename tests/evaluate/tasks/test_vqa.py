"""VQAv2, VizWiz, TextVQA, GQA and POPE in their own files, whole and wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import get_task
from tests.evaluate.tasks.task_files import lines, read, write

Rows = list[dict[str, Any]]


def vqa(folder: Path, asked: Rows, answered: Rows) -> Path:
    write(folder, "val_questions.json", {"questions": asked})
    write(folder, "val_annotations.json.gz", {"annotations": answered})
    return folder


def asked(*numbers: int) -> Rows:
    return [{"question_id": n, "image_id": 7, "question": f"q{n}", "form": "heldout"} for n in numbers]


def answered(*numbers: int) -> Rows:
    return [{"question_id": n, "answers": [{"answer": f"a{n}"}] * 10} for n in numbers]


@pytest.mark.parametrize("name", ["vqav2", "textvqa", "vizwiz", "kinds"])
def test_the_vqa_form_joins_by_question_id(name: str, tmp_path: Path) -> None:
    vqa(tmp_path, asked(1, 2), answered(2, 1))
    first, second = read(name, tmp_path)
    assert (first.id, first.text, first.image, first.truth) == ("1", "q1", "7", ("a1",) * 10)
    assert (second.truth[0], second.tags) == ("a2", {"form": "heldout"})  # type: ignore[index]
    assert get_task(name).read_questions(benchmark_files(tmp_path)[::-1]) == (first, second)


def test_files_are_told_apart_by_what_they_hold_and_not_by_their_names(tmp_path: Path) -> None:
    write(tmp_path, "a.json", {"annotations": answered(1)})
    write(tmp_path, "b.json", {"questions": asked(1)})
    assert read("vqav2", tmp_path)[0].truth[0] == "a1"  # type: ignore[index]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (asked(1, 3, 5), answered(1), "2 questions have no annotation in val_annotations.json.gz: 3, 5"),
        (asked(1), answered(1, 2), "1 annotations have no question in val_questions.json: 2"),
        (asked(1, 1), answered(1), "question ids appear twice: 1"),
        (asked(1), answered(1, 1), "annotations.json.gz: question ids appear twice: 1"),
        ([], [], "wanted questions. Got none"),
        (asked(1), [{"question_id": 1, "answers": []}], "a question without answers"),
        (asked(1), [{"question_id": 1, "answers": [{"answer": None}]}], "answer is text. Got None"),
        (asked(1), [{"question_id": 1, "answers": [{"answer": float("nan")}]}], "answer is text. Got nan"),
        (asked(1), [{"question_id": 1}], "a record lacks 'answers'"),
        ([{"question_id": 1, "image_id": 7}], answered(1), "a record lacks 'question'"),
        ([{"question_id": 1, "image_id": 7, "question": ["q"]}], answered(1), "question is text"),
    ],
)
def test_questions_and_annotations_that_do_not_fit_are_refused(
    one: Rows, other: Rows, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        read("vqav2", vqa(tmp_path, one, other))


def test_files_of_two_splits_are_refused_by_name(tmp_path: Path) -> None:
    vqa(tmp_path, asked(1), answered(1))
    write(tmp_path, "train_questions.json", {"questions": asked(9)})
    with pytest.raises(DataError, match=r"train_questions\.json, .*val_questions\.json: several files of questions"):
        read("vqav2", tmp_path)
    (tmp_path / "val_questions.json").unlink()
    (tmp_path / "train_questions.json").unlink()
    with pytest.raises(DataError, match="Got no questions"):
        read("vqav2", tmp_path)
    write(tmp_path, "val_questions.json", {"questions": asked(1)})
    write(tmp_path, "notes.json", {"notes": []})
    with pytest.raises(DataError, match=r"Got notes\.json beside them"):
        read("vqav2", tmp_path)


def test_emoji_and_line_separators_are_letters_like_others(tmp_path: Path) -> None:
    row = {"question_id": 1, "image_id": "a", "question": "what is 🐧\u2028here?"}
    truth = [{"question_id": 1, "answers": [{"answer": "🐧"}]}]
    assert read("vqav2", vqa(tmp_path, [row], truth))[0].truth == ("🐧",)
    row = {"id": "1", "image": "a", "question": "what is 🐧\u2028here?", "answer": "🐧"}
    write(tmp_path / "g", "q.jsonl", '{"id": "1", "image": "a", "question": "🐧\u2028?", "answer": "🐧"}\n')
    assert read("gqa", tmp_path / "g")[0].text == "🐧\u2028?"


def test_vizwiz_own_list_is_known_by_its_pictures(tmp_path: Path) -> None:
    write(tmp_path, "question_blind.json", {"V.jpg": "unanswerable"})
    item = {
        "image": "V.jpg",
        "question": "q",
        "answers": [{"answer": "x", "answer_confidence": "yes"}],
        "answerable": 1,
    }
    write(tmp_path, "val.json", [item])
    (only,) = read("vizwiz", tmp_path)
    assert (only.id, only.image, only.truth) == ("V.jpg", "V.jpg", ("x",))
    write(tmp_path, "val.json", [item, item])
    with pytest.raises(DataError, match=r"appear twice: V\.jpg"):
        read("vizwiz", tmp_path)
    write(tmp_path, "train.json", [item])
    with pytest.raises(DataError, match=r"Got train\.json, val\.json"):
        read("vizwiz", tmp_path)


TEXT = {"question_id": 5, "image_id": "ab", "question": "q", "answers": ["x", "y"] * 5}
TOKENS = {"image_id": "ab", "ocr_tokens": ["STOP", "4-way"], "ocr_info": []}


def test_textvqas_own_file_and_its_tokens(tmp_path: Path) -> None:
    write(tmp_path, "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": [TEXT]})
    (plain,) = read("textvqa", tmp_path)
    assert (plain.id, plain.text, plain.image, plain.truth) == ("5", "q", "ab", ("x", "y") * 5)
    with pytest.raises(DataError, match=r"1 images have no OCR tokens: ab.*Rosetta"):
        read("textvqa_ocr", tmp_path)
    write(tmp_path, "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [TOKENS, TOKENS | {"image_id": "more"}]})
    assert read("textvqa", tmp_path) == (plain,)
    (with_tokens,) = read("textvqa_ocr", tmp_path)
    assert get_task("textvqa_ocr").prompt(with_tokens, "paper") == (
        "\nq\nReference OCR token: STOP, 4-way\nAnswer the question using a single word or phrase."
    )
    assert (with_tokens.id, with_tokens.truth) == (plain.id, plain.truth)


def test_tokens_may_stand_beside_the_questions_or_beside_the_vqa_form(tmp_path: Path) -> None:
    write(tmp_path / "own", "val.json", {"data": [TEXT | {"ocr_tokens": []}]})
    assert read("textvqa_ocr", tmp_path / "own")[0].text == "q\nReference OCR token: "
    vqa(tmp_path / "vqa", asked(1), answered(1))
    write(tmp_path / "vqa", "ocr.json", {"data": [TOKENS | {"image_id": "7"}]})
    assert read("textvqa_ocr", tmp_path / "vqa")[0].text == "q1\nReference OCR token: STOP, 4-way"
    write(tmp_path / "vqa", "ocr.json", {"data": [TOKENS | {"image_id": "7", "ocr_tokens": "STOP"}]})
    with pytest.raises(DataError, match="ocr_tokens is a list of texts"):
        read("textvqa_ocr", tmp_path / "vqa")


GQA = {"question": "is it red?", "imageId": "n1", "answer": "yes", "isBalanced": True}


@pytest.mark.parametrize(
    "content",
    [
        {"07": GQA},
        [GQA | {"question_id": "07"}],
        lines([{"id": "07", "image": "n1", "question": "is it red?", "answer": "yes"}]),
    ],
)
def test_gqa_by_id_as_a_list_and_as_lines(content: Any, tmp_path: Path) -> None:
    write(tmp_path, "testdev_balanced_questions.json", content)
    (only,) = read("gqa", tmp_path)
    assert (only.id, only.text, only.image, only.truth) == ("07", "is it red?", "n1", "yes")


def test_gqa_without_answers_or_in_two_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "test.json", {"7": {"question": "q", "imageId": "n1"}})
    with pytest.raises(DataError, match=r"record 7: a record lacks 'answer'"):
        read("gqa", tmp_path)
    write(tmp_path, "val.json", {"7": GQA})
    with pytest.raises(DataError, match=r"Got test\.json, val\.json"):
        read("gqa", tmp_path)
    write(tmp_path / "twice", "q.json", [GQA | {"id": 1}, GQA | {"id": "1"}])
    with pytest.raises(DataError, match="appear twice: 1"):
        read("gqa", tmp_path / "twice")


POPE = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "yes"}


def test_pope_has_three_splits_and_its_own_ids(tmp_path: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        write(tmp_path, f"coco_pope_{split}.json", lines([POPE, POPE | {"question_id": 2, "label": "no"}]))
    found = read("pope", tmp_path)
    assert [one.id for one in found[:3]] == ["adversarial-1", "adversarial-2", "popular-1"]
    assert {one.split for one in found} == {"random", "popular", "adversarial"}
    assert [one.truth for one in found] == ["yes", "no"] * 3
    asked = read("pope_p", tmp_path)
    assert {one.choices for one in asked} == {("Yes", "No")}
    assert [(one.id, one.truth) for one in asked] == [(one.id, one.truth) for one in found]


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("coco_pope_random.json", {"label": "maybe"}, "record 1: a label is yes or no. Got 'maybe'"),
        ("coco_pope_random.json", {"label": None}, "label is text"),
        ("coco_pope.json", {}, "of which split"),
        ("random_and_popular.json", {}, "of which split"),
    ],
)
def test_popes_broken_records_are_named(name: str, row: dict[str, Any], said: str, tmp_path: Path) -> None:
    write(tmp_path, name, lines([POPE | row]))
    with pytest.raises(DataError, match=said):
        read("pope", tmp_path)


def test_popes_lines_may_say_their_split_and_two_files_of_one_are_refused(tmp_path: Path) -> None:
    rows = [POPE | {"category": "popular"}, POPE | {"category": "random"}]
    write(tmp_path, "all.jsonl", lines(rows))
    assert [one.id for one in read("pope", tmp_path)] == ["popular-1", "random-1"]
    write(tmp_path, "coco_pope_random.json", lines([POPE]))
    with pytest.raises(DataError, match="appear twice: random-1"):
        read("pope", tmp_path)
    write(tmp_path, "old_random.json", lines([POPE]))
    with pytest.raises(DataError, match="one file of the split random"):
        read("pope", tmp_path)
