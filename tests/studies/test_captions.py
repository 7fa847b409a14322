"""The study `captions`: arms differ only in the image sources of mid-training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.errors import QuantityError
from firstsight.plan.graph import build_graph
from firstsight.recipe.mixture import Recaptioned, SyntheticCaptions, base_source, single_source
from firstsight.recipe.scales import get_scale
from firstsight.studies.captions import caption_sources, captions
from firstsight.studies.encoders import DINOV2
from firstsight.studies.when import when
from firstsight.units import Share

NAMES = {"smoke": ["rich", "noisy", "mixed"], "1b": ["datacomp-dr", "datacomp", "cc12m", "stock"]}


@pytest.mark.parametrize("scale", NAMES)
def test_arms_differ_in_the_images_of_mid_training_only(scale: str) -> None:
    study, late = captions(replace(get_scale(scale), seeds=1)), when(get_scale(scale)).arm("start-080.s1")
    _, *arms = study.arms
    assert [arm.name for arm in arms] == [arm.at["captions"] for arm in arms] == NAMES[scale]
    for arm in arms:
        midtrain, *later = arm.stages
        same_images = replace(midtrain, mix=replace(midtrain.mix, images=late.stages[0].mix.images))
        assert replace(arm, name=late.name, at=late.at, stages=(same_images, *later)) == late
    assert len({arm.stages[0].mix.images for arm in arms}) == len(arms)


def test_datacomp_is_the_alt_text_of_the_images_of_datacomp_dr() -> None:
    sources = {arm.name: arm.stages[0].mix.images.sources for arm in captions(get_scale("1b")).arms if arm.stages}
    (best,), (alt_text,) = sources["datacomp-dr"], sources["datacomp"]
    assert isinstance(best, Recaptioned) and isinstance(alt_text, Recaptioned)
    assert base_source(best) == base_source(alt_text)
    assert (best.synthetic_share, alt_text.synthetic_share) == (1, 0)


def test_the_mixed_arm_has_half_of_each_and_the_rich_one_is_an_arm_of_when() -> None:
    scale = get_scale("cpu")
    study = captions(scale)
    mixed = study.arm("mixed").stages[0].mix.images
    assert {
        (part.source.quality, part.share) for part in mixed.components if isinstance(part.source, SyntheticCaptions)
    } == {
        ("rich", Share(1, 2)),
        ("noisy", Share(1, 2)),
    }
    assert build_graph(study).final_step("rich.s2") == build_graph(when(scale)).final_step("start-080.s2")


def test_the_claim_has_the_differences_of_table_5() -> None:
    """.4607 less .4603, .4556 and .4518 in vision; .1503 less .1168, .1298 and .1310 in text."""
    (claim,) = captions(get_scale("1b")).claims
    published = {(part.others[0], part.measure): part.published for part in claim.compare}
    assert published == {
        ("datacomp", "vision"): 0.0004,
        ("cc12m", "vision"): 0.0051,
        ("stock", "vision"): 0.0089,
        ("datacomp", "text"): 0.0335,
        ("cc12m", "text"): 0.0205,
        ("stock", "text"): 0.0193,
    }
    assert {part.margin for part in claim.compare if part.measure == "vision"} == {-0.0065}
    (claim,) = captions(get_scale("cpu")).claims
    assert {(*part.arms, *part.others) for part in claim.compare} == {("rich", "noisy"), ("rich", "mixed")}
    assert {part.published for part in claim.compare} == {None}


def test_a_scale_without_captions_is_refused() -> None:
    with pytest.raises(QuantityError, match=r"DataComp-DR or rich captions .* Name another scale"):
        caption_sources(single_source(DINOV2))
