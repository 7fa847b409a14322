"""Batches against plain loops over the raw records."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.loader import BatchStream, LoaderSource
from firstsight.data.packing import pack
from firstsight.recipe.mixture import PackingMode
from firstsight.recipe.stages import IGNORE_INDEX
from tests.data.conftest import ANSWER, END, HUMAN, PAD, Workshop, words_of
from tests.data.loader.row_data import (
    IMAGES,
    PACKINGS,
    batch_of,
    caption_records,
    check_batch,
    dialogue_records,
    documents,
    part_key,
    row_parts,
    source_of,
)
from tests.data.reference import RawRecord, build_index, reference_rows, reference_split
from tests.data.streams import IMAGE_TOKENS, T, make_source, make_stream


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(documents(), min_size=1, max_size=12),
    length=st.integers(4, 40),
    image_tokens=st.integers(0, 3),
    packing=st.sampled_from(PACKINGS),
)
def test_interleaved_documents_equal_the_reference_rows(
    records: list[RawRecord], length: int, image_tokens: int, packing: PackingMode
) -> None:
    source = source_of("interleaved", records, length=length, image_tokens=image_tokens, packing=packing)
    max_images = 1 if packing == "one_image_per_row" and image_tokens else 99
    expected = [
        part_key(part)
        for number, record in enumerate(records)
        for part in reference_split(number, record, length=length, image_tokens=image_tokens, max_images=max_images)
    ]
    parts = [part for row in row_parts(source.packed_rows, records) for part in row]
    assert sorted(map(part_key, parts)) == sorted(expected)
    check_batch(source, records)
    assert source.packed_rows.stats.split == sum(count > 1 for count in Counter(part[0] for part in expected).values())
    if max_images == 1:
        has_image = np.add.reduceat(source.packed_rows.segments.image_count, source.packed_rows.segment_offsets[:-1])
        assert has_image.max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(documents(), min_size=1, max_size=12), length=st.integers(4, 40), image_tokens=st.integers(1, 3)
)
def test_no_token_image_or_target_of_a_document_is_lost(
    records: list[RawRecord], length: int, image_tokens: int
) -> None:
    rows = pack(
        build_index("interleaved", records, images=IMAGES), length=length, image_tokens=image_tokens, packing="best_fit"
    )
    words, images, targets = Counter[tuple[int, int]](), Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for part in (part for row in row_parts(rows, records) for part in row):
        words.update((part.record, word) for word in range(part.begin, part.stop))
        images.update((part.record, picture) for picture in range(part.first_image, part.last_image))
        starts_with_image = (
            part.last_image > part.first_image and records[part.record].images[part.first_image][0] == part.begin
        )
        targets.update(
            (part.record, word) for word in range(part.begin + (not starts_with_image), part.stop + part.has_next)
        )
        assert part.has_next or not part.last_image or records[part.record].images[part.last_image - 1][0] < part.stop
    for number, record in enumerate(records):
        last, image_positions = len(record.tokens) - 1, [positions for positions, _ in record.images]
        for word in range(last + 1):
            target_only = word == last > 0 and word not in image_positions and (number, word) in targets
            assert words[number, word] == 1 or (target_only and not words[number, word])
            is_repeated = image_positions.count(word) * image_tokens + 1 > length
            assert (
                targets[number, word] == 1
                or (is_repeated and targets[number, word] > 1)
                or (word == 0 and 0 not in image_positions)
            )
        assert all(images[number, picture] == 1 for picture in range(len(record.images)))
    assert (rows.filled <= length).all()
    assert rows.stats.dropped_tokens == rows.stats.truncated == rows.stats.skipped == 0


@settings(max_examples=40, deadline=None)
@given(
    records=st.lists(dialogue_records(), min_size=1, max_size=10),
    length=st.integers(5, 60),
    packing=st.sampled_from(PACKINGS),
    answers_only=st.booleans(),
)
def test_dialogues_equal_the_reference_rows(
    records: list[RawRecord], length: int, packing: PackingMode, answers_only: bool
) -> None:
    source = source_of("dialogues", records, length=length, image_tokens=4, packing=packing)
    source = LoaderSource(
        name=source.name,
        index=source.index,
        packed_rows=source.packed_rows,
        images=source.images,
        answers_only=answers_only,
    )
    parts = {part.record: part for row in row_parts(source.packed_rows, records) for part in row}
    for number, record in enumerate(records):
        room = length - 4 * len(record.images)
        fitting = [word + 1 for word, token in enumerate(record.tokens[:room]) if token == ANSWER]
        assert (parts[number].stop if number in parts else 0) == max(fitting, default=0)
    dropped = sum(len(record.tokens) - (parts[n].stop if n in parts else 0) for n, record in enumerate(records))
    stats = source.packed_rows.stats
    assert (stats.dropped_tokens, stats.skipped) == (dropped, len(records) - len(parts))
    if answers_only:
        batch, rows = batch_of(source), source.packed_rows
        expected = reference_rows(row_parts(rows, records), records, length=length, image_tokens=4, answers_only=True)
        assert batch.targets.tolist() == expected["targets"]
        assert rows.loss_always.tolist() == (batch.targets != IGNORE_INDEX).sum(dim=1).tolist()
    else:
        check_batch(source, records)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(caption_records(), min_size=1, max_size=10),
    length=st.integers(5, 60),
    image_tokens=st.integers(0, 4),
)
def test_captions_equal_the_reference_rows(records: list[RawRecord], length: int, image_tokens: int) -> None:
    source = source_of("captions", records, length=length, image_tokens=image_tokens, packing="best_fit")
    parts = {part.record: part for row in row_parts(source.packed_rows, records) for part in row}
    assert len(parts) == len(records)
    for number, record in enumerate(records):
        count = min(len(record.tokens), length - image_tokens)
        assert (parts[number].stop, parts[number].has_next) == (count, count < len(record.tokens))
    check_batch(source, records)


def test_more_images_than_fit_a_row_are_split_and_each_part_has_the_next_token_as_target() -> None:
    record = RawRecord([10, 11, 12, END], [1, 1, 1, 1], [(1, picture) for picture in range(5)])
    source = source_of("interleaved", [record], length=8, image_tokens=3, packing="best_fit")
    batch = batch_of(source)
    images = [(batch.slots[row] >= 0).sum().item() // 3 for row in range(source.packed_rows.row_count)]
    assert sorted(images) == [1, 2, 2]
    targets = batch.targets[batch.targets != IGNORE_INDEX].tolist()
    assert sorted(targets) == [0, 11, 11, 11, 12]
    check_batch(source, [record])


def reference_batch(stream: BatchStream, step: int) -> dict[str, list[list[int]]]:
    """The batch by plain loops over the ledger and the raw tokens, for sources whose documents all fit a row."""
    fillers = {"tokens": PAD, "targets": IGNORE_INDEX, "docs": -1, "positions": 0, "picture": -1}
    rows: dict[str, list[list[int]]] = {name: [] for name in fillers}
    for records in stream.step_records(step):
        row: dict[str, list[int]] = {name: [] for name in fillers}
        for document, (source_id, sample) in enumerate(records):
            source = stream.sources[source_id]
            start, count, image_count, first_image = source.index.samples[sample].item()
            image = int(source.index.image_refs["picture"][first_image]) if image_count else -1
            slots = IMAGE_TOKENS if image >= 0 else 0
            tokens = [PAD] * slots + source.index.tokens[start : start + count].tolist()
            loss = [0] * slots + source.index.loss[start : start + count].tolist()
            loss_flags = [1] if source.answers_only else [1, 2]
            row["tokens"] += tokens
            row["targets"] += [
                tokens[n + 1] if loss[n + 1] in loss_flags else IGNORE_INDEX for n in range(len(tokens) - 1)
            ] + [IGNORE_INDEX]
            row["docs"] += [document] * len(tokens)
            row["positions"] += range(len(tokens))
            row["picture"] += [image] * slots + [-1] * count
        for name, filler in fillers.items():
            rows[name].append(row[name] + [filler] * (T - len(row[name])))
    return rows


def test_a_batch_of_several_sources_equals_plain_loops_over_raw_records(
    captions: LoaderSource, dialogues: LoaderSource, workshop: Workshop
) -> None:
    short_source = make_source(
        workshop.prepare(workshop.texts([{"text": words_of(range(2 + n % 25))} for n in range(99)], "short"), "text"),
        "text",
    )
    for answers_only in (False, True):
        images = [(replace(source, answers_only=answers_only), Fraction(1, 2)) for source in (captions, dialogues)]
        mixed = make_stream(short_source, *images, share=Fraction(2, 3))
        for step in range(12):
            batch, expected = mixed.batch(step), reference_batch(mixed, step)
            for name in ("tokens", "targets", "docs", "positions"):
                assert getattr(batch, name).tolist() == expected[name], name
            flat = batch.images.reshape(-1, 3)[:, 0]
            actual = torch.where(batch.slots >= 0, flat[batch.slots.clamp(min=0)], -1.0)
            assert actual.tolist() == expected["picture"]
            used = batch.slots[batch.slots >= 0]
            assert sorted(used.tolist()) == list(range(len(flat))), "every picture vector is used once"


def test_targets_never_cross_document_borders(text: LoaderSource) -> None:
    text_stream = make_stream(text, share=Fraction(0))
    for step in range(20):
        batch = text_stream.batch(step)
        same_document = batch.docs[:, :-1] == batch.docs[:, 1:]
        has_target = batch.targets[:, :-1] != IGNORE_INDEX
        crosses_border = has_target & ~same_document
        assert torch.equal(
            batch.targets[:, :-1][has_target & same_document], batch.tokens[:, 1:][has_target & same_document]
        )
        assert not crosses_border.any(), "inside a row a document that goes on fills it to the end"
        assert (batch.positions[:, 1:][~same_document & (batch.docs[:, 1:] >= 0)] == 0).all()
        assert (batch.positions[:, 1:][same_document] == batch.positions[:, :-1][same_document] + 1)[
            batch.docs[:, 1:][same_document] >= 0
        ].all()


def test_in_fine_tuning_only_answers_are_targets(text: LoaderSource, dialogues: LoaderSource) -> None:
    finetune = make_stream(text, (replace(dialogues, answers_only=True), Fraction(1)), share=Fraction(1))
    midtrain = make_stream(text, (dialogues, Fraction(1)), share=Fraction(1))
    for step in range(5):
        answers = finetune.batch(step).targets
        assert not (answers == HUMAN).any()
        documents = len([1 for row in finetune.step_records(step) for _ in row])
        assert (answers == ANSWER).sum() == 2 * documents
        assert (answers != IGNORE_INDEX).sum() == (3 + 2) * documents
        assert (midtrain.batch(step).targets == HUMAN).sum() == 2 * documents
