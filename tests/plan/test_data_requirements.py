"""What sources must have, in one pass, for the rows that stages read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from firstsight.errors import QuantityError
from firstsight.plan.data_requirements import SourceSize, check_data_sufficient, count_image_rows, data_shortages
from firstsight.plan.estimate import DeviceSpec, estimate_cost
from firstsight.plan.graph import Graph, build_graph
from firstsight.recipe.mixture import External, Mixture, ShareSpan, WeightedSource
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.scales.paper import PAPER_SIZES
from firstsight.recipe.stages import RowShape
from firstsight.recipe.study import Arm, Study
from firstsight.studies import shipped_function, shipped_studies
from firstsight.studies.paper import has_horizon
from firstsight.units import Share, Tokens
from firstsight.workspace.study_functions import find_study_function

H100 = DeviceSpec("h100", utilisation=0.4)


def arm_graph(arm: Arm) -> Graph:
    return build_graph(Study(name="one", scale="smoke", question="?", arms=(arm,)))


def arm_shortages(arm: Arm, counted: Mapping[str, SourceSize] | None = None) -> list[str]:
    return list(data_shortages(arm_graph(arm), counted or {}))


def resized(mixture: Mixture, **size: int) -> Mixture:
    """The mixture of one external source, of another size, which may be read once."""
    (component,) = mixture.components
    assert isinstance(component.source, External)
    source = replace(component.source, **size)  # type: ignore[arg-type]
    return replace(mixture, components=(replace(component, source=source, max_epochs=1),))


def with_text(tokens: int) -> Arm:
    arm = branch_at(get_scale("1b"), Share(1, 5))
    text = resized(arm.pretrain.text, tokens=tokens)
    stages = tuple(replace(stage, mix=replace(stage.mix, text=text)) for stage in arm.stages)
    return replace(arm, pretrain=replace(arm.pretrain, text=text), stages=stages)


def test_text_must_suffice_for_trunk_and_branch() -> None:
    arm = with_text(0)
    branch = 109_848 * 256
    required = arm.pretrain.tokens_at(Share(1, 5)) + (branch - branch // 10) * 1024
    check_data_sufficient(arm_graph(with_text(required)))
    wanted = rf"midtrain-010-images, mix\.text: wanted {required:,} tokens in one pass of 'dclm-mix'"
    with pytest.raises(QuantityError, match=rf"start-020\.s0: {wanted}\. Got {required - 1:,}, as declared"):
        check_data_sufficient(arm_graph(with_text(required - 1)))


def test_images_may_repeat_once_an_epoch() -> None:
    arm = branch_at(get_scale("1b"), Share(1, 5))
    midtrain, finetune = arm.stages
    assert not arm_shortages(arm)
    once = replace(finetune, epochs=1, epoch_tokens=finetune.tokens)
    (shortage,) = arm_shortages(replace(arm, stages=(midtrain, once)))
    assert f"wanted {4_879 * 128 * 2:,} records" in shortage and "llava-v1.5-multimodal" in shortage
    shortages = []
    for records in (4_879 * 128, 4_879 * 128 - 1):
        mix = replace(finetune.mix, images=resized(finetune.mix.images, records=records))
        shortages.append(len(arm_shortages(replace(arm, stages=(midtrain, replace(finetune, mix=mix))))))
    assert shortages == [0, 1]


TOO_LONG_FOR_PUBLISHED_DATA = {
    "instruct": tuple(PAPER_SIZES),
    "captions": ("411m", "1b"),
    "approaches": ("1b",),
    "from-scratch": ("1b",),
    "paper": tuple(PAPER_SIZES),
}
"""Studies that the horizon "full" makes longer than the published images or dialogues last, and at which scales."""


@pytest.mark.parametrize("scale", PAPER_SIZES)
def test_published_data_suffices_for_every_shipped_study(scale: str) -> None:
    for name in shipped_studies():
        if (name, scale) == ("ladder", "79m"):
            continue  # the smallest size
        for horizon in ("branch", "full") if has_horizon(shipped_function(name)) else ("branch",):
            options = {} if horizon == "branch" else {"horizon": horizon}
            graph = build_graph(find_study_function(name).build(scale, seeds=1, options=options))
            if horizon == "full" and scale in TOO_LONG_FOR_PUBLISHED_DATA.get(name, ()):
                with pytest.raises(QuantityError, match="records in one pass"):
                    check_data_sufficient(graph)
            else:
                check_data_sufficient(graph)


def test_half_of_the_published_text_or_dialogues_is_refused() -> None:
    graph = build_graph(Study(name="one", scale="1b", question="?", arms=(branch_at(get_scale("1b"), Share(4, 5)),)))
    half_text, half_dialogues = SourceSize(4_100_000_000_000 // 2 // 2, 0), SourceSize(0, 624_610 // 2)
    for name, size in (("dclm-mix", half_text), ("llava-v1.5-multimodal", half_dialogues)):
        with pytest.raises(QuantityError, match=name):
            check_data_sufficient(graph, {name: size})


def staged(share_unit: Any, packing: Any = "one_image_per_row") -> Arm:
    """A fifth of images, then three fifths, in a branch of 100 steps of ten rows of 1,000 tokens."""
    arm = branch_at(get_scale("1b"), Share(0))
    share = (ShareSpan(end=Share(1, 2), share=Share(1, 5)), ShareSpan(end=Share(1), share=Share(3, 5)))
    mix = replace(arm.stages[0].mix, image_share=share, share_unit=share_unit, packing=packing)
    stage = replace(arm.stages[0], mix=mix, row_shape=RowShape(batch_size=10, length=1_000), tokens=Tokens(1_000_000))
    return replace(arm, stages=(stage,))


def test_image_rows_of_staged_shares_are_exact_in_rows_and_estimated_in_tokens() -> None:
    """An image row has 729 + 32 of 1,000 tokens, 32 of them with loss; a text row has 1,000 of both."""
    rows, tokens, loss, packed = (
        estimate_cost(arm_graph(staged(*how)), H100)
        for how in (("rows",), ("tokens",), ("loss_tokens",), ("tokens", "best_fit"))
    )
    assert count_image_rows(staged("rows").stages[0]) == 100 + 300
    for counted, weight in (("tokens", 0.761), ("loss_tokens", 0.032)):
        halves = [share / weight / (share / weight + 1 - share) for share in (0.2, 0.6)]
        assert count_image_rows(staged(counted).stages[0]) == sum(int(500 * half) for half in halves)
    notes = [
        "".join(row.cost.note for row in estimate.step_costs if row.step.kind == "midtrain")
        for estimate in (rows, tokens, loss)
    ]
    assert notes[0] == "" and "shares of tokens" in notes[1] and "shares of loss tokens" in notes[2]
    assert {row.cost.note.count(";") for row in packed.step_costs if row.step.kind == "midtrain"} == {1}


def test_counted_tokens_replace_declared_ones() -> None:
    arm = with_text(10**15)
    required = arm.pretrain.tokens_at(Share(1, 5)) + (109_848 * 256 - 109_848 * 256 // 10) * 1024
    assert not arm_shortages(arm)
    assert not arm_shortages(arm, {"dclm-mix": SourceSize(required, 0)})
    (shortage,) = [line for line in arm_shortages(arm, {"dclm-mix": SourceSize(required - 1, 0)}) if "midtrain" in line]
    assert f"wanted {required:,} tokens" in shortage and f"Got {required - 1:,}, as counted" in shortage


def test_epochs_and_shares_divide_the_required_records() -> None:
    """Half of 1,000 rows from a source that may be read four times: 125 images."""
    arm = staged("rows")
    source = External(name="half", form="captions", tokens=Tokens(0))
    components = (
        WeightedSource(source=source, share=Share(1, 2), max_epochs=4),
        WeightedSource(source=arm.stages[0].mix.images.sources[0], share=Share(1, 2), max_epochs=1),
    )
    stage = replace(
        arm.stages[0],
        mix=replace(
            arm.stages[0].mix, image_share=Share(1), images=Mixture(components=components, share_unit="tokens")
        ),
    )
    arm = replace(arm, stages=(stage,))
    assert not arm_shortages(arm, {"half": SourceSize(0, 125)})
    (shortage,) = arm_shortages(arm, {"half": SourceSize(0, 124)})
    assert "about 125 records" in shortage
