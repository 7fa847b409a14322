"""Vision tasks: probabilities of questions, and the question-blind answer against brute force."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import TASKS
from firstsight.synthetic.rendering import cached_renderer
from firstsight.synthetic.scenes import TRAINING_DISTRIBUTION, sample_scene
from firstsight.synthetic.vision_tasks import (
    SYNTHETIC_VISION_TASKS,
    VisionTask,
    most_likely_answer,
    most_overlapping_box,
)
from firstsight.synthetic.vocabulary import EDGE_WORDS, word_tokenizer
from tests.synthetic.world_reader import SITE, WORLD

TASK_NAMES = ("vqav2", "gqa", "textvqa", "vizwiz", "refcoco", "ocid_ref", "pope", "kinds")
WORD_TASKS = [task for task in SYNTHETIC_VISION_TASKS if not task.min_iou]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_question_has_a_blind_answer_and_an_image(benchmarks_folder: Path, task: str) -> None:
    blind_answers = json.loads((benchmarks_folder / task / "question_blind.json").read_text())
    questions = TASKS[task].read_questions(benchmark_files(benchmarks_folder / task))
    assert set(blind_answers) == {question.id for question in questions}
    images = (benchmarks_folder / "images.tar").read_bytes()
    numbers = [int(re.findall(r"[0-9]+", question.image or "")[0]) for question in questions]
    assert all(f"world_{number:012d}.png".encode() in images for number in numbers)


@pytest.mark.parametrize("task", SYNTHETIC_VISION_TASKS, ids=lambda task: task.name)
def test_probabilities_of_questions_sum_to_one(task: VisionTask) -> None:
    renderer = cached_renderer(WORLD, SITE.cache)
    for index in range(40):
        scene = sample_scene(WORLD, "x", index)
        options = task.generate_questions(scene, renderer.boxes(scene))
        assert not options or sum(weight for weight, _ in options) == pytest.approx(1)


@pytest.mark.parametrize("task", WORD_TASKS, ids=lambda task: task.name)
def test_no_word_is_right_more_often_than_the_blind_answer(task: VisionTask) -> None:
    renderer = cached_renderer(WORLD, SITE.cache)
    vocabulary = word_tokenizer(WORLD).get_vocab()
    for index in range(30):
        scene = sample_scene(WORLD, "x", index)
        options = task.generate_questions(scene, renderer.boxes(scene))
        if options:
            accuracy = {word: sum(w for w, q in options if q.answer == word) for word in vocabulary}
            assert accuracy[most_likely_answer(options)] == pytest.approx(max(accuracy.values()))


@pytest.mark.parametrize("min_iou", [0.25, 0.5])
def test_no_box_is_right_more_often_than_the_blind_box(min_iou: float) -> None:
    renderer = cached_renderer(WORLD, SITE.cache)
    assert len(EDGE_WORDS) == 13
    candidates = [box for box in product(range(13), repeat=4) if box[0] < box[2] and box[1] < box[3]]
    for index in range(4):
        scene = sample_scene(WORLD, "x", index, distribution=replace(TRAINING_DISTRIBUTION, min_objects=2))
        pixel_boxes = renderer.boxes(scene)
        boxes = [tuple(edge / 48 for edge in box) for box in pixel_boxes]
        best = max(_hits([n / 12 for n in box], boxes, min_iou) for box in candidates)
        words = most_overlapping_box(scene, pixel_boxes, min_iou).split()
        assert _hits([EDGE_WORDS.index(word) / 12 for word in words], boxes, min_iou) == best


def _hits(box: list[float], boxes: list[tuple[float, ...]], min_iou: float) -> int:
    return sum(_iou(box, target) >= min_iou for target in boxes)


def _iou(a: list[float], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    return intersection / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection)
