"""Questions about scenes: absent objects, boxes in words, and answers in dialogues by the independent reader."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from firstsight.synthetic.questions import (
    QuestionPlan,
    adversarial_absent_questions,
    box_words,
    popular_absent_questions,
    random_absent_questions,
    verification_questions,
)
from firstsight.synthetic.rendering import cached_renderer
from firstsight.synthetic.scenes import sample_scene
from firstsight.synthetic.vocabulary import QUESTION_FORMS
from tests.synthetic.world_reader import (
    CATALOG,
    SITE,
    WORLD,
    answer_question,
    read_dialogues,
    sample_scenes,
    scene_facts,
)


def test_the_properties_of_questions_are_crossed() -> None:
    plans = [QuestionPlan.from_index(index) for index in range(64)]
    counts = Counter((plan.is_unseen, plan.is_yes, plan.form) for plan in plans)
    assert counts == dict.fromkeys(product((False, True), (False, True), (0, 1)), 8)


def test_boxes_in_words_are_close_to_true_boxes() -> None:
    renderer = cached_renderer(WORLD, SITE.cache)
    pairs = [(box, box_words(box, 48)) for scene in sample_scenes("captions", 800) for box in renderer.boxes(scene)]
    overlaps = [_iou(box, [float(word) * 48 for word in words.split()]) for box, words in pairs]
    assert min(overlaps) >= 0.5
    assert np.mean(np.array(overlaps) >= 0.75) > 0.75


def _iou(a: tuple[int, ...], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def test_absent_objects_are_those_of_the_split() -> None:
    for index in range(200):
        scene = sample_scene(WORLD, "x", index)
        present = {obj.name for obj in scene.objects}
        kinds = {CATALOG.kind_of[name] for name in present}
        same_kind = {question.subject for _, question in adversarial_absent_questions(scene)}
        assert same_kind == {name for name in CATALOG.names if CATALOG.kind_of[name] in kinds} - present
        popular = {question.subject for _, question in popular_absent_questions(scene)}
        assert popular == CATALOG.popular_names - present
        assert {question.subject for _, question in random_absent_questions(scene)} == set(CATALOG.names) - present


def test_half_of_verifications_are_true_and_the_others_name_another_object_of_the_scene() -> None:
    for scene in sample_scenes("x", 100):
        options = verification_questions(scene, ())
        at = {obj.place: obj.name for obj in scene.objects}
        assert bool(options) == (len(at) > 1)
        for _, question in options:
            name, place = question.subject.split()
            assert name in at.values() and (at[place] == name) == (question.answer == "yes")
        yes = sum(weight for weight, question in options if question.answer == "yes")
        assert not options or (yes == pytest.approx(0.5) and len(options) == len(at) ** 2)


def test_dialogue_answers_are_true(sources_folder: Path) -> None:
    renderer = cached_renderer(WORLD, SITE.cache)
    box_count = 0
    for index, question, answer in read_dialogues(sources_folder / "dialogues"):
        scene = sample_scene(WORLD, "dialogues", index)
        if "box" in question:
            boxes = dict(zip([obj.name for obj in scene.objects], renderer.boxes(scene), strict=True))
            error = np.abs(np.array(answer.split(), float) * 48 - boxes[question.split()[-1]])
            assert error.max() <= 2 + 48 * 0.005
            box_count += 1
        else:
            assert answer == answer_question(scene_facts(scene), question)
    assert box_count > 100


def test_dialogues_ask_for_the_kind_of_trained_objects_only(sources_folder: Path) -> None:
    turns = read_dialogues(sources_folder / "dialogues")
    subjects = {
        sample_scene(WORLD, "dialogues", index).object_at(question.split()[-1]).name  # type: ignore[union-attr]
        for index, question, _ in turns
        if "kind" in question
    }
    kinds = {answer for _, question, answer in turns if answer in CATALOG.kinds and "kind" not in question}
    assert len(subjects) > 12 and subjects <= CATALOG.trained_kind_names and not kinds


def test_dialogues_use_both_forms_of_every_question_type_equally(sources_folder: Path) -> None:
    questions = [question for _, question, _ in read_dialogues(sources_folder / "dialogues")]
    for name, forms in QUESTION_FORMS.items():
        patterns = [re.escape(form).replace(r"\{x\}", "[^ ]+") for form in forms]
        first, second = (
            sum(re.fullmatch(pattern, question) is not None for question in questions) for pattern in patterns
        )
        assert abs(first - second) <= 3 * (first + second) ** 0.5 and min(first, second) > 0, name
