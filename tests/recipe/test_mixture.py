"""Shares of sources: exact spans, what is printed, what is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import FieldError, QuantityError
from firstsight.recipe.mixture import (
    External,
    ImageTextMix,
    Mixture,
    Recaptioned,
    ShareSpan,
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    SyntheticTexts,
    SyntheticWorld,
    WeightedSource,
    single_source,
    source_label,
)
from firstsight.recipe.scales import get_scale
from firstsight.units import Share, Tokens

TEXT = External(name="dclm", form="text", tokens=Tokens(0))
NOTES = External(name="notes", form="text", tokens=Tokens(0))
PAIRS = External(name="pairs", form="captions", tokens=Tokens(0))


def mix(image_share: Share | tuple[ShareSpan, ...]) -> ImageTextMix:
    return ImageTextMix(
        text=single_source(TEXT),
        images=single_source(PAIRS),
        image_share=image_share,
        share_unit="rows",
        packing="best_fit",
    )


def spans(*ends_and_shares: tuple[Share, Share]) -> tuple[ShareSpan, ...]:
    return tuple(ShareSpan(end=end, share=share) for end, share in ends_and_shares)


@given(st.integers(0, 10**9), st.lists(st.integers(1, 99), max_size=4, unique=True), st.integers(0, 12))
def test_spans_cover_a_stage_and_their_image_rows_are_exact(rows: int, cuts: list[int], twelfths: int) -> None:
    share = Share(twelfths, 12)
    assert mix(share).spans(rows) == ((rows, share),)
    assert mix(share).image_rows(rows) == rows * twelfths // 12
    staged = mix(spans(*((Share(cut, 100), share) for cut in sorted(cuts)), (Share(1), Share(1))))
    parts = staged.spans(rows)
    assert sum(count for count, _ in parts) == rows and len(parts) == len(cuts) + 1
    assert abs(staged.image_rows(rows) - sum(count * part_share for count, part_share in parts)) < len(parts)


@pytest.mark.parametrize("percents", [(), (50,), (50, 50, 100), (75, 50, 100), (0, 100)])
def test_spans_must_end_one_after_the_other_at_1(percents: tuple[int, ...]) -> None:
    with pytest.raises(QuantityError, match="the last at 1"):
        mix(spans(*((Share(percent, 100), Share(1, 2)) for percent in percents)))


def test_shares_of_a_mixture_sum_to_1() -> None:
    half = WeightedSource(source=TEXT, share=Share(1, 2), max_epochs=1)
    with pytest.raises(QuantityError, match="Got 5/6 from 2 components"):
        Mixture(components=(half, replace(half, source=NOTES, share=Share(1, 3))), share_unit="tokens")
    with pytest.raises(QuantityError, match="max_epochs=0"):
        replace(half, max_epochs=0)


def test_mixes_print_as_a_person_writes_them() -> None:
    two = Mixture(
        components=(
            WeightedSource(source=TEXT, share=Share(3, 4), max_epochs=1),
            WeightedSource(source=NOTES, share=Share(1, 4), max_epochs=2),
        ),
        share_unit="loss_tokens",
    )
    assert str(two) == "75 % dclm + 25 % notes (up to 2 epochs), as shares of loss tokens"
    staged = mix(spans((Share(1, 2), Share(1, 4)), (Share(1), Share(3, 4))))
    assert str(replace(staged, text=two)).startswith(
        "25 % images to 50 %, then 75 % images to the end, as shares of rows; images: "
    )
    assert str(mix(Share(0))) == "0 % images, as shares of rows; text: dclm"
    assert str(mix(Share(1))) == "100 % images, as shares of rows; images: pairs"


def test_sources_have_a_name_for_people() -> None:
    stage = get_scale("smoke").base.stages[0]
    assert source_label(stage.mix.images.sources[0]) == "rich captions" and source_label(TEXT) == "dclm"
    assert source_label(stage.mix.text.sources[0]) == "texts"
    recaptioned = Recaptioned(external=PAIRS, synthetic_share=Share(Fraction(1, 4)), seed=0)
    assert source_label(recaptioned) == "pairs (25 % synthetic captions)"
    with pytest.raises(QuantityError, match="only captions can be recaptioned"):
        replace(recaptioned, external=TEXT)


WORLD = SyntheticWorld(objects=16, kinds=4, image_size=48, max_objects=4, seed=0)


@given(st.integers(1, 500), st.integers(1, 9))
def test_interleaved_images_are_the_sum_over_documents(documents: int, max_images: int) -> None:
    source = SyntheticInterleaved(world=WORLD, documents=documents, max_images=max_images)
    counts = [source.images_of(document) for document in range(documents)]
    assert source.images == sum(counts)
    assert set(counts) == set(range(1, min(documents, max_images) + 1))


MULTITASK_SHARES = {"captions": Share(1, 2), "words": Share(0), "boxes": Share(3, 8), "dialogues": Share(1, 8)}
COUNTS = [
    (SyntheticTexts(world=WORLD, documents=1, loss_mask="all"), "documents"),
    (SyntheticCaptions(world=WORLD, images=1, quality="rich"), "images"),
    (SyntheticDialogues(world=WORLD, images=1, turns=1), "images"),
    (SyntheticDialogues(world=WORLD, images=1, turns=1), "turns"),
    (SyntheticInterleaved(world=WORLD, documents=1, max_images=1), "documents"),
    (SyntheticInterleaved(world=WORLD, documents=1, max_images=1), "max_images"),
    (SyntheticMultitask(world=WORLD, images=1, turns=1, **MULTITASK_SHARES), "images"),
    (SyntheticMultitask(world=WORLD, images=1, turns=1, **MULTITASK_SHARES), "turns"),
    (SyntheticBenchmarks(world=WORLD, questions=1), "questions"),
]


@pytest.mark.parametrize(("source", "field"), COUNTS, ids=[f"{source.TAG}-{field}" for source, field in COUNTS])
@pytest.mark.parametrize("value", [0, -1])
def test_built_in_data_has_at_least_one_of_everything(source: Any, field: str, value: int) -> None:
    with pytest.raises(FieldError, match=rf"^{type(source).__name__}\.{field}: wanted at least 1\. Got {value}\."):
        replace(source, **{field: value})


def test_labels_of_synthetic_sources_say_what_distinguishes_them() -> None:
    multitask = SyntheticMultitask(world=WORLD, images=1, turns=1, **MULTITASK_SHARES)
    assert source_label(multitask) == "multitask (50 % captions, 37.5 % boxes, 12.5 % dialogues)"
    documents = SyntheticInterleaved(world=WORLD, documents=1, max_images=3)
    assert source_label(documents) == "interleaved documents of up to 3 images"


@pytest.mark.parametrize("percents", [(50, 25, 25, 25), (0, 0, 0, 0)])
def test_multitask_shares_sum_to_1(percents: tuple[int, ...]) -> None:
    shares = dict(zip(("captions", "words", "boxes", "dialogues"), (Share(n, 100) for n in percents), strict=True))
    with pytest.raises(QuantityError, match=r"sum to 1\. Got captions .*, dialogues .*\. Change one"):
        SyntheticMultitask(world=WORLD, images=1, turns=1, **shares)
