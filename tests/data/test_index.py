"""Indexes: the layout of records, and what contradicts the manifest is refused."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest

from firstsight.data.index import Index
from firstsight.data.prepare.handler import READING
from firstsight.errors import DataError

from .conftest import ANSWER, END, HUMAN, WORDS, Workshop, picture, words_of


def ids(*numbers: int) -> list[int]:
    return [WORDS + number for number in numbers]


def record_content(index: Index, number: int) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Tokens, loss, and (image, at) of a record."""
    start, count, image_count, first_image = index.samples[number].item()
    refs = index.image_refs[first_image : first_image + image_count].tolist()
    return index.tokens[start : start + count].tolist(), index.loss[start : start + count].tolist(), refs


def image_bytes(index: Index, folder: Path, number: int) -> bytes:
    """The bytes of an image at the location in the index."""
    offset, size, _, shard = index.images[number].item()
    return (folder / index.image_shards[shard]).read_bytes()[offset : offset + size]


def test_a_text_is_between_end_tokens_and_only_its_spans_carry_loss(workshop: Workshop) -> None:
    text = words_of([1, 22, 3, 144])
    spans = [[text.index("w22"), text.index("w22") + 3], [text.index("w144"), len(text)]]
    folder = workshop.texts([{"id": "a", "text": text}, {"id": "b", "text": text, "loss": spans}])
    index = workshop.prepare(folder, "text")
    assert record_content(index, 0) == ([END, *ids(1, 22, 3, 144), END], [0, 1, 1, 1, 1, 1], [])
    assert record_content(index, 1) == ([END, *ids(1, 22, 3, 144), END], [0, 0, 1, 0, 1, 1], [])


def test_loss_spans_cover_exactly_their_words(workshop: Workshop) -> None:
    rng = random.Random(0)
    rows, expected = [], []
    for number in range(300):
        text, spans, loss = "", [], [0]
        for _ in range(rng.randint(1, 30)):
            word, has_loss = f"w{rng.randrange(200)}", rng.random() < 0.4
            start = len(text) + (text != "")
            text = f"{text} {word}".strip()
            spans += [[start, len(text)]] if has_loss else []
            loss.append(int(has_loss))
        rows.append({"id": str(number), "text": text, "loss": spans})
        expected.append([*loss, 1])
    index = workshop.prepare(workshop.texts(rows), "text")
    assert [record_content(index, number)[1] for number in range(300)] == expected


def test_a_caption_has_an_end_token_and_its_image(workshop: Workshop) -> None:
    folder = workshop.captions([words_of([number]) for number in range(10)])
    index = workshop.prepare(folder, "captions")
    for number in range(10):
        assert record_content(index, number) == ([*ids(number), END], [1, 1], [(number, 0)])
        assert image_bytes(index, folder, number) == picture((number, 0, 7))


def test_questions_carry_loss_only_before_fine_tuning_and_a_shared_image_is_stored_once(workshop: Workshop) -> None:
    turns = [("human", "<image>\nw1 w2"), ("gpt", "w3"), ("human", "w4"), ("gpt", "w5 w6")]
    turns_json = [{"from": role, "value": value} for role, value in turns]
    text_turns = [{"from": "human", "value": "w7"}, {"from": "gpt", "value": "w8"}]
    rows = [{"image": "b.png", "conversations": turns_json}, {"image": "a.png", "conversations": turns_json}]
    folder = workshop.dialogues([*rows, rows[0], {"conversations": text_turns}], ["a.png", "b.png"])
    index = workshop.prepare(folder, "dialogues")
    tokens = [*ids(1, 2), HUMAN, *ids(3), ANSWER, *ids(4), HUMAN, *ids(5, 6), ANSWER]
    loss = [2, 2, 2, 1, 1, 2, 2, 1, 1, 1]
    assert [record_content(index, number) for number in range(3)] == [
        (tokens, loss, [(picture, 0)]) for picture in (0, 1, 0)
    ]
    assert record_content(index, 3) == ([END, *ids(7), HUMAN, *ids(8), ANSWER], [0, 2, 2, 1, 1], [])
    assert len(index.images) == 2
    assert image_bytes(index, folder, 0) == picture((1, 0, 9))


def test_an_index_that_contradicts_its_manifest_is_refused(workshop: Workshop) -> None:
    index = workshop.prepare(workshop.texts([{"text": "w1 w2"}] * 3), "text")
    np.save(index.path / "loss.npy", np.zeros(2, dtype=np.uint8))
    with pytest.raises(DataError, match=r"loss\.npy: wanted 12 entries"):
        Index.open(index.path)
    with pytest.raises(DataError, match="Prepare it first"):
        Index.open(workshop.folder("nothing"))


@pytest.mark.parametrize(("name", "short_name"), [("tokens", "tokens"), ("shown", "shown")])
def test_an_index_whose_last_record_ends_elsewhere_is_refused(workshop: Workshop, name: str, short_name: str) -> None:
    index = workshop.prepare(workshop.captions(["w1 w2", "w3"]), "captions")
    samples = index.samples.copy()
    samples[-1][f"{name}_count"] += 1
    np.save(index.path / "samples.npy", samples)
    with pytest.raises(DataError, match=f"wanted the last record to end at . {short_name}"):
        Index.open(index.path)


def test_an_index_of_another_format_is_refused(workshop: Workshop) -> None:
    index = workshop.prepare(workshop.texts([{"text": "w1"}]), "text")
    manifest = json.loads((index.path / "manifest.json").read_text())
    (index.path / "manifest.json").write_text(json.dumps(manifest | {"format": manifest["format"] - 1}))
    with pytest.raises(
        DataError, match=r"wanted format \d+\. Got \d+\. Delete that folder and prepare the source again"
    ):
        Index.open(index.path)


def test_the_index_lists_what_was_read(workshop: Workshop) -> None:
    three_shards = workshop.folder("three")
    for number in range(3):
        (three_shards / f"{number}.jsonl").write_text(json.dumps({"text": words_of([number, number])}) + "\n")
    index = workshop.prepare(three_shards, "text")
    assert [(shard.name, shard.size, shard.records) for shard in index.source_shards] == [
        (f"{number}.jsonl", (three_shards / f"{number}.jsonl").stat().st_size, 1) for number in range(3)
    ]
    expected = [hashlib.sha256((three_shards / f"{number}.jsonl").read_bytes()).hexdigest() for number in range(3)]
    assert [shard.sha256 for shard in index.source_shards] == expected
    assert index.source_digest == hashlib.sha256("\n".join([*expected, READING]).encode()).hexdigest()
