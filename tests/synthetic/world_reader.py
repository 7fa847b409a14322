"""A small synthetic world, and an independent reader of its texts that shares no code with the generators."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from firstsight.recipe.mixture import SyntheticWorld
from firstsight.site import Site
from firstsight.synthetic.captions import sample_document
from firstsight.synthetic.catalog import PLACES, load_catalog
from firstsight.synthetic.scenes import Scene, sample_scene

WORLD = SyntheticWorld(objects=48, kinds=8, image_size=48, max_objects=4, seed=0)
SITE = Site(cache=Path(tempfile.gettempdir()) / "firstsight-tests")
CATALOG = load_catalog(WORLD)
DOCUMENTS = [sample_document(WORLD, index) for index in range(2000)]
OBJECT = re.compile(r"(?:(\S+) )?(top-left|top-right|bottom-left|bottom-right)(?: (?!with)(\S+))?(?: with (\S+))?")
OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
NEIGHBOR_SIDE = {"right-of": "left", "left-of": "right", "above": "bottom", "below": "top"}


def sample_scenes(part: str, count: int, *, world: SyntheticWorld = WORLD) -> list[Scene]:
    return [sample_scene(world, part, index) for index in range(count)]


def scene_facts(scene: Scene) -> dict[str, Any]:
    """A scene in the form of `parse_description`."""
    return {"at": {obj.place: (obj.name, obj.sign) for obj in scene.objects}, "ground": scene.ground}


def parse_description(text: str) -> dict[str, Any]:
    """The content of a description: {"at": {place: (name, sign)}, "ground": color}."""
    facts: dict[str, Any] = {"at": {}}
    for phrase in text.removesuffix(" .").split(" , "):
        if phrase.startswith("ground "):
            facts["ground"] = phrase.split()[1]
        else:
            match = OBJECT.fullmatch(phrase)
            assert match is not None, phrase
            before, place, after, sign = match.groups()
            facts["at"][place] = (before or after, sign)
    return facts


def answer_question(facts: dict[str, Any], question: str) -> str:
    """The answer to a question about a described scene, from the question's words alone."""
    at = facts["at"]
    place_of = {name: place for place, (name, _) in at.items()}
    names = [word for word in question.split() if word in CATALOG.names]
    if "colour" in question:
        return facts["ground"]
    if "many" in question or "number" in question:
        return str(len(at))
    if "word" in question:
        return at[place_of[names[0]]][1]
    if "kind" in question:
        return CATALOG.kind_of[at[next(word for word in question.split() if word in PLACES)][0]]
    if re.search(r"\b(where|place)\b", question):
        return place_of.get(names[0], "unanswerable")
    if match := re.search(r"(right-of|left-of|above|below) the (\S+)", question):
        relation, name = match.groups()
        row, column = place_of[name].split("-")
        assert NEIGHBOR_SIDE[relation] in (row, column)
        is_horizontal = relation.endswith("of")
        return at[f"{row}-{OPPOSITE[column]}" if is_horizontal else f"{OPPOSITE[row]}-{column}"][0]
    if names:
        places = [word for word in question.split() if word in PLACES]
        is_there = place_of.get(names[0]) in places if places else names[0] in place_of
        return "yes" if is_there else "no"
    return at[next(word for word in question.split() if word in PLACES)][0]


def document_kind(text: str) -> str:
    if " . again " in text:
        return "repeated"
    if " plus " in text:
        return "sums"
    return "questions" if any(place in text for place in PLACES) else "kinds"


def read_dialogues(folder: Path) -> list[tuple[int, str, str]]:
    """(index of the scene, question, answer) of every turn of a written source of dialogues."""
    turns = []
    for record in json.loads((folder / "dialogues.json").read_text()):
        values = [turn["value"] for turn in record["conversations"]]
        assert values[0].startswith("<image>\n") and not any("<image>" in value for value in values[1:])
        assert len(set(values[::2])) == len(values) // 2 == 3
        pairs = zip(values[::2], values[1::2], strict=True)
        turns += [(int(record["id"]), question.removeprefix("<image>\n"), answer) for question, answer in pairs]
    return turns
