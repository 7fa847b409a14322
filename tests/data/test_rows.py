"""Rows against plain loops over the raw records, and the laws that every packing keeps."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.loader.collate import IGNORE_INDEX, Batch, BatchBuilder
from firstsight.data.loader.sources import LoaderSource, PrecomputedFeatures
from firstsight.data.packing import PackedRows, pack
from firstsight.recipe.mixture import ExternalForm, PackingMode

from .rows import ANSWER, END, HUMAN, PAD, Raw, Stretch, index_of, lay_by_hand, split_by_hand

PICTURES = 9
PACKINGS: list[PackingMode] = ["best_fit", "one_image_per_row"]


@st.composite
def documents(draw: st.DrawFn) -> Raw:
    """An interleaved document: an end token, words, and pictures anywhere, also several at one place."""
    words = draw(st.integers(1, 60))
    at = sorted(draw(st.lists(st.integers(0, words - 1), max_size=7)))
    tokens = [END, *range(10, 10 + words - 1)]
    loss = [0, *draw(st.lists(st.sampled_from([0, 1, 1, 2]), min_size=words - 1, max_size=words - 1))]
    return Raw(tokens, loss, [(place, draw(st.integers(0, PICTURES - 1))) for place in at])


@st.composite
def dialogues(draw: st.DrawFn) -> Raw:
    """Turns in pairs, with a picture at the head or an end token in its stead."""
    pictured = draw(st.booleans())
    tokens, loss = ([], []) if pictured else ([END], [0])
    for asked, said in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)):
        tokens += [*range(20, 20 + asked), HUMAN, *range(40, 40 + said), ANSWER]
        loss += [2] * (asked + 1) + [1] * (said + 1)
    return Raw(tokens, loss, [(0, draw(st.integers(0, PICTURES - 1)))] if pictured else [])


@st.composite
def captions(draw: st.DrawFn) -> Raw:
    words = draw(st.integers(1, 50))
    return Raw([*range(10, 10 + words), END], [1] * (words + 1), [(0, draw(st.integers(0, PICTURES - 1)))])


def feed_of(form: ExternalForm, records: list[Raw], *, length: int, slots: int, packing: PackingMode) -> LoaderSource:
    """A feed whose picture n is the vector of n's, so that a picture in the wrong place shows."""
    index = index_of(form, records, images=PICTURES)
    numbers = np.arange(PICTURES, dtype=np.float16)
    pictures = PrecomputedFeatures(array=np.broadcast_to(numbers[:, None, None], (PICTURES, slots, 3)).copy())
    table = pack(index, length=length, image_tokens=slots, packing=packing)
    return LoaderSource(name=form, index=index, packed_rows=table, images=pictures, answers_only=False)


def batch_of(feed: LoaderSource) -> Batch:
    """All rows of a feed's table, in order."""
    blank, rows = (
        BatchBuilder(feed.packed_rows.row_count, feed.packed_rows.length, PAD),
        np.arange(feed.packed_rows.row_count),
    )
    blank.add_rows(feed, 1, batch_rows=rows, rows=rows)
    return blank.build(feed.images)


def stretches(table: PackedRows, records: list[Raw]) -> list[list[Stretch]]:
    """What the table says stands in each row, in a record's own counting."""
    tokens = np.cumsum([0] + [len(record.tokens) for record in records]).tolist()
    shown = np.cumsum([0] + [len(record.shown) for record in records]).tolist()
    held = table.segments
    columns = (held.sample, held.start, held.count, held.image_start, held.image_count, held.has_next_token)
    found: list[Stretch] = []
    for sample, start, count, first, pictures, goes_on in zip(*(each.tolist() for each in columns), strict=True):
        begin, seen = start - tokens[sample], first - shown[sample] if pictures else 0
        found.append(Stretch(sample, begin, begin + count, seen, seen + pictures, goes_on))
    return [found[first:stop] for first, stop in pairwise(table.segment_offsets.tolist())]


def told_apart(stretch: Stretch) -> tuple[int, ...]:
    """A stretch, where pictures count only if it has any."""
    pictures = (stretch.seen, stretch.upto) if stretch.upto > stretch.seen else (0, 0)
    return (stretch.record, stretch.begin, stretch.stop, *pictures, stretch.goes_on)


def check_batch(feed: LoaderSource, records: list[Raw]) -> None:
    """All rows are what plain loops say."""
    batch, table = batch_of(feed), feed.packed_rows
    held = stretches(table, records)
    wanted = lay_by_hand(held, records, length=table.length, slots=table.image_tokens, answers_only=feed.answers_only)
    for name in ("tokens", "targets", "docs", "positions"):
        assert getattr(batch, name).tolist() == wanted[name], name
    flat = batch.images.reshape(-1, 3)[:, 0]
    if len(flat):
        found = torch.where(batch.slots >= 0, flat[batch.slots.clamp(min=0)], -1.0)
        assert found.tolist() == wanted["picture"]
    assert sorted(batch.slots[batch.slots >= 0].tolist()) == list(range(len(flat))), "every vector is used once"
    assert (table.loss_always + table.loss_before_finetuning).tolist() == (batch.targets != IGNORE_INDEX).sum(
        dim=1
    ).tolist()
    assert table.filled.tolist() == (batch.docs >= 0).sum(dim=1).tolist()


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(documents(), min_size=1, max_size=12),
    length=st.integers(4, 40),
    slots=st.integers(0, 3),
    packing=st.sampled_from(PACKINGS),
)
def test_interleaved_documents_are_split_and_laid_out_as_by_hand(
    records: list[Raw], length: int, slots: int, packing: PackingMode
) -> None:
    feed = feed_of("interleaved", records, length=length, slots=slots, packing=packing)
    most = 1 if packing == "one_image_per_row" and slots else 99
    wanted = [
        told_apart(stretch)
        for number, record in enumerate(records)
        for stretch in split_by_hand(number, record, length=length, slots=slots, most=most)
    ]
    held = [stretch for row in stretches(feed.packed_rows, records) for stretch in row]
    assert sorted(map(told_apart, held)) == sorted(wanted)
    check_batch(feed, records)
    assert feed.packed_rows.stats.split == sum(times > 1 for times in Counter(one[0] for one in wanted).values())
    if most == 1:
        pictured = np.add.reduceat(feed.packed_rows.segments.image_count, feed.packed_rows.segment_offsets[:-1])
        assert pictured.max() <= 1


@settings(max_examples=60, deadline=None)
@given(records=st.lists(documents(), min_size=1, max_size=12), length=st.integers(4, 40), slots=st.integers(1, 3))
def test_no_token_picture_or_target_of_a_document_is_lost(records: list[Raw], length: int, slots: int) -> None:
    table = pack(
        index_of("interleaved", records, images=PICTURES), length=length, image_tokens=slots, packing="best_fit"
    )
    words, pictures, aims = Counter[tuple[int, int]](), Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for one in (stretch for row in stretches(table, records) for stretch in row):
        words.update((one.record, word) for word in range(one.begin, one.stop))
        pictures.update((one.record, picture) for picture in range(one.seen, one.upto))
        headed = one.upto > one.seen and records[one.record].shown[one.seen][0] == one.begin
        aims.update((one.record, word) for word in range(one.begin + (not headed), one.stop + one.goes_on))
        assert one.goes_on or not one.upto or records[one.record].shown[one.upto - 1][0] < one.stop
    for number, record in enumerate(records):
        last, behind = len(record.tokens) - 1, [at for at, _ in record.shown]
        for word in range(last + 1):
            target_only = word == last > 0 and word not in behind and (number, word) in aims
            assert words[number, word] == 1 or (target_only and not words[number, word])
            again = behind.count(word) * slots + 1 > length
            assert aims[number, word] == 1 or (again and aims[number, word] > 1) or (word == 0 and 0 not in behind)
        assert all(pictures[number, picture] == 1 for picture in range(len(record.shown)))
    assert (table.filled <= length).all()
    assert table.stats.dropped_tokens == table.stats.truncated == table.stats.skipped == 0


@settings(max_examples=40, deadline=None)
@given(
    records=st.lists(dialogues(), min_size=1, max_size=10),
    length=st.integers(5, 60),
    packing=st.sampled_from(PACKINGS),
    answers_only=st.booleans(),
)
def test_dialogues_are_laid_out_as_by_hand(
    records: list[Raw], length: int, packing: PackingMode, answers_only: bool
) -> None:
    feed = feed_of("dialogues", records, length=length, slots=4, packing=packing)
    feed = LoaderSource(
        name=feed.name, index=feed.index, packed_rows=feed.packed_rows, images=feed.images, answers_only=answers_only
    )
    held = {one.record: one for row in stretches(feed.packed_rows, records) for one in row}
    for number, record in enumerate(records):
        room = length - 4 * len(record.shown)
        fitting = [word + 1 for word, token in enumerate(record.tokens[:room]) if token == ANSWER]
        assert (held[number].stop if number in held else 0) == max(fitting, default=0)
    lost = sum(len(record.tokens) - (held[n].stop if n in held else 0) for n, record in enumerate(records))
    numbers = feed.packed_rows.stats
    assert (numbers.dropped_tokens, numbers.skipped) == (lost, len(records) - len(held))
    if answers_only:
        batch, table = batch_of(feed), feed.packed_rows
        wanted = lay_by_hand(stretches(table, records), records, length=length, slots=4, answers_only=True)
        assert batch.targets.tolist() == wanted["targets"]
        assert table.loss_always.tolist() == (batch.targets != IGNORE_INDEX).sum(dim=1).tolist()
    else:
        check_batch(feed, records)


@settings(max_examples=60, deadline=None)
@given(records=st.lists(captions(), min_size=1, max_size=10), length=st.integers(5, 60), slots=st.integers(0, 4))
def test_captions_are_laid_out_as_by_hand(records: list[Raw], length: int, slots: int) -> None:
    feed = feed_of("captions", records, length=length, slots=slots, packing="best_fit")
    held = {one.record: one for row in stretches(feed.packed_rows, records) for one in row}
    assert len(held) == len(records)
    for number, record in enumerate(records):
        kept = min(len(record.tokens), length - slots)
        assert (held[number].stop, held[number].goes_on) == (kept, kept < len(record.tokens))
    check_batch(feed, records)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 70), min_size=1, max_size=12),
    shape=st.sampled_from([(4, 1), (8, 2), (12, 3), (16, 16), (24, 4)]),
)
def test_cut_rows_hold_the_same_tokens_and_aim_at_the_same_targets(counts: list[int], shape: tuple[int, int]) -> None:
    length, parts = shape
    records = [Raw([10 + word % 50 for word in range(count)], [0, 1, 2, 1][:1] * count, []) for count in counts]
    records = [
        Raw(one.tokens, [(word * 7 + len(one.loss)) % 3 for word in range(len(one.loss))], []) for one in records
    ]
    index = index_of("text", records)
    table = pack(index, length=length, image_tokens=0, packing="best_fit")
    cut = table.split_rows(parts)
    whole, parted = (
        batch_of(LoaderSource(name="t", index=index, packed_rows=each, images=None, answers_only=False))
        for each in (table, cut)
    )
    for name in ("tokens", "targets"):
        assert torch.equal(getattr(whole, name), getattr(parted, name).reshape(getattr(whole, name).shape)), name
    assert torch.equal(whole.docs >= 0, parted.docs.reshape(whole.docs.shape) >= 0)
    assert ((parted.positions == 0) | (parted.docs >= 0)).all()
    assert cut.row_count == table.row_count * parts
    assert (cut.loss_always + cut.loss_before_finetuning).tolist() == (parted.targets != IGNORE_INDEX).sum(
        dim=1
    ).tolist()
    assert cut.filled.tolist() == (parted.docs >= 0).sum(dim=1).tolist()
    assert cut.stats.loss_share == pytest.approx(table.stats.loss_share)


def test_a_gallery_that_no_row_holds_is_split_and_every_part_aims_at_the_words_behind() -> None:
    record = Raw([10, 11, 12, END], [1, 1, 1, 1], [(1, picture) for picture in range(5)])
    feed = feed_of("interleaved", [record], length=8, slots=3, packing="best_fit")
    batch = batch_of(feed)
    pictures = [(batch.slots[row] >= 0).sum().item() // 3 for row in range(feed.packed_rows.row_count)]
    assert sorted(pictures) == [1, 2, 2]
    aims = batch.targets[batch.targets != IGNORE_INDEX].tolist()
    assert sorted(aims) == [0, 11, 11, 11, 12]
    check_batch(feed, [record])
