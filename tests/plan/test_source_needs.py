"""Built-in sources suffice for what each arm reads, whatever others read, and never grow where they suffice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firstsight.plan.graph import Graph, build_graph, render_tree
from firstsight.plan.source_needs import grow_arm, grow_sources, growth_lines
from firstsight.recipe.mixture import ShareSpan, WeightedSource, single_source
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.stages import Finetune, Midtrain, Pretrain
from firstsight.recipe.study import Arm, Study
from firstsight.studies.encoders import encoders
from firstsight.studies.frozen import frozen
from firstsight.studies.when import when
from firstsight.studies.when_controls import when_controls
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


def grown(arm: Arm) -> dict[str, int]:
    """Records of each source that a stage gets larger, by kind; and its passes, where they are more than stated."""
    values: dict[str, int] = {}
    for stated, stage in zip(arm.stages, grow_arm(arm).stages, strict=True):
        pairs = zip(components(stated), components(stage), strict=True)
        for before, after in pairs:
            if after.source != before.source:
                values[after.source.TAG] = after.source.images  # type: ignore[union-attr]
            if after.max_epochs != before.max_epochs:
                values[f"{after.source.TAG} passes"] = after.max_epochs
    return values


def components(stage: Midtrain | Finetune) -> tuple[WeightedSource, ...]:
    return (*stage.mix.text.components, *stage.mix.images.components)


@pytest.mark.parametrize("scale", ["smoke", "cpu"])
@pytest.mark.parametrize("function", [when, when_controls, frozen])
def test_the_shipped_studies_keep_the_sizes_of_their_scale(function: Any, scale: str) -> None:
    shipped = function(get_scale(scale))
    assert grow_sources(shipped) == shipped and list(growth_lines(shipped)) == []


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


def test_an_arm_gets_what_it_reads_and_no_more_beside_one_that_reads_twice_as_much() -> None:
    larger = replace(changed(tokens=Tokens(2 * LATE.stages[0].tokens)), name="larger")
    both = build_graph(study(LATE, larger))
    assert sizes(both)["captions"] == [ENCODER_CAPTIONS, CAPTIONS, 2 * CAPTIONS]
    texts = {step.parent("text0") for step in both.steps if step.kind in ("pretrain", "midtrain", "finetune")}
    assert len(texts) == 1
    for arm in (LATE, larger):
        assert both.final_step(arm.label) == build_graph(study(arm)).final_step(arm.label)


def test_a_stage_gets_what_it_reads_whatever_later_stages_read() -> None:
    """A second stage of three times the images reads a larger source; the first stays the one of the shorter arm."""
    first, tune = LATE.stages
    second = replace(first, tokens=Tokens(3 * first.tokens))
    longer = replace(LATE, name="longer", stages=(first, second, tune))
    graph = build_graph(study(LATE, longer))
    assert sizes(graph)["captions"] == [ENCODER_CAPTIONS, CAPTIONS, 4 * CAPTIONS]
    assert len([step for step in graph.steps if step.kind == "midtrain"]) == 2


SPANS = (ShareSpan(end=Share(1, 2), share=Share(3, 5)), ShareSpan(end=Share(1), share=Share(1)))
END = branch_at(SMOKE, Share(1))
"""Its stages read 64 and 40 text rows after the trunk's 640: 744 of the 778 that 1563 documents are sure to fill."""


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        (changed(mix={"image_share": Share(1)}), {"captions": 2 * CAPTIONS}),  # 320 rows of one image or two
        (changed(mix={"image_share": SPANS}), {}),  # 96 and 160 rows
        (changed(mix={"packing": "one_image_per_row"}), {}),  # 256 rows
        # up to 320 of each: 960 text rows, and 1000 with those of the fine-tuning
        (changed(END, mix={"share_unit": "tokens"}), {"captions": 2 * CAPTIONS, "texts passes": 2}),
        (changed(END, stage=1, epochs=2), {}),  # 784 text rows, but both may be read twice
        (changed(END, mix={"image_share": Share(0)}), {"texts passes": 2}),  # 960 text rows
    ],
    ids=["all-images", "spans", "one-per-row", "tokens", "epochs", "no-images"],
)
def test_what_a_mix_asks_for(arm: Arm, expected: dict[str, int]) -> None:
    assert grown(arm) == expected
    assert grow_arm(arm).pretrain == arm.pretrain, "the trunk is that of the arms that read less"


def test_a_longer_trunk_has_text_for_all_of_it_wherever_an_arm_leaves_it() -> None:
    """Three times 640 rows take four times the documents, also for the arm that leaves after a fifth of them."""
    assert isinstance(LATE.pretrain, Pretrain)
    trunk = replace(LATE.pretrain, tokens=Tokens(3 * LATE.pretrain.tokens))
    early, late = (replace(branch_at(SMOKE, Share(n, 5)), pretrain=trunk) for n in (1, 4))
    graph = build_graph(study(early, late))
    assert sizes(graph)["texts"] == [4 * TEXT]
    assert {mixture.sources for arm in (early, late) for mixture in [grow_arm(arm).stages[0].mix.text]} == {
        grow_arm(early).pretrain.text.sources  # type: ignore[union-attr]
    }


def test_text_that_no_trunk_reads_grows_with_the_first_stage_that_reads_it() -> None:
    """From nothing: the first stage reads 2560 rows of text, more than 778; the second reads them again."""
    first, tune = END.stages
    trunk = replace(END.pretrain, text=single_source(replace(END.pretrain.text.sources[0], documents=4000)))  # type: ignore[union-attr]
    text = replace(first, tokens=Tokens(8 * first.tokens), mix=replace(first.mix, image_share=Share(0)))
    arm = grow_arm(replace(branch_at(SMOKE, Share(0)), pretrain=trunk, stages=(text, text, tune)))
    grown_text = [stage.mix.text.components[0] for stage in arm.stages]
    assert [(part.source.documents, part.max_epochs) for part in grown_text] == [  # type: ignore[union-attr]
        (4 * TEXT, 1),
        (4 * TEXT, 2),
        (4 * TEXT, 2),
    ]


def test_epochs_that_are_allowed_are_used_before_a_source_grows() -> None:
    images = LATE.stages[0].mix.images
    twice = replace(images, components=tuple(replace(each, max_epochs=2) for each in images.components))
    longer = changed(mix={"images": twice}, tokens=Tokens(2 * LATE.stages[0].tokens))
    assert grown(longer) == {}


def test_noisy_captions_are_shorter_so_that_more_are_needed() -> None:
    (source,) = LATE.stages[0].mix.images.components
    noisy = replace(source, source=replace(source.source, quality="noisy"))
    arm = changed(mix={"images": replace(LATE.stages[0].mix.images, components=(noisy,))})
    assert grown(arm) == {"captions": 2 * CAPTIONS}


def test_pooled_image_tokens_get_more_images_and_no_second_epoch() -> None:
    """3 image tokens instead of 12: a row has up to twice as many images."""
    arm = encoders(SMOKE).arm("shuffle-2")
    assert all(component.max_epochs == 1 for stage in arm.stages for component in stage.mix.images.components)
    assert grown(arm) == {"captions": 2 * CAPTIONS, "dialogues": 2 * DIALOGUES}
    assert list(growth_lines(encoders(SMOKE))) == [
        "rich captions: 1,280 images instead of 640 images, because more is read by shuffle-2.",
        "dialogues: 1,232 images instead of 616 images, because more is read by shuffle-2.",
    ]
