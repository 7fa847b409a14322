"""The mix that was achieved, counted in the batches themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from firstsight.data.loader import BatchStream, LoaderSource
from firstsight.data.loader.achieved_mix import AchievedMix
from firstsight.data.packing import pack
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.stages import IGNORE_INDEX
from tests.data.streams import IMAGE_TOKENS, B, T, make_stream


def test_the_achieved_mix_equals_the_contents_of_the_batches(
    text: LoaderSource, captions: LoaderSource, dialogues: LoaderSource
) -> None:
    parts = (captions, Fraction(1, 3)), (replace(dialogues, answers_only=True), Fraction(2, 3))
    mixed = make_stream(text, *parts, share=Fraction(3, 10))
    rows, tokens, loss = Counter[int](), Counter[int](), Counter[int]()
    for step in range(20):
        batch = mixed.batch(step)
        for source_id, docs, targets in zip(batch.source_ids.tolist(), batch.docs, batch.targets, strict=True):
            rows[source_id] += 1
            tokens[source_id] += int((docs >= 0).sum())
            loss[source_id] += int((targets != IGNORE_INDEX).sum())
    achieved = AchievedMix(mixed, 20)
    for counted, reported in ((rows, achieved.rows), (tokens, achieved.tokens), (loss, achieved.loss_tokens)):
        assert [counted[source_id] for source_id in range(3)] == [reported[source.name] for source in mixed.sources]
    record = achieved.to_dict()
    assert record["achieved"]["rows"] == pytest.approx(0.3)  # type: ignore[index]
    assert record["padding"] == pytest.approx(1 - tokens.total() / (20 * B * T))


@pytest.mark.parametrize("counted_in", ["tokens", "loss_tokens"])
def test_a_mix_of_tokens_has_its_share_on_every_prefix(
    text: LoaderSource, captions: LoaderSource, dialogues: LoaderSource, counted_in: ShareUnit
) -> None:
    """Counted in the batches themselves, without the package's own counts."""
    share = Fraction(3, 10)
    sparse = pack(captions.index, length=T, image_tokens=IMAGE_TOKENS, packing="one_image_per_row")
    parts = (replace(captions, packed_rows=sparse), Fraction(1, 4)), (dialogues, Fraction(3, 4))
    mixed = make_stream(text, *parts, share=share, counted_in=counted_in, epochs=99)
    units_by_kind, units_by_source = [0, 0], [0, 0]
    for step in range(20):
        batch = mixed.batch(step)
        units = (batch.docs >= 0).sum(1) if counted_in == "tokens" else (batch.targets != IGNORE_INDEX).sum(1)
        for source_id, unit in zip(batch.source_ids.tolist(), units.tolist(), strict=True):
            units_by_kind[source_id > 0] += unit
            if source_id:
                units_by_source[source_id - 1] += unit
            assert abs(units_by_kind[1] - share * sum(units_by_kind)) < T + T
            assert abs(units_by_source[0] - Fraction(1, 4) * sum(units_by_source)) < T + T
    achieved = AchievedMix(mixed, 20).to_dict()
    assert achieved["achieved"][counted_in] == pytest.approx(units_by_kind[1] / sum(units_by_kind))  # type: ignore[index]
    assert achieved["counted_in"] == counted_in
    rows = AchievedMix(make_stream(text, *parts, share=share, epochs=99), 20).to_dict()
    assert rows["achieved"]["rows"] == pytest.approx(0.3)  # type: ignore[index]
    assert abs(rows["achieved"][counted_in] - 0.3) > 0.02, "counting rows is something else"  # type: ignore[index]


@pytest.mark.parametrize("counted_in", ["rows", "tokens"])
def test_shares_change_where_a_span_ends(text: LoaderSource, captions: LoaderSource, counted_in: ShareUnit) -> None:
    spans = ((50, Fraction(0)), (1, Fraction(1)), (40, Fraction(1, 2)), (29, Fraction(1, 4)))
    mixed = make_stream(text, (captions, Fraction(1)), share=spans, counted_in=counted_in)
    source_ids = torch.cat([mixed.batch(step).source_ids for step in range(20)])
    tokens = torch.cat([(mixed.batch(step).docs >= 0).sum(1) for step in range(20)])
    units, start = tokens if counted_in == "tokens" else torch.ones_like(tokens), 0
    for (rows, share), reported in zip(spans, AchievedMix(mixed, 20).spans, strict=True):
        is_image, units_by_kind = source_ids[start : start + rows] > 0, units[start : start + rows]
        image_units, total = int(units_by_kind[is_image].sum()), int(units_by_kind.sum())
        assert image_units == int(total * share) if counted_in == "rows" else abs(image_units - total * share) < 2 * T
        assert (reported.rows, reported.target_share) == (rows, share)
        assert reported.achieved_shares[counted_in] == pytest.approx(image_units / total)
        start += rows
    assert AchievedMix(mixed, 20).to_dict()["asked"] == str(Fraction(50 * 0 + 1 + 20, 120) + Fraction(29, 4 * 120))


def test_a_share_that_is_off_is_an_error(
    text: LoaderSource, captions: LoaderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = make_stream(text, (captions, Fraction(1)), share=Fraction(1, 2))
    source_rows = BatchStream.source_rows

    def drop_two_images(self: BatchStream, positions: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        (_, texts), (_, images) = source_rows(self, positions)
        return iter([(texts, texts), (images[2:], images[2:])])

    AchievedMix(mixed, 20)
    monkeypatch.setattr(BatchStream, "source_rows", drop_two_images)
    with pytest.raises(MixError, match=r"wanted 1/2 of the rows\. Got 58 of 118"):
        AchievedMix(mixed, 20)
