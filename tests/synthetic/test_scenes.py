"""Scenes: pure functions of their index, with the declared distributions and without held-out combinations."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight import synthetic
from firstsight.errors import QuantityError
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.synthetic.catalog import PLACES
from firstsight.synthetic.scenes import TRAINING_DISTRIBUTION, sample_scene
from tests.synthetic.world_reader import CATALOG, SITE, WORLD, sample_scenes


@given(index=st.integers(0, 10**9), seed=st.integers(0, 10**6), max_objects=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_scene_is_a_pure_function(index: int, seed: int, max_objects: int) -> None:
    world = replace(WORLD, seed=seed, max_objects=max_objects)
    scene = sample_scene(world, "captions", index)
    sample_scene(world, "captions", index + 1)
    assert scene == sample_scene(replace(world), "captions", index)
    assert scene != sample_scene(world, "dialogues", index)
    places = [PLACES.index(obj.place) for obj in scene.objects]
    assert places == sorted(set(places)) and 1 <= len(places) <= max_objects
    assert len({obj.name for obj in scene.objects}) == len(places)


@pytest.mark.parametrize("part", ["captions", "dialogues", "text scene"])
def test_training_scenes_have_all_combinations_but_the_held_out_ones(part: str) -> None:
    held_out = CATALOG.held_out_place.items()
    combinations = {(obj.name, obj.place) for scene in sample_scenes(part, 2000) for obj in scene.objects}
    assert not combinations & set(held_out)
    assert len(combinations) == 48 * 4 - len(held_out)


def test_unseen_scenes_have_only_held_out_combinations() -> None:
    distribution = replace(TRAINING_DISTRIBUTION, min_objects=2, pairs="held_out")
    scenes = [sample_scene(WORLD, "exam", index, distribution=distribution) for index in range(500)]
    combinations = {(obj.name, obj.place) for scene in scenes for obj in scene.objects}
    assert combinations == set(CATALOG.held_out_place.items())
    assert {len(scene.objects) for scene in scenes} == {2, 3, 4}


def test_scenes_of_all_pairs_have_seen_and_held_out_combinations() -> None:
    distribution = replace(TRAINING_DISTRIBUTION, pairs="all")
    scenes = [sample_scene(WORLD, "captions", index, distribution=distribution) for index in range(2000)]
    assert len({(obj.name, obj.place) for scene in scenes for obj in scene.objects}) == 48 * 4


def test_shares_of_scenes_are_as_declared() -> None:
    scenes = sample_scenes("captions", 2500)
    counts = Counter(len(scene.objects) for scene in scenes)
    assert all(abs(counts[n] / 2500 - 1 / 4) < 0.03 for n in range(1, 5))
    kinds = [[CATALOG.kind_of[obj.name] for obj in scene.objects] for scene in scenes if len(scene.objects) > 1]
    assert abs(np.mean([len(set(scene_kinds)) < len(scene_kinds) for scene_kinds in kinds]) - 0.40) < 0.04
    assert abs(np.mean([bool(scene.clutter) for scene in scenes]) - 0.25) < 0.03
    assert abs(np.mean([obj.sign is not None for scene in scenes for obj in scene.objects]) - 0.5) < 0.03


def test_a_world_that_is_too_small_is_refused(tmp_path: Path) -> None:
    spec = SyntheticBenchmarks(world=replace(WORLD, max_objects=1), questions=4)
    with pytest.raises(QuantityError, match="Raise max_objects"):
        synthetic.write_benchmarks(spec, inputs={}, out=tmp_path, site=SITE, on_progress=lambda _: None)
