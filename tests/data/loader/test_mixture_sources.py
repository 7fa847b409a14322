"""Sources of the loader: decoded images, and what rows count for."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from firstsight.data.image_reader import ImageReader
from firstsight.data.loader import DecodedImages, LoaderSource
from firstsight.errors import MixError
from firstsight.recipe.stages import IGNORE_INDEX
from firstsight.site import Location
from tests.data.conftest import Workshop
from tests.data.loader.row_data import batch_of
from tests.data.streams import make_stream


def test_pixels_are_decoded_in_the_order_of_features(
    text: LoaderSource, captions: LoaderSource, workshop: Workshop
) -> None:
    location = Location(path=str(workshop.folder("captions")))
    decoded = replace(captions, images=DecodedImages(reader=ImageReader(captions.index, location, None), size=8))
    features = make_stream(text, (captions, Fraction(1)), share=Fraction(1, 2)).batch(0)
    pixels = make_stream(text, (decoded, Fraction(1)), share=Fraction(1, 2)).batch(0)
    assert pixels.images.dtype == torch.uint8
    assert pixels.images.shape[1:] == (8, 8, 3)
    assert pixels.images[:, 3, 3, 0].tolist() == features.images[:, 0, 0].tolist(), "image n has the red value n"
    assert torch.equal(pixels.slots, features.slots)


@pytest.mark.parametrize("answers_only", [False, True])
def test_rows_count_for_what_their_batch_contains(dialogues: LoaderSource, answers_only: bool) -> None:
    source = replace(dialogues, answers_only=answers_only)
    batch, rows = batch_of(source), np.arange(source.packed_rows.row_count)
    assert source.units(rows, "rows").tolist() == [1] * len(rows)
    assert source.units(rows, "tokens").tolist() == (batch.docs >= 0).sum(dim=1).tolist()
    assert source.units(rows, "loss_tokens").tolist() == (batch.targets != IGNORE_INDEX).sum(dim=1).tolist()


def test_the_largest_group_of_rows_is_counted(text: LoaderSource) -> None:
    halves = text.packed_rows.split_rows(2)
    source = replace(text, packed_rows=halves, group_size=2)
    assert source.max_units("tokens") == halves.filled.max()
    assert source.max_units("tokens", group_size=2) == text.packed_rows.filled.max()
    assert source.max_units("rows", group_size=2) == 2


def test_a_share_of_units_that_a_source_lacks_is_refused(text: LoaderSource) -> None:
    zeros = np.zeros_like(text.packed_rows.loss_always)
    rows = replace(text.packed_rows, loss_always=zeros, loss_before_finetuning=zeros)
    source = replace(text, packed_rows=rows)
    source.check_countable(Fraction(1), "tokens")
    source.check_countable(Fraction(0), "loss_tokens")
    with pytest.raises(MixError, match="text: wanted 1/3 of the loss tokens"):
        source.check_countable(Fraction(1, 3), "loss_tokens")
