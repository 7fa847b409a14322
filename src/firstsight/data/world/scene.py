"""What stands where in one picture: the truth that drawings, captions, questions and told scenes share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from firstsight.data.world.things import GROUNDS, PLACES, SIGNS, Catalogue, catalogue, pick, shuffled, stream
from firstsight.recipe.mix import World

_SAME_KIND = 0.4
_TRIES = 12
_SHAPES = 4
_SHADES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """How scenes are drawn."""

    fewest: int
    """Least number of objects. From 1, all numbers are equally likely; from 2, a number is as likely as it is large."""
    unseen: bool
    """Only (object, place) pairs that training never shows, or only those that it may show."""
    signs: float
    """Chance of a sign on each object."""
    clutter: float
    """Chance of clutter around the objects."""


Pools = dict[str, tuple[str, ...]]
"""Place to what may stand there."""

TRAIN = Law(fewest=1, unseen=False, signs=0.5, clutter=0.25)


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One object, and how it lies in its cell: draws in [0, 1) for size, place across and down, sign's shift."""

    name: str
    place: str
    sign: str | None
    mirrored: bool
    pose: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speck:
    """A small neutral shape at draws in [0, 1) of the picture's width and height."""

    x: float
    y: float
    shape: int
    shade: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One picture's truth. Things are in raster order, with different names and different signs."""

    world: World
    things: tuple[Thing, ...]
    ground: str
    clutter: tuple[Speck, ...]
    light: tuple[float, float, float]
    """Draws in [0, 1): direction of the ground's gradient, place in the noise."""

    def at(self, place: str) -> Thing | None:
        """What stands at `place`."""
        return next((thing for thing in self.things if thing.place == place), None)


def scene(world: World, part: str, index: int, *, law: Law = TRAIN) -> Scene:
    """Scene `index` of `part`: a pure function of its arguments."""
    known = catalogue(world)
    rng = stream(world, part, index)
    pools = known.unseen_at if law.unseen else known.seen_at
    places = [place for place in PLACES if pools[place]]
    many = min(_many(world.crowd, law, rng), len(places))
    chosen = shuffled(places, rng)[:many]
    names = _names(known, pools, places=chosen, rng=rng)
    signs = shuffled(SIGNS, rng)
    things = tuple(
        _thing(names[place], place, sign=signs[i] if rng.random() < law.signs else None, rng=rng)
        for i, place in enumerate(PLACES)
        if place in names
    )
    ground = pick(GROUNDS, rng)
    specks = int(6 + 5 * rng.random()) if rng.random() < law.clutter else 0
    return Scene(
        world=world,
        things=things,
        ground=ground,
        clutter=tuple(_speck(rng) for _ in range(specks)),
        light=(rng.random(), rng.random(), rng.random()),
    )


def _many(crowd: int, law: Law, rng: np.random.Generator) -> int:
    if law.fewest == 1:
        return 1 + int(rng.random() * crowd)
    counts = [n for n in range(min(law.fewest, crowd), crowd + 1) for _ in range(n)]
    return pick(counts, rng)


def _names(known: Catalogue, pools: Pools, *, places: list[str], rng: np.random.Generator) -> dict[str, str]:
    """A name for every place; in 40 % of scenes the first two share a kind, other kinds differ where they can."""
    names: dict[str, str] = {}
    same = len(places) > 1 and rng.random() < _SAME_KIND
    for number, place in enumerate(places):
        kinds = {known.kind_of[name] for name in names.values()}
        if same and number == 1:
            alike = [name for name in pools[place] if known.kind_of[name] in kinds and name not in names.values()]
            if alike:
                names[place] = pick(alike, rng)
                continue
        tries = [pools[place][int(draw * len(pools[place]))] for draw in rng.random(_TRIES).tolist()]
        apart = (name for name in tries if known.kind_of[name] not in kinds)
        other = (name for name in (*tries, *pools[place]) if name not in names.values())
        names[place] = next(apart, None) or next(other)
    return names


def _thing(name: str, place: str, *, sign: str | None, rng: np.random.Generator) -> Thing:
    a, b, c, d, e = rng.random(5).tolist()
    return Thing(name=name, place=place, sign=sign, mirrored=a < 0.5, pose=(b, c, d, e))


def _speck(rng: np.random.Generator) -> Speck:
    a, b, c, d = rng.random(4).tolist()
    return Speck(x=a, y=b, shape=int(c * _SHAPES), shade=int(d * _SHADES))
