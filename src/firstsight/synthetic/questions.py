"""Possible questions about a scene, with their probabilities.

Training data, benchmarks and the question-blind guesser all use these distributions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from firstsight.synthetic.catalog import PLACES, load_catalog, uniform_choice, weighted_choice
from firstsight.synthetic.rendering import PixelBox
from firstsight.synthetic.scenes import PlacePairs, Scene, SceneObject
from firstsight.synthetic.vocabulary import EDGE_WORDS, QUESTION_FORMS, RELATION_OFFSETS

_EDGE_STEPS = len(EDGE_WORDS) - 1
_ABSENT_SHARE = 0.25
"""Share of place questions about an absent object."""


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question of a type about a subject, and its answer."""

    type: str
    subject: str
    answer: str

    def to_text(self, form: int) -> str:
        """The question in sentence form `form` (0 or 1) of its type."""
        return QUESTION_FORMS[self.type][form].format(x=self.subject)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionPlan:
    """Properties of question `index` of a task: half use held-out (object, place) pairs, half each form."""

    index: int
    is_unseen: bool
    is_yes: bool
    form: int

    @classmethod
    def from_index(cls, index: int) -> QuestionPlan:
        """The plan repeats every eight questions, which have all combinations of its properties."""
        return cls(index=index, is_unseen=index & 1 == 0, is_yes=index >> 1 & 1 == 0, form=index >> 2 & 1)

    @property
    def pairs(self) -> PlacePairs:
        """The pairs of its scene."""
        return "held_out" if self.is_unseen else "training"

    @property
    def tags(self) -> QuestionTags:
        """What a benchmark record states of it: `seen` or `heldout`."""
        return {"combination": "heldout" if self.is_unseen else "seen"}


QuestionTags = dict[str, str]
WeightedQuestion = tuple[float, SceneQuestion]
QuestionGenerator = Callable[[Scene, Sequence[PixelBox]], list[WeightedQuestion]]
"""Returns the questions of a type with probabilities that sum to 1, or an empty list where there are none."""


def object_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Which object is at a place?"""
    return _uniform([SceneQuestion("thing", obj.place, obj.name) for obj in scene.objects])


def ground_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """What colour is the ground?"""
    return [(1.0, SceneQuestion("ground", "", scene.ground))]


def count_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """How many objects are in the scene?"""
    return [(1.0, SceneQuestion("count", "", str(len(scene.objects))))]


def relation_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Which object is left of, right of, above or below another?"""
    questions: list[SceneQuestion] = []
    for origin, (word, offset) in product(scene.objects, RELATION_OFFSETS.items()):
        if neighbor := _neighbor(scene, origin, offset):
            questions.append(SceneQuestion("thing", f"{word} the {origin.name}", neighbor.name))
    return _uniform(questions)


def verification_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Is a certain object at a place? Half of the weight is on yes, half on the other objects of the scene."""
    pairs = [(asked, obj) for obj in scene.objects for asked in scene.objects if asked != obj]
    yes = [SceneQuestion("there", f"{obj.name} {obj.place}", "yes") for obj in scene.objects]
    no = [SceneQuestion("there", f"{asked.name} {obj.place}", "no") for asked, obj in pairs]
    return _scaled([*_uniform(yes), *_uniform(no)], 0.5) if no else []


def _neighbor(scene: Scene, obj: SceneObject, offset: tuple[int, int]) -> SceneObject | None:
    row, column = divmod(PLACES.index(obj.place), 2)
    column, row = column + offset[0], row + offset[1]
    return scene.object_at(PLACES[2 * row + column]) if column in (0, 1) and row in (0, 1) else None


def sign_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Which word is on the sign of an object?"""
    return _uniform([SceneQuestion("sign", obj.name, obj.sign) for obj in scene.objects if obj.sign is not None])


def box_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """The bounding box of an object, in words."""
    pairs = zip(scene.objects, boxes, strict=True)
    return _uniform([SceneQuestion("box", obj.name, box_words(box, scene.world.image_size)) for obj, box in pairs])


def region_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Which object is in a box?"""
    answers = box_questions(scene, boxes)
    return [(weight, SceneQuestion("thing", f"box {x.answer}", x.subject)) for weight, x in answers]


def box_words(box: PixelBox, image_size: int) -> str:
    """`box` as four words: its edges rounded to twelfths of the image, at least one twelfth wide and high."""
    left, top, right, bottom = (int(edge * _EDGE_STEPS / image_size + 0.5) for edge in box)
    return " ".join(EDGE_WORDS[edge_index] for edge_index in (left, top, max(right, left + 1), max(bottom, top + 1)))


def presence_questions(scene: Scene, absent_questions: Sequence[WeightedQuestion]) -> list[WeightedQuestion]:
    """Is there a ...? Half of the probability is on present objects, half on `absent_questions`."""
    present = [SceneQuestion("there", obj.name, "yes") for obj in scene.objects]
    return _scaled([*_uniform(present), *absent_questions], 0.5)


def existence_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Is there a ...? Half of the absent objects share their kind with a present one."""
    return presence_questions(scene, _absent_questions(scene, "there", "no"))


def random_absent_questions(scene: Scene) -> list[WeightedQuestion]:
    """POPE random: any absent object."""
    return _uniform([SceneQuestion("there", name, "no") for name in _absent_names(scene)])


def popular_absent_questions(scene: Scene) -> list[WeightedQuestion]:
    """POPE popular: an absent object that other scenes often contain."""
    popular_names = load_catalog(scene.world).popular_names
    return _uniform([SceneQuestion("there", name, "no") for name in _absent_names(scene) if name in popular_names])


def adversarial_absent_questions(scene: Scene) -> list[WeightedQuestion]:
    """POPE adversarial: an absent object of a kind that is present; any absent one where there is none."""
    same_kind = _same_kind_names(scene) or _absent_names(scene)
    return _uniform([SceneQuestion("there", name, "no") for name in same_kind])


def place_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Where is an object? A quarter ask for an absent one, with the answer `unanswerable`."""
    present = _uniform([SceneQuestion("where", obj.name, obj.place) for obj in scene.objects])
    absent = _absent_questions(scene, "where", "unanswerable")
    return _scaled(present, 1 - _ABSENT_SHARE) + _scaled(absent, _ABSENT_SHARE)


def kind_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Which kind of object is at a place? Only for objects whose kind occurs in dialogues."""
    return _kind_questions(scene, is_trained=True)


def held_out_kind_questions(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
    """Which kind of object is at a place? Only for objects whose kind occurs in no dialogue."""
    return _kind_questions(scene, is_trained=False)


def _kind_questions(scene: Scene, *, is_trained: bool) -> list[WeightedQuestion]:
    catalog = load_catalog(scene.world)
    objects = [obj for obj in scene.objects if (obj.name in catalog.trained_kind_names) == is_trained]
    return _uniform([SceneQuestion("kind", obj.place, catalog.kind_of[obj.name]) for obj in objects])


def _absent_questions(scene: Scene, type_: str, answer: str) -> list[WeightedQuestion]:
    """Questions about absent objects: half of the weight is on those of a present kind, half on all."""
    names, same_kind = _absent_names(scene), _same_kind_names(scene)
    share = 0.5 if same_kind else 0.0
    weights = [(1 - share) / len(names) + (share / len(same_kind) if name in same_kind else 0) for name in names]
    return [(weight, _absent_question(type_, name, answer)) for weight, name in zip(weights, names, strict=True)]


@lru_cache(maxsize=4096)
def _absent_question(type_: str, name: str, answer: str) -> SceneQuestion:
    """Cached, because most objects are absent from a scene and every scene needs these questions."""
    return SceneQuestion(type_, name, answer)


def _absent_names(scene: Scene) -> list[str]:
    present_names = {obj.name for obj in scene.objects}
    return [name for name in load_catalog(scene.world).names if name not in present_names]


def _same_kind_names(scene: Scene) -> set[str]:
    """Names of absent objects of a present kind. Questions are drawn in the set's order: workers fix PYTHONHASHSEED."""
    kind_of = load_catalog(scene.world).kind_of
    kinds = {kind_of[obj.name] for obj in scene.objects}
    return {name for name in _absent_names(scene) if kind_of[name] in kinds}


def _uniform(questions: list[SceneQuestion]) -> list[WeightedQuestion]:
    return [(1 / len(questions), question) for question in questions]


def _scaled(questions: Sequence[WeightedQuestion], factor: float) -> list[WeightedQuestion]:
    return [(weight * factor, question) for weight, question in questions]


def mix_generators(*weighted_generators: tuple[float, QuestionGenerator]) -> QuestionGenerator:
    """A generator of several types; the weight of types that a scene does not allow goes to those that it allows."""

    def generate(scene: Scene, boxes: Sequence[PixelBox]) -> list[WeightedQuestion]:
        candidates = [(weight, generator(scene, boxes)) for weight, generator in weighted_generators]
        total = sum(weight for weight, questions in candidates if questions)
        if not total:
            return []
        return [pair for weight, questions in candidates for pair in _scaled(questions, weight / total)]

    return generate


WeightedGenerators = Sequence[tuple[float, QuestionGenerator]]
DIALOGUE_GENERATORS: WeightedGenerators = (
    (0.12, object_questions),
    (0.04, ground_questions),
    (0.04, count_questions),
    (0.20, relation_questions),
    (0.06, verification_questions),
    (0.16, sign_questions),
    (0.13, box_questions),
    (0.11, existence_questions),
    (0.11, place_questions),
    (0.03, kind_questions),
)
"""Question types of dialogues with their weights."""

TEXT_GENERATORS: WeightedGenerators = (
    (0.20, object_questions),
    (0.04, ground_questions),
    (0.04, count_questions),
    (0.22, relation_questions),
    (0.14, sign_questions),
    (0.18, existence_questions),
    (0.18, place_questions),
)
"""Question types of text documents: no boxes and kinds, and more questions that look an object up by name."""


def sample_questions(
    scene: Scene, boxes: Sequence[PixelBox], generators: WeightedGenerators, *, limit: int, rng: np.random.Generator
) -> list[SceneQuestion]:
    """Up to `limit` different questions: a type is drawn by its weight, then a question of that type.

    Scenes of text documents have no `boxes`; their generators need none.
    """
    questions: dict[SceneQuestion, None] = {}
    for _ in range(4 * limit):
        options = weighted_choice(generators, rng)(scene, boxes)
        if options and len(questions) < limit:
            questions.setdefault(weighted_choice(options, rng))
    return list(questions)


def sample_question_form(rng: np.random.Generator) -> int:
    """The number of one of the two sentence forms."""
    return uniform_choice((0, 1), rng)
