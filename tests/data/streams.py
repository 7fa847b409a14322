"""Sources whose image features are the image numbers, and streams of twenty steps that mix them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from firstsight.data.index import Index
from firstsight.data.loader import BatchStream, LoaderMixture, LoaderSource, PrecomputedFeatures
from firstsight.data.packing import pack
from firstsight.recipe.mixture import PackingMode, ShareUnit
from firstsight.recipe.stages import RowShape

IMAGE_TOKENS, T, B = 4, 32, 6
ROWS = RowShape(batch_size=B, length=T)


def make_source(
    index: Index, name: str, *, packing: PackingMode = "best_fit", answers_only: bool = False
) -> LoaderSource:
    """A source with features n of image n, so that an image in the wrong place is detected."""
    image_ids = np.arange(len(index.images), dtype=np.float16)
    features = np.broadcast_to(image_ids[:, None, None], (len(image_ids), IMAGE_TOKENS, 3)).copy()
    images = None if index.form == "text" else PrecomputedFeatures(arrays=(features,))
    packed_rows = pack(index, length=T, image_tokens=0 if images is None else IMAGE_TOKENS, packing=packing)
    return LoaderSource(name=name, index=index, packed_rows=packed_rows, images=images, answers_only=answers_only)


def make_mixture(
    *parts: tuple[LoaderSource, Fraction], epochs: int = 9, counted_in: ShareUnit = "rows"
) -> LoaderMixture:
    sources, shares = zip(*parts, strict=True)
    return LoaderMixture(sources=sources, shares=shares, epochs=(epochs,) * len(sources), counted_in=counted_in)


def make_stream(
    text: LoaderSource | LoaderMixture,
    *images: tuple[LoaderSource, Fraction],
    share: Fraction | tuple[tuple[int, Fraction], ...],
    text_row_offset: int = 0,
    epochs: int = 9,
    counted_in: ShareUnit = "rows",
) -> BatchStream:
    return BatchStream(
        text_mixture=make_mixture((text, Fraction(1)), epochs=epochs) if isinstance(text, LoaderSource) else text,
        image_mixture=make_mixture(*images, epochs=epochs, counted_in=counted_in) if images else None,
        spans=share if isinstance(share, tuple) else ((20 * B, share),),
        counted_in=counted_in,
        row_shape=ROWS,
        seed=3,
        text_seed=3,
        text_row_offset=text_row_offset,
        steps=20,
    )
