"""The preview against rows written by hand: what the tensors hold is what the page shows, whatever the data wrote."""

from __future__ import annotations

import base64
import io
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, trainers

from firstsight.data.loader import Batch
from firstsight.data.tokenizer import CHAT_TOKENS, END_OF_TEXT, PAD_TOKEN, Tokenizer, load_tokenizer
from firstsight.recipe.stages import IGNORE_INDEX
from firstsight.report.pages import batch_rows, preview_page
from firstsight.report.pages.batch_rows import PreviewRecord, PreviewRow
from firstsight.report.pages.preview_page import PreviewFacts, PreviewSource, StageIdentity
from firstsight.report.pages.text import visible_html
from firstsight.report.pages.token_text import TokenDecoder

SLOTS, LENGTH = 4, 24
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img/src=x/onerror=alert(1)>',
    "\u202egnp.exe\u202c",
    "'quoted'&amp;",
    "bell\x07\x1b[31m",
    "</style></span>",
)
WORDS = [END_OF_TEXT, *CHAT_TOKENS, PAD_TOKEN, "<unk>", *(f"w{number}" for number in range(40)), *HOSTILE]
ID = {word: number for number, word in enumerate(WORDS)}
Item = str | tuple[str, bool] | int
"""A word with loss; (word, loss); or a picture by its number."""


@cache
def word_level() -> Tokenizer:
    made = Fast(models.WordLevel(ID, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([END_OF_TEXT, *CHAT_TOKENS, PAD_TOKEN])
    return _saved(made)


@cache
def byte_level() -> Tokenizer:
    made = Fast(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = ["the cat sat on the mat\n\n", "the hat \U0001f642 caf\u00e9", "     deep  blanks"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet)
    )
    made.add_tokens(["   "])
    return _saved(made)


def _saved(made: Fast) -> Tokenizer:
    folder = Path(mkdtemp())
    made.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


def batch(*rows: Sequence[Sequence[Item]], beyond: Sequence[tuple[int, int, str]] = ()) -> Batch:
    """Rows of documents of items as tensors; `beyond`: targets (row, column, word) that are set on top."""
    shape = (len(rows), LENGTH)
    tokens, targets = np.full(shape, ID[PAD_TOKEN], dtype=np.int64), np.full(shape, IGNORE_INDEX, dtype=np.int64)
    docs, slots = np.full(shape, -1, dtype=np.int32), np.full(shape, -1, dtype=np.int64)
    positions, pictures = np.zeros(shape, dtype=np.int32), 0
    for row, documents in enumerate(rows):
        column = 0
        for number, items in enumerate(documents):
            start = column
            for item in items:
                wide = SLOTS if isinstance(item, int) else 1
                docs[row, column : column + wide] = number
                positions[row, column : column + wide] = np.arange(column, column + wide) - start
                if isinstance(item, int):
                    slots[row, column : column + wide] = item * SLOTS + np.arange(SLOTS)
                    pictures = max(pictures, item + 1)
                else:
                    word, loss = (item, True) if isinstance(item, str) else item
                    tokens[row, column] = ID[word]
                    if loss and column > start:
                        targets[row, column - 1] = ID[word]
                column += wide
    for row, column, word in beyond:
        targets[row, column] = ID[word]
    images = np.arange(pictures, dtype=np.uint8).repeat(8 * 8 * 3).reshape(-1, 8, 8, 3) * 40
    flat = (torch.from_numpy(array) for array in (tokens, targets, docs, positions, slots, images))
    kinds = torch.tensor([int((slots[row] >= 0).any()) for row in range(len(rows))], dtype=torch.int8)
    tokens_, targets_, docs_, positions_, slots_, images_ = flat
    return Batch(
        tokens=tokens_,
        targets=targets_,
        docs=docs_,
        positions=positions_,
        slots=slots_,
        images=images_,
        source_ids=kinds,
    )


def read(held: Batch, place: str = "texts.jsonl #7") -> list[PreviewRow]:
    return batch_rows.decode_rows(
        held,
        row_indices=range(len(held.source_ids)),
        image_tokens=SLOTS,
        record_of=lambda row, document: PreviewRecord(record_index=10 * row + document, location=place),
        decoder=TokenDecoder(word_level()),
        end_ids=(ID[END_OF_TEXT], ID["<|/a|>"]),
    )


def page(rows: Sequence[PreviewRow], *names: str, apart: bool = True) -> Page:
    counts = tuple(
        PreviewSource(name=name, form="text", requested_share="all", rows=8, tokens=100, loss_tokens=50, epochs=0.5)
        for name in names or ("texts", "captions")
    )
    where = StageIdentity(study="when", scale="smoke", arm="a.s1", stage="midtrain", seed=1, address="midtrain-0123")
    facts = PreviewFacts(
        identity=where,
        batch_rows=4,
        row_length=LENGTH,
        steps=2,
        packing="best_fit",
        tokenizer_digest="f" * 64,
        needs_spacing=apart,
        requested_share="50 % of rows",
        achieved_shares={"rows": 0.5, "tokens": 0.4, "loss_tokens": 0.3},
        padding_share=0.25,
        sources=counts,
    )
    return Page(preview_page.render_preview(facts, rows))


class Page(HTMLParser):
    """What a browser would find: elements with their attributes and classes, those of each row apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[tuple[str, dict[str, str]]]] = []
        self.words: list[str] = []
        self._row, self._inside, self._depth = False, "", 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = (tag, {name: value or "" for name, value in attrs})
        self.elements.append(found)
        if tag == "article":
            self.rows.append([])
            self._row = True
        if self._row:
            self.rows[-1].append(found)

    def handle_endtag(self, tag: str) -> None:
        self._row = self._row and tag != "article"

    def handle_data(self, data: str) -> None:
        if self._row and data.strip():
            self.words.append(data)

    def count(self, row: int, *, element: str, name: str) -> int:
        return sum(tag == element and name in held.get("class", "").split() for tag, held in self.rows[row])


MIXED = batch(
    [[(END_OF_TEXT, False), "w0", ("w1", False), "w2", END_OF_TEXT], [(END_OF_TEXT, False), "w3", "w4", "w5"]],
    [[0, "w6", "w7", END_OF_TEXT], [1, "w8", END_OF_TEXT], [2, ("w9", False), ("<|/h|>", False), "w10", "<|/a|>"]],
    beyond=[(0, 8, "w6")],
)


def test_tokens_coloured_as_loss_are_the_targets_of_the_batch() -> None:
    found = page(read(MIXED))
    wanted = (MIXED.targets != IGNORE_INDEX).sum(dim=1).tolist()
    assert wanted == [7, 7]
    assert [found.count(row, element="span", name="l") for row in range(2)] == wanted
    assert [row.loss_tokens for row in read(MIXED)] == wanted


def test_a_word_is_coloured_when_it_is_aimed_at() -> None:
    [row, _] = read(MIXED)
    told = [
        (shown.token_text.text, shown.has_loss)
        for document in row.documents
        for shown in document.elements
        if shown.token_text
    ]
    assert told[:5] == [(END_OF_TEXT, False), ("w0", True), ("w1", False), ("w2", True), (END_OF_TEXT, True)]
    assert [shown.kind for shown in row.documents[1].elements] == ["token"] * 4 + ["external_target"]


def test_every_document_has_a_border_and_every_picture_its_place() -> None:
    found = page(read(MIXED))
    assert [found.count(row, element="div", name="document") for row in range(2)] == [2, 3]
    assert [found.count(row, element="span", name="slots") for row in range(2)] == [0, 3]
    first, second = read(MIXED)
    assert [document.first_column for document in first.documents] == [0, 5]
    assert [document.first_column for document in second.documents] == [0, 7, 13]
    assert [document.first_position for document in second.documents] == [0, 0, 0]
    assert second.tokens + second.padding == LENGTH


def test_the_three_pictures_are_those_of_the_batch() -> None:
    found = page(read(MIXED))
    sources = [held["src"] for tag, held in found.rows[1] if tag == "img"]
    assert len(set(sources)) == 3
    assert sources == [preview_of(picture) for picture in range(3)]


def preview_of(picture: int) -> str:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), picture * 40, np.uint8)).save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def test_a_picture_between_words_stands_between_words() -> None:
    [row] = read(batch([[(END_OF_TEXT, False), "w0", 0, "w1", 1, 2, "w2", END_OF_TEXT]]))
    assert [shown.kind for shown in row.documents[0].elements] == [
        "token",
        "token",
        "image",
        "token",
        "image",
        "image",
        "token",
        "token",
    ]
    assert [shown.slot_count for shown in row.documents[0].elements if shown.kind == "image"] == [SLOTS] * 3
    assert row.image_count == 3


def test_how_documents_begin_and_end_is_told() -> None:
    rows = read(
        batch(
            [
                [(END_OF_TEXT, False), "w0", END_OF_TEXT],
                [("w1", False), "w2", END_OF_TEXT],
                [(END_OF_TEXT, False), "w3"],
                [(END_OF_TEXT, False), "w4"],
            ],
            beyond=[(0, 9, "w5")],
        )
    )
    told = [(document.has_start, document.ending) for document in rows[0].documents]
    assert told == [(True, "end_token"), (False, "end_token"), (True, "no_end_token"), (True, "continues")]
    words = page(rows).words
    assert [words.count(told) for told in ("no start token", "no end token", "continues in another row")] == [1, 1, 1]


def test_a_target_that_is_not_the_next_token_is_seen() -> None:
    """A shifted template: the loss sits one place too far left."""
    held = batch([[(END_OF_TEXT, False), ("w0", False), ("w1", False), END_OF_TEXT]], beyond=[(0, 0, "w1")])
    [row] = read(held)
    assert [(shown.kind, shown.column) for shown in row.documents[0].elements][:2] == [
        ("token", 0),
        ("external_target", 0),
    ]
    assert page([row]).count(0, element="span", name="b") == 1


def test_padding_is_one_word() -> None:
    found = page(read(batch([[0, "w0", END_OF_TEXT]])))
    assert found.count(0, element="div", name="empty") == 1
    assert f"{LENGTH - SLOTS - 2} padding" in found.words


def test_a_full_row_has_no_padding() -> None:
    found = page(read(batch([[(END_OF_TEXT, False), *["w0"] * (LENGTH - 1)]])))
    assert found.count(0, element="div", name="empty") == 0


def test_a_stage_without_pictures() -> None:
    found = page(read(batch([[(END_OF_TEXT, False), "w0", END_OF_TEXT]], [[(END_OF_TEXT, False), "w1", END_OF_TEXT]])))
    assert not any(tag == "img" for tag, _ in found.elements)
    assert len(found.rows) == 2


def test_the_strip_covers_the_row() -> None:
    for row in read(MIXED):
        assert sum(length for _, _, length in row.strip) == LENGTH
        assert [column for _, column, _ in row.strip] == sorted({column for _, column, _ in row.strip})
    picture = sum(length for sort, _, length in read(MIXED)[1].strip if sort == "image")
    assert picture == 3 * SLOTS


def test_sources_are_filtered_by_boxes_that_need_no_script() -> None:
    found = page(read(MIXED), "texts", "captions", "more")
    boxes = [held for tag, held in found.elements if tag == "input"]
    assert [(box["type"], box["id"], "checked" in box) for box in boxes] == [
        ("checkbox", f"show-{n}", True) for n in range(3)
    ]
    for number in range(3):
        assert f"body:has(#show-{number}:not(:checked)) .of-{number} {{ display: none; }}" in found.html
    classes = [held["class"].split() for tag, held in found.elements if tag == "article"]
    assert ["of-0" in classes[0], "of-1" in classes[1]] == [True, True]


def test_the_page_runs_and_loads_nothing() -> None:
    found = page(read(MIXED))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.elements}
    for _, held in found.elements:
        assert all(not name.startswith("on") for name in held)
        assert held.get("src", "data:").startswith("data:")
        assert held.get("href", "#").startswith("#")
    policy = next(held["content"] for tag, held in found.elements if held.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_what_data_wrote_is_text() -> None:
    """Words, names of sources and of files: markup, quotes, bidi overrides, control characters."""
    rows = read(batch([[(END_OF_TEXT, False), *HOSTILE, END_OF_TEXT]]), place=f"{''.join(HOSTILE)}.tar #0")
    hostile = page(rows, "".join(HOSTILE), "captions")
    tame = page(read(batch([[(END_OF_TEXT, False), *["w0"] * len(HOSTILE), END_OF_TEXT]])), "texts", "captions")
    unseen = {"U+202E": 1, "U+202C": 1, "U+0007": 1, "U+001B": 1}
    assert [tag for tag, _ in hostile.rows[0] if tag != "i"] == [tag for tag, _ in tame.rows[0] if tag != "i"]
    assert {f"U+{code}" for code in re.findall(r"<i class=u>U\+([0-9A-F]{4})", hostile.html)} == set(unseen)
    assert "<script>alert(1)</script>" in hostile.words
    strange = {letter for letter in hostile.html if unicodedata.category(letter) in ("Cc", "Cf")}
    assert strange <= {"\n"}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXT)
@settings(max_examples=150, deadline=None)
def test_byte_level_tokens_spell_the_text(text: str) -> None:
    words = byte_level()
    [ids] = words.encode([text])
    found = TokenDecoder(words).token_texts(ids)
    assert len(found) == len(ids)
    assert "".join(spelt.text for spelt in found) == text
    assert not any(spelt.is_invalid_utf8 or spelt.is_special for spelt in found)


@given(TEXT, st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_cut_letters_are_marked_and_nothing_else(text: str, start: int, stop: int) -> None:
    words = byte_level()
    [ids] = words.encode([text])
    kept = ids[start:stop]
    found = TokenDecoder(words).token_texts(kept)
    assert len(found) == len(kept)
    whole = "".join(spelt.text for spelt in found if not spelt.is_invalid_utf8)
    assert whole in text
    assert sum(spelt.is_invalid_utf8 for spelt in found) <= 6


def test_tokens_that_share_a_letter_stand_together() -> None:
    words = byte_level()
    [ids] = words.encode(["\U0001f680"])
    found = TokenDecoder(words).token_texts(ids)
    assert len(ids) > 1
    assert [spelt.text for spelt in found] == ["\U0001f680"] + [""] * (len(ids) - 1)
    assert [spelt.is_continuation for spelt in found] == [False] + [True] * (len(ids) - 1)


def test_a_token_cut_inside_a_letter_is_shown_as_bytes() -> None:
    words = byte_level()
    [ids] = words.encode(["\u4f60"])
    [first, *_] = TokenDecoder(words).token_texts(ids[:1])
    assert (first.text, first.is_invalid_utf8) == ("\\xe4", True)


def test_special_tokens_go_by_name_in_every_vocabulary() -> None:
    words = byte_level()
    found = TokenDecoder(words).token_texts([words.special_ids.end, words.special_ids.human, words.special_ids.answer])
    assert [(spelt.text, spelt.is_special) for spelt in found] == [
        (END_OF_TEXT, True),
        ("<|/h|>", True),
        ("<|/a|>", True),
    ]


def test_pieces_with_byte_fallback() -> None:
    names = [END_OF_TEXT, "<unk>", "\u2581the", "\u2581", "cat", *(f"<0x{byte:02X}>" for byte in range(256))]
    made = Fast(models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=[], byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([END_OF_TEXT])
    speller = TokenDecoder(_saved(made))
    ids = [2, 3, 4, *(5 + byte for byte in "é".encode())]
    assert [spelt.text for spelt in speller.token_texts(ids)] == [" the", " ", "cat", "é", ""]
    assert not speller.needs_spacing
    assert TokenDecoder(word_level()).needs_spacing


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a  b", "a<i> </i><i> </i>b"),
        ("a\n\nb", "a<i class=n>↵</i>\n<i class=n>↵</i>\nb"),
        ("\u00a0", "<i class=u>U+00A0</i>"),
        ("<&>", "&lt;&amp;&gt;"),
    ],
)
def test_blanks_are_in_sight(text: str, html: str) -> None:
    assert visible_html(text) == html
