"""Hashes that differ in few bits, against a comparison of all pairs."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.data.audit import duplicates
from tests.data.audit.audit_data import flip_bits, random_hashes


def pairs_by_comparison(left: np.ndarray, right: np.ndarray) -> dict[tuple[int, int], int]:
    distance = np.bitwise_count(left[:, None] ^ right[None, :])
    return {(int(i), int(j)): int(distance[i, j]) for i, j in np.argwhere(distance <= duplicates.MAX_HAMMING_DISTANCE)}


def pairs_by_bands(left: np.ndarray, right: np.ndarray) -> dict[tuple[int, int], int]:
    return {
        (int(i), int(j)): int(distance)
        for pairs in duplicates.hamming_neighbors(left, right)
        for i, j, distance in zip(pairs.left, pairs.right, pairs.distance, strict=True)
    }


@given(bands=st.integers(5, 8), bits=st.lists(st.integers(0, 63), max_size=4))
def test_four_changed_bits_leave_one_choice_of_bands_equal(bands: int, bits: list[int]) -> None:
    masks = duplicates.band_masks(bands)
    assert len(masks) == comb(bands, 4)
    changed = sum(1 << place for place in set(bits))
    assert any(int(mask) & changed == 0 for mask in masks)


def test_more_hashes_use_more_bands() -> None:
    assert [duplicates.choose_band_count(10**power, 10**power) for power in (2, 4, 6, 8)] == sorted(
        duplicates.choose_band_count(10**power, 10**power) for power in (2, 4, 6, 8)
    )
    assert duplicates.choose_band_count(100, 100) == 5 < duplicates.choose_band_count(10**8, 10**8)


@pytest.mark.parametrize("bands", [5, 6, 7, 8])
def test_bands_find_the_pairs_that_comparing_all_finds(monkeypatch: pytest.MonkeyPatch, bands: int) -> None:
    monkeypatch.setattr(duplicates, "choose_band_count", lambda left, right: bands)
    base = random_hashes(bands, 140)
    hashes = np.concatenate([base, *(flip_bits(base, bits, bits) for bits in range(1, 7))])
    expected = pairs_by_comparison(hashes, hashes)
    assert {0, 1, 2, 3, 4} == set(expected.values())
    assert pairs_by_bands(hashes, hashes) == expected
    assert pairs_by_bands(base, hashes) == pairs_by_comparison(base, hashes)


def test_groups_are_linked_through_other_hashes() -> None:
    base = random_hashes(1, 50)
    chain = [base[0], base[0] ^ np.uint64(0b1111), base[0] ^ np.uint64(0b11111111)]
    labels, is_crowded = duplicates.group_hashes(np.array([*chain, *base[1:]], dtype=np.uint64))
    assert len(set(labels[:3].tolist())) == 1
    assert len(set(labels.tolist())) == 50
    assert not is_crowded.any()


def test_a_crowded_bucket_is_skipped_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 hashes that share their lower half, of which no pair is similar: none of the 780 comparisons is made."""
    monkeypatch.setattr(duplicates, "MAX_BUCKET_SIZE", 20)
    upper_halves = random_hashes(2, 40) & np.uint64(0xFFFFFFFF << 32)
    far_hashes = random_hashes(3, 30)
    hashes = np.concatenate([upper_halves | np.uint64(0x5A5A5A5A), far_hashes])
    assert duplicates.group_hashes(hashes)[1].tolist() == [True] * 40 + [False] * 30
    monkeypatch.setattr(duplicates, "MAX_BUCKET_SIZE", 40)
    assert not duplicates.group_hashes(hashes)[1].any()
