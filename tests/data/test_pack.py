from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.index import Index
from firstsight.data.pack import RowTable, best_fit, context, pack, prompt
from firstsight.data.tokenizer import load
from firstsight.errors import QuantityError
from firstsight.recipe.mix import Packing

from .conftest import ANSWER, END, HUMAN, PAD, WORDS, Workshop, words_of


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


def texts(workshop: Workshop, lengths: list[int]) -> Index:
    chance = random.Random(3)
    rows = []
    for length in lengths:
        text = words_of([chance.randrange(200) for _ in range(length)])
        rows.append({"text": text} | ({"loss": [[0, text.index(" ")]]} if length % 3 == 0 else {}))
    return workshop.prepare(workshop.texts(rows), "text")


def check(table: RowTable, index: Index) -> None:
    """Rows are in order, nobody overlaps, and what is counted as filled is filled."""
    size = table.pieces.count + table.pieces.shown_count * table.image_tokens
    for row in range(table.rows):
        mine = slice(table.first[row], table.first[row + 1])
        assert table.column[mine].tolist() == (np.cumsum(size[mine]) - size[mine]).tolist()
        assert table.filled[row] == size[mine].sum() <= table.length
    assert table.first[-1] == len(table.column)
    assert table.numbers.padding == pytest.approx(1 - size.sum() / (table.rows * table.length))


@pytest.mark.parametrize("length", [5, 16, 17, 64])
def test_texts_are_cut_into_stretches_without_losing_a_target(workshop: Workshop, length: int) -> None:
    lengths = [*range(3, 60), 200, length - 1, length, length + 1, 2 * length - 2, 2 * length - 1, 2 * length]
    index = texts(workshop, lengths)
    table = pack(index, length=length, image_tokens=0, packing="best_fit")
    check(table, index)
    parts: dict[int, list[int]] = {}
    order = np.argsort(table.pieces.start, kind="stable")
    for start, count, sample, more in zip(
        table.pieces.start[order].tolist(),
        table.pieces.count[order].tolist(),
        table.pieces.sample[order].tolist(),
        table.pieces.goes_on[order].tolist(),
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
    assert table.always.sum() == (index.loss == 1).sum()
    assert table.before.sum() == 0
    assert table.numbers.tokens_lost == table.numbers.cut == table.numbers.skipped == 0


def test_short_documents_waste_less_than_a_twentieth(workshop: Workshop) -> None:
    chance = random.Random(5)
    index = texts(workshop, [chance.randint(4, 50) for _ in range(2000)])
    assert pack(index, length=64, image_tokens=0, packing="best_fit").numbers.padding < 0.05


@pytest.mark.parametrize("packing", ["best_fit", "one_image_per_row"])
def test_every_caption_has_one_place_with_its_picture(workshop: Workshop, packing: Packing) -> None:
    index = workshop.prepare(workshop.captions([words_of(range(1 + number % 7)) for number in range(90)]), "captions")
    table = pack(index, length=32, image_tokens=4, packing=packing)
    check(table, index)
    assert sorted(table.pieces.sample.tolist()) == list(range(90))
    assert table.pieces.shown_from.tolist() == table.pieces.sample.tolist()
    assert table.always.sum() == sum(1 + number % 7 + 1 for number in range(90))
    if packing == "one_image_per_row":
        assert (np.diff(table.first) == 1).all()
    else:
        assert table.rows < 40


def test_a_caption_longer_than_its_row_is_cut_and_counted(workshop: Workshop) -> None:
    index = workshop.prepare(workshop.captions([words_of(range(20)), words_of(range(3))]), "captions")
    table = pack(index, length=16, image_tokens=4, packing="best_fit")
    assert dict(zip(table.pieces.sample.tolist(), table.pieces.count.tolist(), strict=True)) == {0: 12, 1: 4}
    assert (table.numbers.tokens_lost, table.numbers.cut, table.numbers.skipped) == (9, 1, 0)
    assert table.always.sum() == 13 + 4, "the last word that fits still aims at the next one"


def test_a_dialogue_longer_than_its_row_ends_with_its_last_whole_turn(workshop: Workshop) -> None:
    def spoken(*sizes: int) -> dict[str, object]:
        roles = [("human", "<image>\n") if nth == 0 else (("human", "gpt")[nth % 2], "") for nth in range(len(sizes))]
        said = [
            {"from": who, "value": more + words_of(range(size))} for (who, more), size in zip(roles, sizes, strict=True)
        ]
        return {"image": "a.png", "conversations": said}

    rows = [spoken(3, 2), spoken(3, 2, 3, 2, 3, 2), spoken(20, 2), spoken(3, 2, 40, 1)]
    index = workshop.prepare(workshop.dialogues(rows, ["a.png"]), "dialogues")
    table = pack(index, length=20, image_tokens=4, packing="best_fit")
    assert dict(zip(table.pieces.sample.tolist(), table.pieces.count.tolist(), strict=True)) == {0: 7, 1: 14, 3: 7}
    assert (table.numbers.cut, table.numbers.skipped) == (2, 1)
    assert table.numbers.tokens_lost == 7 + 24 + 43
    ends = table.pieces.start + table.pieces.count - 1
    assert (index.tokens[ends] == ANSWER).all()
    assert not table.pieces.goes_on.any()
    assert table.always.sum() == 3 + 6 + 3
    assert table.before.sum() == 4 + 8 + 4


def test_dialogues_without_a_picture_are_fitted_even_beside_rows_of_one(workshop: Workshop) -> None:
    plain = {"conversations": [{"from": "human", "value": "w1"}, {"from": "gpt", "value": "w2"}]}
    seen = {"image": "a.png", "conversations": plain["conversations"]}
    index = workshop.prepare(workshop.dialogues([plain, seen] * 6, ["a.png"]), "dialogues")
    table = pack(index, length=15, image_tokens=4, packing="one_image_per_row")
    check(table, index)
    assert Counter(np.diff(table.first).tolist()) == {1: 6, 3: 2}


def test_a_picture_that_leaves_no_room_is_refused(workshop: Workshop) -> None:
    index = workshop.prepare(workshop.captions(["w1"]), "captions")
    with pytest.raises(QuantityError, match="no room for a picture of 16"):
        pack(index, length=16, image_tokens=16, packing="best_fit")


def test_the_window_bounds_how_far_neighbours_come_from(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    index = texts(workshop, [5 + number % 11 for number in range(300)])
    monkeypatch.setattr("firstsight.data.pack.WINDOW", 30)
    table = pack(index, length=32, image_tokens=0, packing="best_fit")
    for row in range(table.rows):
        held = table.pieces.sample[table.first[row] : table.first[row + 1]]
        assert len(set((held // 30).tolist())) == 1


@settings(max_examples=20)
@given(words=st.lists(st.integers(0, 199), min_size=1, max_size=6), slots=st.sampled_from([0, 4]))
def test_a_prompt_is_the_beginning_of_its_training_row(
    tmp_path_factory: pytest.TempPathFactory, words: list[int], slots: int
) -> None:
    workshop = Workshop(tmp_path_factory.mktemp("prompt"))
    tokenizer = load(workshop.words())
    head = [PAD] * slots if slots else [END]
    assert prompt(tokenizer, words_of(words), image_tokens=slots) == [*head, *(WORDS + word for word in words), HUMAN]
    assert context(tokenizer, words_of(words)) == [END, *(WORDS + word for word in words)]
