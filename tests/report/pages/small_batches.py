"""Batches written by hand, decoded rows and pages of them, for tests of preview.html."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from firstsight.data.loader import Batch
from firstsight.data.tokenizer import END_OF_TEXT, PAD_TOKEN
from firstsight.recipe.stages import IGNORE_INDEX, RowShape
from firstsight.report.pages.batch_rows import BatchDecoder, PreviewRecord, PreviewRow
from firstsight.report.pages.preview_page import PreviewSource, StageIdentity, StageOverview, render_preview
from firstsight.report.pages.token_text import TokenDecoder
from tests.report.html_page import Page
from tests.report.pages.small_tokenizers import WORD_IDS, word_level

SLOTS, LENGTH = 4, 24
Item = str | tuple[str, bool] | int
"""A word with loss; (word, has loss); or an image by its number."""
IDENTITY = StageIdentity(study="when", scale="smoke", arm="a.s1", stage="midtrain", seed=1, address="midtrain-0123")


def make_batch(*rows: Sequence[Sequence[Item]], external_targets: Sequence[tuple[int, int, str]] = ()) -> Batch:
    """Rows of documents of items as tensors; `external_targets` (row, column, word) are set in addition."""
    shape = (len(rows), LENGTH)
    tokens, targets = np.full(shape, WORD_IDS[PAD_TOKEN], dtype=np.int64), np.full(shape, IGNORE_INDEX, dtype=np.int64)
    docs, slots = np.full(shape, -1, dtype=np.int32), np.full(shape, -1, dtype=np.int64)
    positions, image_count = np.zeros(shape, dtype=np.int32), 0
    for row, documents in enumerate(rows):
        column = 0
        for number, items in enumerate(documents):
            start = column
            for item in items:
                width = SLOTS if isinstance(item, int) else 1
                docs[row, column : column + width] = number
                positions[row, column : column + width] = np.arange(column, column + width) - start
                if isinstance(item, int):
                    slots[row, column : column + width] = item * SLOTS + np.arange(SLOTS)
                    image_count = max(image_count, item + 1)
                else:
                    word, has_loss = (item, True) if isinstance(item, str) else item
                    tokens[row, column] = WORD_IDS[word]
                    if has_loss and column > start:
                        targets[row, column - 1] = WORD_IDS[word]
                column += width
    for row, column, word in external_targets:
        targets[row, column] = WORD_IDS[word]
    images = np.arange(image_count, dtype=np.uint8).repeat(8 * 8 * 3).reshape(-1, 8, 8, 3) * 40
    return Batch(
        tokens=torch.from_numpy(tokens),
        targets=torch.from_numpy(targets),
        docs=torch.from_numpy(docs),
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(slots),
        images=torch.from_numpy(images),
        source_ids=torch.tensor([int((slots[row] >= 0).any()) for row in range(len(rows))], dtype=torch.int8),
    )


def decode(batch: Batch, location: str = "texts.jsonl #7") -> list[PreviewRow]:
    """All rows of a batch; the record of a document is 10 x row + document."""
    batch_decoder = BatchDecoder(
        batch=batch,
        image_tokens=SLOTS,
        record_of=lambda row, document: PreviewRecord(record_index=10 * row + document, location=location),
        decoder=TokenDecoder(word_level()),
        end_ids=(WORD_IDS[END_OF_TEXT], WORD_IDS["<|/a|>"]),
    )
    return [batch_decoder.row(row, row) for row in range(len(batch.source_ids))]


def preview(rows: Sequence[PreviewRow], *names: str) -> Page:
    """The page of these rows; `names` of the sources."""
    counts = {"rows": 8, "tokens": 100, "loss_tokens": 50, "epochs": 0.5}
    overview = StageOverview(
        identity=IDENTITY,
        row_shape=RowShape(batch_size=4, length=LENGTH),
        steps=2,
        packing="best_fit",
        tokenizer_digest="f" * 64,
        needs_spacing=True,
        requested_share="50 % of rows",
        achieved_shares={"rows": 0.5, "tokens": 0.4, "loss_tokens": 0.3},
        padding_share=0.25,
        sources=tuple(
            PreviewSource(name=name, form="text", requested_share="all", **counts)  # type: ignore[arg-type]
            for name in names or ("texts", "captions")
        ),
    )
    return Page(render_preview(overview, rows))


START = (END_OF_TEXT, False)
MIXED = make_batch(
    [[START, "w0", ("w1", False), "w2", END_OF_TEXT], [START, "w3", "w4", "w5"]],
    [[0, "w6", "w7", END_OF_TEXT], [1, "w8", END_OF_TEXT], [2, ("w9", False), ("<|/h|>", False), "w10", "<|/a|>"]],
    external_targets=[(0, 8, "w6")],
)
"""A row of two text documents, and one of three with an image each."""
