"""Documents and captions: scenes told in words, questions about them in words, facts about kinds, sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from firstsight.data.world.draw import Box
from firstsight.data.world.questions import IN_WORDS, Question, edges, several, trained_form
from firstsight.data.world.scene import Scene, Thing, scene
from firstsight.data.world.things import catalogue, pick, shuffled, stream
from firstsight.data.world.words import ANSWER_ENDS, HUMAN_ENDS, SENTENCES
from firstsight.recipe.mix import World

LONGEST = 60
"""Words of a document."""
_SHARES = (("retelling", 0.40), ("told", 0.84), ("kinds", 0.94), ("sums", 1.0))
_ASKED = 5
_WRONG, _EMPTY, _BARE = 0.15, 0.10, 0.25
"""In noisy captions: a wrong name, nothing about the picture, a bare name."""

Piece = tuple[str, bool]
"""Words, and whether what came before determines them: then they carry loss."""
Pieces = list[Piece]


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A document: its text and the character ranges that carry loss."""

    text: str
    loss: tuple[tuple[int, int], ...]


def joined(pieces: Sequence[Piece]) -> Told:
    """Pieces set side by side with single spaces; neighbouring loss ranges become one."""
    spans: list[tuple[int, int]] = []
    at = 0
    for words, determined in pieces:
        if determined:
            start = spans.pop()[0] if spans and spans[-1][1] == at - 1 else at
            spans.append((start, at + len(words)))
        at += len(words) + 1
    return Told(text=" ".join(words for words, _ in pieces), loss=tuple(spans))


def document(world: World, index: int) -> Told:
    """Document `index`: a pure function of its arguments."""
    rng = stream(world, "text", index)
    draw = rng.random()
    form = next(form for form, until in _SHARES if draw < until)
    if form == "kinds":
        return joined(_facts(world, rng))
    if form == "sums":
        return joined(_sums(rng))
    shown = scene(world, "text scene", index)
    return joined(retelling(shown, rng) if form == "retelling" else _interview(shown, rng))


def item(thing: Thing) -> tuple[str, ...]:
    """What is said of one thing: its name, its place, and its sign."""
    said = SENTENCES["item"].replace("{x}", thing.name).replace("{place}", thing.place).split()
    return (*said, *SENTENCES["with"].replace("{sign}", thing.sign).split()) if thing.sign else tuple(said)


def _ground(shown: Scene) -> tuple[str, ...]:
    return tuple(SENTENCES["ground"].replace("{ground}", shown.ground).split())


def telling(shown: Scene) -> str:
    """Everything in a scene, in raster order, names before places, without a full stop."""
    items = [item(thing) for thing in shown.things]
    return " , ".join(" ".join(words) for words in (*items, _ground(shown)))


def retelling(shown: Scene, rng: np.random.Generator) -> Pieces:
    """A scene told twice; the second time in another order, so that each thing is found again by its name."""
    pieces: Pieces = [(telling(shown), False), (SENTENCES["again"], False)]
    return [*pieces, *again(shown, rng)]


def again(shown: Scene, rng: np.random.Generator) -> Pieces:
    """The second telling: the first word of every part but the last is free, the rest is determined."""
    items = [item(thing) for thing in shown.things]
    parts = shuffled([*items, _ground(shown)], rng)
    pieces: Pieces = []
    for number, (first, *rest) in enumerate(parts):
        pieces.append((first, False))
        pieces.extend((word, True) for word in rest)
        pieces.append(("." if number == len(parts) - 1 else ",", True))
    return pieces


def _interview(shown: Scene, rng: np.random.Generator) -> Pieces:
    """A scene and up to five questions about it, in the words of dialogues."""
    pieces: Pieces = [(telling(shown) + " .", False)]
    length = len(pieces[0][0].split())
    for question in several((shown, ()), IN_WORDS, many=1 + int(rng.random() * _ASKED), rng=rng):
        turn = asked(question, trained_form(rng))
        length += sum(len(words.split()) for words, _ in turn)
        if length > LONGEST:
            break
        pieces += turn
    return pieces


def asked(question: Question, form: int) -> Pieces:
    """A turn of a dialogue in words."""
    return [(f"{question.say(form)} {HUMAN_ENDS}", False), (f"{question.answer} {ANSWER_ENDS}", True)]


def _facts(world: World, rng: np.random.Generator) -> Pieces:
    pieces: Pieces = []
    for _ in range(5):
        pieces += _fact(world, rng)
    return pieces


def _fact(world: World, rng: np.random.Generator) -> Pieces:
    """One truth about a kind, said, compared or asked."""
    known = catalogue(world)
    name = pick(known.names, rng)
    kind = known.kind_of[name]
    form = pick(("kind", "kind", "asked", "is kind", "compared"), rng)
    if form == "kind":
        *before, last, stop = SENTENCES["kind"].replace("{x}", name).replace("{k}", kind).split()
        return [(" ".join(before), False), (f"{last} {stop}", True)]
    if form == "asked":
        return asked(Question(type="kind", about=f"a {name}", answer=kind), trained_form(rng))
    if form == "is kind":
        other = kind if rng.random() < 0.5 else pick([k for k in known.kinds if k != kind], rng)
        said = SENTENCES["is kind"].replace("{x}", name).replace("{k}", other)
        return [(f"{said} {HUMAN_ENDS}", False), (f"{'yes' if other == kind else 'no'} {ANSWER_ENDS}", True)]
    return _comparison(world, name, rng)


def _comparison(world: World, name: str, rng: np.random.Generator) -> Pieces:
    known = catalogue(world)
    same = rng.random() < 0.5
    kind = known.kind_of[name]
    others = [n for n in known.names if n != name and (known.kind_of[n] == kind) == same]
    said = SENTENCES["same" if same else "other"].replace("{x}", name).replace("{y}", pick(others, rng)).split()
    return [(" ".join(said[:-3]), False), (" ".join(said[-3:]), True)]


def _sums(rng: np.random.Generator) -> Pieces:
    pieces: Pieces = []
    for _ in range(4):
        numbers = sum_of(rng, held_out=False)
        pieces += [(sum_query(numbers), False), (f"{sum(numbers)} .", True)]
    return pieces


def sum_of(rng: np.random.Generator, *, held_out: bool) -> tuple[int, ...]:
    """Two or three numbers from 0 to 9; a sixth of all such tuples appear in evaluation only."""
    while True:
        numbers = tuple(int(draw * 10) for draw in rng.random(2 + int(rng.random() * 2)).tolist())
        if (sum((7, 11, 13)[place] * n for place, n in enumerate(numbers)) % 6 == 0) == held_out:
            return numbers


def sum_query(numbers: Sequence[int]) -> str:
    """A sum without its result."""
    said = SENTENCES["two" if len(numbers) == 2 else "three"]
    for number in numbers:
        said = said.replace("{n}", str(number), 1)
    return said.removesuffix(" {n} .")


def rich_caption(shown: Scene, boxes: Sequence[Box], rng: np.random.Generator) -> str:
    """Complete and true, in any order: in a third of the captions all things with their boxes, else as in tellings."""
    if rng.random() < 1 / 3:
        said = [boxed(thing, box, shown) for thing, box in zip(shown.things, boxes, strict=True)]
    else:
        said = [" ".join(words) for words in (*map(item, shown.things), _ground(shown))]
    return " , ".join(shuffled(said, rng)) + " ."


def boxed(thing: Thing, box: Box, shown: Scene) -> str:
    """A thing and its box in words."""
    return SENTENCES["boxed"].replace("{x}", thing.name).replace("{box}", edges(box, shown.world.picture))


def noisy_caption(shown: Scene, rng: np.random.Generator) -> str:
    """Like alt-text: some of the things, now and then a wrong one, a bare name, or nothing about the picture."""
    if rng.random() < _EMPTY:
        return SENTENCES["picture"].replace("{n}", str(int(rng.random() * 10)))
    some = shuffled(shown.things, rng)[: 1 + int(rng.random() * len(shown.things))]
    names = catalogue(shown.world).names
    seen = [pick(names, rng) if rng.random() < _WRONG else thing.name for thing in some]
    if rng.random() < _BARE:
        return seen[0]
    if rng.random() < 1 / 2:
        return SENTENCES["photo"].replace("{x}", f" {SENTENCES['and']} a ".join(seen))
    told = SENTENCES["item"]
    pairs = zip(seen, some, strict=True)
    return " , ".join(told.replace("{x}", name).replace("{place}", thing.place) for name, thing in pairs)


def phrases(shown: Scene, boxes: Sequence[Box]) -> list[str]:
    """Every true phrase of five forms: thing and place, sign and place, ground, number, place and box.

    The list is complete, so a phrase of another picture is true of this one exactly if it is in the list.
    """
    found = [item(thing)[:2] for thing in shown.things]
    read = [(thing.sign, thing.place) for thing in shown.things if thing.sign]
    said = [" ".join(pair) for pair in (*found, *read)]
    extents = [edges(box, shown.world.picture) for box in boxes]
    framed = [f"{thing.place} box {words}" for thing, words in zip(shown.things, extents, strict=True)]
    return [*said, " ".join(_ground(shown)), f"{len(shown.things)} things", *framed]
