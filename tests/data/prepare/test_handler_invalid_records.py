"""Invalid captions, lines, lists and token ids, and tokenizers that did not make the tokens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ..conftest import END, WORDS, Workshop
from ..prepared_sources import VALID_IMAGE, caption_members, check_refused, prepare_source, write_tar

INVALID_CAPTIONS = {
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


@pytest.mark.parametrize("name", INVALID_CAPTIONS)
def test_invalid_caption_is_rejected(workshop: Workshop, name: str) -> None:
    data, reason = INVALID_CAPTIONS[name]
    prepared = prepare_source(
        workshop, write_tar(workshop.folder("source"), caption_members(2, b_png=VALID_IMAGE, b_txt=data)), "captions"
    )
    assert prepared.quarantine == [(reason, "00000.tar", "b")]
    assert prepared.caption_words() == [[0], [1]]


def test_line_breaks_and_tabs_are_accepted(workshop: Workshop) -> None:
    prepared = prepare_source(
        workshop,
        write_tar(workshop.folder("source"), caption_members(0, b_png=VALID_IMAGE, b_txt=b"w1\r\nw2\tw3\n")),
        "captions",
    )
    assert (prepared.quarantine, prepared.caption_words()) == ([], [[1, 2, 3]])


@pytest.mark.parametrize(
    "line", ["{", "", "[1]", '"w1"', '{"text": 7}', '{"text": "w1"', "{'text': 'w1'}", "[" * 100_000]
)
def test_invalid_line_is_rejected(workshop: Workshop, line: str) -> None:
    folder = workshop.folder("source")
    (folder / "a.jsonl").write_text(f'{{"text": "w1"}}\n{line}\n{{"text": "w2"}}\n')
    prepared = prepare_source(workshop, folder, "text")
    reason = {'{"text": 7}': "field missing", "[" * 100_000: "too deep"}.get(line, "not JSON")
    assert prepared.quarantine == ([(reason, "a.jsonl", "line 2")] if line else [])
    assert prepared.caption_words() == [[1], [2]]


def test_invalid_json_caption_is_rejected(workshop: Workshop) -> None:
    prepared = prepare_source(
        workshop,
        write_tar(workshop.folder("source"), caption_members(1, b_png=VALID_IMAGE, b_json=b"{ no")),
        "captions",
    )
    assert prepared.quarantine == [("not JSON", "00000.tar", "b")]
    assert prepared.caption_words() == [[0]]


@pytest.mark.parametrize("data", ["", "{", "[{]", '[{"conversations": []}', '{"a": 1}', '[{"conversations": []}] []'])
def test_invalid_list_writes_no_index(workshop: Workshop, data: str) -> None:
    (workshop.folder("source") / "d.json").write_text(data)
    check_refused(workshop, workshop.root / "source", "dialogues", r"d\.json: wanted a JSON list")


INVALID_IDS = {
    "a word": '["w1"]',
    "a fraction": "[9.5]",
    "a negative": "[9, -1]",
    "a truth": "[true]",
    "nothing": "[]",
    "a list in it": "[[9]]",
    "half a list": "[9, 10",
}


@pytest.mark.parametrize("name", INVALID_IDS)
def test_invalid_ids_are_rejected(workshop: Workshop, name: str) -> None:
    members = {"a.json": b"[9, 10, 0]", "b.json": INVALID_IDS[name].encode(), "c.json": b"[11, 0]"}
    prepared = prepare_source(workshop, write_tar(workshop.folder("source"), members), "text")
    assert [(reason, shard, where) for reason, shard, where in prepared.quarantine] == [
        ("bad tokens", "00000.tar", "b.json")
    ]
    assert prepared.caption_words() == [[1, 2], [3]]


def test_gzip_bomb_is_rejected(workshop: Workshop) -> None:
    """30 MB of spaces after a list of ids, compressed to 30 kB."""
    members = {"a.json.gz": gzip.compress(b"[9, 10, 0]"), "b.json.gz": gzip.compress(b"[9]" + b" " * 30_000_000)}
    prepared = prepare_source(workshop, write_tar(workshop.folder("source"), members), "text")
    assert prepared.quarantine == [("too many bytes", "00000.tar", "b.json.gz")]
    assert prepared.caption_words() == [[1, 2]]


@pytest.mark.parametrize("token_id", [WORDS + 200, 50_277, 2**31, 2**63, 2**70])
def test_ids_outside_the_vocabulary_write_no_index(workshop: Workshop, token_id: int) -> None:
    members = {"a.json": b"[9, 10, 0]", "b.json": json.dumps([9, token_id, 0]).encode()}
    folder = write_tar(workshop.folder("source"), members)
    check_refused(workshop, folder, "text", r"does not match the token tar")


def test_wrong_tokenizer_for_token_ids_is_refused(workshop: Workshop) -> None:
    """Ids of GPT-NeoX end in 0 and begin beyond this vocabulary of 208 words."""
    members = {f"{n}.json": json.dumps([310, 2025, 50_000 + n, 0]).encode() for n in range(3)}
    check_refused(
        workshop, write_tar(workshop.folder("source"), members), "text", r"Name the tokenizer that made these tokens"
    )


def test_another_tokenizer_gives_another_index(workshop: Workshop, tmp_path: Path) -> None:
    """Equal data with another vocabulary: the source digest is equal, the index digest is not."""
    folder = workshop.texts([{"text": "w1 w2"}])
    index = prepare_source(workshop, folder, "text").index
    tokenizer = json.loads((workshop.words() / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {word: number + (number > 7) for word, number in tokenizer["model"]["vocab"].items()}
    other_words = workshop.folder("other")
    (other_words / "tokenizer.json").write_text(json.dumps(tokenizer))
    other_index = prepare_source(workshop, folder, "text", tokenizer_path=other_words, out="again").index
    assert index.source_digest == other_index.source_digest
    assert index.digest != other_index.digest
    assert index.tokenizer_digest != other_index.tokenizer_digest


def test_special_tokens_in_captions_are_text(workshop: Workshop) -> None:
    """A special token in a caption is tokenized as text: one end token for each record."""
    prepared = prepare_source(
        workshop,
        write_tar(workshop.folder("source"), caption_members(1, b_png=VALID_IMAGE, b_txt=b"w1 <|endoftext|>x w2")),
        "captions",
    )
    assert (prepared.index.tokens == END).sum() == len(prepared.index.samples)
