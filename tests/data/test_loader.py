from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from firstsight.data.index import Index
from firstsight.data.loader import IGNORED, Batch, Blended, Features, Feed, Pixels, Stream
from firstsight.data.order import pick
from firstsight.data.pack import pack
from firstsight.errors import MixError
from firstsight.recipe.mix import Packing, Unit
from firstsight.recipe.stages import Rows
from firstsight.site import Location

from .conftest import ANSWER, HUMAN, PAD, Workshop, words_of

SLOTS, T, B = 4, 32, 6
ROWS = Rows(batch=B, length=T)


def feed(index: Index, name: str, *, packing: Packing = "best_fit", answers_only: bool = False) -> Feed:
    """A feed whose picture n is the vector of n's, so that a picture in the wrong place shows."""
    numbers = np.arange(len(index.images), dtype=np.float16)
    features = np.broadcast_to(numbers[:, None, None], (len(numbers), SLOTS, 3)).copy()
    pictures = None if index.form == "text" else Features(array=features)
    table = pack(index, length=T, image_tokens=0 if pictures is None else SLOTS, packing=packing)
    return Feed(name=name, index=index, table=table, pictures=pictures, answers_only=answers_only)


@pytest.fixture
def text(workshop: Workshop) -> Feed:
    chance = random.Random(1)
    texts = [
        words_of([chance.randrange(200) for _ in range(chance.choice([3, 9, 20, 29, 30, 31, 90]))]) for _ in range(200)
    ]
    rows = [
        {"text": text} | ({"loss": [[0, text.index(" ")]]} if nth % 4 == 0 else {}) for nth, text in enumerate(texts)
    ]
    return feed(workshop.prepare(workshop.texts(rows), "text"), "text")


@pytest.fixture
def captions(workshop: Workshop) -> Feed:
    return feed(
        workshop.prepare(workshop.captions([words_of(range(1 + n % 9)) for n in range(120)]), "captions"), "captions"
    )


@pytest.fixture
def dialogues(workshop: Workshop) -> Feed:
    def said(number: int) -> dict[str, object]:
        values = [
            ("human", f"<image>\n{words_of(range(number % 5 + 1))}"),
            ("gpt", "w9 w8"),
            ("human", "w3"),
            ("gpt", "w7"),
        ]
        return {
            "image": f"{number % 20}.png",
            "conversations": [{"from": role, "value": value} for role, value in values],
        }

    folder = workshop.dialogues([said(number) for number in range(60)], [f"{number}.png" for number in range(20)])
    return feed(workshop.prepare(folder, "dialogues"), "dialogues")


def blend(*parts: tuple[Feed, Fraction], epochs: int = 9, counted_in: Unit = "rows") -> Blended:
    feeds, shares = zip(*parts, strict=True)
    return Blended(feeds=feeds, shares=shares, epochs=(epochs,) * len(feeds), counted_in=counted_in)


def stream(
    text: Feed | Blended,
    *images: tuple[Feed, Fraction],
    share: Fraction | tuple[tuple[int, Fraction], ...],
    seen: int = 0,
    epochs: int = 9,
    counted_in: Unit = "rows",
) -> Stream:
    return Stream(
        text=blend((text, Fraction(1)), epochs=epochs) if isinstance(text, Feed) else text,
        images=blend(*images, epochs=epochs, counted_in=counted_in) if images else None,
        spans=share if isinstance(share, tuple) else ((20 * B, share),),
        counted_in=counted_in,
        rows=ROWS,
        seed=3,
        text_seed=3,
        text_rows_seen=seen,
        steps=20,
    )


def same(one: Batch, other: Batch) -> bool:
    names = ("tokens", "targets", "docs", "positions", "slots", "kinds")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names) and (
        one.images.numel() == other.images.numel() == 0 or torch.equal(one.images, other.images)
    )


def slow(stream: Stream, step: int) -> dict[str, list[list[int]]]:
    """The batch by plain loops over the ledger and the raw tokens, for sources whose documents all fit a row."""
    blank = {"tokens": PAD, "targets": IGNORED, "docs": -1, "positions": 0, "picture": -1}
    rows: dict[str, list[list[int]]] = {name: [] for name in blank}
    for held in stream.samples(step):
        row: dict[str, list[int]] = {name: [] for name in blank}
        for number, (kind, sample) in enumerate(held):
            feed = stream.feeds[kind]
            start, count, shown, shown_from = feed.index.samples[sample].item()
            image = int(feed.index.shown["picture"][shown_from]) if shown else -1
            slots = SLOTS if image >= 0 else 0
            tokens = [PAD] * slots + feed.index.tokens[start : start + count].tolist()
            loss = [0] * slots + feed.index.loss[start : start + count].tolist()
            kept = [1] if feed.answers_only else [1, 2]
            row["tokens"] += tokens
            row["targets"] += [tokens[n + 1] if loss[n + 1] in kept else IGNORED for n in range(len(tokens) - 1)] + [
                IGNORED
            ]
            row["docs"] += [number] * len(tokens)
            row["positions"] += range(len(tokens))
            row["picture"] += [image] * slots + [-1] * count
        for name, filler in blank.items():
            rows[name].append(row[name] + [filler] * (T - len(row[name])))
    return rows


def test_a_batch_is_what_plain_loops_over_the_raw_records_give(
    captions: Feed, dialogues: Feed, workshop: Workshop
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


def test_rows_come_in_the_order_that_pick_says(text: Feed, captions: Feed, dialogues: Feed) -> None:
    share = Fraction(2, 5)
    mixed = stream(text, (captions, Fraction(1, 4)), (dialogues, Fraction(3, 4)), share=share)
    kinds = torch.cat([mixed.batch(step).kinds for step in range(20)]).tolist()
    assert [kind > 0 for kind in kinds] == [pick(row, share)[0] for row in range(20 * B)]
    pictured = [kind for kind in kinds if kind]
    assert all(pictured[: n + 1].count(1) == (n + 1) // 4 for n in range(len(pictured)))


def test_targets_never_cross_a_border_and_stretches_of_a_long_text_join(text: Feed) -> None:
    alone = stream(text, share=Fraction(0))
    for step in range(20):
        batch = alone.batch(step)
        inner = batch.docs[:, :-1] == batch.docs[:, 1:]
        aimed = batch.targets[:, :-1] != IGNORED
        border = aimed & ~inner
        assert torch.equal(batch.targets[:, :-1][aimed & inner], batch.tokens[:, 1:][aimed & inner])
        assert not border.any(), "inside a row a document that goes on fills it to the end"
        assert (batch.positions[:, 1:][~inner & (batch.docs[:, 1:] >= 0)] == 0).all()
        assert (batch.positions[:, 1:][inner] == batch.positions[:, :-1][inner] + 1)[
            batch.docs[:, 1:][inner] >= 0
        ].all()


def test_an_epoch_holds_every_record_once_and_every_loss_token_of_the_source(text: Feed) -> None:
    rows = replace(ROWS, batch=1)
    spans = ((text.table.rows, Fraction(0)),)
    once = replace(stream(text, share=Fraction(0), epochs=1), rows=rows, steps=text.table.rows, spans=spans)
    seen, targets = Counter[int](), 0
    for step in range(text.table.rows):
        seen.update(number for _, number in once.samples(step)[0])
        targets += int((once.batch(step).targets != IGNORED).sum())
    assert set(seen) == set(range(200))
    assert sum(seen.values()) == len(text.table.column)
    assert targets == int((text.index.loss > 0).sum()), "every token that carries loss is aimed at exactly once"


def test_fine_tuning_aims_at_answers_alone(text: Feed, dialogues: Feed) -> None:
    tuned = stream(text, (replace(dialogues, answers_only=True), Fraction(1)), share=Fraction(1))
    mid = stream(text, (dialogues, Fraction(1)), share=Fraction(1))
    for step in range(5):
        answers = tuned.batch(step).targets
        assert not (answers == HUMAN).any()
        documents = len([1 for row in tuned.samples(step) for _ in row])
        assert (answers == ANSWER).sum() == 2 * documents
        assert (answers != IGNORED).sum() == (3 + 2) * documents
        assert (mid.batch(step).targets == HUMAN).sum() == 2 * documents


def test_a_step_is_the_same_after_any_history_and_restart(text: Feed, captions: Feed) -> None:
    one, other = (stream(text, (captions, Fraction(1)), share=Fraction(1, 2)) for _ in range(2))
    kept = [one.batch(step) for step in range(10)]
    for step in (7, 0, 9, 3):
        assert same(other.batch(step), kept[step])
    assert not same(replace(one, seed=4).batch(0), kept[0])


def test_no_images_is_the_text_stream_bit_for_bit(text: Feed, captions: Feed) -> None:
    plain, zero = stream(text, share=Fraction(0)), stream(text, (captions, Fraction(1)), share=Fraction(0))
    assert all(same(plain.batch(step), zero.batch(step)) for step in range(20))
    assert plain.batch(0).images.shape[0] == zero.batch(0).images.shape[0] == 0


def test_nothing_but_images_holds_no_text(text: Feed, captions: Feed) -> None:
    full = stream(text, (captions, Fraction(1)), share=Fraction(1))
    assert all((full.batch(step).kinds == 1).all() for step in range(10))


def test_a_branch_goes_on_with_the_trunks_text(text: Feed, captions: Feed) -> None:
    trunk = stream(text, share=Fraction(0))
    branch = stream(text, (captions, Fraction(1)), share=Fraction(1, 3), seen=5 * B)
    trunk_rows = [row for step in range(5, 20) for row in trunk.samples(step)]
    branch_rows = [row for step in range(20) for row in branch.samples(step) if row[0][0] == 0]
    assert branch_rows[: len(trunk_rows)] == trunk_rows[: len(branch_rows)]


def test_achieved_counts_what_the_batches_hold(text: Feed, captions: Feed, dialogues: Feed) -> None:
    parts = (captions, Fraction(1, 3)), (replace(dialogues, answers_only=True), Fraction(2, 3))
    mixed = stream(text, *parts, share=Fraction(3, 10))
    rows, tokens, loss = Counter[int](), Counter[int](), Counter[int]()
    for step in range(20):
        batch = mixed.batch(step)
        for kind, docs, targets in zip(batch.kinds.tolist(), batch.docs, batch.targets, strict=True):
            rows[kind] += 1
            tokens[kind] += int((docs >= 0).sum())
            loss[kind] += int((targets != IGNORED).sum())
    found = mixed.achieved(20)
    for counted, told in ((rows, found.rows), (tokens, found.tokens), (loss, found.loss_tokens)):
        assert [counted[kind] for kind in range(3)] == [told[one.name] for one in mixed.feeds]
    record = found.record()
    assert record["achieved"]["rows"] == pytest.approx(0.3)  # type: ignore[index]
    assert record["padding"] == pytest.approx(1 - tokens.total() / (20 * B * T))


def test_pixels_come_decoded(text: Feed, captions: Feed, workshop: Workshop) -> None:
    place = Location(path=str(workshop.folder("captions")))
    seen = replace(captions, pictures=Pixels(index=captions.index, location=place, size=8, cache=None))
    features = stream(text, (captions, Fraction(1)), share=Fraction(1, 2)).batch(0)
    pixels = stream(text, (seen, Fraction(1)), share=Fraction(1, 2)).batch(0)
    assert pixels.images.dtype == torch.uint8
    assert pixels.images.shape[1:] == (8, 8, 3)
    assert pixels.images[:, 3, 3, 0].tolist() == features.images[:, 0, 0].tolist(), "picture n is drawn in red value n"
    assert torch.equal(pixels.slots, features.slots)


def test_thin_data_is_refused_before_anything_runs(text: Feed, captions: Feed) -> None:
    have, want = captions.table.rows, 20 * B // 2
    assert have < want
    with pytest.raises(MixError, match=rf"wants {want} rows.*holds {have} .*allow epochs={-(-want // have)}"):
        stream(text, (captions, Fraction(1)), share=Fraction(1, 2), epochs=1)
    stream(text, (captions, Fraction(1)), share=Fraction(1, 2), epochs=-(-want // have))
    with pytest.raises(MixError, match="text: wants"):
        stream(text, share=Fraction(0), seen=text.table.rows, epochs=1)


def test_sources_that_do_not_fit_together_are_refused(text: Feed, captions: Feed) -> None:
    half = Fraction(1, 2)
    with pytest.raises(MixError, match="Got no image source"):
        stream(text, share=half)
    with pytest.raises(MixError, match="names of their own"):
        stream(text, (captions, half), (captions, half), share=half)
    with pytest.raises(MixError, match="another tokenizer"):
        stream(
            text, (replace(captions, index=replace(captions.index, tokenizer_digest="other")), Fraction(1)), share=half
        )
    with pytest.raises(MixError, match="pictures of one shape"):
        stream(text, (replace(captions, pictures=None), Fraction(1)), share=half)
    with pytest.raises(MixError, match="Pack it again"):
        replace(stream(text, share=Fraction(0)), rows=Rows(batch=B, length=T + 1))


def rows_of(batch: Batch) -> list[tuple[object, ...]]:
    """Every row of a batch as plain numbers, pictures in place of the slots that point at them."""
    flat = batch.images.reshape(-1, batch.images.shape[-1])[:, 0] if batch.images.numel() else torch.zeros(1)
    seen = torch.where(batch.slots >= 0, flat[batch.slots.clamp(min=0)].double(), -1.0)
    held = (batch.tokens, batch.targets, batch.docs, batch.positions, seen)
    return [(int(batch.kinds[row]), *(tuple(part[row].tolist()) for part in held)) for row in range(len(seen))]


@pytest.mark.parametrize("counted_in", ["rows", "tokens", "loss_tokens"])
def test_any_number_of_processes_reads_the_same_rows(
    text: Feed, captions: Feed, dialogues: Feed, counted_in: Unit
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


@pytest.mark.parametrize("counted_in", ["tokens", "loss_tokens"])
def test_a_mix_of_tokens_holds_its_share_on_every_prefix(
    text: Feed, captions: Feed, dialogues: Feed, counted_in: Unit
) -> None:
    """Counted in the batches themselves: no table takes part."""
    share = Fraction(3, 10)
    sparse = pack(captions.index, length=T, image_tokens=SLOTS, packing="one_image_per_row")
    parts = (replace(captions, table=sparse), Fraction(1, 4)), (dialogues, Fraction(3, 4))
    mixed = stream(text, *parts, share=share, counted_in=counted_in, epochs=99)
    held, within = [0, 0], [0, 0]
    for step in range(20):
        batch = mixed.batch(step)
        units = (batch.docs >= 0).sum(1) if counted_in == "tokens" else (batch.targets != IGNORED).sum(1)
        for kind, unit in zip(batch.kinds.tolist(), units.tolist(), strict=True):
            held[kind > 0] += unit
            if kind:
                within[kind - 1] += unit
            assert abs(held[1] - share * sum(held)) < T + T
            assert abs(within[0] - Fraction(1, 4) * sum(within)) < T + T
    found = mixed.achieved(20).record()
    assert found["achieved"][counted_in] == pytest.approx(held[1] / sum(held))  # type: ignore[index]
    assert found["counted_in"] == counted_in
    rows = stream(text, *parts, share=share, epochs=99).achieved(20).record()
    assert rows["achieved"]["rows"] == pytest.approx(0.3)  # type: ignore[index]
    assert abs(rows["achieved"][counted_in] - 0.3) > 0.02, "counting rows is something else"  # type: ignore[index]


@pytest.mark.parametrize("counted_in", ["rows", "tokens"])
def test_shares_change_where_a_span_ends(text: Feed, captions: Feed, counted_in: Unit) -> None:
    spans = ((50, Fraction(0)), (1, Fraction(1)), (40, Fraction(1, 2)), (29, Fraction(1, 4)))
    mixed = stream(text, (captions, Fraction(1)), share=spans, counted_in=counted_in)
    kinds = torch.cat([mixed.batch(step).kinds for step in range(20)])
    tokens = torch.cat([(mixed.batch(step).docs >= 0).sum(1) for step in range(20)])
    units, start = tokens if counted_in == "tokens" else torch.ones_like(tokens), 0
    for (rows, share), told in zip(spans, mixed.achieved(20).spans, strict=True):
        mine, held = kinds[start : start + rows] > 0, units[start : start + rows]
        got, whole = int(held[mine].sum()), int(held.sum())
        assert got == int(whole * share) if counted_in == "rows" else abs(got - whole * share) < 2 * T
        assert (told.rows, told.asked) == (rows, share)
        assert told.achieved[counted_in] == pytest.approx(got / whole)
        start += rows
    assert mixed.achieved(20).record()["asked"] == str(Fraction(50 * 0 + 1 + 20, 120) + Fraction(29, 4 * 120))


@pytest.mark.parametrize("counted_in", ["rows", "tokens", "loss_tokens"])
def test_two_texts_go_on_across_a_branch(text: Feed, captions: Feed, workshop: Workshop, counted_in: Unit) -> None:
    more = [{"text": words_of(range(n % 40, n % 40 + 2 + n % 25))} for n in range(150)]
    other = feed(workshop.prepare(workshop.texts(more, "more"), "text"), "more")
    texts = blend((text, Fraction(2, 3)), (other, Fraction(1, 3)), counted_in=counted_in)
    trunk = stream(texts, share=Fraction(0))
    held = [row for step in range(20) for row in trunk.samples(step)]
    for seen in (0, 1, 17, 60):
        branch = stream(texts, (captions, Fraction(1)), share=Fraction(1, 3), seen=seen, counted_in=counted_in)
        behind = [row for step in range(20) for row in branch.samples(step) if row[0][0] < 2]
        most = min(len(held) - seen, len(behind))
        assert most > 30
        assert behind[:most] == held[seen : seen + most]
        assert branch.achieved(20).text_rows_seen == seen + len(behind)


def test_rows_that_were_cut_come_as_the_long_rows_would(text: Feed, captions: Feed) -> None:
    """A trunk of rows of T, a branch of rows of T / 2: the branch reads what the trunk has not, token for token."""
    short = Rows(batch=B, length=T // 2)
    halves = replace(text, table=text.table.cut(2), cut=2)
    trunk = replace(stream(text, share=Fraction(0)))
    branch = replace(stream(text, share=Fraction(0)), rows=short, text=blend((halves, Fraction(1))), text_rows_seen=14)
    wanted = [row for step in range(20) for row in trunk.batch(step).tokens]
    found = torch.cat([branch.batch(step).tokens for step in range(20)]).reshape(-1, T)
    assert len(found) == 60
    for row, long in zip(found, wanted[7:67], strict=True):
        assert row.tolist() == long.tolist()


def test_sources_are_gone_through_as_often_as_declared_also_where_tokens_are_counted(
    text: Feed, captions: Feed
) -> None:
    mixed = stream(text, (captions, Fraction(1)), share=Fraction(1, 2), counted_in="tokens")
    want, have = mixed.achieved(20).rows["captions"], captions.table.rows
    needed = -(-want // have)
    assert needed > 1
    with pytest.raises(MixError, match=rf"captions: wants {want} rows.*holds {have} .*allow epochs={needed}"):
        replace(mixed, images=blend((captions, Fraction(1)), epochs=needed - 1))
    replace(mixed, images=blend((captions, Fraction(1)), epochs=needed))


def test_a_source_without_what_is_counted_is_refused(text: Feed, captions: Feed) -> None:
    nothing = np.zeros_like(text.table.always)
    mute = replace(text, name="mute", table=replace(text.table, always=nothing, before=nothing))
    with pytest.raises(MixError, match="mute: wanted 1 of the loss tokens"):
        stream(mute, (captions, Fraction(1)), share=Fraction(1, 2), counted_in="loss_tokens")
    with pytest.raises(MixError, match="mute: wanted 1/2 of the loss tokens"):
        stream(blend((text, Fraction(1, 2)), (mute, Fraction(1, 2)), counted_in="loss_tokens"), share=Fraction(0))


def test_achieved_notices_a_share_that_is_off(text: Feed, captions: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = stream(text, (captions, Fraction(1)), share=Fraction(1, 2))
    drawn = Stream.drawn

    def one_less(self: Stream, positions: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        (_, texts), (_, images) = drawn(self, positions)
        return iter([(texts, texts), (images[2:], images[2:])])

    mixed.achieved(20)
    monkeypatch.setattr(Stream, "drawn", one_less)
    with pytest.raises(MixError, match=r"wanted 1/2 of the rows\. Got 58 of 118"):
        mixed.achieved(20)
