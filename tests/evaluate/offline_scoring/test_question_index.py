"""The question in a prompt, and questions by split, image and true box."""

from __future__ import annotations

from typing import Any

import pytest

from firstsight.evaluate.offline_scoring.question_index import (
    QuestionIndex,
    contains_words,
    fold_text,
    fold_without_punctuation,
    match_prompt,
)
from firstsight.evaluate.task import Question


def test_a_prompt_contains_one_question() -> None:
    positions = {fold_text(words): [at] for at, words in enumerate(("Is it red?", "Is it", "left man", "region"))}
    assert match_prompt("OCR tokens: is it, x. Question: Is it red? Short answer: ", positions) == [0]
    assert match_prompt("USER: <image>\nis  it RED ?\nAnswer briefly. ASSISTANT:", positions) == [0]
    assert match_prompt("Is it red? Answer briefly.", positions) == [0]
    assert match_prompt('Where is the region this sentence describes: "left man"', positions) == [2]
    assert match_prompt("the region of the left man, please", positions) == ()
    assert match_prompt("Is item red", positions) == ()


def question(question_id: str, text: str, *, image: str, truth: Any = "yes", split: str = "") -> Question:
    return Question(id=question_id, text=text, truth=truth, image=image, choices=(), split=split, tags={})


@pytest.mark.parametrize(
    ("text", "folded", "bare"),
    [
        ("  Is it\tRED?! ", "is it red", "is it red"),
        ("<image>\nIs the man's hat red?", "is the man's hat red", "is the mans hat red"),
        ("\uff21 b", "a b", "a b"),
        ("a < b", "a < b", "a b"),
    ],
)
def test_text_is_folded(text: str, folded: str, bare: str) -> None:
    assert (fold_text(text), fold_without_punctuation(text)) == (folded, bare)


@pytest.mark.parametrize(("words", "is_contained"), [("is it", True), ("it", True), ("s it", False), ("re", False)])
def test_only_whole_words_are_contained(words: str, is_contained: bool) -> None:
    assert contains_words("so is it red", words) is is_contained


def test_questions_of_several_splits_are_equivalent_only_with_text_and_image() -> None:
    index = QuestionIndex(
        [
            question("a-1", "Is it?", image="7", split="a"),
            question("b-1", "is it", image="7", split="b"),
            question("b-2", "Is it?", image="8", split="b"),
        ]
    )
    assert index.equivalent_positions(0) == [0, 1]
    assert index.equivalents_in_split(0) == [0]
    assert index.filter_by_split([0, 1, 2], "b") == [1, 2]
    assert index.filter_by_split([0, 1, 2], "none") == [0, 1, 2]
    assert index.positions_by_id["1"] == [0, 1]
    assert index.group_by_text([0, 2]) == {"is it": [0, 2]}


def test_names_stay_apart_if_two_images_would_become_one() -> None:
    names = ("train/7.jpg", "val/7.jpg")
    index = QuestionIndex([question(str(n), "Is it?", image=name) for n, name in enumerate(names)])
    assert len(index.positions_by_image) == 2
    shared = QuestionIndex([question("1", "Is it?", image="VizWiz_val_00000007.jpg")])
    assert shared.image_key("data/VizWiz_val_00000007.png") == shared.image_key("VizWiz_val_00000007.jpg")
    assert shared.image_key("VizWiz_test_00000007.jpg") != shared.image_key("VizWiz_val_00000007.jpg")


def test_the_nearest_true_box_within_rounding_is_the_question() -> None:
    boxes = [(0.1, 0.2, 0.5, 0.6), (0.1, 0.2, 0.5, 0.6), (0.1005, 0.2, 0.5, 0.6)]
    index = QuestionIndex([question(f"o{n}-{n}", f"thing {n}", image="1", truth=box) for n, box in enumerate(boxes)])
    assert index.find_by_box([0.1, 0.2, 0.5, 0.6]) == [0, 1]
    assert index.find_by_box([0.1006, 0.2, 0.5, 0.6]) == [2]
    assert index.find_by_box([0.1, 0.2, 0.5, 0.65]) == []
    assert index.positions_by_id["o2"] == [2]
