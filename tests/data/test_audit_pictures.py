"""Pictures that are alike: bands of hashes against each with each, planted and real copies are counted and named."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from firstsight.data.audit import find_duplicates, find_overlap, hamming
from firstsight.data.images import perceptual_hash
from firstsight.data.tokenizer import load_tokenizer

from .audited import again, made, real
from .conftest import Workshop


def rich(seed: int, count: int) -> np.ndarray:
    """Random hashes with 32 of 64 bits set, which are far from one another and never plain."""
    chance = np.random.default_rng(seed)
    bits = np.stack([chance.permutation(64) < 32 for _ in range(count)])
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def flipped(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    masks = [sum(1 << int(bit) for bit in chance.permutation(64)[:bits]) for _ in hashes]
    return hashes ^ np.array(masks, dtype=np.uint64)


def brute(left: np.ndarray, right: np.ndarray) -> dict[tuple[int, int], int]:
    distance = np.bitwise_count(left[:, None] ^ right[None, :])
    return {(int(i), int(j)): int(distance[i, j]) for i, j in np.argwhere(distance <= hamming.MAX_HAMMING_DISTANCE)}


def found(left: np.ndarray, right: np.ndarray) -> dict[tuple[int, int], int]:
    return {
        (int(i), int(j)): int(distance)
        for pairs in hamming.hamming_neighbors(left, right)
        for i, j, distance in zip(pairs.left, pairs.right, pairs.distance, strict=True)
    }


@given(number=st.integers(5, 8), places=st.lists(st.integers(0, 63), max_size=4))
def test_four_bits_in_any_place_leave_a_choice_of_bands_untouched(number: int, places: list[int]) -> None:
    masks = hamming.band_masks(number)
    assert len(masks) == comb(number, 4)
    changed = sum(1 << place for place in set(places))
    assert any(int(mask) & changed == 0 for mask in masks)


def test_more_hashes_are_cut_into_more_bands() -> None:
    assert [hamming.choose_band_count(10**power, 10**power) for power in (2, 4, 6, 8)] == sorted(
        hamming.choose_band_count(10**power, 10**power) for power in (2, 4, 6, 8)
    )
    assert hamming.choose_band_count(100, 100) == 5 < hamming.choose_band_count(10**8, 10**8)


@pytest.mark.parametrize("number", [5, 6, 7, 8])
def test_near_hashes_are_those_that_each_with_each_finds(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(hamming, "choose_band_count", lambda left, right: number)
    base = rich(number, 140)
    hashes = np.concatenate([base, *(flipped(base, bits, bits) for bits in range(1, 7))])
    wanted = brute(hashes, hashes)
    assert {0, 1, 2, 3, 4} == set(wanted.values())
    assert found(hashes, hashes) == wanted
    assert found(base, hashes) == brute(base, hashes)


def test_what_hangs_together_is_linked_over_others_too() -> None:
    base = rich(1, 50)
    chain = [base[0], base[0] ^ np.uint64(0b1111), base[0] ^ np.uint64(0b11111111)]
    linked = hamming.group_hashes(np.array([*chain, *base[1:]], dtype=np.uint64))
    assert len(set(linked.labels[:3].tolist())) == 1
    assert len(set(linked.labels.tolist())) == 50
    assert not linked.crowded.any()


def test_a_crowd_is_not_compared_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 hashes that share their lower half, in which no pair is near: 780 comparisons in vain, none is made."""
    monkeypatch.setattr(hamming, "MAX_BUCKET_SIZE", 20)
    half = rich(2, 40) & np.uint64(0xFFFFFFFF << 32)
    alone = rich(3, 30)
    linked = hamming.group_hashes(np.concatenate([half | np.uint64(0x5A5A5A5A), alone]))
    assert linked.crowded.tolist() == [True] * 40 + [False] * 30
    monkeypatch.setattr(hamming, "MAX_BUCKET_SIZE", 40)
    assert not hamming.group_hashes(np.concatenate([half | np.uint64(0x5A5A5A5A), alone])).crowded.any()


def test_planted_pictures_are_counted_and_named() -> None:
    base = rich(4, 20).tolist()
    other = flipped(np.array(base[:3], dtype=np.uint64), 4, 5).tolist()
    even = [0, 0, 2**63, 2**64 - 1]
    pictures = [(code, 500 + number) for number, code in enumerate(base)]
    pictures += [(base[7], 507), (base[7], 507), (base[8], 508)]
    pictures += [(code, 400) for code in other] + [(base[3], 77)]
    pictures += [(code, 100) for code in even]
    seen = find_duplicates(made([[9 + n, n // 7, 3] for n in range(len(pictures))], pictures=pictures))
    assert (
        seen.images,
        seen.identical_images,
        seen.similar_images,
        seen.uninformative_images,
        seen.crowded_images,
    ) == (31, 3, 4, 4, 0)
    assert [(one.size, [m.record for m in one.members]) for one in seen.largest_identical] == [
        (3, [7, 20, 21]),
        (2, [8, 22]),
    ]
    named = [[m.record for m in one.members] for one in seen.largest_similar]
    assert named == [[0, 23], [1, 24], [2, 25], [3, 26]]
    member = seen.largest_identical[0].members[1]
    assert (member.shard, member.offset) == ("a.tar", 20_000)
    text = "\n".join(seen.summary_lines())
    assert "3 of 31 (9.68%) images repeat an earlier one" in text
    assert "3 x: record 7 (a.tar at 7,000), record 20 (a.tar at 20,000)" in text
    assert "4 of 31 (12.90%) images were left out" in text


def test_flat_pictures_look_like_nothing(workshop: Workshop) -> None:
    """Even areas, slopes and a single dot: all left out on both sides, counted, and never a match."""
    sets = workshop.folder("sets")
    slope = np.linspace(0, 255, 64).astype(np.uint8)
    kinds = {"black": np.zeros((64, 64)), "white": np.full((64, 64), 255), "across": np.tile(slope, (64, 1))}
    kinds["down"] = kinds["across"].T
    codes = []
    for name, pixels in kinds.items():
        Image.fromarray(pixels.astype(np.uint8)).save(sets / f"{name}.png")
        codes.append((perceptual_hash((sets / f"{name}.png").read_bytes()), 100))
    words = load_tokenizer(workshop.words())
    index = made([[1, n] for n in range(4)], pictures=codes, digest=words.digest)
    told = find_overlap(index, eval_paths=[sets], tokenizer=words)
    assert (told.image_overlaps, told.coverage.uninformative_images, told.coverage.eval_uninformative_images) == (
        (),
        4,
        4,
    )
    assert "4 training and 4 evaluation images were left out" in "\n".join(told.summary_lines())
    seen = find_duplicates(index)
    assert (seen.identical_images, seen.similar_images, seen.uninformative_images) == (0, 0, 4)


@pytest.mark.shared
def test_real_pictures_are_found_again_and_others_are_not(shared: Path) -> None:
    web, other = real(shared)
    assert (len(web), len(other)) == (32, 48)
    codes = [(perceptual_hash(data), len(data)) for data in (*web, *other)]
    alone = find_duplicates(made([[1, n] for n in range(80)], pictures=codes))
    assert (alone.identical_images, alone.similar_images) == (0, 0)
    copies = [again(data, "WEBP", 0.5) for data in web[:10]] + [again(data, "JPEG", 1.0) for data in other[:10]]
    codes += [(perceptual_hash(data), len(data)) for data in copies]
    copied = find_duplicates(made([[1, n] for n in range(100)], pictures=codes))
    assert (
        copied.identical_images,
        copied.similar_images + copied.uninformative_images - alone.uninformative_images,
    ) == (0, 20)
    assert alone.uninformative_images <= 2
