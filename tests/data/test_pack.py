from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.index import Index
from firstsight.data.packing import PackedRows, Segments, best_fit, bins, pack
from firstsight.data.tokenizer import encode_context, encode_prompt, load_tokenizer
from firstsight.errors import DataError, QuantityError
from firstsight.recipe.mixture import PackingMode

from .conftest import ANSWER, END, HUMAN, PAD, WORDS, Workshop, words_of
from .rows import Raw, index_of


@given(sizes=st.lists(st.integers(1, 64), max_size=300))
def test_best_fit_overfills_no_row_and_leaves_at_most_one_half_empty(sizes: list[int]) -> None:
    row, rows = best_fit(np.array(sizes, dtype=np.int32), 64)
    filled = np.bincount(row, weights=sizes, minlength=rows)
    assert len(filled) == rows
    assert (filled <= 64).all()
    assert (filled <= 32).sum() <= 1


def test_best_fit_is_the_plain_search_for_the_fullest_row() -> None:
    sizes = np.random.default_rng(1).integers(1, 33, 400).astype(np.int32)
    left: list[int] = []
    for size in sorted(sizes.tolist(), reverse=True):
        rooms = [room for room in left if room >= size]
        if rooms:
            left[left.index(min(rooms))] -= size
        else:
            left.append(32 - size)
    row, rows = best_fit(sizes, 32)
    filled = np.bincount(row, weights=sizes, minlength=rows)
    assert sorted((32 - filled).tolist()) == sorted(left)


@given(sizes=st.lists(st.integers(3, 40), min_size=1, max_size=9), length=st.integers(40, 90))
def test_a_fullest_row_is_the_fullest_of_all_choices(sizes: list[int], length: int) -> None:
    sizes.sort(reverse=True)
    found, rows = bins._fullest_rows_first(sizes, length, 0)
    filled = [sum(size for size, row in zip(sizes, found, strict=True) if row == one) for one in range(rows)]
    choices = [sum(some) for count in range(len(sizes)) for some in combinations(sizes[1:], count)]
    assert filled[0] == sizes[0] + max(each for each in choices if sizes[0] + each <= length)
    assert max(filled) <= length
    assert sorted(set(found)) == list(range(rows))


def test_rows_of_pictures_waste_little_more_than_their_size_demands() -> None:
    usual = [7, 8, 8, 9, 9, 10, 10, 10, 11, 11, 11, 12, 12, 13, 13, 13, 14, 14, 15, 16, 17, 19, 22, 23, 27, 34, 43, 71]
    words = np.random.default_rng(2).choice(usual, 20_000)
    for slots, length in ((64, 256), (64, 1024), (144, 1024)):
        size = (slots + words).astype(np.int32)
        row, rows = best_fit(size, length)
        filled = np.bincount(row, weights=size, minlength=rows)
        assert len(filled) == rows
        assert filled.max() <= length
        floor = max(int(size.sum()) / length, len(size) / (length // int(size.min())))
        assert rows <= floor * 1.04


def texts(lengths: list[int]) -> Index:
    """Documents of that many words between end tokens; in each third one the first word carries no loss."""
    chance, records = random.Random(3), list[Raw]()
    for length in lengths:
        words = [WORDS + chance.randrange(200) for _ in range(length)]
        records.append(Raw([END, *words, END], [0, int(length % 3 > 0), *[1] * length], []))
    return index_of("text", records)


def captions(lengths: list[int]) -> Index:
    """Record n shows picture n."""
    records = [Raw([*range(WORDS, WORDS + n), END], [1] * (n + 1), [(0, at)]) for at, n in enumerate(lengths)]
    return index_of("captions", records, images=len(records))


def dialogue(sizes: list[int], *, pictured: bool = True) -> Raw:
    """Turns of that many words, human and answer in turn."""
    tokens, loss = ([], []) if pictured else ([END], [0])
    for nth, size in enumerate(sizes):
        tokens += [*range(WORDS, WORDS + size), (HUMAN, ANSWER)[nth % 2]]
        loss += [(2, 1)[nth % 2]] * (size + 1)
    return Raw(tokens, loss, [(0, 0)] if pictured else [])


def check(table: PackedRows) -> None:
    """Rows are in order, nobody overlaps, and what is counted as filled is filled."""
    size = table.segments.count + table.segments.image_count * table.image_tokens
    for row in range(table.row_count):
        mine = slice(table.segment_offsets[row], table.segment_offsets[row + 1])
        assert table.column[mine].tolist() == (np.cumsum(size[mine]) - size[mine]).tolist()
        assert table.filled[row] == size[mine].sum() <= table.length
    assert table.segment_offsets[-1] == len(table.column)
    assert table.stats.padding == pytest.approx(1 - size.sum() / (table.row_count * table.length))


@pytest.mark.parametrize("length", [5, 16, 17, 64])
def test_texts_are_cut_into_stretches_without_losing_a_target(length: int) -> None:
    lengths = [*range(3, 60), 200, length - 1, length, length + 1, 2 * length - 2, 2 * length - 1, 2 * length]
    index = texts(lengths)
    table = pack(index, length=length, image_tokens=0, packing="best_fit")
    check(table)
    parts: dict[int, list[int]] = {}
    order = np.argsort(table.segments.start, kind="stable")
    for start, count, sample, more in zip(
        table.segments.start[order].tolist(),
        table.segments.count[order].tolist(),
        table.segments.sample[order].tolist(),
        table.segments.has_next_token[order].tolist(),
        strict=True,
    ):
        held = parts.setdefault(sample, [])
        assert start == index.samples["tokens_from"][sample] + len(held)
        held += index.tokens[start : start + count].tolist()
        missing = index.samples["tokens_count"][sample] - len(held)
        assert more == (missing > 0)
    lacking = [int(index.samples["tokens_count"][sample]) - len(held) for sample, held in parts.items()]
    assert len(parts) == len(lengths)
    assert set(lacking) <= {0, 1}, "only a last token that is nothing but a target has no place"
    assert table.loss_always.sum() == (index.loss == 1).sum()
    assert table.loss_before_finetuning.sum() == 0
    assert table.stats.dropped_tokens == table.stats.truncated == table.stats.skipped == 0
    assert table.stats.split == sum(words + 2 > length + 1 for words in lengths)


def test_short_documents_waste_less_than_a_twentieth() -> None:
    chance = random.Random(5)
    index = texts([chance.randint(4, 50) for _ in range(2000)])
    assert pack(index, length=64, image_tokens=0, packing="best_fit").stats.padding < 0.05


@pytest.mark.parametrize("packing", ["best_fit", "one_image_per_row"])
def test_every_caption_has_one_place_with_its_picture(packing: PackingMode) -> None:
    table = pack(captions([1 + number % 7 for number in range(90)]), length=32, image_tokens=4, packing=packing)
    check(table)
    assert sorted(table.segments.sample.tolist()) == list(range(90))
    assert table.segments.image_start.tolist() == table.segments.sample.tolist()
    assert table.loss_always.sum() == sum(1 + number % 7 + 1 for number in range(90))
    if packing == "one_image_per_row":
        assert (np.diff(table.segment_offsets) == 1).all()
    else:
        assert table.row_count < 40


def test_a_caption_longer_than_its_row_is_cut_and_counted() -> None:
    table = pack(captions([20, 3]), length=16, image_tokens=4, packing="best_fit")
    assert dict(zip(table.segments.sample.tolist(), table.segments.count.tolist(), strict=True)) == {0: 12, 1: 4}
    assert (table.stats.dropped_tokens, table.stats.truncated, table.stats.skipped) == (9, 1, 0)
    assert table.loss_always.sum() == 13 + 4, "the last word that fits still aims at the next one"


def test_a_dialogue_longer_than_its_row_ends_with_its_last_whole_turn() -> None:
    spoken = [dialogue(sizes) for sizes in ([3, 2], [3, 2, 3, 2, 3, 2], [20, 2], [3, 2, 40, 1])]
    index = index_of("dialogues", spoken, images=1)
    table = pack(index, length=20, image_tokens=4, packing="best_fit")
    assert dict(zip(table.segments.sample.tolist(), table.segments.count.tolist(), strict=True)) == {0: 7, 1: 14, 3: 7}
    assert (table.stats.truncated, table.stats.skipped) == (2, 1)
    assert table.stats.dropped_tokens == 7 + 24 + 43
    ends = table.segments.start + table.segments.count - 1
    assert (index.tokens[ends] == ANSWER).all()
    assert not table.segments.has_next_token.any()
    assert table.loss_always.sum() == 3 + 6 + 3
    assert table.loss_before_finetuning.sum() == 4 + 8 + 4


def test_dialogues_without_a_picture_are_fitted_even_beside_rows_of_one() -> None:
    both = [dialogue([1, 1], pictured=False), dialogue([1, 1])] * 6
    table = pack(index_of("dialogues", both, images=1), length=15, image_tokens=4, packing="one_image_per_row")
    check(table)
    assert Counter(np.diff(table.segment_offsets).tolist()) == {1: 6, 3: 2}


def test_a_picture_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(QuantityError, match="no room for an image of 16"):
        pack(captions([1]), length=16, image_tokens=16, packing="best_fit")


def test_the_window_bounds_how_far_neighbours_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    index = texts([5 + number % 11 for number in range(300)])
    monkeypatch.setattr("firstsight.data.packing.bins.FIT_WINDOW", 30)
    table = pack(index, length=32, image_tokens=0, packing="best_fit")
    for row in range(table.row_count):
        held = table.segments.sample[table.segment_offsets[row] : table.segment_offsets[row + 1]]
        assert len(set((held // 30).tolist())) == 1


def arrays(table: PackedRows) -> dict[str, list[int]]:
    pieces = {name: getattr(table.segments, name).tolist() for name in Segments.__dataclass_fields__}
    return pieces | {
        name: getattr(table, name).tolist()
        for name in ("segment_offsets", "column", "filled", "loss_always", "loss_before_finetuning")
    }


def mixed(count: int) -> Index:
    """Interleaved documents with up to three pictures each, some of several rows."""
    chance, records = random.Random(7), list[Raw]()
    for _ in range(count):
        words = chance.randint(2, 40)
        shown = sorted(chance.randrange(words) for _ in range(chance.randint(0, 3)))
        records.append(Raw([END] * words, [1] * words, [(at, chance.randrange(5)) for at in shown]))
    return index_of("interleaved", records, images=5)


@pytest.mark.parametrize("packing", ["best_fit", "one_image_per_row"])
def test_chunks_are_the_rows_of_their_samples_alone(packing: PackingMode, monkeypatch: pytest.MonkeyPatch) -> None:
    index, chunk = mixed(70), 20
    wanted = [
        pack(cut_out(index, low, low + chunk), length=16, image_tokens=2, packing=packing)
        for low in range(0, 70, chunk)
    ]
    monkeypatch.setattr("firstsight.data.packing.pack_index.SAMPLES_PER_CHUNK", chunk)
    monkeypatch.setattr("firstsight.data.packing.packed_rows.TOKENS_PER_BLOCK", 50)
    found = pack(index, length=16, image_tokens=2, packing=packing)
    check(found)
    assert found.row_count == sum(one.row_count for one in wanted)
    for name in ("filled", "loss_always", "loss_before_finetuning", "column"):
        assert getattr(found, name).tolist() == np.concatenate([getattr(one, name) for one in wanted]).tolist()
    assert found.segments.sample.tolist() == [
        number + chunk * nth for nth, one in enumerate(wanted) for number in one.segments.sample.tolist()
    ]
    assert found.stats.split == sum(one.stats.split for one in wanted)


def cut_out(index: Index, low: int, high: int) -> Index:
    """Some samples as an index of their own."""
    records = list[Raw]()
    for start, count, pictures, first in index.samples[low:high].tolist():
        shown = [(at, picture) for picture, at in index.image_refs[first : first + pictures].tolist()]
        whole = slice(start, start + count)
        records.append(Raw(index.tokens[whole].tolist(), index.loss[whole].tolist(), shown))
    return index_of("interleaved", records, images=len(index.images))


def test_a_cache_gives_the_table_that_packing_gives_and_is_packed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, shape = mixed(50), {"length": 16, "image_tokens": 2}
    monkeypatch.setattr("firstsight.data.packing.pack_index.SAMPLES_PER_CHUNK", 20)
    plain = pack(index, **shape, packing="best_fit")
    first = pack(index, **shape, packing="best_fit", cache=tmp_path / "rows")
    monkeypatch.setattr("firstsight.data.packing.pack_index.split_into_segments", None)  # whoever packs again fails
    again = pack(index, **shape, packing="best_fit", cache=tmp_path / "rows")
    for table in (first, again):
        assert arrays(table) == arrays(plain)
        assert table.stats == plain.stats
        assert not table.filled.flags.writeable, "mapped, not read"
    for other in (replace(index, digest="other"), replace(index)):
        with pytest.raises(TypeError):
            pack(other, length=16 + (other.digest == index.digest), image_tokens=2, packing="best_fit", cache=tmp_path)
    assert sorted(path.name[0] for path in (tmp_path / "rows").iterdir()) != ["."], "nothing half-made is left"
    assert len(list((tmp_path / "rows").iterdir())) == 1


@pytest.mark.parametrize("harm", ["short", "gone", "other length", "not JSON", "other dtype"])
def test_a_damaged_cache_is_packed_again(tmp_path: Path, harm: str) -> None:
    index = mixed(50)
    wanted = arrays(pack(index, length=16, image_tokens=2, packing="best_fit", cache=tmp_path))
    [folder] = tmp_path.iterdir()
    file = folder / "filled.npy"
    match harm:
        case "short":
            file.write_bytes(file.read_bytes()[:-4])
        case "gone":
            file.unlink()
        case "other length":
            (folder / "segment_offsets.npy").write_bytes((folder / "start.npy").read_bytes())
        case "not JSON":
            (folder / "table.json").write_text("{")
        case _:
            np.save(file, np.load(file).view("<u4"))
    assert arrays(pack(index, length=16, image_tokens=2, packing="best_fit", cache=tmp_path)) == wanted
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("array", "entry", "field", "value", "told"),
    [
        ("samples", 3, "tokens_from", 9999, r"samples.npy: wanted tokens that start .* Got entry 3"),
        ("samples", 3, "tokens_from", 0, r"samples.npy: wanted tokens that start .* Got entry 3"),
        ("samples", 0, "tokens_count", 0, r"samples.npy: .* Got entry 0"),
        ("samples", -1, "tokens_count", 60, r"samples.npy: .* Got entry 49"),
        ("samples", -1, "tokens_count", 1, r"wanted as many tokens everywhere"),
        ("samples", 25, "shown_from", 0, r"samples.npy: wanted images that start"),
        ("shown", 4, "at", -1, r"shown.npy: .* Got entry 4"),
        ("shown", 4, "at", 999, r"shown.npy: .* Got entry 4"),
        ("shown", 4, "picture", 5, r"shown.npy: wanted numbers of images.npy .* Got entry 4"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(
    array: str, entry: int, field: str, value: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = mixed(50)
    attribute = "image_refs" if array == "shown" else array
    broken = getattr(index, attribute).copy()
    broken[field][entry] = value
    monkeypatch.setattr("firstsight.data.packing.pack_index.SAMPLES_PER_CHUNK", 20)
    with pytest.raises(DataError, match=told):
        pack(replace(index, **{attribute: broken}), length=16, image_tokens=2, packing="best_fit")


def test_only_text_is_cut_and_into_equal_parts() -> None:
    table = pack(texts([40, 3]), length=16, image_tokens=0, packing="best_fit")
    assert table.split_rows(1) is table
    with pytest.raises(QuantityError, match="3 parts of 16"):
        table.split_rows(3)
    with pytest.raises(QuantityError, match="rows with images"):
        pack(captions([3]), length=16, image_tokens=4, packing="best_fit").split_rows(2)


@settings(max_examples=20)
@given(words=st.lists(st.integers(0, 199), min_size=1, max_size=6), slots=st.sampled_from([0, 4]))
def test_a_prompt_is_the_beginning_of_its_training_row(
    tmp_path_factory: pytest.TempPathFactory, words: list[int], slots: int
) -> None:
    workshop = Workshop(tmp_path_factory.mktemp("prompt"))
    tokenizer = load_tokenizer(workshop.words())
    head = [PAD] * slots if slots else [END]
    assert encode_prompt(tokenizer, words_of(words), image_tokens=slots) == [
        *head,
        *(WORDS + word for word in words),
        HUMAN,
    ]
    assert encode_context(tokenizer, words_of(words)) == [END, *(WORDS + word for word in words)]
