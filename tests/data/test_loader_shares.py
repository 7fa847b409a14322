"""Shares of rows and of tokens: what was asked is achieved on every prefix, and what cannot be is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from firstsight.data.loader import BatchStream, LoaderSource
from firstsight.data.packing import pack
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.stages import IGNORE_INDEX, RowShape

from .conftest import Workshop, words_of
from .streams import SLOTS, B, T, blend, feed, stream


def test_achieved_counts_what_the_batches_hold(
    text: LoaderSource, captions: LoaderSource, dialogues: LoaderSource
) -> None:
    parts = (captions, Fraction(1, 3)), (replace(dialogues, answers_only=True), Fraction(2, 3))
    mixed = stream(text, *parts, share=Fraction(3, 10))
    rows, tokens, loss = Counter[int](), Counter[int](), Counter[int]()
    for step in range(20):
        batch = mixed.batch(step)
        for kind, docs, targets in zip(batch.source_ids.tolist(), batch.docs, batch.targets, strict=True):
            rows[kind] += 1
            tokens[kind] += int((docs >= 0).sum())
            loss[kind] += int((targets != IGNORE_INDEX).sum())
    found = mixed.achieved_mix(20)
    for counted, told in ((rows, found.rows), (tokens, found.tokens), (loss, found.loss_tokens)):
        assert [counted[kind] for kind in range(3)] == [told[one.name] for one in mixed.sources]
    record = found.to_dict()
    assert record["achieved"]["rows"] == pytest.approx(0.3)  # type: ignore[index]
    assert record["padding"] == pytest.approx(1 - tokens.total() / (20 * B * T))


def test_thin_data_is_refused_before_anything_runs(text: LoaderSource, captions: LoaderSource) -> None:
    have, want = captions.packed_rows.row_count, 20 * B // 2
    assert have < want
    with pytest.raises(MixError, match=rf"wants {want} rows.*holds {have} .*allow epochs={-(-want // have)}"):
        stream(text, (captions, Fraction(1)), share=Fraction(1, 2), epochs=1)
    stream(text, (captions, Fraction(1)), share=Fraction(1, 2), epochs=-(-want // have))
    with pytest.raises(MixError, match="text: wants"):
        stream(text, share=Fraction(0), seen=text.packed_rows.row_count, epochs=1)


def test_sources_that_do_not_fit_together_are_refused(text: LoaderSource, captions: LoaderSource) -> None:
    half = Fraction(1, 2)
    with pytest.raises(MixError, match="Got no image source"):
        stream(text, share=half)
    with pytest.raises(MixError, match="distinct names"):
        stream(text, (captions, half), (captions, half), share=half)
    with pytest.raises(MixError, match="another tokenizer"):
        stream(
            text, (replace(captions, index=replace(captions.index, tokenizer_digest="other")), Fraction(1)), share=half
        )
    with pytest.raises(MixError, match="images of one shape"):
        stream(text, (replace(captions, images=None), Fraction(1)), share=half)
    with pytest.raises(MixError, match="Pack it again"):
        replace(stream(text, share=Fraction(0)), row_shape=RowShape(batch_size=B, length=T + 1))


@pytest.mark.parametrize("counted_in", ["tokens", "loss_tokens"])
def test_a_mix_of_tokens_holds_its_share_on_every_prefix(
    text: LoaderSource, captions: LoaderSource, dialogues: LoaderSource, counted_in: ShareUnit
) -> None:
    """Counted in the batches themselves: no table takes part."""
    share = Fraction(3, 10)
    sparse = pack(captions.index, length=T, image_tokens=SLOTS, packing="one_image_per_row")
    parts = (replace(captions, packed_rows=sparse), Fraction(1, 4)), (dialogues, Fraction(3, 4))
    mixed = stream(text, *parts, share=share, counted_in=counted_in, epochs=99)
    held, within = [0, 0], [0, 0]
    for step in range(20):
        batch = mixed.batch(step)
        units = (batch.docs >= 0).sum(1) if counted_in == "tokens" else (batch.targets != IGNORE_INDEX).sum(1)
        for kind, unit in zip(batch.source_ids.tolist(), units.tolist(), strict=True):
            held[kind > 0] += unit
            if kind:
                within[kind - 1] += unit
            assert abs(held[1] - share * sum(held)) < T + T
            assert abs(within[0] - Fraction(1, 4) * sum(within)) < T + T
    found = mixed.achieved_mix(20).to_dict()
    assert found["achieved"][counted_in] == pytest.approx(held[1] / sum(held))  # type: ignore[index]
    assert found["counted_in"] == counted_in
    rows = stream(text, *parts, share=share, epochs=99).achieved_mix(20).to_dict()
    assert rows["achieved"]["rows"] == pytest.approx(0.3)  # type: ignore[index]
    assert abs(rows["achieved"][counted_in] - 0.3) > 0.02, "counting rows is something else"  # type: ignore[index]


@pytest.mark.parametrize("counted_in", ["rows", "tokens"])
def test_shares_change_where_a_span_ends(text: LoaderSource, captions: LoaderSource, counted_in: ShareUnit) -> None:
    spans = ((50, Fraction(0)), (1, Fraction(1)), (40, Fraction(1, 2)), (29, Fraction(1, 4)))
    mixed = stream(text, (captions, Fraction(1)), share=spans, counted_in=counted_in)
    kinds = torch.cat([mixed.batch(step).source_ids for step in range(20)])
    tokens = torch.cat([(mixed.batch(step).docs >= 0).sum(1) for step in range(20)])
    units, start = tokens if counted_in == "tokens" else torch.ones_like(tokens), 0
    for (rows, share), told in zip(spans, mixed.achieved_mix(20).spans, strict=True):
        mine, held = kinds[start : start + rows] > 0, units[start : start + rows]
        got, whole = int(held[mine].sum()), int(held.sum())
        assert got == int(whole * share) if counted_in == "rows" else abs(got - whole * share) < 2 * T
        assert (told.rows, told.target_share) == (rows, share)
        assert told.achieved_shares[counted_in] == pytest.approx(got / whole)
        start += rows
    assert mixed.achieved_mix(20).to_dict()["asked"] == str(Fraction(50 * 0 + 1 + 20, 120) + Fraction(29, 4 * 120))


@pytest.mark.parametrize("counted_in", ["rows", "tokens", "loss_tokens"])
def test_two_texts_go_on_across_a_branch(
    text: LoaderSource, captions: LoaderSource, workshop: Workshop, counted_in: ShareUnit
) -> None:
    more = [{"text": words_of(range(n % 40, n % 40 + 2 + n % 25))} for n in range(150)]
    other = feed(workshop.prepare(workshop.texts(more, "more"), "text"), "more")
    texts = blend((text, Fraction(2, 3)), (other, Fraction(1, 3)), counted_in=counted_in)
    trunk = stream(texts, share=Fraction(0))
    held = [row for step in range(20) for row in trunk.step_records(step)]
    for seen in (0, 1, 17, 60):
        branch = stream(texts, (captions, Fraction(1)), share=Fraction(1, 3), seen=seen, counted_in=counted_in)
        behind = [row for step in range(20) for row in branch.step_records(step) if row[0][0] < 2]
        most = min(len(held) - seen, len(behind))
        assert most > 30
        assert behind[:most] == held[seen : seen + most]
        assert branch.achieved_mix(20).text_rows_read == seen + len(behind)


def test_sources_are_gone_through_as_often_as_declared_also_where_tokens_are_counted(
    text: LoaderSource, captions: LoaderSource
) -> None:
    mixed = stream(text, (captions, Fraction(1)), share=Fraction(1, 2), counted_in="tokens")
    want, have = mixed.achieved_mix(20).rows["captions"], captions.packed_rows.row_count
    needed = -(-want // have)
    assert needed > 1
    with pytest.raises(MixError, match=rf"captions: wants {want} rows.*holds {have} .*allow epochs={needed}"):
        replace(mixed, image_mixture=blend((captions, Fraction(1)), epochs=needed - 1))
    replace(mixed, image_mixture=blend((captions, Fraction(1)), epochs=needed))


def test_a_source_without_what_is_counted_is_refused(text: LoaderSource, captions: LoaderSource) -> None:
    nothing = np.zeros_like(text.packed_rows.loss_always)
    mute = replace(
        text, name="mute", packed_rows=replace(text.packed_rows, loss_always=nothing, loss_before_finetuning=nothing)
    )
    with pytest.raises(MixError, match="mute: wanted 1 of the loss tokens"):
        stream(mute, (captions, Fraction(1)), share=Fraction(1, 2), counted_in="loss_tokens")
    with pytest.raises(MixError, match="mute: wanted 1/2 of the loss tokens"):
        stream(blend((text, Fraction(1, 2)), (mute, Fraction(1, 2)), counted_in="loss_tokens"), share=Fraction(0))


def test_achieved_notices_a_share_that_is_off(
    text: LoaderSource, captions: LoaderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = stream(text, (captions, Fraction(1)), share=Fraction(1, 2))
    drawn = BatchStream.source_rows

    def one_less(self: BatchStream, positions: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        (_, texts), (_, images) = drawn(self, positions)
        return iter([(texts, texts), (images[2:], images[2:])])

    mixed.achieved_mix(20)
    monkeypatch.setattr(BatchStream, "source_rows", one_less)
    with pytest.raises(MixError, match=r"wanted 1/2 of the rows\. Got 58 of 118"):
        mixed.achieved_mix(20)
