"""preview.html: rows of whole stages against the files that they were made from, and the safety of the page."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from firstsight.data.image_reader import ImageReader
from firstsight.data.index import Index
from firstsight.data.loader import BatchStream, DecodedImages, LoaderMixture, LoaderSource
from firstsight.data.packing import pack
from firstsight.data.prepare import prepare
from firstsight.data.tokenizer import END_OF_TEXT, load_tokenizer
from firstsight.recipe.mixture import External, PackingMode, ShareSpan
from firstsight.recipe.scales import get_scale
from firstsight.recipe.stages import IGNORE_INDEX, Midtrain, Prepare, RowShape, TrunkSegment
from firstsight.report.pages.batch_rows import PreviewRow
from firstsight.report.pages.preview_page import StageOverview, StageSpec, preview_rows, render_preview, stage_overview
from firstsight.report.pages.token_text import TokenDecoder
from firstsight.site import Location, Site
from firstsight.units import Share, Tokens
from tests.data.conftest import Workshop
from tests.report.answer_files import encoded_image
from tests.report.pages.small_batches import IDENTITY, LENGTH, MIXED, START, decode, make_batch, preview
from tests.report.pages.small_batches import SLOTS as BATCH_SLOTS
from tests.report.pages.small_tokenizers import HOSTILE

SLOTS, T, B, STEPS = 4, 32, 4, 3
PACKINGS: list[PackingMode] = ["best_fit", "one_image_per_row"]
TEXTS = [" ".join(f"w{(7 * n + k) % 200}" for k in range(3 + 5 * (n % 9))) for n in range(60)]
CAPTIONS = [" ".join(f"w{(n + k) % 200}" for k in range(1 + n % 9)) for n in range(120)]
REFUSED = 5
"""Index of the caption that is empty, and refused."""


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def make_source(workshop: Workshop, index: Index, name: str, *, packing: PackingMode, images: str = "") -> LoaderSource:
    location = Location(path=str(workshop.root / name), pictures=images)
    is_text = index.form == "text"
    decoded = None if is_text else DecodedImages(reader=ImageReader(index, location, None), size=8)
    packed_rows = pack(index, length=T, image_tokens=0 if is_text else SLOTS, packing=packing)
    return LoaderSource(name=name, index=index, packed_rows=packed_rows, images=decoded, answers_only=False)


def make_mixture(*sources: LoaderSource) -> LoaderMixture:
    count = len(sources)
    shares = (Fraction(1, count),) * count
    return LoaderMixture(sources=sources, shares=shares, epochs=(9,) * count, counted_in="rows")


def make_stream(text: LoaderSource, *images: LoaderSource) -> BatchStream:
    """Text rows and image rows in equal parts."""
    return BatchStream(
        text_mixture=make_mixture(text),
        image_mixture=make_mixture(*images) if images else None,
        spans=((STEPS * B, Fraction(1, 2) if images else Fraction(0)),),
        counted_in="rows",
        row_shape=RowShape(batch_size=B, length=T),
        seed=3,
        text_seed=3,
        text_row_offset=0,
        steps=STEPS,
    )


def texts(workshop: Workshop) -> LoaderSource:
    index = workshop.prepare(workshop.texts([{"text": text} for text in TEXTS]), "text")
    return make_source(workshop, index, "texts", packing="best_fit")


def captions(workshop: Workshop, packing: PackingMode, name: str = "captions") -> LoaderSource:
    lines = [caption if n != REFUSED else " " for n, caption in enumerate(CAPTIONS)]
    index = workshop.prepare(workshop.captions(lines, name), "captions")
    return make_source(workshop, index, name, packing=packing)


def interleaved(workshop: Workshop) -> LoaderSource:
    """Documents of an image, words, two images, words."""
    folder, images = workshop.folder("pages"), workshop.folder("pages.images")
    rows = []
    for n in range(30):
        (images / f"{n}.png").write_bytes(encoded_image(8, 8))
        names = [f"{n}.png", None, f"{(n + 1) % 30}.png", f"{(n + 2) % 30}.png", None]
        rows.append({"images": names, "texts": [None, f"w{n} w1", None, None, f"w2 w{n + 50} w3"]})
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = Prepare(
        source=External(name="s", form="interleaved", tokens=Tokens(0)),
        tokenizer=External(name="t", form="tokenizer", tokens=Tokens(0)),
    )
    site = Site(sources={"s": Location(path=str(folder), pictures=str(images))})
    out = workshop.folder("pages.index")
    prepare(spec, inputs={"tokenizer": workshop.words()}, out=out, site=site, on_progress=lambda progress: None)
    return make_source(workshop, Index.open(out), "pages", packing="best_fit", images=str(images))


def all_rows(workshop: Workshop, stream: BatchStream) -> list[PreviewRow]:
    decoder = TokenDecoder(load_tokenizer(workshop.words()))
    return preview_rows(stream, decoder, first_row=0, count=stream.total_rows)


def overview_of(workshop: Workshop, stream: BatchStream, spec: StageSpec) -> StageOverview:
    tokenizer = load_tokenizer(workshop.words())
    return stage_overview(stream, spec, identity=IDENTITY, tokenizer=tokenizer, needs_spacing=True)


def midtrain_spec() -> Midtrain:
    """An image share of 50 % of rows."""
    spec = get_scale("smoke").base.stages[0]
    assert isinstance(spec, Midtrain)
    return replace(spec, mix=replace(spec.mix, image_share=Share(1, 2), share_unit="rows"))


def record_texts(row: PreviewRow) -> Iterator[tuple[int, str]]:
    """(record, its text in this row without special tokens) of each document."""
    for document in row.documents:
        assert document.record is not None
        tokens = [element.token_text for element in document.elements if element.token_text]
        yield document.record.record_index, " ".join(token.text for token in tokens if not token.is_special)


@pytest.mark.parametrize("packing", PACKINGS)
def test_rows_have_the_texts_of_the_files(workshop: Workshop, packing: PackingMode) -> None:
    rows = all_rows(workshop, make_stream(texts(workshop), captions(workshop, packing)))
    valid_captions = [caption for n, caption in enumerate(CAPTIONS) if n != REFUSED]
    assert [row.source_index for row in rows] == [0, 1] * (STEPS * B // 2)
    for row in rows:
        for record, text in record_texts(row):
            record_text = (TEXTS, valid_captions)[row.source_index][record]
            assert text == record_text if row.source_index else text in record_text
        images = [sum(element.kind == "image" for element in document.elements) for document in row.documents]
        assert images == [row.source_index] * len(row.documents)
        assert packing == "best_fit" or not row.source_index or row.image_count == 1
    assert packing != "best_fit" or max(row.image_count for row in rows) > 1


def test_locations_do_not_count_refused_records(workshop: Workshop) -> None:
    rows = all_rows(workshop, make_stream(texts(workshop), captions(workshop, "best_fit")))
    records = {document.record for row in rows for document in row.documents}
    locations = {(record.record_index, record.location) for record in records if record}
    assert locations
    assert all(location in (f"text-00000.jsonl #{index}", f"00000.tar #{index}") for index, location in locations)


@pytest.mark.parametrize("packing", PACKINGS)
def test_counts_are_those_of_the_batches(workshop: Workshop, packing: PackingMode) -> None:
    stream = make_stream(texts(workshop), captions(workshop, packing))
    rows = all_rows(workshop, stream)
    for step in range(STEPS):
        batch, step_rows = stream.batch(step), rows[step * B : (step + 1) * B]
        assert [row.loss_tokens for row in step_rows] == (batch.targets != IGNORE_INDEX).sum(dim=1).tolist()
        assert [row.padding for row in step_rows] == (batch.docs < 0).sum(dim=1).tolist()
        assert sum(row.image_count for row in step_rows) == len(batch.images)
        assert [len(row.documents) for row in step_rows] == (batch.docs.max(dim=1).values + 1).tolist()


def test_facts_count_every_row_by_source(workshop: Workshop) -> None:
    stream = make_stream(texts(workshop), captions(workshop, "best_fit"), captions(workshop, "best_fit", "more"))
    mix = midtrain_spec().mix
    half = replace(mix.images.components[0], share=Share(1, 2))
    mix = replace(mix, images=replace(mix.images, components=(half, half)))
    overview = overview_of(workshop, stream, replace(midtrain_spec(), mix=mix))
    rows = all_rows(workshop, stream)
    for index, source in enumerate(overview.sources):
        source_rows = [row for row in rows if row.source_index == index]
        counts = sum(row.tokens for row in source_rows), sum(row.loss_tokens for row in source_rows)
        assert (source.rows, source.tokens, source.loss_tokens) == (len(source_rows), *counts)
    assert [source.requested_share for source in overview.sources] == ["all text", "50 % of images", "50 % of images"]
    assert overview.requested_share == "50 % of rows"
    assert overview.padding_share == pytest.approx(sum(row.padding for row in rows) / (STEPS * B * T))
    html = render_preview(overview, rows)
    assert html.count('<article class="row k2 of-2"') == sum(row.source_index == 2 for row in rows) == 3


def test_shares_that_change_are_listed_in_order(workshop: Workshop) -> None:
    spans = (ShareSpan(end=Share(1, 4), share=Share(0)), ShareSpan(end=Share(1), share=Share(1, 10)))
    spec = midtrain_spec()
    spec = replace(spec, mix=replace(spec.mix, image_share=spans, share_unit="loss_tokens"))
    overview = overview_of(workshop, make_stream(texts(workshop)), spec)
    assert overview.requested_share == "0 % until 25 %, 10 % until 100 % of loss tokens"


def test_stage_of_text_alone(workshop: Workshop) -> None:
    stream = make_stream(texts(workshop))
    segment = TrunkSegment(pretrain=get_scale("smoke").base.pretrain, start=Share(0), end=Share(1))
    overview, rows = overview_of(workshop, stream, segment), all_rows(workshop, stream)
    assert overview.requested_share == "no images"
    assert [source.name for source in overview.sources] == ["texts"]
    assert sum(row.image_count for row in rows) == 0
    assert "<img" not in render_preview(overview, rows)


def test_images_inside_documents_are_in_the_order_of_the_file(workshop: Workshop) -> None:
    rows = all_rows(workshop, make_stream(texts(workshop), interleaved(workshop)))
    rows = [row for row in rows if row.source_index]
    assert rows
    for document in (document for row in rows for document in row.documents):
        assert document.record is not None
        words = ["IMAGE" if element.kind == "image" else "" for element in document.elements]
        for position, element in enumerate(document.elements):
            if element.kind == "token" and element.token_text and not element.token_text.is_special:
                words[position] = element.token_text.text
        words = [word for word in words if word]
        number = document.record.record_index
        expected = ["IMAGE", f"w{number}", "w1", "IMAGE", "IMAGE", "w2", f"w{number + 50}", "w3"]
        assert words == expected[: len(words)] or words == expected[-len(words) :]
        assert {element.slot_count for element in document.elements if element.kind == "image"} <= {SLOTS}
    assert any(row.image_count >= 3 for row in rows)


def test_a_row_does_not_depend_on_the_rows_before_it(workshop: Workshop) -> None:
    stream = make_stream(texts(workshop), captions(workshop, "best_fit"))
    decoder = TokenDecoder(load_tokenizer(workshop.words()))
    rows = preview_rows(stream, decoder, first_row=0, count=99)
    assert len(rows) == STEPS * B
    assert preview_rows(stream, decoder, first_row=5, count=3) == rows[5:8]


def test_padding_is_one_element() -> None:
    page = preview(decode(make_batch([[0, "w0", END_OF_TEXT]])))
    assert page.count(0, tag="div", css_class="empty") == 1
    assert f"{LENGTH - BATCH_SLOTS - 2} padding" in page.article_texts[0]


def test_full_row_has_no_padding() -> None:
    page = preview(decode(make_batch([[START, *["w0"] * (LENGTH - 1)]])))
    assert page.count(0, tag="div", css_class="empty") == 0


def test_page_without_images() -> None:
    page = preview(decode(make_batch([[START, "w0", END_OF_TEXT]], [[START, "w1", END_OF_TEXT]])))
    assert not page.all("img")
    assert len(page.articles) == 2


def test_sources_are_filtered_by_checkboxes_without_a_script() -> None:
    page = preview(decode(MIXED), "texts", "captions", "more")
    boxes = [(box["type"], box["id"], "checked" in box) for box in page.all("input")]
    assert boxes == [("checkbox", f"show-{n}", True) for n in range(3)]
    for number in range(3):
        assert f"body:has(#show-{number}:not(:checked)) .of-{number} {{ display: none; }}" in page.html
    classes = [str(article["class"]).split() for article in page.all("article")]
    assert ["of-0" in classes[0], "of-1" in classes[1]] == [True, True]


def test_page_runs_and_loads_nothing() -> None:
    page = preview(decode(MIXED))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert all(not name.startswith("on") for name in attributes)
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert str(attributes.get("href", "#")).startswith("#")
    policy = next(attributes["content"] for attributes in page.all("meta") if attributes.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_hostile_data_is_text() -> None:
    """Words, names of sources and of files: markup, quotes, bidirectional overrides, control characters."""
    rows = decode(make_batch([[START, *HOSTILE, END_OF_TEXT]]), location=f"{''.join(HOSTILE)}.tar #0")
    hostile = preview(rows, "".join(HOSTILE), "captions")
    harmless = preview(decode(make_batch([[START, *["w0"] * len(HOSTILE), END_OF_TEXT]])), "texts", "captions")
    tags = [[tag for tag, _ in page.articles[0] if tag != "i"] for page in (hostile, harmless)]
    assert tags[0] == tags[1]
    written_out = {f"U+{code}" for code in re.findall(r"<i class=u>U\+([0-9A-F]{4})", hostile.html)}
    assert written_out == {"U+202E", "U+202C", "U+0007", "U+001B"}
    assert "<script>alert(1)</script>" in hostile.article_texts[0]
    assert {char for char in hostile.html if unicodedata.category(char) in ("Cc", "Cf")} <= {"\n"}
