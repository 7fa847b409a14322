"""The built-in world's benchmarks are in the forms that the readers know, and its vocabulary holds every question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstsight.data import world
from firstsight.data.tokenizer import load
from firstsight.evaluate.pictures import Pictures
from firstsight.evaluate.question import files
from firstsight.evaluate.speakers.own import refuse_unknown_words
from firstsight.evaluate.tasks import task
from firstsight.recipe.mix import Benchmarks, Vocabulary, World
from firstsight.recipe.scales.base import VISION_TASKS
from firstsight.recipe.scales.world import WORLD_TEXT_TASKS
from firstsight.site import Progress, Site

WORLD = World(objects=16, kinds=4, picture=48, crowd=4, seed=0)


def silent(progress: Progress) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    world.benchmarks(Benchmarks(world=WORLD, questions=12), inputs={}, out=out, site=Site(), tell=silent)
    (out / "words").mkdir()
    world.vocabulary(Vocabulary(world=WORLD), inputs={}, out=out / "words", site=Site(), tell=silent)
    return out


@pytest.mark.parametrize("name", [*VISION_TASKS, "kinds", *WORLD_TEXT_TASKS])
def test_every_task_is_read_and_can_be_said(name: str, made: Path) -> None:
    judged = task(name)
    questions = judged.read(files(made / name))
    assert len({question.id for question in questions}) == len(questions) == 12
    texts = [text for q in questions for text in (judged.prompt(q, "bare"), *q.choices)]
    refuse_unknown_words(load(made / "words"), texts, where=name)
    assert all(question.tags.keys() == {"form", "combination"} for question in questions)


@pytest.mark.parametrize("name", [*VISION_TASKS, "kinds"])
def test_every_question_has_its_picture_and_its_guess(name: str, made: Path) -> None:
    judged = task(name)
    questions = judged.read(files(made / name))
    pictures = Pictures(made)
    assert all(pictures.read(str(question.image)).startswith(b"\x89PNG") for question in questions)
    pictures.close()
    guesses = json.loads((made / name / "question_blind.json").read_text())
    assert guesses.keys() == {question.id for question in questions}
    scores = judged.metric.marks([guesses[one.id] for one in questions], [one.truth for one in questions])
    assert 0 < sum(scores) < len(scores)
