"""Scenes: which objects an image contains and where. Images, captions, questions and texts are made from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from firstsight.errors import QuantityError
from firstsight.recipe.mixture import SyntheticWorld
from firstsight.synthetic.catalog import (
    GROUND_COLORS,
    PLACES,
    SIGNS,
    Catalog,
    load_catalog,
    shuffled_list,
    uniform_choice,
    world_rng,
)

PlacePairs = Literal["training", "held_out", "all"]
_SAME_KIND_PROBABILITY = 0.4
_NAME_DRAWS = 12
_SHAPE_COUNT = 4
_SHADE_COUNT = 5
_MAX_ATTEMPTS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneDistribution:
    """The distribution that scenes are sampled from."""

    min_objects: int
    """With 1, all counts are equally likely; with 2 or more, the probability of a count is proportional to it."""
    pairs: PlacePairs
    """The (object, place) pairs that are used."""
    sign_probability: float
    """Probability of a sign on each object."""
    clutter_probability: float
    """Probability of clutter around the objects."""


TRAINING_DISTRIBUTION = SceneDistribution(
    min_objects=1, pairs="training", sign_probability=0.5, clutter_probability=0.25
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One object; `draws` in [0, 1) are for size, x and y offset in the cell, x offset of the sign."""

    name: str
    place: str
    sign: str | None
    is_mirrored: bool
    draws: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClutterShape:
    """A small neutral shape at (x, y) in [0, 1) of the image's width and height."""

    x: float
    y: float
    shape: int
    shade: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The content of one image. Objects are in raster order of their places, with different names and signs."""

    world: SyntheticWorld
    objects: tuple[SceneObject, ...]
    ground: str
    clutter: tuple[ClutterShape, ...]
    background_draws: tuple[float, float, float]
    """Draws in [0, 1): direction of the ground's gradient, then x and y of the crop of the noise image."""

    def object_at(self, place: str) -> SceneObject | None:
        """The object at `place`, if there is one."""
        return next((obj for obj in self.objects if obj.place == place), None)


def sample_scene(
    world: SyntheticWorld, purpose: str, index: int, *, distribution: SceneDistribution = TRAINING_DISTRIBUTION
) -> Scene:
    """Scene number `index` for `purpose` (captions, dialogues, a benchmark, ...): a pure function of its arguments."""
    catalog = load_catalog(world)
    rng = world_rng(world, purpose, index)
    names_by_place = catalog.names_by_place[distribution.pairs]
    places = [place for place in PLACES if names_by_place[place]]
    object_count = min(_sample_object_count(world.max_objects, distribution, rng), len(places))
    occupied = shuffled_list(places, rng)[:object_count]
    names = _sample_names(catalog, names_by_place, places=occupied, rng=rng)
    signs = shuffled_list(SIGNS, rng)
    objects = tuple(
        _sample_object(
            names[place], place, sign=sign if rng.random() < distribution.sign_probability else None, rng=rng
        )
        for place, sign in zip(PLACES, signs, strict=False)
        if place in names
    )
    ground = uniform_choice(GROUND_COLORS, rng)
    clutter_count = int(6 + 5 * rng.random()) if rng.random() < distribution.clutter_probability else 0
    return Scene(
        world=world,
        objects=objects,
        ground=ground,
        clutter=tuple(_sample_clutter(rng) for _ in range(clutter_count)),
        background_draws=(rng.random(), rng.random(), rng.random()),
    )


def find_scene(
    world: SyntheticWorld,
    purpose: str,
    index: int,
    *,
    distribution: SceneDistribution,
    is_suitable: Callable[[Scene], bool],
) -> Scene:
    """The first suitable scene number `index` for `purpose`; QuantityError where the world is too small for it."""
    for attempt in range(_MAX_ATTEMPTS):
        scene = sample_scene(world, purpose, index + (attempt << 32), distribution=distribution)
        if is_suitable(scene):
            return scene
    raise QuantityError(
        f"{purpose}: wanted a scene with at least two possible answers. Got none in {_MAX_ATTEMPTS} scenes of a "
        f"world with max_objects={world.max_objects}, objects={world.objects}, kinds={world.kinds}. "
        "Raise max_objects or objects."
    )


def _sample_object_count(max_objects: int, distribution: SceneDistribution, rng: np.random.Generator) -> int:
    if distribution.min_objects == 1:
        return 1 + int(rng.random() * max_objects)
    counts = range(min(distribution.min_objects, max_objects), max_objects + 1)
    return uniform_choice([count for count in counts for _ in range(count)], rng)


def _sample_names(
    catalog: Catalog, names_by_place: dict[str, tuple[str, ...]], *, places: list[str], rng: np.random.Generator
) -> dict[str, str]:
    """A name for every place. In 40 % of scenes the first two share a kind; all other kinds differ where possible."""
    names: dict[str, str] = {}
    shares_kind = len(places) > 1 and rng.random() < _SAME_KIND_PROBABILITY
    for index, place in enumerate(places):
        kinds, options, used = {catalog.kind_of[name] for name in names.values()}, names_by_place[place], names.values()
        if shares_kind and index == 1:
            same_kind = [name for name in options if catalog.kind_of[name] in kinds and name not in used]
            if same_kind:
                names[place] = uniform_choice(same_kind, rng)
                continue
        candidates = [options[int(draw * len(options))] for draw in rng.random(_NAME_DRAWS).tolist()]
        other_kinds = (name for name in candidates if catalog.kind_of[name] not in kinds)
        names[place] = next(other_kinds, None) or next(name for name in (*candidates, *options) if name not in used)
    return names


def _sample_object(name: str, place: str, *, sign: str | None, rng: np.random.Generator) -> SceneObject:
    mirror, size, x, y, sign_draw = rng.random(5).tolist()
    return SceneObject(name=name, place=place, sign=sign, is_mirrored=mirror < 0.5, draws=(size, x, y, sign_draw))


def _sample_clutter(rng: np.random.Generator) -> ClutterShape:
    x, y, shape_draw, shade_draw = rng.random(4).tolist()
    return ClutterShape(x=x, y=y, shape=int(shape_draw * _SHAPE_COUNT), shade=int(shade_draw * _SHADE_COUNT))
