"""Feeds whose pictures tell their numbers, and streams of twenty steps that mix them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from firstsight.data.index import Index
from firstsight.data.loader import BatchStream, LoaderMixture, LoaderSource, PrecomputedFeatures
from firstsight.data.packing import pack
from firstsight.recipe.mixture import PackingMode, ShareUnit
from firstsight.recipe.stages import RowShape

SLOTS, T, B = 4, 32, 6
ROWS = RowShape(batch_size=B, length=T)


def feed(index: Index, name: str, *, packing: PackingMode = "best_fit", answers_only: bool = False) -> LoaderSource:
    """A feed whose picture n is the vector of n's, so that a picture in the wrong place shows."""
    numbers = np.arange(len(index.images), dtype=np.float16)
    features = np.broadcast_to(numbers[:, None, None], (len(numbers), SLOTS, 3)).copy()
    pictures = None if index.form == "text" else PrecomputedFeatures(array=features)
    table = pack(index, length=T, image_tokens=0 if pictures is None else SLOTS, packing=packing)
    return LoaderSource(name=name, index=index, packed_rows=table, images=pictures, answers_only=answers_only)


def blend(*parts: tuple[LoaderSource, Fraction], epochs: int = 9, counted_in: ShareUnit = "rows") -> LoaderMixture:
    feeds, shares = zip(*parts, strict=True)
    return LoaderMixture(sources=feeds, shares=shares, epochs=(epochs,) * len(feeds), counted_in=counted_in)


def stream(
    text: LoaderSource | LoaderMixture,
    *images: tuple[LoaderSource, Fraction],
    share: Fraction | tuple[tuple[int, Fraction], ...],
    seen: int = 0,
    epochs: int = 9,
    counted_in: ShareUnit = "rows",
) -> BatchStream:
    return BatchStream(
        text_mixture=blend((text, Fraction(1)), epochs=epochs) if isinstance(text, LoaderSource) else text,
        image_mixture=blend(*images, epochs=epochs, counted_in=counted_in) if images else None,
        spans=share if isinstance(share, tuple) else ((20 * B, share),),
        counted_in=counted_in,
        row_shape=ROWS,
        seed=3,
        text_seed=3,
        text_row_offset=seen,
        steps=20,
    )
