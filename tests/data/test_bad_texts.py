"""Captions, lines, lists and token ids that are none, and tokenizers that did not make the tokens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from .conftest import END, WORDS, Workshop
from .spoilt import GOOD, pairs, refuses, run, tarred

TOLD = {
    "a null": (b"w1 \0 w2", "control character"),
    "an escape": (b"w1 \x1b[31m w2", "control character"),
    "a bell": (b"w1 \x07", "control character"),
    "a next line of Latin-1": ("w1 \x85 w2".encode(), "control character"),
    "100 kB": (b"w1 " * 33_000, "too long"),
    "white space": (b" \n\t ", "empty caption"),
    "nothing": (b"", "empty caption"),
    "Latin-1": ("w1 \u00e9".encode("latin-1"), "not UTF-8"),
    "half a letter": ("w1 \u00e9".encode()[:-1], "not UTF-8"),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_caption_that_is_none_is_set_aside(workshop: Workshop, name: str) -> None:
    data, reason = TOLD[name]
    found = run(workshop, tarred(workshop.folder("source"), pairs(2, b_png=GOOD, b_txt=data)), "captions")
    assert found.quarantine == [(reason, "00000.tar", "b")]
    assert found.captions() == [[0], [1]]


def test_line_breaks_and_tabs_are_no_control_characters(workshop: Workshop) -> None:
    found = run(workshop, tarred(workshop.folder("source"), pairs(0, b_png=GOOD, b_txt=b"w1\r\nw2\tw3\n")), "captions")
    assert (found.quarantine, found.captions()) == ([], [[1, 2, 3]])


@pytest.mark.parametrize(
    "line", ["{", "", "[1]", '"w1"', '{"text": 7}', '{"text": "w1"', "{'text': 'w1'}", "[" * 100_000]
)
def test_a_line_that_is_not_the_json_it_should_be_is_set_aside(workshop: Workshop, line: str) -> None:
    folder = workshop.folder("source")
    (folder / "a.jsonl").write_text(f'{{"text": "w1"}}\n{line}\n{{"text": "w2"}}\n')
    found = run(workshop, folder, "text")
    reason = "field missing" if line == '{"text": 7}' else "not JSON"
    assert found.quarantine == ([(reason, "a.jsonl", "line 2")] if line else [])
    assert found.captions() == [[1], [2]]


def test_a_caption_in_json_that_is_none_is_set_aside(workshop: Workshop) -> None:
    found = run(workshop, tarred(workshop.folder("source"), pairs(1, b_png=GOOD, b_json=b"{ no")), "captions")
    assert found.quarantine == [("not JSON", "00000.tar", "b")]
    assert found.captions() == [[0]]


@pytest.mark.parametrize("data", ["", "{", "[{]", '[{"conversations": []}', '{"a": 1}', '[{"conversations": []}] []'])
def test_a_list_of_dialogues_that_is_none_publishes_nothing(workshop: Workshop, data: str) -> None:
    (workshop.folder("source") / "d.json").write_text(data)
    refuses(workshop, workshop.root / "source", "dialogues", r"d\.json: wanted a JSON list")


IDS = {
    "a word": '["w1"]',
    "a fraction": "[9.5]",
    "a negative": "[9, -1]",
    "a truth": "[true]",
    "nothing": "[]",
    "a list in it": "[[9]]",
    "half a list": "[9, 10",
}


@pytest.mark.parametrize("name", IDS)
def test_ids_that_are_none_are_set_aside(workshop: Workshop, name: str) -> None:
    members = {"a.json": b"[9, 10, 0]", "b.json": IDS[name].encode(), "c.json": b"[11, 0]"}
    found = run(workshop, tarred(workshop.folder("source"), members), "text")
    assert [(reason, shard, where) for reason, shard, where in found.quarantine] == [
        ("bad tokens", "00000.tar", "b.json")
    ]
    assert found.captions() == [[1, 2], [3]]


def test_a_packed_member_that_unpacks_without_end_is_set_aside(workshop: Workshop) -> None:
    """30 MB of spaces behind a list of ids, in 30 kB."""
    members = {"a.json.gz": gzip.compress(b"[9, 10, 0]"), "b.json.gz": gzip.compress(b"[9]" + b" " * 30_000_000)}
    found = run(workshop, tarred(workshop.folder("source"), members), "text")
    assert found.quarantine == [("too many bytes", "00000.tar", "b.json.gz")]
    assert found.captions() == [[1, 2]]


@pytest.mark.parametrize("wrong", [WORDS + 200, 50_277, 2**31, 2**63, 2**70])
def test_ids_outside_the_tokenizer_publish_nothing(workshop: Workshop, wrong: int) -> None:
    members = {"a.json": b"[9, 10, 0]", "b.json": json.dumps([9, wrong, 0]).encode()}
    folder = tarred(workshop.folder("source"), members)
    refuses(workshop, folder, "text", r"does not match the token tar")


def test_a_tokenizer_that_did_not_make_the_tokens_is_refused(workshop: Workshop) -> None:
    """Ids of GPT-NeoX end in 0 and begin beyond this vocabulary of 208 words."""
    members = {f"{n}.json": json.dumps([310, 2025, 50_000 + n, 0]).encode() for n in range(3)}
    refuses(workshop, tarred(workshop.folder("source"), members), "text", r"Name the tokenizer that made these tokens")


def test_another_tokenizer_makes_another_index(workshop: Workshop, tmp_path: Path) -> None:
    """Equal data, other words: the identity of the data stays, that of the index moves."""
    folder = workshop.texts([{"text": "w1 w2"}])
    one = run(workshop, folder, "text").index
    told = json.loads((workshop.words() / "tokenizer.json").read_text())
    told["model"]["vocab"] = {word: one + (one > 7) for word, one in told["model"]["vocab"].items()}
    other_words = workshop.folder("other")
    (other_words / "tokenizer.json").write_text(json.dumps(told))
    other = run(workshop, folder, "text", words=other_words, out="again").index
    assert one.source_digest == other.source_digest
    assert one.digest != other.digest
    assert one.tokenizer_digest != other.tokenizer_digest


def test_every_end_is_an_end(workshop: Workshop) -> None:
    """What data writes like a special token is text: one end a record, whatever the caption says."""
    found = run(
        workshop, tarred(workshop.folder("source"), pairs(1, b_png=GOOD, b_txt=b"w1 <|endoftext|>x w2")), "captions"
    )
    assert (found.index.tokens == END).sum() == len(found.index.samples)
