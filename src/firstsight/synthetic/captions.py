"""Text documents, captions and interleaved documents: descriptions of scenes, questions, facts about kinds, sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from firstsight.recipe.mixture import SyntheticWorld
from firstsight.synthetic.catalog import load_catalog, shuffled_list, uniform_choice, world_rng
from firstsight.synthetic.questions import (
    TEXT_GENERATORS,
    SceneQuestion,
    box_words,
    sample_question_form,
    sample_questions,
)
from firstsight.synthetic.rendering import PixelBox
from firstsight.synthetic.scenes import Scene, SceneObject, sample_scene
from firstsight.synthetic.vocabulary import ANSWER_END, QUESTION_END, SENTENCE_TEMPLATES

MAX_DOCUMENT_WORDS = 60
"""Maximum number of words in a document."""
_DOCUMENT_KINDS = (("repeated", 0.40), ("questions", 0.84), ("kinds", 0.94), ("sums", 1.0))
"""Kinds of documents with their cumulative probabilities."""
_MAX_QUESTIONS = 5
_WRONG_NAME_RATE, _UNRELATED_RATE, _BARE_NAME_RATE = 0.15, 0.10, 0.25
"""Rates in noisy captions of a wrong name, an unrelated text, a single name."""

_OPENING_RATE, _COMPLETE_RATE, _RECALL_RATE = 0.3, 0.6, 0.5
"""Rates in interleaved documents of an opening text, of complete passages, of a second description at the end."""

TextPiece = tuple[str, bool]
"""Words, and whether the text before determines them; only determined words are loss tokens."""
TextPieces = list[TextPiece]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedText:
    """A document: its text and the character ranges in the loss."""

    text: str
    loss_spans: tuple[tuple[int, int], ...]


def join_pieces(pieces: Sequence[TextPiece]) -> MaskedText:
    """Joins pieces with single spaces; adjacent loss ranges become one."""
    spans: list[tuple[int, int]] = []
    position = 0
    for words, determined in pieces:
        if determined:
            start = spans.pop()[0] if spans and spans[-1][1] == position - 1 else position
            spans.append((start, position + len(words)))
        position += len(words) + 1
    return MaskedText(text=" ".join(words for words, _ in pieces), loss_spans=tuple(spans))


def sample_document(world: SyntheticWorld, index: int) -> MaskedText:
    """Document number `index` of a world: a pure function of its arguments."""
    rng = world_rng(world, "text", index)
    draw = rng.random()
    kind = next(kind for kind, upper_bound in _DOCUMENT_KINDS if draw < upper_bound)
    if kind == "kinds":
        return join_pieces([piece for _ in range(5) for piece in _kind_fact(world, rng)])
    if kind == "sums":
        return join_pieces(_sum_pieces(rng))
    scene = sample_scene(world, "text scene", index)
    describe = repeated_description if kind == "repeated" else _description_with_questions
    return join_pieces(describe(scene, rng))


def object_words(obj: SceneObject) -> tuple[str, ...]:
    """The description of one object: its name, its place, and its sign if it has one."""
    words = SENTENCE_TEMPLATES["item"].format(x=obj.name, place=obj.place).split()
    return (*words, *SENTENCE_TEMPLATES["with"].format(sign=obj.sign).split()) if obj.sign else tuple(words)


def _ground_words(scene: Scene) -> tuple[str, ...]:
    return tuple(SENTENCE_TEMPLATES["ground"].format(ground=scene.ground).split())


def describe_scene(scene: Scene) -> str:
    """The description of a scene: objects in raster order, then the ground; without a full stop."""
    descriptions = [object_words(obj) for obj in scene.objects]
    return " , ".join(" ".join(words) for words in (*descriptions, _ground_words(scene)))


def repeated_description(scene: Scene, rng: np.random.Generator) -> TextPieces:
    """A scene described twice, the second time in another order, so that each object has to be looked up by name."""
    pieces: TextPieces = [(describe_scene(scene), False), (SENTENCE_TEMPLATES["again"], False)]
    return [*pieces, *reordered_description(scene, rng)]


def reordered_description(scene: Scene, rng: np.random.Generator) -> TextPieces:
    """A description in random order; all but the first word of each part is determined by the description before it."""
    descriptions = [object_words(obj) for obj in scene.objects]
    parts = shuffled_list([*descriptions, _ground_words(scene)], rng)
    pieces: TextPieces = []
    for part_index, (first, *remaining_words) in enumerate(parts):
        pieces.append((first, False))
        pieces.extend((word, True) for word in remaining_words)
        pieces.append(("." if part_index == len(parts) - 1 else ",", True))
    return pieces


def _description_with_questions(scene: Scene, rng: np.random.Generator) -> TextPieces:
    """A scene description and up to five questions with answers, in the format of dialogues."""
    pieces: TextPieces = [(describe_scene(scene) + " .", False)]
    length = len(pieces[0][0].split())
    limit = 1 + int(rng.random() * _MAX_QUESTIONS)
    for question in sample_questions(scene, (), TEXT_GENERATORS, limit=limit, rng=rng):
        turn = question_pieces(question, sample_question_form(rng))
        length += sum(len(words.split()) for words, _ in turn)
        if length > MAX_DOCUMENT_WORDS:
            break
        pieces += turn
    return pieces


def question_pieces(question: SceneQuestion, form: int) -> TextPieces:
    """A question and its answer as a dialogue turn; the answer is in the loss."""
    return [(f"{question.to_text(form)} {QUESTION_END}", False), (f"{question.answer} {ANSWER_END}", True)]


def _kind_fact(world: SyntheticWorld, rng: np.random.Generator) -> TextPieces:
    catalog = load_catalog(world)
    name = uniform_choice(catalog.names, rng)
    kind = catalog.kind_of[name]
    form = uniform_choice(("kind", "kind", "asked", "is kind", "compared"), rng)
    if form == "kind":
        words = SENTENCE_TEMPLATES["kind"].format(x=name, k=kind).split()
        return [(" ".join(words[:-2]), False), (" ".join(words[-2:]), True)]
    if form == "asked":
        return question_pieces(SceneQuestion("kind", f"a {name}", kind), sample_question_form(rng))
    if form == "is kind":
        wrong_kinds = [wrong for wrong in catalog.kinds if wrong != kind]
        candidate = kind if rng.random() < 0.5 else uniform_choice(wrong_kinds, rng)
        text = SENTENCE_TEMPLATES["is kind"].format(x=name, k=candidate)
        return [(f"{text} {QUESTION_END}", False), (f"{'yes' if candidate == kind else 'no'} {ANSWER_END}", True)]
    return _kind_comparison(world, name, rng)


def _kind_comparison(world: SyntheticWorld, name: str, rng: np.random.Generator) -> TextPieces:
    kind_of, is_same_kind = load_catalog(world).kind_of, rng.random() < 0.5
    candidates = [second for second in kind_of if second != name and (kind_of[second] == kind_of[name]) == is_same_kind]
    template = SENTENCE_TEMPLATES["same" if is_same_kind else "other"]
    words = template.format(x=name, y=uniform_choice(candidates, rng)).split()
    return [(" ".join(words[:-3]), False), (" ".join(words[-3:]), True)]


def _sum_pieces(rng: np.random.Generator) -> TextPieces:
    pieces: TextPieces = []
    for _ in range(4):
        numbers = sample_sum(rng, is_held_out=False)
        pieces += [(sum_query(numbers), False), (f"{sum(numbers)} .", True)]
    return pieces


def sample_sum(rng: np.random.Generator, *, is_held_out: bool) -> tuple[int, ...]:
    """Two or three numbers from 0 to 9; a sixth of all such tuples is held out for evaluation."""
    while True:
        numbers = tuple(int(draw * 10) for draw in rng.random(2 + int(rng.random() * 2)).tolist())
        if (sum((7, 11, 13)[position] * number for position, number in enumerate(numbers)) % 6 == 0) == is_held_out:
            return numbers


def sum_query(numbers: Sequence[int]) -> str:
    """The text of a sum up to its result."""
    return SENTENCE_TEMPLATES["two" if len(numbers) == 2 else "three"].removesuffix(" {} .").format(*numbers)


def rich_caption(scene: Scene, boxes: Sequence[PixelBox], rng: np.random.Generator) -> str:
    """A complete and correct caption in random order; a third give boxes instead of places, signs and ground."""
    if rng.random() >= 1 / 3:
        return complete_caption(scene, rng)
    descriptions = [object_with_box(obj, box, scene) for obj, box in zip(scene.objects, boxes, strict=True)]
    return " , ".join(shuffled_list(descriptions, rng)) + " ."


def complete_caption(scene: Scene, rng: np.random.Generator) -> str:
    """All objects with their places and signs, and the ground, in random order, with a full stop."""
    return join_pieces(reordered_description(scene, rng)).text


def partial_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Some of the objects, by name alone or with their places; no full stop."""
    objects = shuffled_list(scene.objects, rng)[: 1 + int(rng.random() * len(scene.objects))]
    if rng.random() < 1 / 2:
        return photo_of([obj.name for obj in objects])
    return " , ".join(SENTENCE_TEMPLATES["item"].format(x=obj.name, place=obj.place) for obj in objects)


def photo_of(names: Sequence[str]) -> str:
    """photo of a cat and a bus"""
    return SENTENCE_TEMPLATES["photo"].format(x=f" {SENTENCE_TEMPLATES['and']} a ".join(names))


def object_with_box(obj: SceneObject, box: PixelBox, scene: Scene) -> str:
    """An object and its box in words."""
    return SENTENCE_TEMPLATES["boxed"].format(x=obj.name, box=box_words(box, scene.world.image_size))


def noisy_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption like alt-text: some of the objects, sometimes a wrong one, a single name, or an unrelated text."""
    if rng.random() < _UNRELATED_RATE:
        return SENTENCE_TEMPLATES["picture"].format(n=int(rng.random() * 10))
    objects = shuffled_list(scene.objects, rng)[: 1 + int(rng.random() * len(scene.objects))]
    object_names = load_catalog(scene.world).names
    names = [uniform_choice(object_names, rng) if rng.random() < _WRONG_NAME_RATE else obj.name for obj in objects]
    if rng.random() < _BARE_NAME_RATE:
        return names[0]
    if rng.random() < 1 / 2:
        return photo_of(names)
    pairs = zip(names, objects, strict=True)
    return " , ".join(SENTENCE_TEMPLATES["item"].format(x=name, place=obj.place) for name, obj in pairs)


def true_phrases(scene: Scene, boxes: Sequence[PixelBox]) -> list[str]:
    """All correct phrases of five forms: object and place, sign and place, ground, count, place and box.

    The list is complete, so a phrase of another image is correct for this one exactly if it is in the list.
    """
    object_places = [object_words(obj)[:2] for obj in scene.objects]
    sign_places = [(obj.sign, obj.place) for obj in scene.objects if obj.sign]
    placed_phrases = [" ".join(pair) for pair in (*object_places, *sign_places)]
    box_descriptions = [box_words(box, scene.world.image_size) for box in boxes]
    box_phrases = [f"{obj.place} box {words}" for obj, words in zip(scene.objects, box_descriptions, strict=True)]
    return [*placed_phrases, " ".join(_ground_words(scene)), f"{len(scene.objects)} things", *box_phrases]


def sample_interleaved(world: SyntheticWorld, index: int, *, images: int) -> tuple[Scene | str, ...]:
    """The parts of interleaved document number `index` in reading order: a scene, a true passage about it, and so on.

    Some begin with an object of each image. Some with several images end with a second description of one of them,
    which has to be looked up by its objects, as in `repeated_description`. The scenes do not depend on `images`.
    """
    scenes = [sample_scene(world, f"interleaved {position}", index) for position in range(images)]
    rng = world_rng(world, "interleaved words", index)
    parts: list[Scene | str] = [_opening(scenes, rng)] if rng.random() < _OPENING_RATE else []
    passages = [_passage(scene, rng) for scene in scenes]
    if images > 1 and rng.random() < _RECALL_RATE:
        recalled = complete_caption(uniform_choice(scenes, rng), rng)
        passages[-1] = f"{passages[-1].removesuffix(' .')} {SENTENCE_TEMPLATES['again']} {recalled}"
    for scene, passage in zip(scenes, passages, strict=True):
        parts += [scene, passage]
    return tuple(parts)


def _opening(scenes: Sequence[Scene], rng: np.random.Generator) -> str:
    """An object of each image, in the order of the images."""
    return photo_of([uniform_choice(scene.objects, rng).name for scene in scenes]) + " ."


def _passage(scene: Scene, rng: np.random.Generator) -> str:
    """A complete or a partial description with a full stop."""
    return complete_caption(scene, rng) if rng.random() < _COMPLETE_RATE else partial_caption(scene, rng) + " ."
