"""Rows decoded from batches written by hand."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from firstsight.data.tokenizer import END_OF_TEXT
from firstsight.recipe.stages import IGNORE_INDEX
from tests.report.pages.small_batches import LENGTH, MIXED, SLOTS, START, decode, make_batch, preview


def test_tokens_with_loss_are_the_targets_of_the_batch() -> None:
    page = preview(decode(MIXED))
    loss_tokens = (MIXED.targets != IGNORE_INDEX).sum(dim=1).tolist()
    assert loss_tokens == [7, 7]
    assert [page.count(row, tag="span", css_class="l") for row in range(2)] == loss_tokens
    assert [row.loss_tokens for row in decode(MIXED)] == loss_tokens


def test_token_has_loss_where_it_is_a_target() -> None:
    [row, _] = decode(MIXED)
    elements = [element for document in row.documents for element in document.elements]
    tokens = [(element.token_text.text, element.has_loss) for element in elements if element.token_text]
    assert tokens[:5] == [(END_OF_TEXT, False), ("w0", True), ("w1", False), ("w2", True), (END_OF_TEXT, True)]
    assert [element.kind for element in row.documents[1].elements] == ["token"] * 4 + ["external_target"]


def test_every_document_has_a_frame_and_every_image_its_position() -> None:
    page = preview(decode(MIXED))
    assert [page.count(row, tag="div", css_class="document") for row in range(2)] == [2, 3]
    assert [page.count(row, tag="span", css_class="slots") for row in range(2)] == [0, 3]
    first, second = decode(MIXED)
    assert [document.first_column for document in first.documents] == [0, 5]
    assert [document.first_column for document in second.documents] == [0, 7, 13]
    assert [document.first_position for document in second.documents] == [0, 0, 0]
    assert second.tokens + second.padding == LENGTH


def test_images_are_those_of_the_batch() -> None:
    page = preview(decode(MIXED))
    sources = [attributes["src"] for tag, attributes in page.articles[1] if tag == "img"]
    assert len(set(sources)) == 3
    assert sources == [_png_uri(number * 40) for number in range(3)]


def _png_uri(value: int) -> str:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_images_between_words_are_in_order() -> None:
    [row] = decode(make_batch([[START, "w0", 0, "w1", 1, 2, "w2", END_OF_TEXT]]))
    kinds = [element.kind for element in row.documents[0].elements]
    assert kinds == ["token", "token", "image", "token", "image", "image", "token", "token"]
    assert [element.slot_count for element in row.documents[0].elements if element.kind == "image"] == [SLOTS] * 3
    assert row.image_count == 3


def test_start_and_end_of_documents() -> None:
    documents = [
        [START, "w0", END_OF_TEXT],
        [("w1", False), "w2", END_OF_TEXT],
        [START, "w3"],
        [START, "w4"],
    ]
    rows = decode(make_batch(documents, external_targets=[(0, 9, "w5")]))
    assert [(document.has_start, document.ending) for document in rows[0].documents] == [
        (True, "end_token"),
        (False, "end_token"),
        (True, "no_end_token"),
        (True, "continues"),
    ]
    texts = preview(rows).article_texts[0]
    notes = ("no start token", "no end token", "continues in another row")
    assert [texts.count(note) for note in notes] == [1, 1, 1]


def test_target_that_is_not_the_next_token_is_shown() -> None:
    """A shifted template: the loss is one position too early."""
    batch = make_batch([[START, ("w0", False), ("w1", False), END_OF_TEXT]], external_targets=[(0, 0, "w1")])
    [row] = decode(batch)
    elements = [(element.kind, element.column) for element in row.documents[0].elements]
    assert elements[:2] == [("token", 0), ("external_target", 0)]
    assert preview([row]).count(0, tag="span", css_class="b") == 1


def test_strip_covers_the_row() -> None:
    for row in decode(MIXED):
        assert sum(length for _, _, length in row.strip) == LENGTH
        assert [column for _, column, _ in row.strip] == sorted({column for _, column, _ in row.strip})
    assert sum(length for kind, _, length in decode(MIXED)[1].strip if kind == "image") == 3 * SLOTS
