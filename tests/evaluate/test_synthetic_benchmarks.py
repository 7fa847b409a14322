"""Synthetic benchmarks are in the formats that the readers expect, within the synthetic vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstsight import synthetic
from firstsight.data.tokenizer import load_tokenizer
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.models.native import check_words_in_vocabulary
from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import get_task
from firstsight.recipe.mixture import SyntheticBenchmarks, SyntheticVocabulary, SyntheticWorld
from firstsight.recipe.scales.base import VISION_TASKS
from firstsight.recipe.scales.synthetic import SYNTHETIC_TEXT_TASKS
from firstsight.site import Progress, Site

WORLD = SyntheticWorld(objects=16, kinds=4, image_size=48, max_objects=4, seed=0)


def ignore(progress: Progress) -> None:
    """A progress callback that does nothing."""


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    synthetic.write_benchmarks(
        SyntheticBenchmarks(world=WORLD, questions=12), inputs={}, out=out, site=Site(), on_progress=ignore
    )
    (out / "words").mkdir()
    synthetic.write_vocabulary(
        SyntheticVocabulary(world=WORLD), inputs={}, out=out / "words", site=Site(), on_progress=ignore
    )
    return out


@pytest.mark.parametrize("name", [*VISION_TASKS, "kinds", *SYNTHETIC_TEXT_TASKS])
def test_every_task_is_read_within_the_vocabulary(name: str, benchmarks: Path) -> None:
    task = get_task(name)
    questions = task.read_questions(benchmark_files(benchmarks / name))
    assert len({question.id for question in questions}) == len(questions) == 12
    texts = [text for q in questions for text in (task.prompt(q, "bare"), *q.choices)]
    check_words_in_vocabulary(load_tokenizer(benchmarks / "words"), texts, location=name)
    assert all(question.tags.keys() == {"combination"} for question in questions)


@pytest.mark.parametrize("name", [*VISION_TASKS, "kinds"])
def test_every_question_has_an_image_and_a_guess(name: str, benchmarks: Path) -> None:
    task = get_task(name)
    questions = task.read_questions(benchmark_files(benchmarks / name))
    images = BenchmarkImages(benchmarks)
    assert all(images.read(str(question.image)).startswith(b"\x89PNG") for question in questions)
    images.close()
    guesses = json.loads((benchmarks / name / "question_blind.json").read_text())
    assert guesses.keys() == {question.id for question in questions}
    scores = task.metric.compute(
        [guesses[question.id] for question in questions], [question.truth for question in questions]
    )
    assert 0 < sum(scores) < len(scores)
