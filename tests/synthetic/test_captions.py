"""Documents and captions, parsed by an independent reader; passages of interleaved documents fit their images."""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.synthetic.captions import (
    MAX_DOCUMENT_WORDS,
    noisy_caption,
    rich_caption,
    sample_document,
    sample_interleaved,
    true_phrases,
)
from firstsight.synthetic.catalog import world_rng
from firstsight.synthetic.rendering import cached_renderer
from firstsight.synthetic.scenes import Scene, sample_scene
from firstsight.synthetic.writers import scene_annotation
from tests.synthetic.world_reader import (
    CATALOG,
    DOCUMENTS,
    SITE,
    WORLD,
    answer_question,
    document_kind,
    parse_description,
    scene_facts,
)


def test_descriptions_in_documents_match_their_scenes() -> None:
    for index in range(300):
        text = sample_document(WORLD, index).text
        if document_kind(text) in ("questions", "repeated"):
            scene = sample_scene(WORLD, "text scene", index)
            assert parse_description(text.split(" . ")[0]) == scene_facts(scene)


def test_kinds_of_documents_have_the_declared_shares_and_fit_a_row() -> None:
    counts = Counter(document_kind(document.text) for document in DOCUMENTS)
    for kind, share in {"repeated": 0.40, "questions": 0.44, "kinds": 0.10, "sums": 0.06}.items():
        assert abs(counts[kind] / len(DOCUMENTS) - share) < 0.04
    assert max(len(document.text.split()) for document in DOCUMENTS) <= MAX_DOCUMENT_WORDS


def test_answers_are_right_and_only_they_have_loss() -> None:
    for document in DOCUMENTS:
        if document_kind(document.text) == "questions":
            description, _, turns = document.text.partition(" . ")
            pairs = re.findall(r"(.+?) <\|/h\|> (.+?) <\|/a\|>(?: |$)", turns)
            facts = parse_description(description)
            assert pairs and all(answer_question(facts, question) == answer for question, answer in pairs)
            assert [document.text[a:b] for a, b in document.loss_spans] == [f"{x} <|/a|>" for _, x in pairs]


def test_repeated_descriptions_are_equal_and_only_determined_words_have_loss() -> None:
    for document in DOCUMENTS:
        if document_kind(document.text) == "repeated":
            first, second = document.text.split(" . again ")
            assert parse_description(first) == parse_description(second)
            phrases = re.split(r" , ", second.removesuffix(" ."))
            without_loss = _remove_spans(document.text, document.loss_spans).split()
            assert without_loss == [*first.split(), ".", "again", *(phrase.split()[0] for phrase in phrases)]


def _remove_spans(text: str, spans: tuple[tuple[int, int], ...]) -> str:
    for start, stop in reversed(spans):
        text = text[:start] + text[stop:]
    return text


def test_facts_about_kinds_and_sums_are_true() -> None:
    kind_of = CATALOG.kind_of
    for document in DOCUMENTS:
        text = document.text
        for name, kind in re.findall(r"(?:^|[.>] )a (\S+) is a (\S+) \.", text):
            assert kind_of[name] == kind
        for name, kind, answer in re.findall(r"is a (\S+) a (\S+) <\|/h\|> (yes|no)", text):
            assert (kind_of[name] == kind) == (answer == "yes")
        for first, second, relation in re.findall(r"a (\S+) and a (\S+) are (same|other) kind", text):
            assert (kind_of[first] == kind_of[second]) == (relation == "same") and first != second
        for query, result in re.findall(r"((?:\d+ plus )+\d+) is (\d+)", text):
            assert sum(map(int, query.split(" plus "))) == int(result)


def test_kinds_are_mentioned_in_documents_about_kinds_alone() -> None:
    renderer = cached_renderer(WORLD, SITE.cache)
    kinds = set(CATALOG.kinds) | {"kind"}
    for document in DOCUMENTS:
        if document_kind(document.text) in ("questions", "repeated"):
            assert not kinds & set(document.text.split())
    for index in range(500):
        scene = sample_scene(WORLD, "captions", index)
        boxes, rng = renderer.boxes(scene), world_rng(WORLD, "test", index)
        texts = [
            rich_caption(scene, boxes, rng),
            noisy_caption(scene, rng),
            *true_phrases(scene, boxes),
            json.dumps(scene_annotation(scene, boxes)),
        ]
        assert not kinds & set(" ".join(texts).replace('"', " ").split())


def test_rich_captions_are_true_and_complete(sources_folder: Path) -> None:
    with tarfile.open(sources_folder / "rich/00000.tar") as tar:
        names = tar.getnames()
        files = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert names[:3] == ["00000000.json", "00000000.png", "00000000.txt"] and len(names) == 600
    box_captions = 0
    for index in range(200):
        facts, caption = json.loads(files[f"{index:08d}.json"]), files[f"{index:08d}.txt"].decode()
        objects = {obj["place"]: (obj["name"], obj["sign"]) for obj in facts["things"]}
        if " box " in caption:
            box_captions += 1
            boxes = dict(re.findall(r"(\S+) box (\S+ \S+ \S+ \S+)", caption))
            assert boxes.keys() == {obj["name"] for obj in facts["things"]}
            assert all(f"{obj['place']} box {boxes[obj['name']]}" in facts["phrases"] for obj in facts["things"])
        else:
            assert parse_description(caption) == {"at": objects, "ground": facts["ground"]}
        assert {f"{name} {place}" for place, (name, _) in objects.items()} <= set(facts["phrases"])
    assert 40 < box_captions < 95


def test_noisy_captions_are_partial_and_sometimes_wrong(sources_folder: Path) -> None:
    with tarfile.open(sources_folder / "noisy/00000.tar") as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    right = wrong = 0
    for index in range(200):
        present = {obj["name"] for obj in json.loads(members[f"{index:08d}.json"])["things"]}
        names = [word for word in members[f"{index:08d}.txt"].decode().split() if word in CATALOG.names]
        right, wrong = right + sum(n in present for n in names), wrong + sum(n not in present for n in names)
    assert 0.05 < wrong / (right + wrong) < 0.25


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
