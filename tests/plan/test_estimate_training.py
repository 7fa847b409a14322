"""The cost of stages that freeze modules, against torch's FLOP counter, tensors in memory and a checkpoint's files."""

from __future__ import annotations

from dataclasses import replace
from itertools import product, repeat
from pathlib import Path

import pytest
import torch
from tests.train import tiny_study
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from firstsight.data.loader import Batch
from firstsight.model.tensors import write_tensors
from firstsight.model.vision import extract_features, load_encoder
from firstsight.plan.estimate import ComputeCost, estimate_step
from firstsight.plan.graph import build_graph
from firstsight.plan.step import Step
from firstsight.recipe.mixture import External
from firstsight.recipe.model import ProjectorSpec, VLMSpec, openlm_spec
from firstsight.recipe.scales import get_scale
from firstsight.recipe.stages import Encode, ModuleTraining, RowShape, Trains
from firstsight.recipe.study import Study
from firstsight.recipe.vision import PatchProjectionSpec, ViTSpec
from firstsight.train.loop import train
from firstsight.train.state import TrainState, collect_moments, untrained_state
from firstsight.units import Share, Tokens

ROW_SHAPE = RowShape(batch_size=2, length=48)
LM = replace(openlm_spec(layers=3, width=64, heads=2, vocab_size=256), mlp_width=256, token_shift=2)
VIT = ViTSpec(layers=6, width=48, heads=2, mlp_width=192, image_size=24, patch_size=4)
VISION = replace(tiny_study.SIGLIP, vit=VIT)
INCLUDED = VLMSpec(
    lm=LM,
    vision=VISION,
    encoder="included",
    projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=True),
    attention="causal",
)
STORED = replace(INCLUDED, encoder="external")
"""The encoder is trained in the study, so its features are stored."""
PUBLISHED = External(name="siglip", form="encoder", tokens=Tokens(0))
EXTERNAL = replace(STORED, vision=replace(VISION, weights=PUBLISHED))
PATCHES = replace(
    INCLUDED, encoder="external", vision=PatchProjectionSpec(image_size=24, patch_size=4, width=24, fit="resize")
)
TRAINED = ModuleTraining(lr_scale=1.0, weight_decay=0.1)
CASES = [
    pytest.param(model, decoder, projector, encoder, id=f"{name}: {decoder=} {projector=} {encoder=}")
    for name, model in (("included", INCLUDED), ("external", EXTERNAL), ("stored", STORED), ("patches", PATCHES))
    for decoder, projector, encoder in product((True, False), repeat=3)
    if (decoder or projector or encoder) and not (encoder and model is not INCLUDED)
]


def planned_cost(model: VLMSpec, trains: Trains) -> ComputeCost:
    """The planned cost of one step of rows with one image each."""
    stage = get_scale("smoke").base.stages[0]
    mix = replace(stage.mix, image_share=Share(1), packing="one_image_per_row")
    tokens = ROW_SHAPE.tokens_per_step
    spec = replace(stage, model=model, mix=mix, row_shape=ROW_SHAPE, tokens=tokens, trains=trains)
    encode = Step(kind="encode", spec=Encode(source=mix.images.sources[0], vision=model.vision), version=1)
    needs = (("image0.features", encode),) if model is STORED else ()
    return estimate_step(Step(kind="midtrain", spec=spec, needs=needs, version=1))


def image_batch() -> Batch:
    """Rows with an image of 36 tokens each, and loss at every position, as the plan counts it."""
    tokens = torch.randint(256, (2, 48), generator=torch.Generator().manual_seed(0))
    slots = torch.full_like(tokens, -1)
    slots[:, :36] = torch.arange(72).view(2, 36)
    return Batch(
        tokens=tokens,
        targets=tokens,
        docs=torch.zeros(2, 48, dtype=torch.int32),
        positions=torch.arange(48, dtype=torch.int32).expand(2, 48),
        slots=slots,
        images=torch.full((2, 24, 24, 3), 100, dtype=torch.uint8),
        source_ids=torch.zeros(2, dtype=torch.int8),
    )


def trained_state(model: VLMSpec, trains: Trains, folder: Path) -> tuple[TrainState, int, int]:
    """A state after one step, the FLOPs that torch counted in it, and the bytes in memory at the end of its update."""
    folders = [] if model is PATCHES else [tiny_study.write_siglip(folder / "siglip", 0, VIT)]
    state = untrained_state(model, tiny_study.OPTIM, trains=trains, seed=0, encoders=folders)
    counter, batch, tensors = FlopCounterMode(display=False), image_batch(), list[torch.Tensor]()

    def collect_tensors(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = list(state.model.parameters())
        tensors.extend([*parameters, *(p.grad for p in parameters if p.grad is not None)])
        tensors.extend(moment for slots in optimizer.state.values() for key, moment in slots.items() if key != "step")

    state.optimizer.register_step_post_hook(collect_tensors)
    encoder = load_encoder(VISION, folders) if model.encoder == "external" and folders else None
    if encoder and model is STORED:
        batch = replace(batch, images=extract_features(encoder, batch.images).half())
    with counter, sdpa_kernel(SDPBackend.MATH):
        if encoder and model is EXTERNAL:
            tensors.extend(encoder.parameters())
            batch = replace(batch, images=extract_features(encoder, batch.images).half())
        next(train(state, repeat((batch,)), lambda _: 1e-3, ROW_SHAPE.tokens_per_step))
    return state, counter.get_total_flops(), sum(tensor.nbytes for tensor in tensors)


def data_bytes(file: Path) -> int:
    """Size of a safetensors file without its header."""
    content = file.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize(("model", "decoder", "projector", "encoder"), CASES)
def test_plan_agrees_with_counted_flops_bytes_in_memory_and_written_bytes(
    model: VLMSpec, decoder: bool, projector: bool, encoder: bool, tmp_path: Path
) -> None:
    """FLOPs within 2 %: the plan also counts the gradients of pixels and features, which nothing needs."""
    trains = Trains(
        decoder=TRAINED if decoder else None,
        projector=TRAINED if projector else None,
        encoder=TRAINED if encoder else None,
    )
    cost = planned_cost(model, trains)
    state, counted_flops, bytes_in_memory = trained_state(model, trains, tmp_path)
    assert cost.memory_bytes == bytes_in_memory
    masked_half = 3 * ROW_SHAPE.tokens_per_step * LM.attention_flops(ROW_SHAPE.length)  # the plan leaves it out
    assert cost.flops + masked_half == pytest.approx(counted_flops, rel=0.02)
    moments = collect_moments(state)
    files = [*write_tensors(tmp_path, state.model.state_dict()), *write_tensors(tmp_path, moments, name="optimizer")]
    step_counts = [tensor for name, tensor in moments.items() if name.endswith(".step")]
    assert sum(map(data_bytes, files)) - sum(step.nbytes for step in step_counts) == cost.stored_bytes
    prefixes = {name.split(".")[0] for name in moments}
    is_patch_projection = model is PATCHES
    assert prefixes == {
        name
        for name, is_trained in (
            ("lm", decoder),
            ("projector", projector),
            ("vision", projector if is_patch_projection else encoder),
        )
        if is_trained
    }


def test_a_frozen_decoder_costs_a_third_less() -> None:
    """All but attention, whose activations have no weights: 2 passes in place of 3."""
    everything = Trains(decoder=TRAINED, projector=TRAINED, encoder=None)
    full, frozen = (planned_cost(INCLUDED, trains) for trains in (everything, replace(everything, decoder=None)))
    tokens, length = ROW_SHAPE.tokens_per_step, ROW_SHAPE.length
    weights = LM.layers * (4 * LM.width**2 + 3 * LM.width * LM.mlp_width) + LM.vocab_size * LM.width
    assert full.flops - frozen.flops == 2 * tokens * weights
    assert 3 * (LM.flops(length) - LM.attention_flops(length)) == 6 * weights
    assert full.stored_bytes - frozen.stored_bytes == 8 * LM.parameters()


def test_published_checkpoints_are_counted_in_the_store_and_in_the_evaluation() -> None:
    study = Study(name="one", scale="1b", question="?", arms=(get_scale("1b").base,))
    models = {(): 1, (("average", 4),): 1, (("each", 4),): 4, (("average", 4), ("each", 3)): 4}
    costs = {}
    for options in models:
        final = build_graph(study.with_last_checkpoints(**dict(options))).final_step("base.s0")
        stage = final.parent("checkpoint")
        assert stage is not None
        costs[options] = estimate_step(stage), estimate_step(final)
    plain_stage, plain_evaluation = costs[()]
    weights = 4 * (get_scale("1b").base.stages[-1].model.lm.parameters())
    for options, count in models.items():
        stage_cost, evaluation_cost = costs[options]
        published = max(dict(options).values(), default=1)
        extra = stage_cost.stored_bytes - plain_stage.stored_bytes
        assert (published - 1) * weights <= extra <= (published - 1) * weights * 1.02, "the decoder and its projector"
        assert stage_cost.memory_bytes == plain_stage.memory_bytes
        assert evaluation_cost.flops == count * plain_evaluation.flops
        assert evaluation_cost.items == count * plain_evaluation.items
