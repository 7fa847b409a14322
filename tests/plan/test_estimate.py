"""The bill at 1B against the paper's own numbers, and FLOPs against sums done by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from firstsight.errors import MixError, QuantityError, UnknownName
from firstsight.plan.data_requirements import count_image_rows
from firstsight.plan.estimate import (
    CostEstimate,
    StepCost,
    check_data_sufficient,
    device_spec,
    estimate_cost,
    estimate_step,
    estimate_table,
)
from firstsight.plan.graph import build_graph
from firstsight.recipe.mixture import External, Mixture, ShareSpan, WeightedSource
from firstsight.recipe.scales import branch_at, scale_named
from firstsight.recipe.scales.models import siglip_dinov2_384
from firstsight.recipe.stages import RowShape
from firstsight.recipe.study import Arm, Study
from firstsight.studies.when import when
from firstsight.units import Share, Tokens

H100 = device_spec("h100", utilisation=0.4)
PAPER = estimate_cost(build_graph(when(scale_named("1b"))), H100)


def rows(kind: str, bill: CostEstimate = PAPER) -> list[StepCost]:
    return [row for row in bill.step_costs if row.step.kind == kind]


def one(arm: Arm) -> CostEstimate:
    return estimate_cost(build_graph(Study(name="one", scale="?", question="?", arms=(arm,))), H100)


def test_the_paper_s_trunk_and_branch_are_exactly_as_published() -> None:
    assert sum(row.cost.requested_tokens for row in rows("pretrain")) == 4_319_385_600_000
    assert {row.cost.requested_tokens for row in rows("midtrain")} == {28_795_904_000}
    assert {row.cost.steps for row in rows("midtrain")} == {109_848}
    assert {row.cost.tokens for row in rows("midtrain")} == {109_848 * 256 * 1024}


def test_the_trunk_trains_whole_steps_without_gap_or_overlap() -> None:
    whole = -(-4_319_385_600_000 // (512 * 2048))
    assert sum(row.cost.steps for row in rows("pretrain")) == whole
    assert sum(row.cost.tokens for row in rows("pretrain")) == whole * 512 * 2048


def test_trunk_flops_are_three_forwards_of_the_1b_model() -> None:
    width, hidden, layers, vocabulary, row = 2048, 5632, 24, 50_432, 2048
    weights = layers * (4 * width**2 + 3 * width * hidden) + vocabulary * width
    forward = 2 * weights + layers * 2 * row * width
    assert sum(row.cost.flops for row in rows("pretrain")) == 3 * forward * 4_119_288 * 512 * 2048


SIGHT = 729 * (2 * 3 * 14**2 * 1152 + 26 * (8 * 1152**2 + 4 * 1152 * 4304 + 4 * 729 * 1152))
"""SigLIP so400m up to the second-to-last of its 27 blocks: patches, then projections, MLP and attention of each."""
SECOND = 729 * 2 * 3 * 14**2 * 1024 + (729 + 5) * 23 * (8 * 1024**2 + 4 * 1024 * 4096 + 4 * 734 * 1024)
"""DINOv2 large with its class token and four registers beside the patches, up to the 23rd of its 24 blocks."""


def seeing(**changes: Any) -> StepCost:
    """The bill of a branch of ten thousand picture rows whose model is the paper's with these changes."""
    arm = branch_at(scale_named("1b"), Share(1, 5))
    stage = replace(arm.stages[0], tokens=Tokens(100 * 100 * 1024), row_shape=RowShape(batch_size=100, length=1024))
    optim = replace(stage.optim, encoder_lr_scale=changes.pop("rate", 0.0))
    model, mix = replace(stage.model, **changes), replace(stage.mix, image_share=Share(1))
    (row,) = rows("midtrain", one(replace(arm, stages=(replace(stage, model=model, mix=mix, optim=optim),))))
    return row


def beside(row: StepCost) -> int:
    """FLOPs for each picture but the decoder's."""
    return (row.cost.flops - 3 * row.cost.tokens * row.step.spec.model.lm.flops(1024)) // 10_000


def mlp(*widths: int) -> int:
    return sum(2 * a * b for a, b in pairwise(widths))


def test_a_picture_costs_one_pass_of_a_frozen_encoder_and_three_of_the_projector() -> None:
    (row, *_) = rows("midtrain")
    decoder = 3 * row.cost.tokens * row.step.spec.model.lm.flops(1024)
    pictures = 109_848 * 256 // 10
    assert row.cost.flops == decoder + pictures * (SIGHT + 3 * 729 * mlp(1152, 4608, 2048, 2048))


def test_encoders_that_train_are_fused_or_pooled_cost_what_they_multiply() -> None:
    model = scale_named("1b").base.stages[0].model
    first, second = (External(name=name, form="encoder", tokens=Tokens(0)) for name in ("one", "two"))
    through = 3 * 729 * mlp(1152, 4608, 2048, 2048)
    assert beside(seeing()) == beside(seeing(encoder="trained")) == SIGHT + through
    assert beside(seeing(encoder="trained", rate=0.1)) == 3 * SIGHT + through
    both = 3 * 729 * mlp(2176, 8704, 2048, 2048)
    assert beside(seeing(vision=siglip_dinov2_384(first, second))) == SIGHT + SECOND + both
    for factor, tokens in ((2, 14**2), (3, 9**2)):
        pooled = seeing(projector=replace(model.projector, kind="mlp2", pixel_shuffle=factor))
        assert beside(pooled) == SIGHT + 3 * tokens * mlp(1152 * factor**2, 2048, 2048)
        assert pooled.step.spec.model.image_tokens == tokens


def test_a_trained_encoder_is_stored_with_the_model_and_has_moments_where_it_learns() -> None:
    tower = 26 * (4 * 1152 * 1153 + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152) + (3 * 14**2 + 1 + 729) * 1152
    frozen = seeing().cost.stored_bytes
    assert seeing(encoder="trained").cost.stored_bytes - frozen == 4 * tower
    assert seeing(encoder="trained", rate=0.1).cost.stored_bytes - frozen == 12 * tower


def test_checkpoints_store_weights_and_both_moments() -> None:
    gains = 24 * 2 * 2048  # the published count leaves out the gains of QK-norm
    assert {row.cost.stored_bytes for row in rows("pretrain")} == {12 * (1_439_795_200 + gains)}


def test_features_of_a_frozen_encoder_are_billed_once_in_bytes_and_flops() -> None:
    small = estimate_cost(build_graph(when(scale_named("cpu"))), H100)
    for row in rows("encode", small):
        pictures = row.step.spec.source.images
        assert row.cost.stored_bytes == pictures * 4 * 256 * 2
        assert row.cost.flops == pictures * row.step.spec.vision.flops()


def test_sharing_saves_what_the_arms_have_in_common() -> None:
    fifth = [row.cost.tokens for row in rows("pretrain")]
    assert PAPER.savings.tokens == 5 * fifth[0] + 4 * fifth[1] + 3 * fifth[2] + 2 * fifth[3] + fifth[4]
    assert PAPER.total.tokens + PAPER.savings.tokens == PAPER.unshared_total.tokens
    assert 0.7 < PAPER.saved_fraction < 0.8


def test_hours_are_flops_over_speed() -> None:
    assert PAPER.total.hours == pytest.approx(PAPER.total.flops / (989e12 * 0.4) / 3600)
    with pytest.raises(UnknownName):
        device_spec("h1000", utilisation=0.4)
    with pytest.raises(QuantityError):
        device_spec("h100", utilisation=0.0)


def resized(blend: Mixture, tokens: int, **part: Any) -> Mixture:
    """The blend of one named source, of another size, with other settings of its part."""
    (only,) = blend.components
    assert isinstance(only.source, External)
    return replace(blend, components=(replace(only, source=replace(only.source, tokens=Tokens(tokens)), **part),))


def with_text(tokens: int) -> Arm:
    arm = branch_at(scale_named("1b"), Share(1, 5))
    text = resized(arm.pretrain.text, tokens)
    stages = tuple(replace(stage, mix=replace(stage.mix, text=text)) for stage in arm.stages)
    return replace(arm, pretrain=replace(arm.pretrain, text=text), stages=stages)


def test_text_that_would_repeat_is_refused_and_text_that_just_suffices_is_not() -> None:
    arm = with_text(0)
    branch = 109_848 * 256
    wants = arm.pretrain.tokens_at(Share(1, 5)) + (branch - branch // 10) * 1024
    check_data_sufficient(one(with_text(wants)))
    with pytest.raises(MixError, match="dclm-mix"):
        check_data_sufficient(one(with_text(wants - 1)))


def test_pictures_that_would_repeat_are_flagged_and_epochs_may() -> None:
    arm = branch_at(scale_named("1b"), Share(1, 5))
    midtrain, finetune = arm.stages
    short = resized(finetune.mix.images, 625_000 * 1024)
    twice = replace(finetune, mix=replace(finetune.mix, images=short))
    (told,) = one(replace(arm, stages=(midtrain, replace(twice, epochs=1, epoch_tokens=twice.tokens)))).shortages
    assert "llava-v1.5-multimodal" in told
    assert (
        len(one(replace(arm, stages=(midtrain, twice))).shortages) == 1
    )  # 4883 steps of 128 rows are 24 more than 625,000
    fits = replace(finetune, mix=replace(finetune.mix, images=resized(finetune.mix.images, 4_883 * 128 * 1024)))
    assert one(replace(arm, stages=(midtrain, fits))).shortages == ()


def test_every_estimate_is_stated() -> None:
    for row in estimate_cost(build_graph(when(scale_named("cpu"))), H100).step_costs:
        assert bool(row.cost.note) == (row.step.kind in ("midtrain", "finetune", "contrast", "evaluate"))


def test_costs_of_data_are_items_not_flops() -> None:
    for row in estimate_cost(build_graph(when(scale_named("smoke"))), H100).step_costs:
        if row.step.kind in ("texts", "captions", "dialogues", "benchmarks", "prepare"):
            assert estimate_step(row.step).items > 0 and estimate_step(row.step).flops == 0


def test_the_table_has_one_line_for_equal_steps_and_ends_in_the_sums() -> None:
    lines = estimate_table(PAPER)
    assert len({len(line) for line in lines}) == 1
    assert len(lines) <= 14
    assert [line[0] for line in lines[-3:]] == ["total", "each arm alone", "saved (74%)"]
    assert any("28,795,904,000" in line and "109,848" in line for line in lines)


def staged(counted_in: Any, packing: Any = "one_image_per_row") -> Arm:
    """A fifth of images, then three fifths, in a branch of 100 steps of ten rows of 1,000 tokens."""
    arm = branch_at(scale_named("1b"), Share(1, 5))
    share = (ShareSpan(end=Share(1, 2), share=Share(1, 5)), ShareSpan(end=Share(1), share=Share(3, 5)))
    mix = replace(arm.stages[0].mix, image_share=share, share_unit=counted_in, packing=packing)
    stage = replace(arm.stages[0], mix=mix, row_shape=RowShape(batch_size=10, length=1_000), tokens=Tokens(1_000_000))
    return replace(arm, stages=(stage,))


def test_image_rows_of_staged_shares_are_exact_in_rows_and_estimated_in_tokens() -> None:
    """A picture row holds 729 + 32 of 1,000 tokens, 32 of them with loss; a text row holds 1,000 of both."""
    rows, tokens, loss, packed = (
        one(staged(*how)) for how in (("rows",), ("tokens",), ("loss_tokens",), ("tokens", "best_fit"))
    )
    assert count_image_rows(staged("rows").stages[0]) == 100 + 300
    for counted, weight in (("tokens", 0.761), ("loss_tokens", 0.032)):
        halves = [share / weight / (share / weight + 1 - share) for share in (0.2, 0.6)]
        assert count_image_rows(staged(counted).stages[0]) == sum(int(500 * half) for half in halves)
    notes = [
        "".join(row.cost.note for row in bill.step_costs if row.step.kind == "midtrain")
        for bill in (rows, tokens, loss)
    ]
    assert notes[0] == "" and "shares of tokens" in notes[1] and "shares of loss tokens" in notes[2]
    assert {row.cost.note.count(";") for row in packed.step_costs if row.step.kind == "midtrain"} == {1}


def test_tokens_that_were_counted_stand_above_what_was_declared() -> None:
    arm = with_text(10**15)
    plan = build_graph(Study(name="one", scale="?", question="?", arms=(arm,)))
    wants = arm.pretrain.tokens_at(Share(1, 5)) + (109_848 * 256 - 109_848 * 256 // 10) * 1024
    assert (
        estimate_cost(plan, H100).shortages
        == ()
        == estimate_cost(plan, H100, counted_tokens={"dclm-mix": wants}).shortages
    )
    (told,) = [
        line
        for line in estimate_cost(plan, H100, counted_tokens={"dclm-mix": wants - 1}).shortages
        if "midtrain" in line
    ]
    assert f"wants {wants:,} tokens" in told and f"holds {wants - 1:,}" in told


def test_epochs_of_a_part_and_shares_of_a_blend_divide_what_a_source_must_hold() -> None:
    """Half of 1,000 rows from a source that may be read four times: 125 rows of 1,000 tokens."""
    arm = staged("rows")
    source = External(name="half", form="captions", tokens=Tokens(0))
    parts = (
        WeightedSource(source=source, share=Share(1, 2), max_epochs=4),
        WeightedSource(source=arm.stages[0].mix.images.sources[0], share=Share(1, 2), max_epochs=1),
    )
    stage = replace(
        arm.stages[0],
        mix=replace(arm.stages[0].mix, image_share=Share(1), images=Mixture(components=parts, share_unit="tokens")),
    )
    plan = build_graph(Study(name="one", scale="?", question="?", arms=(replace(arm, stages=(stage,)),)))
    assert estimate_cost(plan, H100, counted_tokens={"half": 125_000}).shortages == ()
    (told,) = estimate_cost(plan, H100, counted_tokens={"half": 124_999}).shortages
    assert "about 125,000" in told
