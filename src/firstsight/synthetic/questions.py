"""Every question that a scene allows, with its probability: one law for training, evaluation and the blind guesser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from firstsight.synthetic.catalog import PLACES, catalog, uniform_choice, weighted_choice
from firstsight.synthetic.rendering import PixelBox
from firstsight.synthetic.scenes import Scene, SceneObject
from firstsight.synthetic.vocabulary import EDGE_WORDS, QUESTION_FORMS, RELATION_OFFSETS

_EDGE_STEPS = len(EDGE_WORDS) - 1
_ABSENT_SHARE = 0.25
"""Share of questions after the place of something that is not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneQuestion:
    """What is asked, about what, and the answer."""

    type: str
    subject: str
    answer: str

    def to_text(self, form: int) -> str:
        """The question in sentence form `form` of its type."""
        return QUESTION_FORMS[self.type][form].replace("{x}", self.subject)


WeightedQuestion = tuple[float, SceneQuestion]
SceneWithBoxes = tuple[Scene, Sequence[PixelBox]]
"""A scene and the boxes of its things; told scenes have none."""
QuestionGenerator = Callable[[Scene, Sequence[PixelBox]], list[WeightedQuestion]]
"""All questions of a type with their probabilities (which sum to 1), or an empty list where the scene allows none."""


def object_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """What is at a place?"""
    del boxes
    return _uniform(
        [
            SceneQuestion(type="thing", subject=scene_object.place, answer=scene_object.name)
            for scene_object in scene.objects
        ]
    )


def ground_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """What colour is the ground?"""
    del boxes
    return [(1.0, SceneQuestion(type="ground", subject="", answer=scene.ground))]


def count_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """How many things are there?"""
    del boxes
    return [(1.0, SceneQuestion(type="count", subject="", answer=str(len(scene.objects))))]


def relation_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """What stands beside, above or below another thing?"""
    del boxes
    neighbors = [
        (origin, word, _neighbor(scene, origin, offset))
        for origin in scene.objects
        for word, offset in RELATION_OFFSETS.items()
    ]
    subjects_and_answers = [
        (f"{word} the {origin.name}", neighbor.name) for origin, word, neighbor in neighbors if neighbor is not None
    ]
    return _uniform(
        [SceneQuestion(type="thing", subject=subject, answer=answer) for subject, answer in subjects_and_answers]
    )


def _neighbor(scene: Scene, scene_object: SceneObject, offset: tuple[int, int]) -> SceneObject | None:
    row, column = divmod(PLACES.index(scene_object.place), 2)
    column, row = column + offset[0], row + offset[1]
    return scene.object_at(PLACES[2 * row + column]) if column in (0, 1) and row in (0, 1) else None


def sign_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """What word is on a thing?"""
    del boxes
    return _uniform(
        [
            SceneQuestion(type="sign", subject=scene_object.name, answer=scene_object.sign)
            for scene_object in scene.objects
            if scene_object.sign is not None
        ]
    )


def box_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """The box of a thing, in words."""
    pairs = zip(scene.objects, boxes, strict=True)
    return _uniform(
        [
            SceneQuestion(type="box", subject=scene_object.name, answer=box_words(box, scene.world.image_size))
            for scene_object, box in pairs
        ]
    )


def box_words(box: PixelBox, image_size: int) -> str:
    """`box` as four words: its edges rounded to twelfths of the picture, never empty."""
    left, top, right, bottom = (int(edge * _EDGE_STEPS / image_size + 0.5) for edge in box)
    return " ".join(EDGE_WORDS[edge_index] for edge_index in (left, top, max(right, left + 1), max(bottom, top + 1)))


def presence_questions(scene: Scene, absent_questions: Sequence[WeightedQuestion]) -> list[WeightedQuestion]:
    """Is there a ...? Half are there, each as likely; `absent` says which of the others are asked."""
    present_questions = [
        SceneQuestion(type="there", subject=scene_object.name, answer="yes") for scene_object in scene.objects
    ]
    return [(weight / 2, question) for weight, question in _uniform(present_questions) + list(absent_questions)]


def existence_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Is there a ...? Of what is not there, half shares its kind with something that is."""
    del boxes
    return presence_questions(scene, _absent_questions(scene, "there", "no"))


def random_absent_questions(scene: Scene) -> list[WeightedQuestion]:
    """Anything that is not there."""
    return _uniform([SceneQuestion(type="there", subject=name, answer="no") for name in _absent_names(scene)])


def popular_absent_questions(scene: Scene) -> list[WeightedQuestion]:
    """Something that is often there, but not here."""
    popular_names = catalog(scene.world).popular_names
    return _uniform(
        [
            SceneQuestion(type="there", subject=name, answer="no")
            for name in _absent_names(scene)
            if name in popular_names
        ]
    )


def adversarial_absent_questions(scene: Scene) -> list[WeightedQuestion]:
    """Something of a kind that is there; anything where all of these kinds are."""
    same_kind_names = _same_kind_names(scene) or _absent_names(scene)
    return _uniform([SceneQuestion(type="there", subject=name, answer="no") for name in same_kind_names])


def place_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Where is a thing? A quarter are not there: unanswerable."""
    del boxes
    present_questions = _uniform(
        [
            SceneQuestion(type="where", subject=scene_object.name, answer=scene_object.place)
            for scene_object in scene.objects
        ]
    )
    weighted_questions = [(weight * (1 - _ABSENT_SHARE), question) for weight, question in present_questions]
    return weighted_questions + [
        (weight * _ABSENT_SHARE, question) for weight, question in _absent_questions(scene, "where", "unanswerable")
    ]


def kind_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """What kind of thing is at a place? Only of those objects that dialogues may ask about."""
    return _kind_questions(scene, is_trained=True)


def held_out_kind_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """What kind of thing is at a place? Only of those objects that no dialogue asks about."""
    return _kind_questions(scene, is_trained=False)


def _kind_questions(scene: Scene, *, is_trained: bool) -> list[WeightedQuestion]:
    world_catalog = catalog(scene.world)
    scene_objects = [
        candidate for candidate in scene.objects if (candidate.name in world_catalog.trained_kind_names) == is_trained
    ]
    return _uniform(
        [
            SceneQuestion(type="kind", subject=scene_object.place, answer=world_catalog.kind_of[scene_object.name])
            for scene_object in scene_objects
        ]
    )


def _absent_questions(scene: Scene, type_: str, answer: str) -> list[WeightedQuestion]:
    """Absent objects: half of the weight on those of a kind that is there, half on all."""
    absent_names = _absent_names(scene)
    same_kind_names = _same_kind_names(scene)
    same_kind_share = 0.5 if same_kind_names else 0.0
    base_weight = (1 - same_kind_share) / len(absent_names)
    weights = {
        name: base_weight + (same_kind_share / len(same_kind_names) if name in same_kind_names else 0)
        for name in absent_names
    }
    return [(weight, _absent_question(type_, name, answer)) for name, weight in weights.items()]


@lru_cache(maxsize=4096)
def _absent_question(type_: str, name: str, answer: str) -> SceneQuestion:
    """Remembered: every scene lacks most objects, so these are made for most questions."""
    return SceneQuestion(type=type_, subject=name, answer=answer)


def _absent_names(scene: Scene) -> list[str]:
    present_names = {scene_object.name for scene_object in scene.objects}
    return [name for name in catalog(scene.world).names if name not in present_names]


def _same_kind_names(scene: Scene) -> set[str]:
    world_catalog = catalog(scene.world)
    kinds_here = {world_catalog.kind_of[scene_object.name] for scene_object in scene.objects}
    return {name for name in _absent_names(scene) if world_catalog.kind_of[name] in kinds_here}


def _uniform(questions: list[SceneQuestion]) -> list[WeightedQuestion]:
    return [(1 / len(questions), question) for question in questions]


def mix_generators(*weighted_generators: tuple[float, QuestionGenerator]) -> QuestionGenerator:
    """Questions of several types; types that the scene does not allow give their weight to the others."""

    def asking(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
        weighted_options = [
            (weight, options)
            for weight, options in ((weight, generator(scene, boxes)) for weight, generator in weighted_generators)
            if options
        ]
        total = sum(weight for weight, _ in weighted_options)
        return [
            (weight / total * question_weight, question)
            for weight, options in weighted_options
            for question_weight, question in options
        ]

    return asking


DIALOGUE_GENERATORS: tuple[tuple[float, QuestionGenerator], ...] = (
    (0.20, object_questions),
    (0.05, ground_questions),
    (0.05, count_questions),
    (0.14, relation_questions),
    (0.14, sign_questions),
    (0.14, box_questions),
    (0.12, existence_questions),
    (0.12, place_questions),
    (0.04, kind_questions),
)
"""What dialogues ask, and how often."""

TEXT_GENERATORS: tuple[tuple[float, QuestionGenerator], ...] = (
    (0.20, object_questions),
    (0.04, ground_questions),
    (0.04, count_questions),
    (0.22, relation_questions),
    (0.14, sign_questions),
    (0.18, existence_questions),
    (0.18, place_questions),
)
"""What told scenes ask: the same but boxes and kinds, and more of what is found by a name, which is learned last."""


def sample_questions(
    scene_with_boxes: SceneWithBoxes,
    generators: Sequence[tuple[float, QuestionGenerator]],
    *,
    limit: int,
    rng: np.random.Generator,
) -> list[SceneQuestion]:
    """Up to `many` different questions: a type by its weight, then one of it, in training's sentence forms."""
    questions: dict[SceneQuestion, None] = {}
    for _ in range(4 * limit):
        options = weighted_choice(generators, rng)(*scene_with_boxes)
        if options and len(questions) < limit:
            questions.setdefault(weighted_choice(options, rng))
    return list(questions)


def sample_training_form(rng: np.random.Generator) -> int:
    """A sentence form that training may use."""
    return uniform_choice((0, 1), rng)
