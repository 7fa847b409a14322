"""Documents and captions: scenes told in words, questions about them in words, facts about kinds, sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from firstsight.recipe.mixture import SyntheticWorld
from firstsight.synthetic.catalog import catalog, shuffled_list, uniform_choice, world_rng
from firstsight.synthetic.questions import (
    TEXT_GENERATORS,
    SceneQuestion,
    box_words,
    sample_questions,
    sample_training_form,
)
from firstsight.synthetic.rendering import PixelBox
from firstsight.synthetic.scenes import Scene, SceneObject, sample_scene
from firstsight.synthetic.vocabulary import ANSWER_END, QUESTION_END, SENTENCE_TEMPLATES

MAX_DOCUMENT_WORDS = 60
"""Words of a document."""
_DOCUMENT_KINDS = (("retelling", 0.40), ("told", 0.84), ("kinds", 0.94), ("sums", 1.0))
_MAX_QUESTIONS = 5
_WRONG_NAME_RATE, _UNRELATED_RATE, _BARE_NAME_RATE = 0.15, 0.10, 0.25
"""In noisy captions: a wrong name, nothing about the picture, a bare name."""

TextPiece = tuple[str, bool]
"""Words, and whether what came before determines them: then they carry loss."""
TextPieces = list[TextPiece]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedText:
    """A document: its text and the character ranges that carry loss."""

    text: str
    loss_spans: tuple[tuple[int, int], ...]


def join_pieces(pieces: Sequence[TextPiece]) -> MaskedText:
    """Pieces set side by side with single spaces; neighbouring loss ranges become one."""
    spans: list[tuple[int, int]] = []
    position = 0
    for words, determined in pieces:
        if determined:
            start = spans.pop()[0] if spans and spans[-1][1] == position - 1 else position
            spans.append((start, position + len(words)))
        position += len(words) + 1
    return MaskedText(text=" ".join(words for words, _ in pieces), loss_spans=tuple(spans))


def sample_document(world: SyntheticWorld, index: int) -> MaskedText:
    """Document `index`: a pure function of its arguments."""
    rng = world_rng(world, "text", index)
    draw = rng.random()
    kind = next(kind for kind, upper_bound in _DOCUMENT_KINDS if draw < upper_bound)
    if kind == "kinds":
        return join_pieces(_kind_facts(world, rng))
    if kind == "sums":
        return join_pieces(_sum_pieces(rng))
    text_scene = sample_scene(world, "text scene", index)
    return join_pieces(
        repeated_description(text_scene, rng) if kind == "retelling" else _description_with_questions(text_scene, rng)
    )


def object_words(scene_object: SceneObject) -> tuple[str, ...]:
    """What is said of one thing: its name, its place, and its sign."""
    object_and_place = (
        SENTENCE_TEMPLATES["item"].replace("{x}", scene_object.name).replace("{place}", scene_object.place).split()
    )
    return (
        (*object_and_place, *SENTENCE_TEMPLATES["with"].replace("{sign}", scene_object.sign).split())
        if scene_object.sign
        else tuple(object_and_place)
    )


def _ground_words(scene: Scene) -> tuple[str, ...]:
    return tuple(SENTENCE_TEMPLATES["ground"].replace("{ground}", scene.ground).split())


def describe_scene(scene: Scene) -> str:
    """Everything in a scene, in raster order, names before places, without a full stop."""
    object_descriptions = [object_words(scene_object) for scene_object in scene.objects]
    return " , ".join(" ".join(words) for words in (*object_descriptions, _ground_words(scene)))


def repeated_description(scene: Scene, rng: np.random.Generator) -> TextPieces:
    """A scene told twice; the second time in another order, so that each thing is found again by its name."""
    pieces: TextPieces = [(describe_scene(scene), False), (SENTENCE_TEMPLATES["again"], False)]
    return [*pieces, *reordered_description(scene, rng)]


def reordered_description(scene: Scene, rng: np.random.Generator) -> TextPieces:
    """The second telling: the first word of every part but the last is free, the rest is determined."""
    object_descriptions = [object_words(scene_object) for scene_object in scene.objects]
    parts = shuffled_list([*object_descriptions, _ground_words(scene)], rng)
    pieces: TextPieces = []
    for part_index, (first, *remaining_words) in enumerate(parts):
        pieces.append((first, False))
        pieces.extend((word, True) for word in remaining_words)
        pieces.append(("." if part_index == len(parts) - 1 else ",", True))
    return pieces


def _description_with_questions(scene: Scene, rng: np.random.Generator) -> TextPieces:
    """A scene and up to five questions about it, in the words of dialogues."""
    pieces: TextPieces = [(describe_scene(scene) + " .", False)]
    length = len(pieces[0][0].split())
    for question in sample_questions(
        (scene, ()), TEXT_GENERATORS, limit=1 + int(rng.random() * _MAX_QUESTIONS), rng=rng
    ):
        dialogue_turn = question_pieces(question, sample_training_form(rng))
        length += sum(len(words.split()) for words, _ in dialogue_turn)
        if length > MAX_DOCUMENT_WORDS:
            break
        pieces += dialogue_turn
    return pieces


def question_pieces(question: SceneQuestion, form: int) -> TextPieces:
    """A turn of a dialogue in words."""
    return [(f"{question.to_text(form)} {QUESTION_END}", False), (f"{question.answer} {ANSWER_END}", True)]


def _kind_facts(world: SyntheticWorld, rng: np.random.Generator) -> TextPieces:
    pieces: TextPieces = []
    for _ in range(5):
        pieces += _kind_fact(world, rng)
    return pieces


def _kind_fact(world: SyntheticWorld, rng: np.random.Generator) -> TextPieces:
    """One truth about a kind, said, compared or asked."""
    world_catalog = catalog(world)
    name = uniform_choice(world_catalog.names, rng)
    kind = world_catalog.kind_of[name]
    form = uniform_choice(("kind", "kind", "asked", "is kind", "compared"), rng)
    if form == "kind":
        *context_words, kind_word, full_stop = (
            SENTENCE_TEMPLATES["kind"].replace("{x}", name).replace("{k}", kind).split()
        )
        return [(" ".join(context_words), False), (f"{kind_word} {full_stop}", True)]
    if form == "asked":
        return question_pieces(SceneQuestion(type="kind", subject=f"a {name}", answer=kind), sample_training_form(rng))
    if form == "is kind":
        candidate_kind = (
            kind
            if rng.random() < 0.5
            else uniform_choice([kind_name for kind_name in world_catalog.kinds if kind_name != kind], rng)
        )
        question_text = SENTENCE_TEMPLATES["is kind"].replace("{x}", name).replace("{k}", candidate_kind)
        return [
            (f"{question_text} {QUESTION_END}", False),
            (f"{'yes' if candidate_kind == kind else 'no'} {ANSWER_END}", True),
        ]
    return _kind_comparison(world, name, rng)


def _kind_comparison(world: SyntheticWorld, name: str, rng: np.random.Generator) -> TextPieces:
    world_catalog = catalog(world)
    is_same_kind = rng.random() < 0.5
    kind = world_catalog.kind_of[name]
    candidates = [
        candidate
        for candidate in world_catalog.names
        if candidate != name and (world_catalog.kind_of[candidate] == kind) == is_same_kind
    ]
    sentence_words = (
        SENTENCE_TEMPLATES["same" if is_same_kind else "other"]
        .replace("{x}", name)
        .replace("{y}", uniform_choice(candidates, rng))
        .split()
    )
    return [(" ".join(sentence_words[:-3]), False), (" ".join(sentence_words[-3:]), True)]


def _sum_pieces(rng: np.random.Generator) -> TextPieces:
    pieces: TextPieces = []
    for _ in range(4):
        numbers = sample_sum(rng, is_held_out=False)
        pieces += [(sum_query(numbers), False), (f"{sum(numbers)} .", True)]
    return pieces


def sample_sum(rng: np.random.Generator, *, is_held_out: bool) -> tuple[int, ...]:
    """Two or three numbers from 0 to 9; a sixth of all such tuples appear in evaluation only."""
    while True:
        numbers = tuple(int(draw * 10) for draw in rng.random(2 + int(rng.random() * 2)).tolist())
        if (sum((7, 11, 13)[position] * number for position, number in enumerate(numbers)) % 6 == 0) == is_held_out:
            return numbers


def sum_query(numbers: Sequence[int]) -> str:
    """A sum without its result."""
    query = SENTENCE_TEMPLATES["two" if len(numbers) == 2 else "three"]
    for number in numbers:
        query = query.replace("{n}", str(number), 1)
    return query.removesuffix(" {n} .")


def rich_caption(scene: Scene, boxes: Sequence[PixelBox], rng: np.random.Generator) -> str:
    """Complete and true, in any order: in a third of the captions all things with their boxes, else as in tellings."""
    if rng.random() < 1 / 3:
        descriptions = [
            object_with_box(scene_object, box, scene) for scene_object, box in zip(scene.objects, boxes, strict=True)
        ]
    else:
        descriptions = [" ".join(words) for words in (*map(object_words, scene.objects), _ground_words(scene))]
    return " , ".join(shuffled_list(descriptions, rng)) + " ."


def object_with_box(scene_object: SceneObject, box: PixelBox, scene: Scene) -> str:
    """A thing and its box in words."""
    return (
        SENTENCE_TEMPLATES["boxed"]
        .replace("{x}", scene_object.name)
        .replace("{box}", box_words(box, scene.world.image_size))
    )


def noisy_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Like alt-text: some of the things, now and then a wrong one, a bare name, or nothing about the picture."""
    if rng.random() < _UNRELATED_RATE:
        return SENTENCE_TEMPLATES["picture"].replace("{n}", str(int(rng.random() * 10)))
    mentioned_objects = shuffled_list(scene.objects, rng)[: 1 + int(rng.random() * len(scene.objects))]
    object_names = catalog(scene.world).names
    mentioned_names = [
        uniform_choice(object_names, rng) if rng.random() < _WRONG_NAME_RATE else scene_object.name
        for scene_object in mentioned_objects
    ]
    if rng.random() < _BARE_NAME_RATE:
        return mentioned_names[0]
    if rng.random() < 1 / 2:
        return SENTENCE_TEMPLATES["photo"].replace("{x}", f" {SENTENCE_TEMPLATES['and']} a ".join(mentioned_names))
    template = SENTENCE_TEMPLATES["item"]
    pairs = zip(mentioned_names, mentioned_objects, strict=True)
    return " , ".join(
        template.replace("{x}", name).replace("{place}", scene_object.place) for name, scene_object in pairs
    )


def true_phrases(scene: Scene, boxes: Sequence[PixelBox]) -> list[str]:
    """Every true phrase of five forms: thing and place, sign and place, ground, number, place and box.

    The list is complete, so a phrase of another picture is true of this one exactly if it is in the list.
    """
    object_places = [object_words(scene_object)[:2] for scene_object in scene.objects]
    sign_places = [(scene_object.sign, scene_object.place) for scene_object in scene.objects if scene_object.sign]
    placed_phrases = [" ".join(pair) for pair in (*object_places, *sign_places)]
    box_descriptions = [box_words(box, scene.world.image_size) for box in boxes]
    box_phrases = [
        f"{scene_object.place} box {words}" for scene_object, words in zip(scene.objects, box_descriptions, strict=True)
    ]
    return [*placed_phrases, " ".join(_ground_words(scene)), f"{len(scene.objects)} things", *box_phrases]
