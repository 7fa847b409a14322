"""Streams of batches: order, continuation, restarts and numbers of processes; what does not match is refused."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from firstsight.data.loader import Batch, LoaderSource
from firstsight.data.loader.achieved_mix import AchievedMix
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.stages import IGNORE_INDEX, RowShape
from tests.data.conftest import Workshop, words_of
from tests.data.reference import source_at
from tests.data.streams import ROWS, B, T, make_mixture, make_source, make_stream


def batches_equal(first: Batch, second: Batch) -> bool:
    names = ("tokens", "targets", "docs", "positions", "slots", "source_ids")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names) and (
        first.images.numel() == second.images.numel() == 0 or torch.equal(first.images, second.images)
    )


def test_image_rows_are_where_the_share_says(
    text: LoaderSource, captions: LoaderSource, dialogues: LoaderSource
) -> None:
    share = Fraction(2, 5)
    mixed = make_stream(text, (captions, Fraction(1, 4)), (dialogues, Fraction(3, 4)), share=share)
    source_ids = torch.cat([mixed.batch(step).source_ids for step in range(20)]).tolist()
    assert [source_id > 0 for source_id in source_ids] == [source_at(row, share)[0] for row in range(20 * B)]
    image_source_ids = [source_id for source_id in source_ids if source_id]
    assert all(image_source_ids[: n + 1].count(1) == (n + 1) // 4 for n in range(len(image_source_ids)))


def test_an_epoch_has_every_record_and_every_loss_token_once(text: LoaderSource) -> None:
    rows = replace(ROWS, batch_size=1)
    spans = ((text.packed_rows.row_count, Fraction(0)),)
    single_epoch = replace(
        make_stream(text, share=Fraction(0), epochs=1), row_shape=rows, steps=text.packed_rows.row_count, spans=spans
    )
    record_counts, targets = Counter[int](), 0
    for step in range(text.packed_rows.row_count):
        record_counts.update(number for _, number in single_epoch.step_records(step)[0])
        targets += int((single_epoch.batch(step).targets != IGNORE_INDEX).sum())
    assert set(record_counts) == set(range(200))
    assert sum(record_counts.values()) == len(text.packed_rows.column)
    assert targets == int((text.index.loss > 0).sum()), "every token that carries loss is aimed at exactly once"


def test_a_step_does_not_depend_on_the_steps_before(text: LoaderSource, captions: LoaderSource) -> None:
    first, second = (make_stream(text, (captions, Fraction(1)), share=Fraction(1, 2)) for _ in range(2))
    batches = [first.batch(step) for step in range(10)]
    for step in (7, 0, 9, 3):
        assert batches_equal(second.batch(step), batches[step])
    assert not batches_equal(replace(first, seed=4).batch(0), batches[0])


def test_a_share_of_zero_equals_the_text_stream(text: LoaderSource, captions: LoaderSource) -> None:
    plain, zero = make_stream(text, share=Fraction(0)), make_stream(text, (captions, Fraction(1)), share=Fraction(0))
    assert all(batches_equal(plain.batch(step), zero.batch(step)) for step in range(20))
    assert plain.batch(0).images.shape[0] == zero.batch(0).images.shape[0] == 0


def test_a_share_of_one_has_no_text(text: LoaderSource, captions: LoaderSource) -> None:
    full = make_stream(text, (captions, Fraction(1)), share=Fraction(1))
    assert all((full.batch(step).source_ids == 1).all() for step in range(10))


def test_a_branch_continues_the_text_of_its_trunk(text: LoaderSource, captions: LoaderSource) -> None:
    trunk = make_stream(text, share=Fraction(0))
    branch = make_stream(text, (captions, Fraction(1)), share=Fraction(1, 3), text_row_offset=5 * B)
    trunk_rows = [row for step in range(5, 20) for row in trunk.step_records(step)]
    branch_rows = [row for step in range(20) for row in branch.step_records(step) if row[0][0] == 0]
    assert branch_rows[: len(trunk_rows)] == trunk_rows[: len(branch_rows)]


def rows_as_numbers(batch: Batch) -> list[tuple[object, ...]]:
    """Every row of a batch as numbers, with images instead of slots."""
    flat = batch.images.reshape(-1, batch.images.shape[-1])[:, 0] if batch.images.numel() else torch.zeros(1)
    record_counts = torch.where(batch.slots >= 0, flat[batch.slots.clamp(min=0)].double(), -1.0)
    fields = (batch.tokens, batch.targets, batch.docs, batch.positions, record_counts)
    return [
        (int(batch.source_ids[row]), *(tuple(part[row].tolist()) for part in fields))
        for row in range(len(record_counts))
    ]


@pytest.mark.parametrize("counted_in", ["rows", "tokens", "loss_tokens"])
def test_any_number_of_processes_reads_the_same_rows(
    text: LoaderSource, captions: LoaderSource, dialogues: LoaderSource, counted_in: ShareUnit
) -> None:
    parts = (captions, Fraction(1, 3)), (dialogues, Fraction(2, 3))
    mixed = make_stream(text, *parts, share=Fraction(2, 5), counted_in=counted_in, epochs=99)
    replica_counts, rng = (1, 2, 3, 6), random.Random(0)
    for step in range(20):
        expected_rows, num_replicas = rows_as_numbers(mixed.batch(step)), rng.choice(replica_counts)
        assert [
            row for rank in range(num_replicas) for row in rows_as_numbers(mixed.batch(step, (rank, num_replicas)))
        ] == expected_rows, num_replicas
    with pytest.raises(MixError, match="6 rows per step in 4 equal parts"):
        mixed.batch(0, (0, 4))
    with pytest.raises(MixError, match="a step below 20"):
        mixed.batch(20)


def test_split_rows_come_in_the_order_of_the_long_rows(text: LoaderSource, captions: LoaderSource) -> None:
    """A trunk with rows of T, a branch with rows of T / 2: the branch reads what the trunk has not, token for token."""
    short = RowShape(batch_size=B, length=T // 2)
    halves = replace(text, packed_rows=text.packed_rows.split_rows(2), group_size=2)
    trunk = replace(make_stream(text, share=Fraction(0)))
    branch = replace(
        make_stream(text, share=Fraction(0)),
        row_shape=short,
        text_mixture=make_mixture((halves, Fraction(1))),
        text_row_offset=14,
    )
    expected = [row for step in range(20) for row in trunk.batch(step).tokens]
    actual = torch.cat([branch.batch(step).tokens for step in range(20)]).reshape(-1, T)
    assert len(actual) == 60
    for row, long_row in zip(actual, expected[7:67], strict=True):
        assert row.tolist() == long_row.tolist()


def test_too_few_rows_are_refused_before_training(text: LoaderSource, captions: LoaderSource) -> None:
    available, required = captions.packed_rows.row_count, 20 * B // 2
    assert available < required
    with pytest.raises(
        MixError, match=rf"wants {required} rows.*has {available} .*allow epochs={-(-required // available)}"
    ):
        make_stream(text, (captions, Fraction(1)), share=Fraction(1, 2), epochs=1)
    make_stream(text, (captions, Fraction(1)), share=Fraction(1, 2), epochs=-(-required // available))
    with pytest.raises(MixError, match="text: wants"):
        make_stream(text, share=Fraction(0), text_row_offset=text.packed_rows.row_count, epochs=1)


def test_sources_that_do_not_match_are_refused(text: LoaderSource, captions: LoaderSource) -> None:
    half = Fraction(1, 2)
    with pytest.raises(MixError, match="Got no image source"):
        make_stream(text, share=half)
    with pytest.raises(MixError, match="distinct names"):
        make_stream(text, (captions, half), (captions, half), share=half)
    with pytest.raises(MixError, match=r"wanted the tokenizer of .*\. Got another\."):
        make_stream(
            text, (replace(captions, index=replace(captions.index, tokenizer_digest="other")), Fraction(1)), share=half
        )
    with pytest.raises(MixError, match="images of one shape"):
        make_stream(text, (replace(captions, images=None), Fraction(1)), share=half)
    with pytest.raises(MixError, match="Pack it again"):
        replace(make_stream(text, share=Fraction(0)), row_shape=RowShape(batch_size=B, length=T + 1))


@pytest.mark.parametrize("counted_in", ["rows", "tokens", "loss_tokens"])
def test_two_texts_continue_across_a_branch(
    text: LoaderSource, captions: LoaderSource, workshop: Workshop, counted_in: ShareUnit
) -> None:
    more_rows = [{"text": words_of(range(n % 40, n % 40 + 2 + n % 25))} for n in range(150)]
    second_text = make_source(workshop.prepare(workshop.texts(more_rows, "more"), "text"), "more")
    texts = make_mixture((text, Fraction(2, 3)), (second_text, Fraction(1, 3)), counted_in=counted_in)
    trunk = make_stream(texts, share=Fraction(0))
    trunk_rows = [row for step in range(20) for row in trunk.step_records(step)]
    for rows_read in (0, 1, 17, 60):
        branch = make_stream(
            texts, (captions, Fraction(1)), share=Fraction(1, 3), text_row_offset=rows_read, counted_in=counted_in
        )
        branch_rows = [row for step in range(20) for row in branch.step_records(step) if row[0][0] < 2]
        common = min(len(trunk_rows) - rows_read, len(branch_rows))
        assert common > 30
        assert branch_rows[:common] == trunk_rows[rows_read : rows_read + common]
        assert AchievedMix(branch, 20).text_rows_read == rows_read + len(branch_rows)


def test_passes_are_limited_when_tokens_are_counted(text: LoaderSource, captions: LoaderSource) -> None:
    mixed = make_stream(text, (captions, Fraction(1)), share=Fraction(1, 2), counted_in="tokens")
    required, available = AchievedMix(mixed, 20).rows["captions"], captions.packed_rows.row_count
    needed = -(-required // available)
    assert needed > 1
    with pytest.raises(MixError, match=rf"captions: wants {required} rows.*has {available} .*allow epochs={needed}"):
        replace(mixed, image_mixture=make_mixture((captions, Fraction(1)), epochs=needed - 1))
    replace(mixed, image_mixture=make_mixture((captions, Fraction(1)), epochs=needed))


def test_a_source_without_loss_tokens_is_refused_when_they_are_counted(
    text: LoaderSource, captions: LoaderSource
) -> None:
    zeros = np.zeros_like(text.packed_rows.loss_always)
    no_loss = replace(
        text, name="mute", packed_rows=replace(text.packed_rows, loss_always=zeros, loss_before_finetuning=zeros)
    )
    with pytest.raises(MixError, match="mute: wanted 1 of the loss tokens"):
        make_stream(no_loss, (captions, Fraction(1)), share=Fraction(1, 2), counted_in="loss_tokens")
    with pytest.raises(MixError, match="mute: wanted 1/2 of the loss tokens"):
        make_stream(
            make_mixture((text, Fraction(1, 2)), (no_loss, Fraction(1, 2)), counted_in="loss_tokens"), share=Fraction(0)
        )
