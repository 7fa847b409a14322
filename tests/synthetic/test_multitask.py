"""Multitask data: exact shares of every prefix, true answers by the independent reader, and no task in another."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.recipe.mixture import SyntheticMultitask
from firstsight.synthetic.catalog import SIGNS
from firstsight.synthetic.multitask import multitask_order, multitask_record
from firstsight.synthetic.questions import box_words
from firstsight.synthetic.rendering import cached_renderer
from firstsight.synthetic.vocabulary import CAPTION_REQUESTS, EDGE_WORDS, vocabulary_words
from firstsight.units import Share
from tests.synthetic.world_reader import CATALOG, SITE, WORLD, answer_question, parse_description, scene_facts

QUARTERS = SyntheticMultitask(
    world=WORLD, images=400, turns=3, **dict.fromkeys(("captions", "words", "boxes", "dialogues"), Share(1, 4))
)
RENDERER = cached_renderer(WORLD, SITE.cache)


def spec_with(weights: list[int], images: int) -> SyntheticMultitask:
    captions, words, boxes, dialogues = (Share(weight, sum(weights)) for weight in weights)
    return replace(QUARTERS, images=images, captions=captions, words=words, boxes=boxes, dialogues=dialogues)


four_weights = st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any)


@given(weights=four_weights, images=st.integers(1, 400))
def test_every_prefix_has_the_declared_shares(weights: list[int], images: int) -> None:
    """As rows of a mixture: the first task is exact, no task is off by as many records as there are tasks."""
    spec = spec_with(weights, images)
    counts = Counter[str]()
    for images_before, (task, number) in enumerate(multitask_order(spec)):
        assert number == counts[task]
        counts[task] += 1
        assert counts["captions"] == int((images_before + 1) * spec.captions)
        assert all(abs(counts[name] - (images_before + 1) * share) < 4 for name, share in spec.shares.items())
        assert all(counts[name] == 0 for name, share in spec.shares.items() if share == 0)


@given(weights=four_weights, images=st.integers(1, 300), more=st.integers(0, 300))
def test_a_larger_source_begins_with_the_smaller_one(weights: list[int], images: int, more: int) -> None:
    assert multitask_order(spec_with(weights, images + more))[:images] == multitask_order(spec_with(weights, images))


@pytest.mark.parametrize("task", QUARTERS.shares)
def test_answers_are_true_of_the_scene(task: str) -> None:
    for number in range(150):
        record = multitask_record(QUARTERS, RENDERER, task=task, number=number)
        facts = scene_facts(record.scene)
        boxes = [box_words(box, WORLD.image_size) for box in RENDERER.boxes(record.scene)]
        box_of = dict(zip([obj.name for obj in record.scene.objects], boxes, strict=True))
        assert 1 <= len(record.turns) <= (1 if task == "captions" else 3)
        assert all(CATALOG.held_out_place.get(obj.name) != obj.place for obj in record.scene.objects)
        for question, answer in record.turns:
            if task == "captions":
                unsigned = {place: (name, None) for place, (name, _) in facts["at"].items()}
                assert parse_description(answer) == {"at": unsigned, "ground": facts["ground"]}
            elif task == "boxes" and " box 0." in question:
                assert box_of[answer] == question.partition(" box ")[2]
            elif task == "boxes":
                assert box_of[question.split()[-1]] == answer
            else:
                assert answer_question(facts, question) == answer


def test_every_image_has_a_question_where_most_types_have_none() -> None:
    """Of 3,000 scenes a few have none of the types that the first draws choose, with one question an image."""
    spec = replace(QUARTERS, turns=1)
    records = (multitask_record(spec, RENDERER, task="dialogues", number=number) for number in range(3000))
    assert all(len(record.turns) == 1 for record in records)


def test_records_are_the_same_whatever_the_shares() -> None:
    other = spec_with([0, 1, 0, 5], 7)
    for task in QUARTERS.shares:
        records = (multitask_record(spec, RENDERER, task=task, number=11) for spec in (QUARTERS, other))
        assert next(records) == next(records)


def test_each_task_alone_has_its_words_and_none_names_a_kind(sources_folder: Path) -> None:
    """Signs and boxes occur in one task each; the kinds of objects in none."""
    records = json.loads((sources_folder / "multitask/dialogues.json").read_text())
    known = set(vocabulary_words(WORLD))
    words: dict[str, set[str]] = {task: set() for task in QUARTERS.shares}
    for record in records:
        task = record["id"].partition("-")[0]
        values = [turn["value"].removeprefix("<image>\n") for turn in record["conversations"]]
        words[task] |= {word for value in values for word in value.split()}
        assert record["image"] == f"{record['id']}.png" and (values[0] in CAPTION_REQUESTS) == (task == "captions")
    assert all(task_words <= known for task_words in words.values())
    assert all(not task_words & set(CATALOG.kinds) for task_words in words.values())
    assert {task for task, task_words in words.items() if task_words & set(SIGNS)} == {"words"}
    assert {task for task, task_words in words.items() if task_words & set(EDGE_WORDS)} == {"boxes"}
    assert Counter(record["id"].partition("-")[0] for record in records) == Counter(dict.fromkeys(words, 100))
