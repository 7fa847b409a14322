"""What stands where in one picture: the truth that drawings, captions, questions and told scenes share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from firstsight.recipe.mixture import SyntheticWorld
from firstsight.synthetic.catalog import (
    GROUNDS,
    PLACES,
    SIGNS,
    Catalog,
    catalog,
    shuffled_list,
    uniform_choice,
    world_rng,
)

_SAME_KIND_PROBABILITY = 0.4
_NAME_DRAWS = 12
_SHAPE_COUNT = 4
_SHADE_COUNT = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneDistribution:
    """How scenes are drawn."""

    min_objects: int
    """Least number of objects. From 1, all numbers are equally likely; from 2, a number is as likely as it is large."""
    is_unseen: bool
    """Only (object, place) pairs that training never shows, or only those that it may show."""
    sign_probability: float
    """Chance of a sign on each object."""
    clutter_probability: float
    """Chance of clutter around the objects."""


NamesByPlace = dict[str, tuple[str, ...]]
"""Place to what may stand there."""

TRAINING_DISTRIBUTION = SceneDistribution(
    min_objects=1, is_unseen=False, sign_probability=0.5, clutter_probability=0.25
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One object, and how it lies in its cell: draws in [0, 1) for size, place across and down, sign's shift."""

    name: str
    place: str
    sign: str | None
    is_mirrored: bool
    pose: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClutterShape:
    """A small neutral shape at draws in [0, 1) of the picture's width and height."""

    x: float
    y: float
    shape: int
    shade: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One picture's truth. Things are in raster order, with different names and different signs."""

    world: SyntheticWorld
    objects: tuple[SceneObject, ...]
    ground: str
    clutter: tuple[ClutterShape, ...]
    light: tuple[float, float, float]
    """Draws in [0, 1): direction of the ground's gradient, place in the noise."""

    def object_at(self, place: str) -> SceneObject | None:
        """What stands at `place`."""
        return next((scene_object for scene_object in self.objects if scene_object.place == place), None)


def sample_scene(
    world: SyntheticWorld, purpose: str, index: int, *, distribution: SceneDistribution = TRAINING_DISTRIBUTION
) -> Scene:
    """Scene `index` of `part`: a pure function of its arguments."""
    world_catalog = catalog(world)
    rng = world_rng(world, purpose, index)
    names_by_place = world_catalog.held_out_names if distribution.is_unseen else world_catalog.training_names
    places = [place for place in PLACES if names_by_place[place]]
    object_count = min(_sample_object_count(world.max_objects, distribution, rng), len(places))
    occupied_places = shuffled_list(places, rng)[:object_count]
    names = _sample_names(world_catalog, names_by_place, places=occupied_places, rng=rng)
    signs = shuffled_list(SIGNS, rng)
    objects = tuple(
        _sample_object(
            names[place],
            place,
            sign=signs[place_index] if rng.random() < distribution.sign_probability else None,
            rng=rng,
        )
        for place_index, place in enumerate(PLACES)
        if place in names
    )
    ground = uniform_choice(GROUNDS, rng)
    clutter_count = int(6 + 5 * rng.random()) if rng.random() < distribution.clutter_probability else 0
    return Scene(
        world=world,
        objects=objects,
        ground=ground,
        clutter=tuple(_sample_clutter(rng) for _ in range(clutter_count)),
        light=(rng.random(), rng.random(), rng.random()),
    )


def _sample_object_count(max_objects: int, distribution: SceneDistribution, rng: np.random.Generator) -> int:
    if distribution.min_objects == 1:
        return 1 + int(rng.random() * max_objects)
    counts = [
        count for count in range(min(distribution.min_objects, max_objects), max_objects + 1) for _ in range(count)
    ]
    return uniform_choice(counts, rng)


def _sample_names(
    world_catalog: Catalog, names_by_place: NamesByPlace, *, places: list[str], rng: np.random.Generator
) -> dict[str, str]:
    """A name for every place; in 40 % of scenes the first two share a kind, other kinds differ where they can."""
    names: dict[str, str] = {}
    shares_kind = len(places) > 1 and rng.random() < _SAME_KIND_PROBABILITY
    for place_index, place in enumerate(places):
        kinds = {world_catalog.kind_of[name] for name in names.values()}
        if shares_kind and place_index == 1:
            same_kind_names = [
                name
                for name in names_by_place[place]
                if world_catalog.kind_of[name] in kinds and name not in names.values()
            ]
            if same_kind_names:
                names[place] = uniform_choice(same_kind_names, rng)
                continue
        candidates = [
            names_by_place[place][int(draw * len(names_by_place[place]))] for draw in rng.random(_NAME_DRAWS).tolist()
        ]
        other_kind_names = (name for name in candidates if world_catalog.kind_of[name] not in kinds)
        unused_names = (name for name in (*candidates, *names_by_place[place]) if name not in names.values())
        names[place] = next(other_kind_names, None) or next(unused_names)
    return names


def _sample_object(name: str, place: str, *, sign: str | None, rng: np.random.Generator) -> SceneObject:
    mirror_draw, size_draw, x_draw, y_draw, sign_draw = rng.random(5).tolist()
    return SceneObject(
        name=name, place=place, sign=sign, is_mirrored=mirror_draw < 0.5, pose=(size_draw, x_draw, y_draw, sign_draw)
    )


def _sample_clutter(rng: np.random.Generator) -> ClutterShape:
    x, y, shape_draw, shade_draw = rng.random(4).tolist()
    return ClutterShape(x=x, y=y, shape=int(shape_draw * _SHAPE_COUNT), shade=int(shade_draw * _SHADE_COUNT))
