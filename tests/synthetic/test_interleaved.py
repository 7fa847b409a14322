"""Interleaved documents: every passage, parsed by the independent reader, is true of the image before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.synthetic.interleaved import sample_interleaved
from firstsight.synthetic.scenes import Scene
from tests.synthetic.world_reader import CATALOG, WORLD, parse_description, scene_facts


def is_true_of(scene: Scene, text: str) -> bool:
    """Whether a description, complete or not, or `photo of a ...`, is true of a scene."""
    facts = scene_facts(scene)
    if text.startswith("photo of a "):
        names = {name for name, _ in facts["at"].values()}
        return set(text.removeprefix("photo of a ").removesuffix(" .").split(" and a ")) <= names
    described = parse_description(text)
    if "ground" in described:
        return described == facts
    return all(facts["at"].get(place, ("",))[0] == name for place, (name, _) in described["at"].items())


@settings(max_examples=300, deadline=None)
@given(index=st.integers(0, 2**31), images=st.integers(1, 5))
def test_every_passage_is_true_of_the_image_before_it(index: int, images: int) -> None:
    parts = list(sample_interleaved(WORLD, index, images=images))
    opening = parts.pop(0) if isinstance(parts[0], str) else None
    scenes, passages = parts[::2], parts[1::2]
    assert len(scenes) == len(passages) == images
    for scene, passage in zip(scenes, passages, strict=True):
        assert isinstance(scene, Scene) and isinstance(passage, str) and passage.endswith(" .")
        assert is_true_of(scene, passage.partition(" . again ")[0])
        assert all(CATALOG.held_out_place.get(obj.name) != obj.place for obj in scene.objects)
    if isinstance(opening, str):
        names = opening.removeprefix("photo of a ").removesuffix(" .").split(" and a ")
        assert all(is_true_of(scene, f"photo of a {name}") for scene, name in zip(scenes, names, strict=True))
    recalled = passages[-1].partition(" . again ")[2]
    assert not recalled or any(parse_description(recalled) == scene_facts(scene) for scene in scenes)


@given(index=st.integers(0, 2**31), images=st.integers(1, 4))
def test_a_longer_document_begins_with_the_same_images(index: int, images: int) -> None:
    short, long = (
        [part for part in sample_interleaved(WORLD, index, images=count) if isinstance(part, Scene)]
        for count in (images, images + 1)
    )
    assert long[:images] == short


def read_documents(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in zstandard.open(folder / "documents-00000.jsonl.zst", "rt", encoding="utf-8")]


def test_documents_have_one_to_the_most_images_equally_often_and_no_kinds(sources_folder: Path) -> None:
    documents = read_documents(sources_folder / "interleaved")
    assert [sum(image is not None for image in document["images"]) for document in documents] == [1, 2, 3] * 40
    words = {word for document in documents for text in document["texts"] if text for word in text.split()}
    assert not words & set(CATALOG.kinds)
    openings = sum(document["images"][0] is None for document in documents)
    recalls = sum(" . again " in document["texts"][-1] for document in documents)
    assert 20 < openings < 55 and 20 < recalls < 60
