"""Trained encoders in the training state: rate, weight decay, rate 0, branching."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import pytest
import torch

from firstsight.data.loader import Batch
from firstsight.errors import ModelError
from firstsight.evaluate.models.interface import GenerationRequest
from firstsight.evaluate.models.native import load_native_model
from firstsight.model.tensors import read_tensors, write_tensors
from firstsight.model.vision import Encoder, load_encoder
from firstsight.model.vlm import VLM
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.stages import Midtrain, ModuleTraining, Trains
from firstsight.site import Progress, Site
from firstsight.train.handlers import pretrain, train_stage
from firstsight.train.loop import train
from firstsight.train.state import (
    TOWER_PREFIX,
    TrainState,
    branch_state,
    collect_moments,
    load_moments,
    untrained_state,
)
from firstsight.units import Tokens
from tests.train import tiny_study

Inputs = dict[str, Path]
OPTIM, FROZEN, TRAINED = tiny_study.OPTIM, tiny_study.TRAINS, tiny_study.ENCODER_TRAINS


def stage(model: VLMSpec, steps: int, share: str, trains: Trains) -> Midtrain:
    return replace(tiny_study.midtrain_spec(model, steps, share), trains=trains)


@pytest.fixture(scope="module")
def stage_inputs(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("trained")
    trunk = tiny_study.run_handler(pretrain, tiny_study.segment_spec(4, "0", "1"), inputs, root / "trunk", site)
    return {**inputs, "trunk": trunk}


@pytest.fixture(scope="module")
def trained_checkpoint(stage_inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after eight steps with a trained encoder."""
    spec, root = stage(tiny_study.INCLUDED_VLM, 8, "1/2", TRAINED), tmp_path_factory.mktemp("trained")
    return tiny_study.run_handler(train_stage, spec, stage_inputs, root / "mid", site)


def published(stage_inputs: Inputs) -> dict[str, torch.Tensor]:
    """The untrained towers' weights, by their names in a checkpoint."""
    encoder = load_encoder(tiny_study.SIGLIP, [stage_inputs["encoder0"]])
    return {f"vision.{name}": tensor for name, tensor in encoder.state_dict().items()}


def trains_without_decay(encoder: ModuleTraining) -> Trains:
    plain = ModuleTraining(lr_scale=1.0, weight_decay=0.0)
    return Trains(decoder=plain, projector=plain, encoder=encoder)


def image_batch(seed: int = 0) -> Batch:
    """Two rows with an image of noise each, two of text."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(64, (4, 16), generator=generator)
    slots = torch.full_like(tokens, -1)
    slots[0, :4], slots[2, :4] = torch.arange(4), torch.arange(4, 8)
    column = torch.arange(16, dtype=torch.int32).expand(4, 16)
    return Batch(
        tokens=tokens,
        targets=tokens.roll(-1, dims=1).masked_fill(slots >= 0, -100),
        docs=torch.zeros(4, 16, dtype=torch.int32),
        positions=column,
        slots=slots,
        images=torch.randint(256, (2, 8, 8, 3), generator=generator).to(torch.uint8),
        source_ids=torch.tensor([1, 0, 1, 0], dtype=torch.int8),
    )


def state(stage_inputs: Inputs, trains: Trains, dtype: torch.dtype = torch.float32) -> TrainState:
    encoders = [stage_inputs["encoder0"]]
    training_state = untrained_state(tiny_study.INCLUDED_VLM, OPTIM, trains=trains, seed=0, encoders=encoders)
    training_state.model.to(dtype)
    training_state.model.lm.compute_dtype = dtype
    return training_state


def step_changes(training_state: TrainState, lr: float) -> dict[str, torch.Tensor]:
    """The change of each parameter in one step."""
    before = {name: value.clone() for name, value in training_state.model.state_dict().items()}
    next(train(training_state, repeat((image_batch(),)), lambda _: lr, Tokens(training_state.tokens_seen + 64)))
    return {name: value - before[name] for name, value in training_state.model.state_dict().items()}


def test_frozen_encoder_is_copied_unchanged_next_to_the_model(stage_inputs: Inputs, site: Site, tmp_path: Path) -> None:
    before = tiny_study.read_files(stage_inputs["encoder0"])
    done = tiny_study.run_handler(
        train_stage, tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 4, "1"), stage_inputs, tmp_path, site
    )
    assert before == tiny_study.read_files(stage_inputs["encoder0"]) == tiny_study.read_files(done / "encoder0")
    assert not [name for name in read_tensors(done) if name.startswith("vision.")]


def test_trained_encoder_is_in_the_model_and_changes(stage_inputs: Inputs, trained_checkpoint: Path) -> None:
    weights, moments = read_tensors(trained_checkpoint), read_tensors(trained_checkpoint, "optimizer")
    assert not list(trained_checkpoint.glob("encoder*"))
    for name, before in published(stage_inputs).items():
        assert not torch.equal(weights[name], before), name
        assert float(moments[f"{name}.step"]) == 8


def test_frozen_included_encoder_trains_like_an_external_one(stage_inputs: Inputs, site: Site, tmp_path: Path) -> None:
    """Within a fifth of the change: a frozen encoder runs in float32 and is rounded to float16, this one is bf16."""
    pixels = {role: path for role, path in stage_inputs.items() if role != "image0.features"}
    frozen = tiny_study.run_handler(
        train_stage, stage(tiny_study.FEATURE_VLM, 6, "1/2", FROZEN), pixels, tmp_path / "frozen", site
    )
    fixed = tiny_study.run_handler(
        train_stage, stage(tiny_study.INCLUDED_VLM, 6, "1/2", FROZEN), pixels, tmp_path / "held", site
    )
    weights, moments, before = read_tensors(fixed), read_tensors(fixed, "optimizer"), published(stage_inputs)
    assert all(torch.equal(weights[name], value) for name, value in before.items())
    assert not [name for name in moments if name.startswith(TOWER_PREFIX)]
    expected, start = (
        read_tensors(frozen),
        branch_state(stage_inputs["trunk"], tiny_study.FEATURE_VLM, OPTIM, trains=FROZEN, seed=1).model.state_dict(),
    )
    assert expected.keys() | before.keys() == weights.keys()
    for name, value in expected.items():
        difference, moved = weights[name] - value, value - start[name]
        assert float(difference.norm()) < 0.2 * float(moved.norm()), name


def test_frozen_encoder_has_no_gradients_and_eval_mode(stage_inputs: Inputs) -> None:
    training_state = state(stage_inputs, FROZEN)
    vision = training_state.model.vision
    assert isinstance(vision, Encoder)
    assert not vision.training
    assert not any(parameter.requires_grad for parameter in vision.parameters())
    assert not vision(image_batch().images).requires_grad
    groups = training_state.optimizer.param_groups
    assert [group["scale"] for group in groups] == [1.0, 1.0]
    assert training_state.model.projector is not None
    assert [set(group["params"]) for group in groups] == [
        set(training_state.model.lm.parameters()),
        set(training_state.model.projector.parameters()),
    ]


def test_first_step_is_the_rate_times_the_scale(stage_inputs: Inputs) -> None:
    """AdamW's first step is the rate for every element whose gradient is far above eps."""
    training_state = state(stage_inputs, trains_without_decay(ModuleTraining(lr_scale=0.1, weight_decay=0.0)))
    moved = step_changes(training_state, 1e-4)
    for prefix, expected in (("vision.", 1e-5), ("lm.layers", 1e-4), ("projector.linears", 1e-4)):
        steps = torch.cat([step.abs().flatten() for name, step in moved.items() if name.startswith(prefix)])
        assert (steps / expected).median().item() == pytest.approx(1, rel=0.01), prefix
        assert steps.max().item() <= 1.02 * expected, prefix


def test_encoder_has_its_own_weight_decay(stage_inputs: Inputs) -> None:
    training_state = state(stage_inputs, trains_without_decay(ModuleTraining(lr_scale=0.5, weight_decay=2e8)))
    before = {name: value.clone() for name, value in training_state.model.state_dict().items()}
    step_changes(training_state, 1e-9)
    for name, value in training_state.model.state_dict().items():
        shrunk = 0.9 if name.startswith(TOWER_PREFIX) else 1.0
        torch.testing.assert_close(value, shrunk * before[name], rtol=1e-5, atol=1e-6, msg=name)


def test_micro_batches_with_images_add_up(stage_inputs: Inputs) -> None:
    rows, whole, parted = (
        image_batch(),
        state(stage_inputs, TRAINED, torch.float64),
        state(stage_inputs, TRAINED, torch.float64),
    )
    parts = []
    for at in (0, 2):
        fields = {
            name: getattr(rows, name)[at : at + 2] for name in ("tokens", "targets", "docs", "positions", "source_ids")
        }
        slots = torch.where(rows.slots >= 0, rows.slots - 2 * at, -1)[at : at + 2]
        parts.append(replace(rows, **fields, slots=slots, images=rows.images[at // 2 : at // 2 + 1]))
    for training_state, micro_batches in ((whole, (rows,)), (parted, tuple(parts))):
        for _ in train(training_state, repeat(micro_batches), lambda _: 0.01, Tokens(3 * 64)):
            pass
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parted.model.state_dict()[name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_without_image_rows_the_encoder_does_not_affect_the_decoder(
    stage_inputs: Inputs, site: Site, tmp_path: Path
) -> None:
    patch_run = tiny_study.run_handler(
        train_stage, stage(tiny_study.PATCH_VLM, 4, "0", FROZEN), stage_inputs, tmp_path / "blind", site
    )
    for name, optim in (("held", FROZEN), ("moved", TRAINED)):
        seeing = tiny_study.run_handler(
            train_stage, stage(tiny_study.INCLUDED_VLM, 4, "0", optim), stage_inputs, tmp_path / name, site
        )
        first, second = read_tensors(patch_run), read_tensors(seeing)
        assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("lm."))


def test_rerun_after_kill_leaves_the_same_bytes(
    stage_inputs: Inputs, trained_checkpoint: Path, site: Site, tmp_path: Path
) -> None:
    spec = stage(tiny_study.INCLUDED_VLM, 8, "1/2", TRAINED)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path, replace(site, save_every=0.0))
        train_stage(spec, inputs=stage_inputs, out=tmp_path, site=replace(site, save_every=0.0), on_progress=stop)
    tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path, site)
    assert tiny_study.read_files(tmp_path) == tiny_study.read_files(trained_checkpoint)


def test_branch_takes_the_checkpoints_towers_and_drops_moments_of_frozen_ones(
    stage_inputs: Inputs, trained_checkpoint: Path
) -> None:
    towers, before = [stage_inputs["encoder0"]], published(stage_inputs)
    branched = branch_state(
        stage_inputs["trunk"], tiny_study.INCLUDED_VLM, OPTIM, trains=TRAINED, seed=1, encoders=towers
    )
    for name, value in before.items():
        assert torch.equal(branched.model.state_dict()[name], value), name
    continued = branch_state(
        trained_checkpoint, tiny_study.INCLUDED_VLM, OPTIM, trains=TRAINED, seed=1, encoders=towers
    )
    load_moments(continued, trained_checkpoint)
    stored, moments = read_tensors(trained_checkpoint), read_tensors(trained_checkpoint, "optimizer")
    assert all(torch.equal(value, stored[name]) for name, value in continued.model.state_dict().items())
    assert all(torch.equal(value, moments[name]) for name, value in collect_moments(continued).items())
    assert collect_moments(continued).keys() == moments.keys()
    fixed = branch_state(trained_checkpoint, tiny_study.INCLUDED_VLM, OPTIM, trains=FROZEN, seed=1)
    load_moments(fixed, trained_checkpoint)
    assert collect_moments(fixed).keys() == {name for name in moments if not name.startswith(TOWER_PREFIX)}


def test_missing_encoder_moments_start_at_zero(stage_inputs: Inputs, site: Site, tmp_path: Path) -> None:
    fixed = tiny_study.run_handler(
        train_stage, stage(tiny_study.INCLUDED_VLM, 3, "1", FROZEN), stage_inputs, tmp_path / "held", site
    )
    next_inputs = {**{role: path for role, path in stage_inputs.items() if role != "trunk"}, "previous": fixed}
    done = tiny_study.run_handler(
        train_stage, stage(tiny_study.INCLUDED_VLM, 2, "1", TRAINED), next_inputs, tmp_path / "then", site
    )
    steps = {name: float(value) for name, value in read_tensors(done, "optimizer").items() if name.endswith(".step")}
    assert {count for name, count in steps.items() if name.startswith(TOWER_PREFIX)} == {2.0}
    assert {count for name, count in steps.items() if name.startswith("projector.")} == {5.0}


def test_incomplete_or_unexpected_encoder_is_an_error(
    stage_inputs: Inputs, trained_checkpoint: Path, tmp_path: Path
) -> None:
    weights = read_tensors(trained_checkpoint)
    missing = next(name for name in weights if name.startswith(TOWER_PREFIX))
    write_tensors(tmp_path, {name: value for name, value in weights.items() if name != missing})
    with pytest.raises(ModelError, match=rf"not in the checkpoint: {missing}"):
        branch_state(
            tmp_path, tiny_study.INCLUDED_VLM, OPTIM, trains=TRAINED, seed=1, encoders=[stage_inputs["encoder0"]]
        )
    with pytest.raises(ModelError, match="not in the spec: vision"):
        branch_state(trained_checkpoint, tiny_study.FEATURE_VLM, OPTIM, trains=FROZEN, seed=1)
    with pytest.raises(ModelError, match=r"1 folders, one per tower\. Got 0"):
        untrained_state(tiny_study.INCLUDED_VLM, OPTIM, trains=TRAINED, seed=1)


def test_checkpoint_with_trained_encoder_generates_from_pixels(
    stage_inputs: Inputs, trained_checkpoint: Path, site: Site, tmp_path: Path
) -> None:
    spec = replace(tiny_study.finetune_spec(tiny_study.INCLUDED_VLM, 4), trains=TRAINED)
    inputs = {**{role: path for role, path in stage_inputs.items() if role != "trunk"}, "previous": trained_checkpoint}
    done = tiny_study.run_handler(train_stage, spec, inputs, tmp_path / "done", site)
    native_model, data = load_native_model(done, site=site), tiny_study.png_image("red", "blue")
    assert native_model.checkpoint.encoder is None
    [pixels] = native_model.encode_images([("x.png", data)])
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (8, 8, 3))
    assert len(list(native_model.generate([GenerationRequest(text="w1", image=pixels)], max_new_tokens=3))) == 1


@pytest.mark.parametrize("kind", ["LM", "FEATURE_VLM", "PATCH_VLM", "INCLUDED_VLM"])
def test_untrained_state_has_the_bits_of_a_plainly_built_model(stage_inputs: Inputs, kind: str) -> None:
    spec: VLMSpec = getattr(tiny_study, kind)
    plain = VLM(spec)
    if isinstance(plain.vision, Encoder):
        plain.vision = load_encoder(tiny_study.SIGLIP, [stage_inputs["encoder0"]])
    plain.initialise(3)
    torch.use_deterministic_algorithms(True)  # then memory that was never written holds NaN
    try:
        training_state = untrained_state(spec, OPTIM, trains=FROZEN, seed=3, encoders=[stage_inputs["encoder0"]])
    finally:
        torch.use_deterministic_algorithms(False)
    assert training_state.model.state_dict().keys() == plain.state_dict().keys()
    for name, value in training_state.model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_log_contains_the_schedules_rate(trained_checkpoint: Path) -> None:
    lines = [json.loads(line) for line in (trained_checkpoint / "log.jsonl").read_text().splitlines()]
    rates = [tiny_study.SCHEDULE.lr(Tokens(line["seen"]), Tokens(8 * 64)) for line in lines]
    assert [line["lr"] for line in lines] == rates
