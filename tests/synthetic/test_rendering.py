"""Images of scenes, compared pixel by pixel with images without an object, and read back with Pillow."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from firstsight.synthetic.catalog import PLACES, SIGNS
from firstsight.synthetic.rendering import Renderer, cached_renderer, encode_png
from firstsight.synthetic.scenes import sample_scene
from tests.synthetic.world_reader import SITE, WORLD, sample_scenes


@pytest.mark.parametrize("image_size", [48, 96])
def test_a_box_contains_the_pixels_that_change_without_its_object(image_size: int) -> None:
    world = replace(WORLD, image_size=image_size)
    renderer = cached_renderer(world, SITE.cache)
    for scene in sample_scenes("captions", 40, world=world):
        image = renderer.render(scene).astype(int)
        for number, box in enumerate(renderer.boxes(scene)):
            rest = replace(scene, objects=scene.objects[:number] + scene.objects[number + 1 :])
            changed = np.abs(image - renderer.render(rest)).sum(2) > 0
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            inward = (edges - np.array(box)) * np.array([1, 1, -1, -1])
            assert (inward >= 0).all() and (inward <= 1 + image_size // 48).all()


def test_an_object_is_inside_its_cell() -> None:
    renderer = cached_renderer(WORLD, SITE.cache)
    for scene in sample_scenes("captions", 500):
        for obj, (left, top, right, bottom) in zip(scene.objects, renderer.boxes(scene), strict=True):
            column, row = PLACES.index(obj.place) % 2 * 24, PLACES.index(obj.place) // 2 * 24
            assert column <= left < right <= column + 24 and row <= top < bottom <= row + 24


@pytest.mark.slow
def test_drawings_are_rasterised_again_where_the_cache_is_damaged(tmp_path: Path) -> None:
    Renderer(WORLD, tmp_path)
    [file] = tmp_path.iterdir()
    data = file.read_bytes()
    middle = len(data) // 2
    for damaged in (b"", data[:middle], data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]):
        file.write_bytes(damaged)
        Renderer(WORLD, tmp_path)
        assert file.read_bytes() == data


def test_images_do_not_depend_on_the_cache_or_on_earlier_images(tmp_path: Path) -> None:
    new, used = Renderer(WORLD, tmp_path), cached_renderer(WORLD, SITE.cache)
    for scene in sample_scenes("dialogues", 5):
        assert (new.render(scene) == used.render(scene)).all()
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_signs_differ_by_more_than_noise() -> None:
    renderer = cached_renderer(WORLD, SITE.cache)
    scene = next(s for s in sample_scenes("captions", 50) if len(s.objects) == 1 and s.objects[0].sign)
    scenes = [replace(scene, objects=(replace(scene.objects[0], sign=sign),)) for sign in SIGNS]
    images = [renderer.render(scene).astype(int) for scene in scenes]
    differences = [(np.abs(a - b).max(2) > 100).sum() for n, a in enumerate(images) for b in images[:n]]
    assert min(differences) >= 4


def test_png_is_read_by_pillow() -> None:
    pixels = cached_renderer(WORLD, SITE.cache).render(sample_scene(WORLD, "captions", 3))
    assert (np.asarray(Image.open(io.BytesIO(encode_png(pixels)))) == pixels).all()
