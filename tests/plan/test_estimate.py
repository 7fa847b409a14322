"""The estimate at 1B against the paper's own numbers, and FLOPs against sums done by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.conftest import Workshop, words_of

from firstsight.data.index import INDEX_ARRAYS, open_index_arrays
from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.estimate import (
    CostEstimate,
    DeviceSpec,
    StepCost,
    estimate_cost,
    estimate_step,
    estimate_table,
)
from firstsight.plan.graph import build_graph
from firstsight.plan.step import Step
from firstsight.recipe.mixture import External, ExternalForm, SyntheticInterleaved, SyntheticMultitask, single_source
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.scales.models import siglip_dinov2_384
from firstsight.recipe.stages import Prepare, RowShape
from firstsight.recipe.study import Arm, Study
from firstsight.studies.encoders import encoders
from firstsight.studies.when import when
from firstsight.units import Share, Tokens

H100 = DeviceSpec("h100", utilisation=0.4)
PAPER = estimate_cost(build_graph(when(get_scale("1b"))), H100)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def step_costs(kind: str, estimate: CostEstimate = PAPER) -> list[StepCost]:
    return [step_cost for step_cost in estimate.step_costs if step_cost.step.kind == kind]


def estimate_arm(arm: Arm) -> CostEstimate:
    return estimate_cost(build_graph(Study(name="one", scale="smoke", question="?", arms=(arm,))), H100)


def test_the_paper_s_trunk_and_branch_are_exactly_as_published() -> None:
    assert sum(step_cost.cost.requested_tokens for step_cost in step_costs("pretrain")) == 4_319_385_600_000
    assert {step_cost.cost.requested_tokens for step_cost in step_costs("midtrain")} == {28_795_904_000}
    assert {step_cost.cost.steps for step_cost in step_costs("midtrain")} == {109_848}
    assert {step_cost.cost.tokens for step_cost in step_costs("midtrain")} == {109_848 * 256 * 1024}


def test_the_trunk_trains_whole_steps_without_gap_or_overlap() -> None:
    whole = -(-4_319_385_600_000 // (512 * 2048))
    assert sum(step_cost.cost.steps for step_cost in step_costs("pretrain")) == whole
    assert sum(step_cost.cost.tokens for step_cost in step_costs("pretrain")) == whole * 512 * 2048


def test_trunk_flops_are_three_forwards_of_the_1b_model() -> None:
    width, hidden, layers, vocabulary, row = 2048, 5632, 24, 50_432, 2048
    weights = layers * (4 * width**2 + 3 * width * hidden) + vocabulary * width
    forward = 2 * weights + layers * 2 * row * width
    assert sum(step_cost.cost.flops for step_cost in step_costs("pretrain")) == 3 * forward * 4_119_288 * 512 * 2048


SIGLIP = 729 * (2 * 3 * 14**2 * 1152 + 26 * (8 * 1152**2 + 4 * 1152 * 4304 + 4 * 729 * 1152))
"""SigLIP so400m up to the second-to-last of its 27 blocks: patches, then projections, MLP and attention of each."""
DINOV2 = 729 * 2 * 3 * 14**2 * 1024 + (729 + 5) * 23 * (8 * 1024**2 + 4 * 1024 * 4096 + 4 * 734 * 1024)
"""DINOv2 large with its class token and four registers in addition to the patches, up to the 23rd of its 24 blocks."""


def branch_cost(**changes: Any) -> StepCost:
    """The cost of a branch of ten thousand image rows whose model is the paper's with these changes."""
    arm = branch_at(get_scale("1b"), Share(1, 5))
    stage = replace(arm.stages[0], tokens=Tokens(100 * 100 * 1024), row_shape=RowShape(batch_size=100, length=1024))
    trains = replace(stage.trains, encoder=stage.trains.decoder if changes.pop("trains_encoder", False) else None)
    model, mix = replace(stage.model, **changes), replace(stage.mix, image_share=Share(1))
    stage = replace(stage, model=model, mix=mix, trains=trains)
    (step_cost,) = step_costs("midtrain", estimate_arm(replace(arm, stages=(stage,))))
    return step_cost


def vision_flops(step_cost: StepCost) -> int:
    """FLOPs for each image without the decoder's."""
    return (step_cost.cost.flops - 3 * step_cost.cost.tokens * step_cost.step.spec.model.lm.flops(1024)) // 10_000


def mlp(*widths: int) -> int:
    return sum(2 * a * b for a, b in pairwise(widths))


def test_an_image_costs_one_pass_of_a_frozen_encoder_and_three_of_the_projector() -> None:
    (step_cost, *_) = step_costs("midtrain")
    decoder = 3 * step_cost.cost.tokens * step_cost.step.spec.model.lm.flops(1024)
    images = 109_848 * 256 // 10
    assert step_cost.cost.flops == decoder + images * (SIGLIP + 3 * 729 * mlp(1152, 4608, 2048, 2048))


def test_flops_of_trained_fused_and_pooled_encoders() -> None:
    model = get_scale("1b").base.stages[0].model
    first, second = (External(name=name, form="encoder", tokens=Tokens(0)) for name in ("one", "two"))
    projector = 3 * 729 * mlp(1152, 4608, 2048, 2048)
    assert vision_flops(branch_cost()) == vision_flops(branch_cost(encoder="included")) == SIGLIP + projector
    assert vision_flops(branch_cost(encoder="included", trains_encoder=True)) == 3 * SIGLIP + projector
    fused_projector = 3 * 729 * mlp(2176, 8704, 2048, 2048)
    assert vision_flops(branch_cost(vision=siglip_dinov2_384(first, second))) == SIGLIP + DINOV2 + fused_projector
    for factor, tokens in ((2, 14**2), (3, 9**2)):
        pooled = branch_cost(projector=replace(model.projector, kind="mlp2", pixel_shuffle=factor))
        assert vision_flops(pooled) == SIGLIP + 3 * tokens * mlp(1152 * factor**2, 2048, 2048)
        assert pooled.step.spec.model.image_tokens == tokens


def test_a_trained_encoder_is_stored_with_the_model_and_has_moments_where_it_trains() -> None:
    tower = 26 * (4 * 1152 * 1153 + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152) + (3 * 14**2 + 1 + 729) * 1152
    frozen = branch_cost().cost.stored_bytes
    assert branch_cost(encoder="included").cost.stored_bytes - frozen == 4 * tower
    assert branch_cost(encoder="included", trains_encoder=True).cost.stored_bytes - frozen == 12 * tower


def test_checkpoints_store_weights_and_both_moments() -> None:
    norms = 24 * 2 * 2048  # the published count leaves out the norms of QK-norm
    assert {step_cost.cost.stored_bytes for step_cost in step_costs("pretrain")} == {12 * (1_439_795_200 + norms)}
    assert {step_cost.cost.memory_bytes for step_cost in step_costs("pretrain")} == {16 * (1_439_795_200 + norms)}


def test_features_of_a_frozen_encoder_are_counted_once_in_bytes_and_flops() -> None:
    small = estimate_cost(build_graph(when(get_scale("cpu"))), H100)
    for step_cost in step_costs("encode", small):
        images = step_cost.step.spec.source.images
        assert step_cost.cost.stored_bytes == images * 4 * 256 * 2
        assert step_cost.cost.flops == images * step_cost.step.spec.vision.flops()


def test_sharing_saves_what_the_arms_have_in_common() -> None:
    fifth = [step_cost.cost.tokens for step_cost in step_costs("pretrain")]
    assert PAPER.savings.tokens == 5 * fifth[0] + 4 * fifth[1] + 3 * fifth[2] + 2 * fifth[3] + fifth[4]
    assert PAPER.total.tokens + PAPER.savings.tokens == PAPER.unshared_total.tokens
    assert 0.7 < PAPER.saved_fraction < 0.8


def test_hours_are_flops_over_speed() -> None:
    assert PAPER.total.hours == pytest.approx(PAPER.total.flops / (989e12 * 0.4) / 3600)
    assert DeviceSpec("A100", utilisation=0.4) == DeviceSpec("a100", utilisation=0.4)
    with pytest.raises(UnknownName):
        DeviceSpec("H1000", utilisation=0.4)
    with pytest.raises(QuantityError):
        DeviceSpec("h100", utilisation=0.0)


def test_every_estimate_is_stated() -> None:
    for step_cost in estimate_cost(build_graph(when(get_scale("cpu"))), H100).step_costs:
        assert bool(step_cost.cost.note) == (step_cost.step.kind in ("midtrain", "finetune", "contrast", "evaluate"))


@pytest.mark.parametrize("form", ["text", "captions", "dialogues"])
def test_index_bytes_are_those_of_a_prepared_source(workshop: Workshop, form: ExternalForm) -> None:
    """Two bytes per token of a small vocabulary, one per loss flag, and the arrays of records and images."""
    turns = [{"from": "human", "value": "<image>\nw1"}, {"from": "gpt", "value": "w9 w8"}]
    folder = {
        "text": lambda: workshop.texts([{"text": words_of(range(1 + n % 9))} for n in range(50)]),
        "captions": lambda: workshop.captions([words_of(range(1 + n % 9)) for n in range(50)]),
        "dialogues": lambda: workshop.dialogues(
            [{"image": f"{n}.png", "conversations": turns} for n in range(50)], [f"{n}.png" for n in range(50)]
        ),
    }[form]()
    index = workshop.prepare(folder, form)
    declared = External(name="s", form=form, tokens=Tokens(len(index.tokens)), records=50)
    spec = Prepare(source=declared, tokenizer=External(name="t", form="tokenizer", tokens=Tokens(0)))
    cost = estimate_step(Step(kind="prepare", spec=spec, version=1), vocab_size=208)
    assert cost.stored_bytes == sum(np.load(index.path / f"{name}.npy").nbytes for name in INDEX_ARRAYS)
    assert cost.items == 50 and "3 bytes per token" in cost.note


@pytest.mark.parametrize("vocab_size", [50_432, 2**16, 2**16 + 1, 128_256])
def test_bytes_per_token_grow_with_the_vocabulary_of_the_model(tmp_path: Path, vocab_size: int) -> None:
    with open_index_arrays(tmp_path, vocab_size) as arrays:
        token_bytes = sum(arrays[name].dtype.itemsize for name in ("tokens", "loss"))
    arm = get_scale("1b").base
    small = replace(arm.pretrain, model=replace(arm.pretrain.model, vocab_size=vocab_size))
    text_only = replace(arm, start=Share(1), stages=(), evaluate=replace(arm.evaluate, vision_tasks=()))
    study = Study(name="one", scale="smoke", question="?", arms=(replace(text_only, pretrain=small),))
    (step_cost,) = step_costs("prepare", estimate_cost(build_graph(study), H100))
    assert step_cost.cost.stored_bytes == token_bytes * 4_100_000_000_000 + 24 * 3_000_000_000


def test_the_index_of_the_paper_s_data_is_planned_once() -> None:
    stored = {step_cost.step.slug: step_cost.cost.stored_bytes for step_cost in step_costs("prepare")}
    assert stored["prepare-dclm-mix"] == 3 * 4_100_000_000_000 + 24 * 3_000_000_000
    assert stored["prepare-datacomp-dr-1b"] == 1_280_000_000 * (3 * 16 + 24 + 8 + 28)
    cells = {row[0]: row for row in estimate_table(PAPER)}
    assert cells["prepare-dclm-mix"][-2] == "12.4 TB" and cells["total"][-2] == "12.8 TB"


def test_an_undeclared_size_is_stated_as_unknown() -> None:
    source = External(name="mine", form="text", tokens=Tokens(0))
    spec = Prepare(source=source, tokenizer=External(name="t", form="tokenizer", tokens=Tokens(0)))
    cost = estimate_step(Step(kind="prepare", spec=spec, version=1))
    assert cost.stored_bytes == 0 and cost.note.startswith("unknown: the size of mine")


def test_costs_of_data_are_items_not_flops() -> None:
    for step_cost in estimate_cost(build_graph(when(get_scale("smoke"))), H100).step_costs:
        if step_cost.step.kind in ("texts", "captions", "dialogues", "benchmarks", "prepare"):
            assert estimate_step(step_cost.step).items > 0 and estimate_step(step_cost.step).flops == 0


def test_images_of_interleaved_documents_and_multitask_data_are_encoded_once_each() -> None:
    base = get_scale("smoke").base
    world, stage = base.evaluate.benchmarks.world, base.stages[0]  # type: ignore[union-attr]
    shares = dict.fromkeys(("captions", "words", "boxes", "dialogues"), Share(1, 4))
    documents = SyntheticInterleaved(world=world, documents=10, max_images=3)
    for source, slug, images in (
        (documents, "interleaved-3-images", 6 + 6 + 6 + 1),
        (SyntheticMultitask(world=world, images=10, turns=2, **shares), "multitask-025-025-025-025", 10),
    ):
        mix = replace(stage.mix, images=single_source(source, max_epochs=200))  # small, but not too small
        estimate = estimate_arm(replace(base, stages=(replace(stage, mix=mix),)))
        costs = {step_cost.step.slug: step_cost.cost.items for step_cost in estimate.step_costs}
        assert costs[slug] == costs[f"prepare-{slug}"] == 10
        assert costs[f"encode-{slug}"] == images


def test_the_table_has_one_line_for_equal_steps_and_ends_in_the_sums() -> None:
    lines = estimate_table(PAPER)
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 16
    assert [line[0] for line in lines[-3:]] == ["total", "without sharing", "saved (74%)"]
    assert any("28,795,904,000" in line and "109,848" in line for line in lines)


def test_steps_of_one_name_and_another_cost_are_told_apart_by_their_arms() -> None:
    graph = build_graph(encoders(get_scale("1b")))
    names = [line[0] for line in estimate_table(estimate_cost(graph, H100))]
    assert len(set(names)) == len(names)
    assert {"midtrain-010-images (siglip and 1 more)", "midtrain-010-images (patches)", "pretrain-060-080"} < set(names)
