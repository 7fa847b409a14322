"""Every question that a scene allows, with its probability: one law for training, evaluation and the blind guesser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from firstsight.data.world.draw import Box
from firstsight.data.world.scene import Scene, Thing
from firstsight.data.world.things import PLACES, catalogue, choose, pick
from firstsight.data.world.words import EDGES, QUESTIONS, RELATIONS

_STEPS = len(EDGES) - 1
_MISSING = 0.25
"""Share of questions after the place of something that is not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked, about what, and the answer."""

    type: str
    about: str
    answer: str

    def say(self, form: int) -> str:
        """The question in sentence form `form` of its type."""
        return QUESTIONS[self.type][form].replace("{x}", self.about)


Weighed = tuple[float, Question]
Seen = tuple[Scene, Sequence[Box]]
"""A scene and the boxes of its things; told scenes have none."""
Asking = Callable[[Scene, Sequence[Box]], list[Weighed]]
"""All questions of a type with their probabilities (which sum to 1), or an empty list where the scene allows none."""


def things(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """What is at a place?"""
    del boxes
    return _even([Question(type="thing", about=thing.place, answer=thing.name) for thing in scene.things])


def ground(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """What colour is the ground?"""
    del boxes
    return [(1.0, Question(type="ground", about="", answer=scene.ground))]


def count(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """How many things are there?"""
    del boxes
    return [(1.0, Question(type="count", about="", answer=str(len(scene.things))))]


def relations(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """What stands beside, above or below another thing?"""
    del boxes
    pairs = [(near, word, _beside(scene, near, step)) for near in scene.things for word, step in RELATIONS.items()]
    asked = [(f"{word} the {near.name}", far.name) for near, word, far in pairs if far is not None]
    return _even([Question(type="thing", about=about, answer=answer) for about, answer in asked])


def _beside(scene: Scene, thing: Thing, step: tuple[int, int]) -> Thing | None:
    row, column = divmod(PLACES.index(thing.place), 2)
    column, row = column + step[0], row + step[1]
    return scene.at(PLACES[2 * row + column]) if column in (0, 1) and row in (0, 1) else None


def signs(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """What word is on a thing?"""
    del boxes
    return _even([Question(type="sign", about=t.name, answer=t.sign) for t in scene.things if t.sign is not None])


def where_boxes(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """The box of a thing, in words."""
    pairs = zip(scene.things, boxes, strict=True)
    return _even([Question(type="box", about=t.name, answer=edges(box, scene.world.picture)) for t, box in pairs])


def edges(box: Box, side: int) -> str:
    """`box` as four words: its edges rounded to twelfths of the picture, never empty."""
    left, top, right, bottom = (int(edge * _STEPS / side + 0.5) for edge in box)
    return " ".join(EDGES[n] for n in (left, top, max(right, left + 1), max(bottom, top + 1)))


def presence(scene: Scene, absent: Sequence[Weighed]) -> list[Weighed]:
    """Is there a ...? Half are there, each as likely; `absent` says which of the others are asked."""
    there = [Question(type="there", about=thing.name, answer="yes") for thing in scene.things]
    return [(weight / 2, question) for weight, question in _even(there) + list(absent)]


def whether(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """Is there a ...? Of what is not there, half shares its kind with something that is."""
    del boxes
    return presence(scene, _mixed(scene, "there", "no"))


def absent_random(scene: Scene) -> list[Weighed]:
    """Anything that is not there."""
    return _even([Question(type="there", about=name, answer="no") for name in _missing(scene)])


def absent_popular(scene: Scene) -> list[Weighed]:
    """Something that is often there, but not here."""
    popular = catalogue(scene.world).popular
    return _even([Question(type="there", about=name, answer="no") for name in _missing(scene) if name in popular])


def absent_alike(scene: Scene) -> list[Weighed]:
    """Something of a kind that is there; anything where all of these kinds are."""
    alike = _alike(scene) or _missing(scene)
    return _even([Question(type="there", about=name, answer="no") for name in alike])


def places(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """Where is a thing? A quarter are not there: unanswerable."""
    del boxes
    there = _even([Question(type="where", about=thing.name, answer=thing.place) for thing in scene.things])
    share = [(weight * (1 - _MISSING), question) for weight, question in there]
    return share + [(weight * _MISSING, question) for weight, question in _mixed(scene, "where", "unanswerable")]


def kinds(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """What kind of thing is at a place? Only of those objects that dialogues may ask about."""
    return _kinds(scene, asked=True)


def untold_kinds(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
    """What kind of thing is at a place? Only of those objects that no dialogue asks about."""
    return _kinds(scene, asked=False)


def _kinds(scene: Scene, *, asked: bool) -> list[Weighed]:
    known = catalogue(scene.world)
    mine = [thing for thing in scene.things if (thing.name in known.asked) == asked]
    return _even([Question(type="kind", about=t.place, answer=known.kind_of[t.name]) for t in mine])


def _mixed(scene: Scene, type_: str, answer: str) -> list[Weighed]:
    """Absent objects: half of the weight on those of a kind that is there, half on all."""
    missing = _missing(scene)
    alike = _alike(scene)
    share = 0.5 if alike else 0.0
    plain = (1 - share) / len(missing)
    weights = {name: plain + (share / len(alike) if name in alike else 0) for name in missing}
    return [(weight, _absent(type_, name, answer)) for name, weight in weights.items()]


@lru_cache(maxsize=4096)
def _absent(type_: str, name: str, answer: str) -> Question:
    """Remembered: every scene lacks most objects, so these are made for most questions."""
    return Question(type=type_, about=name, answer=answer)


def _missing(scene: Scene) -> list[str]:
    here = {thing.name for thing in scene.things}
    return [name for name in catalogue(scene.world).names if name not in here]


def _alike(scene: Scene) -> set[str]:
    known = catalogue(scene.world)
    kinds_here = {known.kind_of[thing.name] for thing in scene.things}
    return {name for name in _missing(scene) if known.kind_of[name] in kinds_here}


def _even(questions: list[Question]) -> list[Weighed]:
    return [(1 / len(questions), question) for question in questions]


def blend(*parts: tuple[float, Asking]) -> Asking:
    """Questions of several types; types that the scene does not allow give their weight to the others."""

    def asking(scene: Scene, boxes: Sequence[Box]) -> list[Weighed]:
        laws = [(weight, law) for weight, law in ((weight, part(scene, boxes)) for weight, part in parts) if law]
        total = sum(weight for weight, _ in laws)
        return [(weight / total * inner, question) for weight, law in laws for inner, question in law]

    return asking


TRAINING: tuple[tuple[float, Asking], ...] = (
    (0.20, things),
    (0.05, ground),
    (0.05, count),
    (0.14, relations),
    (0.14, signs),
    (0.14, where_boxes),
    (0.12, whether),
    (0.12, places),
    (0.04, kinds),
)
"""What dialogues ask, and how often."""

IN_WORDS: tuple[tuple[float, Asking], ...] = (
    (0.20, things),
    (0.04, ground),
    (0.04, count),
    (0.22, relations),
    (0.14, signs),
    (0.18, whether),
    (0.18, places),
)
"""What told scenes ask: the same but boxes and kinds, and more of what is found by a name, which is learned last."""


def several(
    shown: Seen, asked: Sequence[tuple[float, Asking]], *, many: int, rng: np.random.Generator
) -> list[Question]:
    """Up to `many` different questions: a type by its weight, then one of it, in training's sentence forms."""
    found: dict[Question, None] = {}
    for _ in range(4 * many):
        options = choose(asked, rng)(*shown)
        if options and len(found) < many:
            found.setdefault(choose(options, rng))
    return list(found)


def trained_form(rng: np.random.Generator) -> int:
    """A sentence form that training may use."""
    return pick((0, 1), rng)
