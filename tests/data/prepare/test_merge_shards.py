"""Merged parts: image numbers of shared and of separate images."""

from __future__ import annotations

import json

import numpy as np

from tests.data.conftest import Workshop

from .conftest import equal_folders


def dialogue_row(image: str, word: int) -> dict[str, object]:
    turns = [("human", f"<image>\nw{word}"), ("gpt", "w1")]
    return {"image": image, "conversations": [{"from": role, "value": value} for role, value in turns]}


def test_shared_image_has_one_number(workshop: Workshop) -> None:
    folder = workshop.dialogues(
        [dialogue_row("b.png", 0), dialogue_row("a.png", 1), dialogue_row("b.png", 2)], ["a.png", "b.png", "c.png"]
    )
    rows = [dialogue_row("c.png", 3), dialogue_row("b.png", 4), dialogue_row("a.png", 5)]
    (folder / "more.json").write_text(json.dumps(rows))
    index = workshop.prepare(folder, "dialogues")
    assert index.image_refs["picture"].tolist() == [0, 1, 0, 2, 0, 1]
    assert len(index.images) == 3 == len(set(index.images["offset"].tolist()))
    assert equal_folders(index.path, workshop.prepare(folder, "dialogues", "two", readers=2).path)


def test_images_of_several_tars_are_numbered_consecutively(workshop: Workshop) -> None:
    folder = workshop.captions(["w1", "w2", "w3"])
    (folder / "00001.tar").write_bytes((folder / "00000.tar").read_bytes())
    index = workshop.prepare(folder, "captions")
    assert index.image_refs["picture"].tolist() == list(range(6))
    assert index.images["shard"].tolist() == [0, 0, 0, 1, 1, 1] and index.image_shards == ("00000.tar", "00001.tar")
    assert np.array_equal(index.images["offset"][:3], index.images["offset"][3:])
    manifest = json.loads((index.path / "manifest.json").read_text())
    assert manifest["captions"] == {"real": 6, "synthetic": 0} and manifest["counts"]["images"] == 6
