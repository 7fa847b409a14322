"""Batches against plain loops over the raw records; the same after any history, restart or number of processes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from firstsight.data.loader import Batch, BatchStream, DecodedImages, LoaderSource
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.stages import IGNORE_INDEX, RowShape
from firstsight.site import Location

from .conftest import ANSWER, HUMAN, PAD, Workshop, words_of
from .reference import source_at
from .streams import ROWS, SLOTS, B, T, blend, feed, stream


def same(one: Batch, other: Batch) -> bool:
    names = ("tokens", "targets", "docs", "positions", "slots", "source_ids")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names) and (
        one.images.numel() == other.images.numel() == 0 or torch.equal(one.images, other.images)
    )


def slow(stream: BatchStream, step: int) -> dict[str, list[list[int]]]:
    """The batch by plain loops over the ledger and the raw tokens, for sources whose documents all fit a row."""
    blank = {"tokens": PAD, "targets": IGNORE_INDEX, "docs": -1, "positions": 0, "picture": -1}
    rows: dict[str, list[list[int]]] = {name: [] for name in blank}
    for held in stream.step_records(step):
        row: dict[str, list[int]] = {name: [] for name in blank}
        for number, (kind, sample) in enumerate(held):
            feed = stream.sources[kind]
            start, count, shown, shown_from = feed.index.samples[sample].item()
            image = int(feed.index.image_refs["picture"][shown_from]) if shown else -1
            slots = SLOTS if image >= 0 else 0
            tokens = [PAD] * slots + feed.index.tokens[start : start + count].tolist()
            loss = [0] * slots + feed.index.loss[start : start + count].tolist()
            kept = [1] if feed.answers_only else [1, 2]
            row["tokens"] += tokens
            row["targets"] += [
                tokens[n + 1] if loss[n + 1] in kept else IGNORE_INDEX for n in range(len(tokens) - 1)
            ] + [IGNORE_INDEX]
            row["docs"] += [number] * len(tokens)
            row["positions"] += range(len(tokens))
            row["picture"] += [image] * slots + [-1] * count
        for name, filler in blank.items():
            rows[name].append(row[name] + [filler] * (T - len(row[name])))
    return rows


def test_a_batch_is_what_plain_loops_over_the_raw_records_give(
    captions: LoaderSource, dialogues: LoaderSource, workshop: Workshop
) -> None:
    short = feed(
        workshop.prepare(workshop.texts([{"text": words_of(range(2 + n % 25))} for n in range(99)], "short"), "text"),
        "text",
    )
    for answers_only in (False, True):
        images = [(replace(one, answers_only=answers_only), Fraction(1, 2)) for one in (captions, dialogues)]
        mixed = stream(short, *images, share=Fraction(2, 3))
        for step in range(12):
            batch, wanted = mixed.batch(step), slow(mixed, step)
            for name in ("tokens", "targets", "docs", "positions"):
                assert getattr(batch, name).tolist() == wanted[name], name
            flat = batch.images.reshape(-1, 3)[:, 0]
            found = torch.where(batch.slots >= 0, flat[batch.slots.clamp(min=0)], -1.0)
            assert found.tolist() == wanted["picture"]
            used = batch.slots[batch.slots >= 0]
            assert sorted(used.tolist()) == list(range(len(flat))), "every picture vector is used once"


def test_rows_come_in_the_order_that_pick_says(
    text: LoaderSource, captions: LoaderSource, dialogues: LoaderSource
) -> None:
    share = Fraction(2, 5)
    mixed = stream(text, (captions, Fraction(1, 4)), (dialogues, Fraction(3, 4)), share=share)
    kinds = torch.cat([mixed.batch(step).source_ids for step in range(20)]).tolist()
    assert [kind > 0 for kind in kinds] == [source_at(row, share)[0] for row in range(20 * B)]
    pictured = [kind for kind in kinds if kind]
    assert all(pictured[: n + 1].count(1) == (n + 1) // 4 for n in range(len(pictured)))


def test_targets_never_cross_a_border_and_stretches_of_a_long_text_join(text: LoaderSource) -> None:
    alone = stream(text, share=Fraction(0))
    for step in range(20):
        batch = alone.batch(step)
        inner = batch.docs[:, :-1] == batch.docs[:, 1:]
        aimed = batch.targets[:, :-1] != IGNORE_INDEX
        border = aimed & ~inner
        assert torch.equal(batch.targets[:, :-1][aimed & inner], batch.tokens[:, 1:][aimed & inner])
        assert not border.any(), "inside a row a document that goes on fills it to the end"
        assert (batch.positions[:, 1:][~inner & (batch.docs[:, 1:] >= 0)] == 0).all()
        assert (batch.positions[:, 1:][inner] == batch.positions[:, :-1][inner] + 1)[
            batch.docs[:, 1:][inner] >= 0
        ].all()


def test_an_epoch_holds_every_record_once_and_every_loss_token_of_the_source(text: LoaderSource) -> None:
    rows = replace(ROWS, batch_size=1)
    spans = ((text.packed_rows.row_count, Fraction(0)),)
    once = replace(
        stream(text, share=Fraction(0), epochs=1), row_shape=rows, steps=text.packed_rows.row_count, spans=spans
    )
    seen, targets = Counter[int](), 0
    for step in range(text.packed_rows.row_count):
        seen.update(number for _, number in once.step_records(step)[0])
        targets += int((once.batch(step).targets != IGNORE_INDEX).sum())
    assert set(seen) == set(range(200))
    assert sum(seen.values()) == len(text.packed_rows.column)
    assert targets == int((text.index.loss > 0).sum()), "every token that carries loss is aimed at exactly once"


def test_fine_tuning_aims_at_answers_alone(text: LoaderSource, dialogues: LoaderSource) -> None:
    tuned = stream(text, (replace(dialogues, answers_only=True), Fraction(1)), share=Fraction(1))
    mid = stream(text, (dialogues, Fraction(1)), share=Fraction(1))
    for step in range(5):
        answers = tuned.batch(step).targets
        assert not (answers == HUMAN).any()
        documents = len([1 for row in tuned.step_records(step) for _ in row])
        assert (answers == ANSWER).sum() == 2 * documents
        assert (answers != IGNORE_INDEX).sum() == (3 + 2) * documents
        assert (mid.batch(step).targets == HUMAN).sum() == 2 * documents


def test_a_step_is_the_same_after_any_history_and_restart(text: LoaderSource, captions: LoaderSource) -> None:
    one, other = (stream(text, (captions, Fraction(1)), share=Fraction(1, 2)) for _ in range(2))
    kept = [one.batch(step) for step in range(10)]
    for step in (7, 0, 9, 3):
        assert same(other.batch(step), kept[step])
    assert not same(replace(one, seed=4).batch(0), kept[0])


def test_no_images_is_the_text_stream_bit_for_bit(text: LoaderSource, captions: LoaderSource) -> None:
    plain, zero = stream(text, share=Fraction(0)), stream(text, (captions, Fraction(1)), share=Fraction(0))
    assert all(same(plain.batch(step), zero.batch(step)) for step in range(20))
    assert plain.batch(0).images.shape[0] == zero.batch(0).images.shape[0] == 0


def test_nothing_but_images_holds_no_text(text: LoaderSource, captions: LoaderSource) -> None:
    full = stream(text, (captions, Fraction(1)), share=Fraction(1))
    assert all((full.batch(step).source_ids == 1).all() for step in range(10))


def test_a_branch_goes_on_with_the_trunks_text(text: LoaderSource, captions: LoaderSource) -> None:
    trunk = stream(text, share=Fraction(0))
    branch = stream(text, (captions, Fraction(1)), share=Fraction(1, 3), seen=5 * B)
    trunk_rows = [row for step in range(5, 20) for row in trunk.step_records(step)]
    branch_rows = [row for step in range(20) for row in branch.step_records(step) if row[0][0] == 0]
    assert branch_rows[: len(trunk_rows)] == trunk_rows[: len(branch_rows)]


def test_pixels_come_decoded(text: LoaderSource, captions: LoaderSource, workshop: Workshop) -> None:
    place = Location(path=str(workshop.folder("captions")))
    seen = replace(captions, images=DecodedImages(index=captions.index, location=place, size=8, cache=None))
    features = stream(text, (captions, Fraction(1)), share=Fraction(1, 2)).batch(0)
    pixels = stream(text, (seen, Fraction(1)), share=Fraction(1, 2)).batch(0)
    assert pixels.images.dtype == torch.uint8
    assert pixels.images.shape[1:] == (8, 8, 3)
    assert pixels.images[:, 3, 3, 0].tolist() == features.images[:, 0, 0].tolist(), "picture n is drawn in red value n"
    assert torch.equal(pixels.slots, features.slots)


def rows_of(batch: Batch) -> list[tuple[object, ...]]:
    """Every row of a batch as plain numbers, pictures in place of the slots that point at them."""
    flat = batch.images.reshape(-1, batch.images.shape[-1])[:, 0] if batch.images.numel() else torch.zeros(1)
    seen = torch.where(batch.slots >= 0, flat[batch.slots.clamp(min=0)].double(), -1.0)
    held = (batch.tokens, batch.targets, batch.docs, batch.positions, seen)
    return [(int(batch.source_ids[row]), *(tuple(part[row].tolist()) for part in held)) for row in range(len(seen))]


@pytest.mark.parametrize("counted_in", ["rows", "tokens", "loss_tokens"])
def test_any_number_of_processes_reads_the_same_rows(
    text: LoaderSource, captions: LoaderSource, dialogues: LoaderSource, counted_in: ShareUnit
) -> None:
    parts = (captions, Fraction(1, 3)), (dialogues, Fraction(2, 3))
    mixed = stream(text, *parts, share=Fraction(2, 5), counted_in=counted_in, epochs=99)
    turns, chance = (1, 2, 3, 6), random.Random(0)
    for step in range(20):
        whole, of = rows_of(mixed.batch(step)), chance.choice(turns)
        assert [row for rank in range(of) for row in rows_of(mixed.batch(step, (rank, of)))] == whole, of
    with pytest.raises(MixError, match="6 rows a step in 4 equal parts"):
        mixed.batch(0, (0, 4))
    with pytest.raises(MixError, match="a step below 20"):
        mixed.batch(20)


def test_rows_that_were_cut_come_as_the_long_rows_would(text: LoaderSource, captions: LoaderSource) -> None:
    """A trunk of rows of T, a branch of rows of T / 2: the branch reads what the trunk has not, token for token."""
    short = RowShape(batch_size=B, length=T // 2)
    halves = replace(text, packed_rows=text.packed_rows.split_rows(2), group_size=2)
    trunk = replace(stream(text, share=Fraction(0)))
    branch = replace(
        stream(text, share=Fraction(0)), row_shape=short, text_mixture=blend((halves, Fraction(1))), text_row_offset=14
    )
    wanted = [row for step in range(20) for row in trunk.batch(step).tokens]
    found = torch.cat([branch.batch(step).tokens for step in range(20)]).reshape(-1, T)
    assert len(found) == 60
    for row, long in zip(found, wanted[7:67], strict=True):
        assert row.tolist() == long.tolist()
