"""Duplicate images and texts of an index, against counts of equal lists and planted copies."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.audit import duplicates, find_duplicates
from firstsight.data.audit.report import MAX_LISTED_CLUSTERS
from firstsight.data.images import perceptual_hash
from tests.data.audit.audit_data import flip_bits, make_index, random_hashes, real_images, reencode


@given(documents=st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=40))
@settings(max_examples=60)
def test_records_are_duplicates_if_and_only_if_their_tokens_are_equal(documents: list[list[int]]) -> None:
    chunk_size = duplicates._CHUNK
    duplicates._CHUNK = 7
    try:
        index = make_index(documents)
        labels = duplicates.label_equal_texts(index).tolist()
        counted = find_duplicates(index)
    finally:
        duplicates._CHUNK = chunk_size
    for (left, left_label), (right, right_label) in combinations(zip(documents, labels, strict=True), 2):
        assert (left == right) == (left_label == right_label)
    counts = Counter(map(tuple, documents))
    assert (counted.records, counted.repeated_texts) == (len(documents), len(documents) - len(counts))
    sizes = sorted((size for size in counts.values() if size > 1), reverse=True)
    assert [left.size for left in counted.largest_repeated] == sizes[:MAX_LISTED_CLUSTERS]


def test_different_texts_with_equal_hashes_are_no_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_hash_records", lambda tokens, start, count: np.zeros(len(count), dtype=np.uint64))
    labels = duplicates.label_equal_texts(make_index([[1, 2], [1, 3], [1, 3], [4, 4, 4]])).tolist()
    assert len(set(labels)) == 3
    assert labels[1] == labels[2]


def test_planted_copies_are_counted_and_listed() -> None:
    base = random_hashes(4, 20).tolist()
    second_images = flip_bits(np.array(base[:3], dtype=np.uint64), 4, 5).tolist()
    plain_hashes = [0, 0, 2**63, 2**64 - 1]
    images = [(value, 500 + number) for number, value in enumerate(base)]
    images += [(base[7], 507), (base[7], 507), (base[8], 508)]
    images += [(value, 400) for value in second_images] + [(base[3], 77)]
    images += [(value, 100) for value in plain_hashes]
    report = find_duplicates(make_index([[9 + n, n // 7, 3] for n in range(len(images))], images=images))
    assert (
        report.images,
        report.identical_images,
        report.similar_images,
        report.uninformative_images,
        report.crowded_images,
    ) == (31, 3, 4, 4, 0)
    assert [(cluster.size, [m.record for m in cluster.members]) for cluster in report.largest_identical] == [
        (3, [7, 20, 21]),
        (2, [8, 22]),
    ]
    records = [[m.record for m in cluster.members] for cluster in report.largest_similar]
    assert records == [[0, 23], [1, 24], [2, 25], [3, 26]]
    member = report.largest_identical[0].members[1]
    assert (member.shard, member.offset) == ("a.tar", 20_000)
    text = "\n".join(report.summary_lines())
    assert "3 of 31 (9.68%) images repeat an earlier one" in text
    assert "3 x: record 7 (a.tar at 7,000), record 20 (a.tar at 20,000)" in text
    assert "4 of 31 (12.90%) images were left out" in text


@pytest.mark.shared
def test_reencoded_real_images_are_found_and_no_others(shared: Path) -> None:
    first_images, second_images = real_images(shared)
    assert (len(first_images), len(second_images)) == (32, 48)
    hashes = [(perceptual_hash(data), len(data)) for data in (*first_images, *second_images)]
    original = find_duplicates(make_index([[1, n] for n in range(80)], images=hashes))
    assert (original.identical_images, original.similar_images) == (0, 0)
    copies = [reencode(data, "WEBP", 0.5) for data in first_images[:10]] + [
        reencode(data, "JPEG", 1.0) for data in second_images[:10]
    ]
    hashes += [(perceptual_hash(data), len(data)) for data in copies]
    copied = find_duplicates(make_index([[1, n] for n in range(100)], images=hashes))
    assert (
        copied.identical_images,
        copied.similar_images + copied.uninformative_images - original.uninformative_images,
    ) == (0, 20)
    assert original.uninformative_images <= 2
