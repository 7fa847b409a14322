"""Rows of whole stages against the files that they were made from: words, pictures, records, counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from firstsight.data.index import Index
from firstsight.data.loader import BatchStream, DecodedImages, LoaderMixture, LoaderSource
from firstsight.data.packing import pack
from firstsight.data.prepare import prepare
from firstsight.data.tokenizer import load_tokenizer
from firstsight.recipe.mixture import ExternalForm, ImageTextMix, PackingMode, ShareSpan
from firstsight.recipe.stages import IGNORE_INDEX, RowShape
from firstsight.report.pages.batch_rows import PreviewElement, PreviewRow
from firstsight.report.pages.preview_page import StageIdentity, preview_rows, render_preview, stage_facts
from firstsight.report.pages.token_text import TokenDecoder
from firstsight.site import Location, Site
from firstsight.units import Share

from ..data.conftest import Workshop, picture, prepare_spec
from ..train.small import PATCHED, midtraining, segment

SLOTS, T, B, STEPS = 4, 32, 4, 3
ROWS = RowShape(batch_size=B, length=T)
PACKINGS: list[PackingMode] = ["best_fit", "one_image_per_row"]
TEXTS = [" ".join(f"w{(7 * n + k) % 200}" for k in range(3 + 5 * (n % 9))) for n in range(60)]
CAPTIONS = [" ".join(f"w{(n + k) % 200}" for k in range(1 + n % 9)) for n in range(120)]
BAD = 5
"""The caption that is empty, and refused."""
WHERE = StageIdentity(study="when", scale="smoke", arm="a.s1", stage="midtrain", seed=1, address="midtrain-0123")


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def feed(workshop: Workshop, index: Index, name: str, *, packing: PackingMode, pictures: str = "") -> LoaderSource:
    location = Location(path=str(workshop.root / name), pictures=pictures)
    text = index.form == "text"
    shown = None if text else DecodedImages(index=index, location=location, size=8, cache=None)
    table = pack(index, length=T, image_tokens=0 if text else SLOTS, packing=packing)
    return LoaderSource(name=name, index=index, packed_rows=table, images=shown, answers_only=False)


def blended(*feeds: LoaderSource) -> LoaderMixture:
    share = Fraction(1, len(feeds))
    return LoaderMixture(sources=feeds, shares=(share,) * len(feeds), epochs=(9,) * len(feeds), counted_in="rows")


def stream(text: LoaderSource, *images: LoaderSource, share: Fraction = Fraction(1, 2)) -> BatchStream:
    return BatchStream(
        text_mixture=blended(text),
        image_mixture=blended(*images) if images else None,
        spans=((STEPS * B, share if images else Fraction(0)),),
        counted_in="rows",
        row_shape=ROWS,
        seed=3,
        text_seed=3,
        text_row_offset=0,
        steps=STEPS,
    )


def texts(workshop: Workshop) -> LoaderSource:
    index = workshop.prepare(workshop.texts([{"text": text} for text in TEXTS]), "text")
    return feed(workshop, index, "texts", packing="best_fit")


def captions(workshop: Workshop, packing: PackingMode, name: str = "captions") -> LoaderSource:
    told = [caption if n != BAD else " " for n, caption in enumerate(CAPTIONS)]
    return feed(workshop, workshop.prepare(workshop.captions(told, name), "captions"), name, packing=packing)


def interleaved(workshop: Workshop) -> LoaderSource:
    """Documents of a picture, words, two pictures, words."""
    folder, pictures = workshop.folder("pages"), workshop.folder("pages.pictures")
    for number in range(30):
        (pictures / f"{number}.png").write_bytes(picture((number, 9, 9)))
    rows = [
        {"images": [f"{n}.png", None, f"{(n + 1) % 30}.png", f"{(n + 2) % 30}.png", None], "texts": _said(n)}
        for n in range(30)
    ]
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    form: ExternalForm = "interleaved"
    site = Site(sources={"s": Location(path=str(folder), pictures=str(pictures))})
    out = workshop.folder("pages.index")
    prepare(
        prepare_spec(form),
        inputs={"tokenizer": workshop.words()},
        out=out,
        site=site,
        on_progress=lambda progress: None,
    )
    return feed(workshop, Index.open(out), "pages", packing="best_fit", pictures=str(pictures))


def _said(number: int) -> list[str | None]:
    return [None, f"w{number} w1", None, None, f"w2 w{number + 50} w3"]


def read(workshop: Workshop, found: BatchStream) -> list[PreviewRow]:
    return preview_rows(found, TokenDecoder(load_tokenizer(workshop.words())), first_row=0, count=found.total_rows)


def words(row: PreviewRow) -> Iterator[tuple[int, str]]:
    """(record, its words in this row, special tokens left out) of each document."""
    for document in row.documents:
        assert document.record is not None
        told = [
            shown.token_text.text for shown in document.elements if shown.token_text and not shown.token_text.is_special
        ]
        yield document.record.record_index, " ".join(told)


@pytest.mark.parametrize("packing", PACKINGS)
def test_rows_say_what_the_files_say(workshop: Workshop, packing: PackingMode) -> None:
    found = stream(texts(workshop), captions(workshop, packing))
    good = [caption for n, caption in enumerate(CAPTIONS) if n != BAD]
    rows = read(workshop, found)
    assert [row.source_index for row in rows] == [0, 1] * (STEPS * B // 2)
    for row in rows:
        for record, told in words(row):
            whole = (TEXTS, good)[row.source_index][record]
            assert told == whole if row.source_index else told in whole
        pictured = [sum(shown.kind == "image" for shown in document.elements) for document in row.documents]
        assert pictured == [row.source_index] * len(row.documents)
        assert packing == "best_fit" or not row.source_index or row.image_count == 1
    assert packing != "best_fit" or max(row.image_count for row in rows) > 1


def test_places_leave_refused_records_out(workshop: Workshop) -> None:
    rows = read(workshop, stream(texts(workshop), captions(workshop, "best_fit")))
    places = {document.record for row in rows for document in row.documents}
    told = {(record.record_index, record.location) for record in places if record}
    assert told
    assert all(place in (f"text-00000.jsonl #{number}", f"00000.tar #{number}") for number, place in told)


@pytest.mark.parametrize("packing", PACKINGS)
def test_counts_are_those_of_the_batches(workshop: Workshop, packing: PackingMode) -> None:
    found = stream(texts(workshop), captions(workshop, packing))
    rows = read(workshop, found)
    for step in range(STEPS):
        batch = found.batch(step)
        mine = rows[step * B : (step + 1) * B]
        assert [row.loss_tokens for row in mine] == (batch.targets != IGNORE_INDEX).sum(dim=1).tolist()
        assert [row.padding for row in mine] == (batch.docs < 0).sum(dim=1).tolist()
        assert sum(row.image_count for row in mine) == len(batch.images)
        assert [len(row.documents) for row in mine] == (batch.docs.max(dim=1).values + 1).tolist()


def test_facts_count_every_row_by_source(workshop: Workshop) -> None:
    found = stream(texts(workshop), captions(workshop, "best_fit"), captions(workshop, "best_fit", "more"))
    spec = midtraining(PATCHED, STEPS, "1/2")
    two = replace(spec, mix=_two(spec.mix))
    told = stage_facts(found, two, identity=WHERE, tokenizer=load_tokenizer(workshop.words()), needs_spacing=True)
    rows = read(workshop, found)
    for kind, count in enumerate(told.sources):
        mine = [row for row in rows if row.source_index == kind]
        counted = (len(mine), sum(row.tokens for row in mine), sum(row.loss_tokens for row in mine))
        assert (count.rows, count.tokens, count.loss_tokens) == counted
    assert [count.requested_share for count in told.sources] == ["all text", "50 % of images", "50 % of images"]
    assert told.requested_share == "50 % of rows"
    assert told.padding_share == pytest.approx(sum(row.padding for row in rows) / (STEPS * B * T))
    html = render_preview(told, rows)
    assert html.count('<article class="row k2 of-2"') == sum(row.source_index == 2 for row in rows) == 3


def _two(mix: ImageTextMix) -> ImageTextMix:
    [part] = mix.images.components
    return replace(mix, images=replace(mix.images, components=(replace(part, share=Share(1, 2)),) * 2))


def test_shares_in_stretches_are_told_in_order(workshop: Workshop) -> None:
    spec = midtraining(PATCHED, STEPS, "1/2")
    spans = (ShareSpan(end=Share(1, 4), share=Share(0)), ShareSpan(end=Share(1), share=Share(1, 10)))
    staged = replace(spec, mix=replace(spec.mix, image_share=spans, share_unit="loss_tokens"))
    told = stage_facts(
        stream(texts(workshop)), staged, identity=WHERE, tokenizer=load_tokenizer(workshop.words()), needs_spacing=True
    )
    assert told.requested_share == "0 % until 25 %, 10 % until 100 % of loss tokens"


def test_a_stage_of_text_alone(workshop: Workshop) -> None:
    found = stream(texts(workshop))
    told = stage_facts(
        found, segment(STEPS, "0", "1"), identity=WHERE, tokenizer=load_tokenizer(workshop.words()), needs_spacing=True
    )
    rows = read(workshop, found)
    assert told.requested_share == "no images"
    assert [count.name for count in told.sources] == ["texts"]
    assert sum(row.image_count for row in rows) == 0
    assert "<img" not in render_preview(told, rows)


def test_pictures_inside_documents_stand_where_the_file_has_them(workshop: Workshop) -> None:
    rows = [row for row in read(workshop, stream(texts(workshop), interleaved(workshop))) if row.source_index]
    assert rows
    for row in rows:
        for document in row.documents:
            assert document.record is not None
            marks = [
                "P" if shown.kind == "image" else shown.token_text.text for shown in document.elements if _plain(shown)
            ]
            number = document.record.record_index
            whole = ["P", f"w{number}", "w1", "P", "P", "w2", f"w{number + 50}", "w3"]
            assert marks == whole[: len(marks)] or marks == whole[-len(marks) :]
            assert {shown.slot_count for shown in document.elements if shown.kind == "image"} <= {SLOTS}
    assert any(row.image_count >= 3 for row in rows)


def _plain(shown: PreviewElement) -> bool:
    return shown.kind == "image" or (shown.kind == "token" and not shown.token_text.is_special)


def test_any_row_is_the_same_whatever_is_shown_before_it(workshop: Workshop) -> None:
    found, speller = (
        stream(texts(workshop), captions(workshop, "best_fit")),
        TokenDecoder(load_tokenizer(workshop.words())),
    )
    whole = preview_rows(found, speller, first_row=0, count=99)
    assert len(whole) == STEPS * B
    assert preview_rows(found, speller, first_row=5, count=3) == whole[5:8]
