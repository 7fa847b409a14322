"""Multitask data: one task an image (a caption, words to read, boxes, a dialogue), in exact shares.

The tasks follow the order of `data.sampling.assign_sources`, as the rows of a mixture do. Record n of a task does not
depend on the shares, so that sources that differ in them have these records in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from firstsight.data.sampling import assign_sources
from firstsight.recipe.mixture import SyntheticMultitask
from firstsight.synthetic.captions import complete_caption
from firstsight.synthetic.catalog import uniform_choice, world_rng
from firstsight.synthetic.questions import (
    DIALOGUE_GENERATORS,
    WeightedGenerators,
    box_questions,
    kind_questions,
    region_questions,
    sample_question_form,
    sample_questions,
    sign_questions,
)
from firstsight.synthetic.rendering import PixelBox, Renderer
from firstsight.synthetic.scenes import TRAINING_DISTRIBUTION, Scene, find_scene
from firstsight.synthetic.vocabulary import CAPTION_REQUESTS

QuestionAnswers = Sequence[tuple[str, str]]
"""(question, answer) of each turn."""
_OTHER_TASKS = (sign_questions, box_questions, kind_questions)
_TASK_GENERATORS: dict[str, WeightedGenerators] = {
    "words": ((1.0, sign_questions),),
    "boxes": ((0.5, box_questions), (0.5, region_questions)),
    "dialogues": [pair for pair in DIALOGUE_GENERATORS if pair[1] not in _OTHER_TASKS],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LlavaRecord:
    """A scene with questions and their answers; `id` is also the name of its image."""

    id: str
    scene: Scene
    turns: QuestionAnswers


def multitask_order(spec: SyntheticMultitask) -> list[tuple[str, int]]:
    """(task, number among the task's records) of every image in order; n first images have n times each share."""
    tasks, shares = zip(*spec.shares.items(), strict=True)
    task_ids, numbers = assign_sources(np.arange(spec.images), shares)
    return [(tasks[task], number) for task, number in zip(task_ids.tolist(), numbers.tolist(), strict=True)]


def multitask_record(spec: SyntheticMultitask, renderer: Renderer, *, task: str, number: int) -> LlavaRecord:
    """Record `number` of a task: a function of the world, the task, the number and the most turns."""
    purpose = f"multitask {task}"

    def is_suitable(scene: Scene) -> bool:
        return task != "words" or any(obj.sign for obj in scene.objects)

    scene = find_scene(spec.world, purpose, number, distribution=TRAINING_DISTRIBUTION, is_suitable=is_suitable)
    rng = world_rng(spec.world, f"{purpose} words", number)
    if task == "captions":
        turns = [(uniform_choice(CAPTION_REQUESTS, rng), complete_caption(_without_signs(scene), rng))]
    else:
        turns = sample_turns(scene, renderer.boxes(scene), _TASK_GENERATORS[task], limit=spec.turns, rng=rng)
    return LlavaRecord(id=f"{task}-{number:08d}", scene=scene, turns=turns)


def sample_turns(
    scene: Scene, boxes: Sequence[PixelBox], generators: WeightedGenerators, *, limit: int, rng: np.random.Generator
) -> QuestionAnswers:
    """Up to `limit` different questions in forms of training with their answers, and at least one.

    The weight of types that have no questions in this scene goes to those that have some.
    """
    possible = [(weight, generator) for weight, generator in generators if generator(scene, boxes)]
    questions = sample_questions(scene, boxes, possible, limit=limit, rng=rng)
    return [(question.to_text(sample_question_form(rng)), question.answer) for question in questions]


def _without_signs(scene: Scene) -> Scene:
    return replace(scene, objects=tuple(replace(obj, sign=None) for obj in scene.objects))
