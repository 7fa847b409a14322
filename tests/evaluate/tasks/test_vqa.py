"""VQAv2, VizWiz, TextVQA, GQA and POPE in their own files, complete and invalid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import get_task
from tests.evaluate.tasks.task_files import lines, read, write

Rows = list[dict[str, Any]]


def write_vqa(folder: Path, question_rows: Rows, annotation_rows: Rows) -> Path:
    write(folder, "val_questions.json", {"questions": question_rows})
    write(folder, "val_annotations.json.gz", {"annotations": annotation_rows})
    return folder


def question_rows(*numbers: int) -> Rows:
    return [{"question_id": n, "image_id": 7, "question": f"q{n}", "combination": "heldout"} for n in numbers]


def annotation_rows(*numbers: int) -> Rows:
    return [{"question_id": n, "answers": [{"answer": f"a{n}"}] * 10} for n in numbers]


@pytest.mark.parametrize("name", ["vqav2", "textvqa", "vizwiz", "kinds"])
def test_the_vqa_form_joins_by_question_id(name: str, tmp_path: Path) -> None:
    write_vqa(tmp_path, question_rows(1, 2), annotation_rows(2, 1))
    first, second = read(name, tmp_path)
    assert (first.id, first.text, first.image, first.truth) == ("1", "q1", "7", ("a1",) * 10)
    assert (second.truth[0], second.tags) == ("a2", {"combination": "heldout"})  # type: ignore[index]
    assert get_task(name).read_questions(benchmark_files(tmp_path)[::-1]) == (first, second)


def test_files_are_recognised_by_content_not_by_name(tmp_path: Path) -> None:
    write(tmp_path, "a.json", {"annotations": annotation_rows(1)})
    write(tmp_path, "b.json", {"questions": question_rows(1)})
    assert read("vqav2", tmp_path)[0].truth[0] == "a1"  # type: ignore[index]


@pytest.mark.parametrize(
    ("questions", "annotations", "message"),
    [
        (question_rows(1, 3, 5), annotation_rows(1), r"without annotation in val_annotations.json.gz \(2\): 3, 5"),
        (question_rows(1), annotation_rows(1, 2), r"annotations without question in val_questions.json \(1\): 2"),
        (question_rows(1, 1), annotation_rows(1), "question ids appear twice: 1"),
        (question_rows(1), annotation_rows(1, 1), "annotations.json.gz: question ids appear twice: 1"),
        ([], [], "wanted questions. Got none"),
        (question_rows(1), [{"question_id": 1, "answers": []}], "a question without answers"),
        (question_rows(1), [{"question_id": 1, "answers": [{"answer": None}]}], "answer is text. Got None"),
        (question_rows(1), [{"question_id": 1, "answers": [{"answer": float("nan")}]}], "answer is text. Got nan"),
        (question_rows(1), [{"question_id": 1}], "a record lacks 'answers'"),
        ([{"question_id": 1, "image_id": 7}], annotation_rows(1), "a record lacks 'question'"),
        ([{"question_id": 1, "image_id": 7, "question": ["q"]}], annotation_rows(1), "question is text"),
    ],
)
def test_questions_and_annotations_without_counterpart_are_refused(
    questions: Rows, annotations: Rows, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read("vqav2", write_vqa(tmp_path, questions, annotations))


def test_files_of_two_splits_are_refused(tmp_path: Path) -> None:
    write_vqa(tmp_path, question_rows(1), annotation_rows(1))
    write(tmp_path, "train_questions.json", {"questions": question_rows(9)})
    with pytest.raises(DataError, match=r"train_questions\.json, .*val_questions\.json: several files of questions"):
        read("vqav2", tmp_path)
    (tmp_path / "val_questions.json").unlink()
    (tmp_path / "train_questions.json").unlink()
    with pytest.raises(DataError, match="Got no questions"):
        read("vqav2", tmp_path)
    write(tmp_path, "val_questions.json", {"questions": question_rows(1)})
    write(tmp_path, "notes.json", {"notes": []})
    with pytest.raises(DataError, match=r"Got another file, notes\.json"):
        read("vqav2", tmp_path)


def test_emoji_and_line_separators_are_ordinary_characters(tmp_path: Path) -> None:
    row = {"question_id": 1, "image_id": "a", "question": "what is 🐧\u2028here?"}
    truth = [{"question_id": 1, "answers": [{"answer": "🐧"}]}]
    assert read("vqav2", write_vqa(tmp_path, [row], truth))[0].truth == ("🐧",)
    row = {"id": "1", "image": "a", "question": "what is 🐧\u2028here?", "answer": "🐧"}
    write(tmp_path / "g", "q.jsonl", '{"id": "1", "image": "a", "question": "🐧\u2028?", "answer": "🐧"}\n')
    assert read("gqa", tmp_path / "g")[0].text == "🐧\u2028?"


def test_vizwiz_ids_are_image_names(tmp_path: Path) -> None:
    write(tmp_path, "question_blind.json", {"V.jpg": "unanswerable"})
    item = {
        "image": "V.jpg",
        "question": "q",
        "answers": [{"answer": "x", "answer_confidence": "yes"}],
        "answerable": 1,
    }
    write(tmp_path, "val.json", [item])
    (question,) = read("vizwiz", tmp_path)
    assert (question.id, question.image, question.truth) == ("V.jpg", "V.jpg", ("x",))
    write(tmp_path, "val.json", [item, item])
    with pytest.raises(DataError, match=r"appear twice: V\.jpg"):
        read("vizwiz", tmp_path)
    write(tmp_path, "train.json", [item])
    with pytest.raises(DataError, match=r"Got train\.json, val\.json"):
        read("vizwiz", tmp_path)


@pytest.mark.parametrize(("answers", "truth", "share"), [
    (["A Dog.", "the cats!", "dog"], ("dog", "cats", "dog"), "2 of 3"),
    (["dog", "cat", "A Dog."], ("dog", "cat", "A Dog."), ""),
])  # fmt: skip
def test_a_note_says_that_annotations_of_another_origin_are_normalised(
    tmp_path: Path, answers: list[str], truth: tuple[str, ...], share: str
) -> None:
    write(tmp_path, "val.json", [{"image": "V.jpg", "question": "q", "answers": [{"answer": a} for a in answers]}])
    task = get_task("vizwiz")
    assert read("vizwiz", tmp_path)[0].truth == truth
    assert task.reading_notes is not None
    notes = list(task.reading_notes(benchmark_files(tmp_path)))
    assert len(notes) == bool(share)
    assert all(f"val.json: {share} annotations are not in VizWiz's normal form" in note for note in notes)
    write(tmp_path, "question_blind.json", {"V.jpg": "dog"})  # as the built-in world writes
    assert not list(task.reading_notes([tmp_path / "val.json"]))


TEXTVQA_ROW = {"question_id": 5, "image_id": "ab", "question": "q", "answers": ["x", "y"] * 5}
TOKENS_ROW = {"image_id": "ab", "ocr_tokens": ["STOP", "4-way"], "ocr_info": []}


def test_textvqas_own_file_and_the_rosetta_tokens(tmp_path: Path) -> None:
    write(tmp_path, "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": [TEXTVQA_ROW]})
    (without_tokens,) = read("textvqa", tmp_path)
    assert (without_tokens.id, without_tokens.text, without_tokens.image, without_tokens.truth) == (
        "5",
        "q",
        "ab",
        ("x", "y") * 5,
    )
    with pytest.raises(DataError, match=r"images without OCR tokens \(1\): ab.*Rosetta"):
        read("textvqa_ocr", tmp_path)
    write(tmp_path, "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [TOKENS_ROW, TOKENS_ROW | {"image_id": "more"}]})
    assert read("textvqa", tmp_path) == (without_tokens,)
    (with_tokens,) = read("textvqa_ocr", tmp_path)
    assert get_task("textvqa_ocr").prompt(with_tokens, "paper") == (
        "\nq\nReference OCR token: STOP, 4-way\nAnswer the question using a single word or phrase."
    )
    assert (with_tokens.id, with_tokens.truth) == (without_tokens.id, without_tokens.truth)


def test_tokens_may_be_in_the_questions_or_beside_the_vqa_form(tmp_path: Path) -> None:
    write(tmp_path / "own", "val.json", {"data": [TEXTVQA_ROW | {"ocr_tokens": []}]})
    assert read("textvqa_ocr", tmp_path / "own")[0].text == "q\nReference OCR token: "
    write_vqa(tmp_path / "vqa", question_rows(1), annotation_rows(1))
    write(tmp_path / "vqa", "ocr.json", {"data": [TOKENS_ROW | {"image_id": "7"}]})
    assert read("textvqa_ocr", tmp_path / "vqa")[0].text == "q1\nReference OCR token: STOP, 4-way"
    write(tmp_path / "vqa", "ocr.json", {"data": [TOKENS_ROW | {"image_id": "7", "ocr_tokens": "STOP"}]})
    with pytest.raises(DataError, match="ocr_tokens is a list of texts"):
        read("textvqa_ocr", tmp_path / "vqa")


GQA_ROW = {"question": "is it red?", "imageId": "n1", "answer": "yes", "isBalanced": True}


@pytest.mark.parametrize(
    "content",
    [
        {"07": GQA_ROW},
        [GQA_ROW | {"question_id": "07"}],
        lines([{"id": "07", "image": "n1", "question": "is it red?", "answer": "yes"}]),
    ],
)
def test_gqa_by_id_as_a_list_and_as_lines(content: Any, tmp_path: Path) -> None:
    write(tmp_path, "testdev_balanced_questions.json", content)
    (question,) = read("gqa", tmp_path)
    assert (question.id, question.text, question.image, question.truth) == ("07", "is it red?", "n1", "yes")


def test_gqa_without_answers_or_in_two_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "test.json", {"7": {"question": "q", "imageId": "n1"}})
    with pytest.raises(DataError, match=r"record 7: a record lacks 'answer'"):
        read("gqa", tmp_path)
    write(tmp_path, "val.json", {"7": GQA_ROW})
    with pytest.raises(DataError, match=r"Got test\.json, val\.json"):
        read("gqa", tmp_path)
    write(tmp_path / "twice", "q.json", [GQA_ROW | {"id": 1}, GQA_ROW | {"id": "1"}])
    with pytest.raises(DataError, match="appear twice: 1"):
        read("gqa", tmp_path / "twice")


POPE_ROW = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "yes"}


def test_pope_ids_contain_the_split(tmp_path: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        write(tmp_path, f"coco_pope_{split}.json", lines([POPE_ROW, POPE_ROW | {"question_id": 2, "label": "no"}]))
    questions = read("pope", tmp_path)
    assert [questions.id for questions in questions[:3]] == ["adversarial-1", "adversarial-2", "popular-1"]
    assert {questions.split for questions in questions} == {"random", "popular", "adversarial"}
    assert [questions.truth for questions in questions] == ["yes", "no"] * 3
    question_rows = read("pope_p", tmp_path)
    assert {questions.choices for questions in question_rows} == {("Yes", "No")}
    assert [(questions.id, questions.truth) for questions in question_rows] == [
        (questions.id, questions.truth) for questions in questions
    ]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("coco_pope_random.json", {"label": "maybe"}, "record 1: a label is yes or no. Got 'maybe'"),
        ("coco_pope_random.json", {"label": None}, "label is text"),
        ("coco_pope.json", {}, "its split is unknown"),
        ("random_and_popular.json", {}, "its split is unknown"),
    ],
)
def test_invalid_pope_records_are_named(name: str, row: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, name, lines([POPE_ROW | row]))
    with pytest.raises(DataError, match=message):
        read("pope", tmp_path)


def test_pope_lines_may_have_a_category_and_a_split_one_file(tmp_path: Path) -> None:
    rows = [POPE_ROW | {"category": "popular"}, POPE_ROW | {"category": "random"}]
    write(tmp_path, "all.jsonl", lines(rows))
    assert [questions.id for questions in read("pope", tmp_path)] == ["popular-1", "random-1"]
    write(tmp_path, "coco_pope_random.json", lines([POPE_ROW]))
    with pytest.raises(DataError, match="appear twice: random-1"):
        read("pope", tmp_path)
    write(tmp_path, "old_random.json", lines([POPE_ROW]))
    with pytest.raises(DataError, match="one file of the split random"):
        read("pope", tmp_path)
