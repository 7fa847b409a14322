from __future__ import annotations

import json
import random

import numpy as np
import pytest

from firstsight.data.index import Index, read_image
from firstsight.errors import DataError

from .conftest import ANSWER, END, HUMAN, WORDS, Workshop, picture, words_of


def ids(*numbers: int) -> list[int]:
    return [WORDS + number for number in numbers]


def held(index: Index, number: int) -> tuple[list[int], list[int], int]:
    start, count, image = index.samples[number].item()
    return index.tokens[start : start + count].tolist(), index.loss[start : start + count].tolist(), image


def test_a_text_stands_between_two_ends_and_only_its_spans_carry_loss(workshop: Workshop) -> None:
    text = words_of([1, 22, 3, 144])
    spans = [[text.index("w22"), text.index("w22") + 3], [text.index("w144"), len(text)]]
    folder = workshop.texts([{"id": "a", "text": text}, {"id": "b", "text": text, "loss": spans}])
    index = workshop.prepare(folder, "text")
    assert held(index, 0) == ([END, *ids(1, 22, 3, 144), END], [0, 1, 1, 1, 1, 1], -1)
    assert held(index, 1) == ([END, *ids(1, 22, 3, 144), END], [0, 0, 1, 0, 1, 1], -1)


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
        assert held(index, number) == ([*ids(number), END], [1, 1], number)
        assert read_image(folder, index, number) == picture((number, 0, 7))


def test_questions_carry_loss_only_before_fine_tuning_and_a_shared_picture_is_held_once(workshop: Workshop) -> None:
    turns = [("human", "<image>\nw1 w2"), ("gpt", "w3"), ("human", "w4"), ("gpt", "w5 w6")]
    said = [{"from": role, "value": value} for role, value in turns]
    plain = [{"from": "human", "value": "w7"}, {"from": "gpt", "value": "w8"}]
    rows = [{"image": "b.png", "conversations": said}, {"image": "a.png", "conversations": said}]
    folder = workshop.dialogues([*rows, rows[0], {"conversations": plain}], ["a.png", "b.png"])
    index = workshop.prepare(folder, "dialogues")
    tokens = [*ids(1, 2), HUMAN, *ids(3), ANSWER, *ids(4), HUMAN, *ids(5, 6), ANSWER]
    loss = [2, 2, 2, 1, 1, 2, 2, 1, 1, 1]
    assert [held(index, number) for number in range(3)] == [(tokens, loss, 0), (tokens, loss, 1), (tokens, loss, 0)]
    assert held(index, 3) == ([END, *ids(7), HUMAN, *ids(8), ANSWER], [0, 2, 2, 1, 1], -1)
    assert len(index.images) == 2
    assert read_image(folder, index, 0) == picture((1, 0, 9))


def test_preparing_twice_leaves_the_same_bytes(workshop: Workshop) -> None:
    folder = workshop.captions([words_of([number, number + 1]) for number in range(50)])
    first, second = (workshop.prepare(folder, "captions", name) for name in ("one", "two"))
    files = sorted(file.name for file in first.path.iterdir())
    assert files == sorted(file.name for file in second.path.iterdir())
    assert all((first.path / name).read_bytes() == (second.path / name).read_bytes() for name in files)
    assert str(workshop.root) not in (first.path / "manifest.json").read_text()


def test_an_interrupted_preparation_starts_over(workshop: Workshop) -> None:
    folder = workshop.captions([words_of([number]) for number in range(9)])
    whole = workshop.prepare(folder, "captions", "whole")
    torn = workshop.folder("torn")
    for name in ("tokens.npy", "samples.npy", "quarantine.jsonl"):
        (torn / name).write_bytes(b"\x93NUMPY half of it" * 500)
    assert workshop.prepare(folder, "captions", "torn").digest == whole.digest
    assert all((torn / file.name).read_bytes() == file.read_bytes() for file in whole.path.iterdir())


def test_few_bad_records_are_set_aside_and_counted(workshop: Workshop) -> None:
    rows = [{"id": str(number), "text": "w1" if number % 100 else " "} for number in range(1, 301)]
    index = workshop.prepare(workshop.texts(rows), "text")
    lines = [json.loads(line) for line in (index.path / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["reason"], line["shard"], line["where"]) for line in lines] == [
        ("empty text", "text-00000.jsonl", f"line {number}") for number in (100, 200, 300)
    ]
    manifest = json.loads((index.path / "manifest.json").read_text())
    assert manifest["counts"] == {"samples": 297, "tokens": 3 * 297, "images": 0, "bad": 3}
    assert manifest["refused"] == {"empty text": 3}


def test_a_rotten_source_is_refused_with_its_reasons(workshop: Workshop) -> None:
    rows = [{"text": "w1" if number % 50 else ""} for number in range(100)]
    with pytest.raises(DataError, match=r"Got 2 of 100: 2 x empty text \(first: text-00000\.jsonl, line 1"):
        workshop.prepare(workshop.texts(rows), "text")
    with pytest.raises(DataError, match="no record at all"):
        workshop.prepare(workshop.texts([], "empty"), "text")


def test_an_index_that_contradicts_its_manifest_is_refused(workshop: Workshop) -> None:
    index = workshop.prepare(workshop.texts([{"text": "w1 w2"}] * 3), "text")
    np.save(index.path / "loss.npy", np.zeros(2, dtype=np.uint8))
    with pytest.raises(DataError, match=r"loss\.npy: wanted 12 entries"):
        Index.open(index.path)
    with pytest.raises(DataError, match="Prepare it first"):
        Index.open(workshop.folder("nothing"))


def test_a_source_that_changed_is_noticed(workshop: Workshop) -> None:
    folder = workshop.captions(["w1", "w2"])
    index = workshop.prepare(folder, "captions")
    (folder / "00000.tar").write_bytes(b"")
    with pytest.raises(DataError, match="It changed"):
        read_image(folder, index, 1)


def test_the_bytes_do_not_depend_on_how_records_are_batched(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workshop.captions([words_of(range(1 + number % 5)) for number in range(50)])
    whole = workshop.prepare(folder, "captions", "whole")
    monkeypatch.setattr("firstsight.data.index._BATCH", 7)
    pieces = workshop.prepare(folder, "captions", "pieces")
    assert all((pieces.path / file.name).read_bytes() == file.read_bytes() for file in whole.path.iterdir())
