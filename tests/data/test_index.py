from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from firstsight.data.index import Index
from firstsight.data.source_check import check_source_unchanged
from firstsight.errors import DataError
from firstsight.site import Location

from .conftest import ANSWER, END, HUMAN, WORDS, Workshop, picture, words_of


def ids(*numbers: int) -> list[int]:
    return [WORDS + number for number in numbers]


def held(index: Index, number: int) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Tokens, loss, and (image, at) of a record."""
    start, count, shown, shown_from = index.samples[number].item()
    seen = index.image_refs[shown_from : shown_from + shown].tolist()
    return index.tokens[start : start + count].tolist(), index.loss[start : start + count].tolist(), seen


def bytes_of(index: Index, folder: Path, number: int) -> bytes:
    """Of an image, by the position that the index tells."""
    offset, size, _, shard = index.images[number].item()
    return (folder / index.image_shards[shard]).read_bytes()[offset : offset + size]


def test_a_text_stands_between_two_ends_and_only_its_spans_carry_loss(workshop: Workshop) -> None:
    text = words_of([1, 22, 3, 144])
    spans = [[text.index("w22"), text.index("w22") + 3], [text.index("w144"), len(text)]]
    folder = workshop.texts([{"id": "a", "text": text}, {"id": "b", "text": text, "loss": spans}])
    index = workshop.prepare(folder, "text")
    assert held(index, 0) == ([END, *ids(1, 22, 3, 144), END], [0, 1, 1, 1, 1, 1], [])
    assert held(index, 1) == ([END, *ids(1, 22, 3, 144), END], [0, 0, 1, 0, 1, 1], [])


def test_loss_spans_map_to_exactly_the_words(workshop: Workshop) -> None:
    chance = random.Random(0)
    rows, wanted = [], []
    for number in range(300):
        text, spans, loss = "", [], [0]
        for _ in range(chance.randint(1, 30)):
            word, carries = f"w{chance.randrange(200)}", chance.random() < 0.4
            start = len(text) + (text != "")
            text = f"{text} {word}".strip()
            spans += [[start, len(text)]] if carries else []
            loss.append(int(carries))
        rows.append({"id": str(number), "text": text, "loss": spans})
        wanted.append([*loss, 1])
    index = workshop.prepare(workshop.texts(rows), "text")
    assert [held(index, number)[1] for number in range(300)] == wanted


def test_a_caption_ends_and_keeps_its_picture(workshop: Workshop) -> None:
    folder = workshop.captions([words_of([number]) for number in range(10)])
    index = workshop.prepare(folder, "captions")
    for number in range(10):
        assert held(index, number) == ([*ids(number), END], [1, 1], [(number, 0)])
        assert bytes_of(index, folder, number) == picture((number, 0, 7))


def test_questions_carry_loss_only_before_fine_tuning_and_a_shared_picture_is_held_once(workshop: Workshop) -> None:
    turns = [("human", "<image>\nw1 w2"), ("gpt", "w3"), ("human", "w4"), ("gpt", "w5 w6")]
    said = [{"from": role, "value": value} for role, value in turns]
    plain = [{"from": "human", "value": "w7"}, {"from": "gpt", "value": "w8"}]
    rows = [{"image": "b.png", "conversations": said}, {"image": "a.png", "conversations": said}]
    folder = workshop.dialogues([*rows, rows[0], {"conversations": plain}], ["a.png", "b.png"])
    index = workshop.prepare(folder, "dialogues")
    tokens = [*ids(1, 2), HUMAN, *ids(3), ANSWER, *ids(4), HUMAN, *ids(5, 6), ANSWER]
    loss = [2, 2, 2, 1, 1, 2, 2, 1, 1, 1]
    assert [held(index, number) for number in range(3)] == [(tokens, loss, [(picture, 0)]) for picture in (0, 1, 0)]
    assert held(index, 3) == ([END, *ids(7), HUMAN, *ids(8), ANSWER], [0, 2, 2, 1, 1], [])
    assert len(index.images) == 2
    assert bytes_of(index, folder, 0) == picture((1, 0, 9))


def test_an_index_that_contradicts_its_manifest_is_refused(workshop: Workshop) -> None:
    index = workshop.prepare(workshop.texts([{"text": "w1 w2"}] * 3), "text")
    np.save(index.path / "loss.npy", np.zeros(2, dtype=np.uint8))
    with pytest.raises(DataError, match=r"loss\.npy: wanted 12 entries"):
        Index.open(index.path)
    with pytest.raises(DataError, match="Prepare it first"):
        Index.open(workshop.folder("nothing"))


@pytest.mark.parametrize(("name", "short"), [("tokens", "tokens"), ("shown", "shown")])
def test_an_index_whose_last_record_ends_elsewhere_is_refused(workshop: Workshop, name: str, short: str) -> None:
    index = workshop.prepare(workshop.captions(["w1 w2", "w3"]), "captions")
    samples = index.samples.copy()
    samples[-1][f"{name}_count"] += 1
    np.save(index.path / "samples.npy", samples)
    with pytest.raises(DataError, match=f"wanted the last record to end at . {short}"):
        Index.open(index.path)


def test_an_index_of_another_format_is_refused(workshop: Workshop) -> None:
    index = workshop.prepare(workshop.texts([{"text": "w1"}]), "text")
    manifest = json.loads((index.path / "manifest.json").read_text())
    (index.path / "manifest.json").write_text(json.dumps(manifest | {"format": manifest["format"] - 1}))
    with pytest.raises(DataError, match="Prepare the source again"):
        Index.open(index.path)


@pytest.fixture
def three(workshop: Workshop) -> Path:
    """A source of three shards."""
    folder = workshop.folder("three")
    for number in range(3):
        (folder / f"{number}.jsonl").write_text(json.dumps({"text": words_of([number, number])}) + "\n")
    return folder


def test_a_source_that_changed_is_told_from_one_that_was_touched(workshop: Workshop, three: Path) -> None:
    index, location = workshop.prepare(three, "text"), Location(path=str(three))
    check_source_unchanged(index, location)
    middle = three / "1.jsonl"
    kept = middle.read_bytes()
    os.utime(middle, ns=(1, 1))
    check_source_unchanged(index, location)
    middle.write_bytes(kept.replace(b"w1", b"w2"))
    with pytest.raises(DataError, match=r"1\.jsonl: wanted bytes of digest .*prepare the source again"):
        check_source_unchanged(index, location)
    middle.write_bytes(kept + b"\n")
    with pytest.raises(DataError, match=r"1\.jsonl: wanted the \d+ bytes that were prepared"):
        check_source_unchanged(index, location)
    middle.unlink()
    with pytest.raises(DataError, match=r"1\.jsonl: wanted the file that was prepared\. Got none"):
        check_source_unchanged(index, location)


def test_the_index_knows_what_was_read(workshop: Workshop, three: Path) -> None:
    index = workshop.prepare(three, "text")
    assert [(one.name, one.size, one.records) for one in index.source_shards] == [
        (f"{number}.jsonl", (three / f"{number}.jsonl").stat().st_size, 1) for number in range(3)
    ]
    wanted = [hashlib.sha256((three / f"{number}.jsonl").read_bytes()).hexdigest() for number in range(3)]
    assert [one.sha256 for one in index.source_shards] == wanted
    assert index.source_digest == hashlib.sha256("\n".join(wanted).encode()).hexdigest()
