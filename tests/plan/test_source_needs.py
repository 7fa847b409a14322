"""Built-in sources grow where a study needs more of them, for all arms together, and never where they suffice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firstsight.plan.graph import Graph, build_graph, render_tree
from firstsight.plan.source_needs import grow_sources, grown_sources, growth_lines
from firstsight.recipe.mixture import ShareSpan, SyntheticCaptions, SyntheticTexts
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.stages import Finetune, Midtrain
from firstsight.recipe.study import Arm, Study
from firstsight.studies.encoders import encoders
from firstsight.studies.frozen import frozen
from firstsight.studies.rewarm import rewarm
from firstsight.studies.when import when
from firstsight.units import Share, Tokens

SMOKE = get_scale("smoke")
LATE = branch_at(SMOKE, Share(4, 5))
CAPTIONS, DIALOGUES, TEXT = 640, 616, 1563
"""Records of the scale: 2.5 for each of 256 image rows, 2.2 for each of 280, 2.1 for each of 744 text rows."""
ENCODER_CAPTIONS = 427
"""A third of 20 steps of 64, in which the encoder reads each three times."""


def study(*arms: Arm) -> Study:
    return Study(name="s", scale="smoke", question="?", arms=arms)


def sizes(graph: Graph) -> dict[str, list[int]]:
    """Records of the graph's built-in sources, by kind."""
    specs = {kind: [step.spec for step in graph.steps if step.kind == kind] for kind in ("captions", "dialogues")}
    images = {kind: sorted(spec.images for spec in each) for kind, each in specs.items()}
    return images | {"texts": sorted(step.spec.documents for step in graph.steps if step.kind == "texts")}


def changed(arm: Arm = LATE, *, stage: int = 0, mix: dict[str, Any] | None = None, **fields: Any) -> Arm:
    """The arm with other fields of a stage and of its mix."""
    stages = list(arm.stages)
    stages[stage] = replace(stages[stage], mix=replace(stages[stage].mix, **(mix or {})), **fields)
    return replace(arm, stages=tuple(stages))


@pytest.mark.parametrize("scale", ["smoke", "cpu"])
@pytest.mark.parametrize("function", [when, rewarm, frozen])
def test_the_shipped_studies_keep_the_sizes_of_their_scale(function: Any, scale: str) -> None:
    shipped = function(get_scale(scale))
    assert grown_sources(shipped) == {} and grow_sources(shipped) is shipped and growth_lines(shipped) == []


def test_the_sizes_of_the_smoke_scale_are_those_by_hand() -> None:
    expected = {"captions": [ENCODER_CAPTIONS, CAPTIONS], "dialogues": [DIALOGUES], "texts": [TEXT]}
    assert sizes(build_graph(study(LATE))) == expected


def test_twice_the_tokens_double_the_captions_and_not_those_of_the_encoder() -> None:
    """512 image rows instead of 256, and 64 text rows more, for which there are enough documents."""
    graph = build_graph(study(changed(tokens=Tokens(2 * LATE.stages[0].tokens))))
    expected = {"captions": [ENCODER_CAPTIONS, 2 * CAPTIONS], "dialogues": [DIALOGUES], "texts": [TEXT]}
    assert sizes(graph) == expected
    (contrast,) = (step for step in graph.steps if step.kind == "contrast")
    captions = contrast.parent("captions")
    assert captions is not None and captions.spec.images == ENCODER_CAPTIONS
    assert "captions-rich" in captions.address
    assert sum("(1,280 images)" in line for line in render_tree(graph)) == 1


def test_all_arms_share_the_larger_source_and_the_larger_text() -> None:
    larger = replace(changed(tokens=Tokens(2 * LATE.stages[0].tokens)), name="larger")
    both = build_graph(study(LATE, larger))
    assert sizes(both) == sizes(build_graph(study(larger)))
    texts = {step.parent("text0") for step in both.steps if step.kind in ("pretrain", "midtrain", "finetune")}
    assert len(texts) == 1
    assert both.final_step("larger.s0") == build_graph(study(larger)).final_step("larger.s0")


SPANS = (ShareSpan(end=Share(1, 2), share=Share(3, 5)), ShareSpan(end=Share(1), share=Share(1)))
END = branch_at(SMOKE, Share(1))
"""Its stages read 64 and 40 text rows after the trunk's 640: 744 of the 778 that 1563 documents are sure to fill."""


@pytest.mark.parametrize(
    ("arm", "grown"),
    [
        (changed(mix={"image_share": Share(1)}), {"captions": 2 * CAPTIONS}),  # 320 rows of one image or two
        (changed(mix={"image_share": SPANS}), {}),  # 96 and 160 rows
        (changed(mix={"packing": "one_image_per_row"}), {}),  # 256 rows
        (
            changed(END, mix={"share_unit": "tokens"}),
            {"captions": 2 * CAPTIONS, "texts": 2 * TEXT},
        ),  # up to 320 of each
        (changed(END, stage=1, epochs=2), {}),  # 784 text rows, but both may be read twice
    ],
    ids=["all-images", "spans", "one-per-row", "tokens", "epochs"],
)
def test_what_a_mix_asks_for(arm: Arm, grown: dict[str, int]) -> None:
    assert {
        source.TAG: larger.documents if isinstance(larger, SyntheticTexts) else larger.images
        for source, larger in grown_sources(study(arm)).items()
    } == grown


def test_epochs_that_are_allowed_are_used_before_a_source_grows() -> None:
    images = LATE.stages[0].mix.images
    twice = replace(images, components=tuple(replace(each, max_epochs=2) for each in images.components))
    longer = changed(mix={"images": twice}, tokens=Tokens(2 * LATE.stages[0].tokens))
    assert not any(isinstance(source, SyntheticCaptions) for source in grown_sources(study(longer)))


def test_noisy_captions_are_shorter_so_that_more_are_needed() -> None:
    (source,) = LATE.stages[0].mix.images.components
    noisy = replace(source, source=replace(source.source, quality="noisy"))
    arm = changed(mix={"images": replace(LATE.stages[0].mix.images, components=(noisy,))})
    assert [(s.TAG, larger.images) for s, larger in grown_sources(study(arm)).items()] == [("captions", 2 * CAPTIONS)]  # type: ignore[union-attr]


def test_pooled_image_tokens_get_more_images_and_no_second_epoch() -> None:
    """3 image tokens instead of 12: a row has up to twice as many images."""
    arm = encoders(SMOKE).arm("shuffle-2")
    assert all(component.max_epochs == 1 for stage in arm.stages for component in stage.mix.images.components)
    grown = {source.TAG: larger for source, larger in grown_sources(encoders(SMOKE)).items()}
    assert grown.keys() == {"captions", "dialogues"}
    for stage in grow_sources(encoders(SMOKE)).arm("siglip").stages:
        assert isinstance(stage, Midtrain | Finetune) and stage.mix.images.sources[0] in grown.values()
