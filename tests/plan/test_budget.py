"""The bill at 1B against the paper's own numbers, and FLOPs against sums done by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firstsight.errors import MixError, QuantityError, UnknownName
from firstsight.plan.budget import Bill, Row, bill, cost, device, refuse_thin, table
from firstsight.plan.graph import graph
from firstsight.recipe.mix import Named, Part
from firstsight.recipe.scales import enter, scale_named
from firstsight.recipe.study import Arm, Study
from firstsight.studies.when import when
from firstsight.units import Share, Tokens

H100 = device("h100", utilisation=0.4)
PAPER = bill(graph(when(scale_named("1b"))), H100)


def rows(kind: str, bill: Bill = PAPER) -> list[Row]:
    return [row for row in bill.rows if row.step.kind == kind]


def one(arm: Arm) -> Bill:
    return bill(graph(Study(name="one", scale="?", question="?", arms=(arm,))), H100)


def test_the_paper_s_trunk_and_branch_are_exactly_as_published() -> None:
    assert sum(row.cost.asked for row in rows("pretrain")) == 4_319_385_600_000
    assert {row.cost.asked for row in rows("midtrain")} == {28_795_904_000}
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


def test_images_cost_one_encoder_pass_and_three_projector_passes_a_picture() -> None:
    (row, *_) = rows("midtrain")
    pictures = 109_848 * 256 // 10
    spec = row.step.spec
    projector = 1152 * 4608 + 4608 + 4608 * 2048 + 2048 + 2048 * 2048 + 2048
    decoder = 3 * row.cost.tokens * spec.model.lm.flops(1024)
    assert row.cost.flops == decoder + pictures * (spec.model.vision.flops() + 3 * 2 * projector * 729)


def test_checkpoints_store_weights_and_both_moments() -> None:
    gains = 24 * 2 * 2048  # the published count leaves out the gains of QK-norm
    assert {row.cost.bytes for row in rows("pretrain")} == {12 * (1_439_795_200 + gains)}


def test_features_of_a_frozen_encoder_are_billed_once_in_bytes_and_flops() -> None:
    small = bill(graph(when(scale_named("cpu"))), H100)
    for row in rows("encode", small):
        pictures = row.step.spec.source.pictures
        assert row.cost.bytes == pictures * 4 * 256 * 2
        assert row.cost.flops == pictures * row.step.spec.vision.flops()


def test_sharing_saves_what_the_arms_have_in_common() -> None:
    fifth = [row.cost.tokens for row in rows("pretrain")]
    assert PAPER.saved.tokens == 5 * fifth[0] + 4 * fifth[1] + 3 * fifth[2] + 2 * fifth[3] + fifth[4]
    assert PAPER.total.tokens + PAPER.saved.tokens == PAPER.alone.tokens
    assert 0.7 < PAPER.saving < 0.8


def test_hours_are_flops_over_speed() -> None:
    assert PAPER.total.hours == pytest.approx(PAPER.total.flops / (989e12 * 0.4) / 3600)
    with pytest.raises(UnknownName):
        device("h1000", utilisation=0.4)
    with pytest.raises(QuantityError):
        device("h100", utilisation=0.0)


def resized(value: Any, name: str, tokens: int) -> Any:
    return replace(value, tokens=Tokens(tokens)) if isinstance(value, Named) and value.name == name else value


def with_text(tokens: int) -> Arm:
    arm = enter(scale_named("1b"), Share(1, 5))
    text = resized(arm.pretrain.text, "dclm-mix", tokens)
    stages = tuple(replace(stage, mix=replace(stage.mix, text=text)) for stage in arm.stages)
    return replace(arm, pretrain=replace(arm.pretrain, text=text), stages=stages)


def test_text_that_would_repeat_is_refused_and_text_that_just_suffices_is_not() -> None:
    arm = with_text(0)
    midtrain = arm.stages[0]
    branch = 109_848 * 256
    wants = (midtrain.text_rows_seen + branch - branch // 10) * 1024
    refuse_thin(one(with_text(wants)))
    with pytest.raises(MixError, match="dclm-mix"):
        refuse_thin(one(with_text(wants - 1)))


def test_pictures_that_would_repeat_are_flagged_and_epochs_may() -> None:
    arm = enter(scale_named("1b"), Share(1, 5))
    midtrain, finetune = arm.stages
    part = Part(source=resized(finetune.mix.images[0].source, "llava-v1.5-multimodal", 625_000 * 1024), share=Share(1))
    twice = replace(finetune, mix=replace(finetune.mix, images=(part,)))
    (short,) = one(replace(arm, stages=(midtrain, replace(twice, epochs=1, epoch=twice.tokens)))).thin
    assert "llava-v1.5-multimodal" in short
    assert len(one(replace(arm, stages=(midtrain, twice))).thin) == 1  # 4883 steps of 128 rows are 24 more than 625,000
    exact = resized(part.source, "llava-v1.5-multimodal", 4_883 * 128 * 1024)
    fits = replace(finetune, mix=replace(finetune.mix, images=(replace(part, source=exact),)))
    assert one(replace(arm, stages=(midtrain, fits))).thin == ()


def test_every_estimate_is_stated() -> None:
    for row in bill(graph(when(scale_named("cpu"))), H100).rows:
        assert bool(row.cost.note) == (row.step.kind in ("midtrain", "finetune", "contrast", "evaluate"))


def test_costs_of_data_are_items_not_flops() -> None:
    for row in bill(graph(when(scale_named("smoke"))), H100).rows:
        if row.step.kind in ("texts", "captions", "dialogues", "benchmarks", "prepare"):
            assert cost(row.step).items > 0 and cost(row.step).flops == 0


def test_the_table_has_one_line_for_equal_steps_and_ends_in_the_sums() -> None:
    lines = table(PAPER)
    assert len({len(line) for line in lines}) == 1
    assert len(lines) <= 14
    assert [line[0] for line in lines[-3:]] == ["total", "each arm alone", "saved (74%)"]
    assert any("28,795,904,000" in line and "109,848" in line for line in lines)
