"""Feeds whose pictures tell their numbers, and streams of twenty steps that mix them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from firstsight.data.index import Index
from firstsight.data.loader import Blended, Features, Feed, Stream
from firstsight.data.pack import pack
from firstsight.recipe.mix import Packing, Unit
from firstsight.recipe.stages import Rows

SLOTS, T, B = 4, 32, 6
ROWS = Rows(batch=B, length=T)


def feed(index: Index, name: str, *, packing: Packing = "best_fit", answers_only: bool = False) -> Feed:
    """A feed whose picture n is the vector of n's, so that a picture in the wrong place shows."""
    numbers = np.arange(len(index.images), dtype=np.float16)
    features = np.broadcast_to(numbers[:, None, None], (len(numbers), SLOTS, 3)).copy()
    pictures = None if index.form == "text" else Features(array=features)
    table = pack(index, length=T, image_tokens=0 if pictures is None else SLOTS, packing=packing)
    return Feed(name=name, index=index, table=table, pictures=pictures, answers_only=answers_only)


def blend(*parts: tuple[Feed, Fraction], epochs: int = 9, counted_in: Unit = "rows") -> Blended:
    feeds, shares = zip(*parts, strict=True)
    return Blended(feeds=feeds, shares=shares, epochs=(epochs,) * len(feeds), counted_in=counted_in)


def stream(
    text: Feed | Blended,
    *images: tuple[Feed, Fraction],
    share: Fraction | tuple[tuple[int, Fraction], ...],
    seen: int = 0,
    epochs: int = 9,
    counted_in: Unit = "rows",
) -> Stream:
    return Stream(
        text=blend((text, Fraction(1)), epochs=epochs) if isinstance(text, Feed) else text,
        images=blend(*images, epochs=epochs, counted_in=counted_in) if images else None,
        spans=share if isinstance(share, tuple) else ((20 * B, share),),
        counted_in=counted_in,
        rows=ROWS,
        seed=3,
        text_seed=3,
        text_rows_seen=seen,
        steps=20,
    )
