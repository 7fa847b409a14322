"""Packing whole indexes: statistics, chunks, the cache, and indexes that contradict themselves."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firstsight.data.index import Index
from firstsight.data.packing import pack
from firstsight.errors import DataError, QuantityError
from firstsight.recipe.mixture import PackingMode
from tests.data.packing.pack_data import captions, check_rows, dialogue, interleaved, mapped_arrays, texts
from tests.data.reference import RawRecord, build_index


def test_short_documents_leave_less_than_a_twentieth_of_padding() -> None:
    rng = random.Random(5)
    index = texts([rng.randint(4, 50) for _ in range(2000)])
    assert pack(index, length=64, image_tokens=0, packing="best_fit").stats.padding < 0.05


@pytest.mark.parametrize("packing", ["best_fit", "one_image_per_row"])
def test_every_caption_is_in_one_row_with_its_image(packing: PackingMode) -> None:
    rows = pack(captions([1 + number % 7 for number in range(90)]), length=32, image_tokens=4, packing=packing)
    check_rows(rows)
    assert sorted(rows.segments.sample.tolist()) == list(range(90))
    assert rows.segments.image_start.tolist() == rows.segments.sample.tolist()
    assert rows.loss_always.sum() == sum(1 + number % 7 + 1 for number in range(90))
    if packing == "one_image_per_row":
        assert (np.diff(rows.segment_offsets) == 1).all()
    else:
        assert rows.row_count < 40


def test_dialogues_without_an_image_share_rows_whatever_the_packing() -> None:
    records = [dialogue([1, 1], has_image=False), dialogue([1, 1])] * 6
    rows = pack(build_index("dialogues", records, images=1), length=15, image_tokens=4, packing="one_image_per_row")
    check_rows(rows)
    assert Counter(np.diff(rows.segment_offsets).tolist()) == {1: 6, 3: 2}


def test_an_image_that_leaves_no_room_for_a_token_is_refused() -> None:
    with pytest.raises(QuantityError, match="no room for an image of 16"):
        pack(captions([1]), length=16, image_tokens=16, packing="best_fit")


def sub_index(index: Index, start: int, stop: int) -> Index:
    """Some samples of an index as a separate index."""
    records = list[RawRecord]()
    for token_start, count, image_count, first in index.samples[start:stop].tolist():
        images = [(position, image) for image, position in index.image_refs[first : first + image_count].tolist()]
        span = slice(token_start, token_start + count)
        records.append(RawRecord(index.tokens[span].tolist(), index.loss[span].tolist(), images))
    return build_index("interleaved", records, images=len(index.images))


@pytest.mark.parametrize("packing", ["best_fit", "one_image_per_row"])
def test_a_chunk_is_packed_like_an_index_of_its_samples(packing: PackingMode, monkeypatch: pytest.MonkeyPatch) -> None:
    index, chunk = interleaved(70), 20
    expected = [
        pack(sub_index(index, start, start + chunk), length=16, image_tokens=2, packing=packing)
        for start in range(0, 70, chunk)
    ]
    monkeypatch.setattr("firstsight.data.packing.pack_index.SAMPLES_PER_CHUNK", chunk)
    monkeypatch.setattr("firstsight.data.packing.pack_index.TOKENS_PER_BLOCK", 50)
    actual = pack(index, length=16, image_tokens=2, packing=packing)
    check_rows(actual)
    assert actual.row_count == sum(part.row_count for part in expected)
    for name in ("filled", "loss_always", "loss_before_finetuning", "column"):
        assert getattr(actual, name).tolist() == np.concatenate([getattr(part, name) for part in expected]).tolist()
    assert actual.segments.sample.tolist() == [
        sample + chunk * number for number, part in enumerate(expected) for sample in part.segments.sample.tolist()
    ]
    assert actual.stats.split == sum(part.stats.split for part in expected)


def row_folders(cache: Path) -> list[Path]:
    """All that is in the cache but the locks of its writers."""
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    index, shape = interleaved(50), {"length": 16, "image_tokens": 2, "packing": "best_fit"}
    expected = mapped_arrays(pack(index, **shape, cache=tmp_path))
    [folder] = row_folders(tmp_path)
    folder.rename(tmp_path / f".{folder.name}.partial")
    (tmp_path / f".{folder.name}.partial" / "filled.npy").write_bytes(b"half")
    assert mapped_arrays(pack(index, **shape, cache=tmp_path)) == expected
    assert row_folders(tmp_path) == [folder]


def test_cached_rows_equal_packed_rows_and_are_packed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, shape = interleaved(50), {"length": 16, "image_tokens": 2}
    monkeypatch.setattr("firstsight.data.packing.pack_index.SAMPLES_PER_CHUNK", 20)
    plain = pack(index, **shape, packing="best_fit")
    first = pack(index, **shape, packing="best_fit", cache=tmp_path / "rows")
    monkeypatch.setattr("firstsight.data.packing.pack_index.split_into_segments", None)  # packing again would fail
    second = pack(index, **shape, packing="best_fit", cache=tmp_path / "rows")
    for rows in (first, second):
        assert mapped_arrays(rows) == mapped_arrays(plain)
        assert rows.stats == plain.stats
        assert not rows.filled.flags.writeable, "mapped, not read"
    for changed in (replace(index, digest="other"), replace(index)):
        with pytest.raises(TypeError):
            pack(
                changed,
                length=16 + (changed.digest == index.digest),
                image_tokens=2,
                packing="best_fit",
                cache=tmp_path,
            )
    [folder] = row_folders(tmp_path / "rows")
    assert not folder.name.startswith("."), "nothing half-made is left"


@pytest.mark.parametrize(
    "damage", ["short", "gone", "other length", "not JSON", "other dtype", "filled.npy", "table.json"]
)
def test_a_damaged_cache_is_packed_again(tmp_path: Path, damage: str) -> None:
    index = interleaved(50)
    expected = mapped_arrays(pack(index, length=16, image_tokens=2, packing="best_fit", cache=tmp_path))
    [folder] = row_folders(tmp_path)
    path = folder / "filled.npy"
    match damage:
        case "short":
            path.write_bytes(path.read_bytes()[:-4])
        case "gone":
            path.unlink()
        case "other length":
            (folder / "segment_offsets.npy").write_bytes((folder / "start.npy").read_bytes())
        case "not JSON":
            (folder / "table.json").write_text("{")
        case "filled.npy" | "table.json":
            content = bytearray((folder / damage).read_bytes())
            content[-20] ^= 1
            (folder / damage).write_bytes(content)
        case _:
            np.save(path, np.load(path).view("<u4"))
    assert mapped_arrays(pack(index, length=16, image_tokens=2, packing="best_fit", cache=tmp_path)) == expected
    assert row_folders(tmp_path) == [folder]


@pytest.mark.parametrize(
    ("array", "entry", "field", "value", "message"),
    [
        ("samples", 3, "tokens_from", 9999, r"samples.npy: wanted tokens that start .* Got entry 3"),
        ("samples", 3, "tokens_from", 0, r"samples.npy: wanted tokens that start .* Got entry 3"),
        ("samples", 0, "tokens_count", 0, r"samples.npy: .* Got entry 0"),
        ("samples", -1, "tokens_count", 60, r"samples.npy: .* Got entry 49"),
        ("samples", -1, "tokens_count", 1, r"wanted equal numbers of tokens"),
        ("samples", 25, "shown_from", 0, r"samples.npy: wanted images that start"),
        ("shown", 4, "at", -1, r"shown.npy: .* Got entry 4"),
        ("shown", 4, "at", 999, r"shown.npy: .* Got entry 4"),
        ("shown", 4, "picture", 5, r"shown.npy: wanted numbers of images.npy .* Got entry 4"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(
    array: str, entry: int, field: str, value: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = interleaved(50)
    attribute = "image_refs" if array == "shown" else array
    broken = getattr(index, attribute).copy()
    broken[field][entry] = value
    monkeypatch.setattr("firstsight.data.packing.pack_index.SAMPLES_PER_CHUNK", 20)
    with pytest.raises(DataError, match=message):
        pack(replace(index, **{attribute: broken}), length=16, image_tokens=2, packing="best_fit")
