"""An encoder that belongs to the model: it trains at its own rate and decay, or is held still, or is left alone."""

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
from firstsight.recipe.stages import AdamWSpec, Midtrain
from firstsight.site import Progress, Site
from firstsight.train.handlers import finetune, midtrain, pretrain
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
HELD = tiny_study.ADAM
MOVED = replace(tiny_study.ADAM, encoder_lr_scale=0.5, encoder_weight_decay=0.01)


def stage(model: VLMSpec, steps: int, share: str, optim: AdamWSpec) -> Midtrain:
    return replace(tiny_study.midtraining(model, steps, share), optim=optim)


@pytest.fixture(scope="module")
def reads(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("trained")
    trunk = tiny_study.ran(pretrain, tiny_study.segment(4, "0", "1"), inputs, root / "trunk", site)
    return {**inputs, "trunk": trunk}


@pytest.fixture(scope="module")
def trained(reads: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps with a moving encoder."""
    spec, root = stage(tiny_study.TRAINED, 8, "1/2", MOVED), tmp_path_factory.mktemp("trained")
    return tiny_study.ran(midtrain, spec, reads, root / "mid", site)


def published(reads: Inputs) -> dict[str, torch.Tensor]:
    """The towers as they were when nobody had trained them, by their names in a checkpoint."""
    encoder = load_encoder(tiny_study.SIGLIP, [reads["encoder0"]])
    return {f"vision.{name}": tensor for name, tensor in encoder.state_dict().items()}


def pictured(seed: int = 0) -> Batch:
    """Two rows with a picture of noise each, two of words."""
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


def state(reads: Inputs, optim: AdamWSpec, dtype: torch.dtype = torch.float32) -> TrainState:
    made = untrained_state(tiny_study.TRAINED, optim, seed=0, encoders=[reads["encoder0"]])
    made.model.to(dtype)
    made.model.lm.compute_dtype = dtype
    return made


def stepped(made: TrainState, lr: float) -> dict[str, torch.Tensor]:
    """How each parameter moves in one step."""
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    next(train(made, repeat((pictured(),)), lambda seen: lr, Tokens(made.tokens_seen + 64)))
    return {name: value - before[name] for name, value in made.model.state_dict().items()}


def test_a_frozen_encoder_keeps_its_bytes_and_lies_beside_the_model(reads: Inputs, site: Site, tmp_path: Path) -> None:
    before = tiny_study.contents(reads["encoder0"])
    done = tiny_study.ran(midtrain, tiny_study.midtraining(tiny_study.SEES, 4, "1"), reads, tmp_path, site)
    assert before == tiny_study.contents(reads["encoder0"]) == tiny_study.contents(done / "encoder0")
    assert not [name for name in read_tensors(done) if name.startswith("vision.")]


def test_a_trained_encoder_is_in_the_model_and_moves(reads: Inputs, trained: Path) -> None:
    weights, moments = read_tensors(trained), read_tensors(trained, "optimizer")
    assert not list(trained.glob("encoder*"))
    for name, before in published(reads).items():
        assert not torch.equal(weights[name], before), name
        assert float(moments[f"{name}.step"]) == 8


def test_held_at_rate_0_it_is_a_frozen_one(reads: Inputs, site: Site, tmp_path: Path) -> None:
    """To a fifth of the way: a frozen encoder works in float32 and leaves float16, a held one in the model's bf16."""
    pixels = {role: path for role, path in reads.items() if role != "image0.features"}
    frozen = tiny_study.ran(midtrain, stage(tiny_study.SEES, 6, "1/2", HELD), pixels, tmp_path / "frozen", site)
    held = tiny_study.ran(midtrain, stage(tiny_study.TRAINED, 6, "1/2", HELD), pixels, tmp_path / "held", site)
    weights, moments, before = read_tensors(held), read_tensors(held, "optimizer"), published(reads)
    assert all(torch.equal(weights[name], value) for name, value in before.items())
    assert not [name for name in moments if name.startswith(TOWER_PREFIX)]
    wanted, start = read_tensors(frozen), branch_state(reads["trunk"], tiny_study.SEES, HELD, seed=1).model.state_dict()
    assert wanted.keys() | before.keys() == weights.keys()
    for name, value in wanted.items():
        apart, moved = weights[name] - value, value - start[name]
        assert float(apart.norm()) < 0.2 * float(moved.norm()), name


def test_a_held_encoder_costs_no_gradient_and_is_in_eval_mode(reads: Inputs) -> None:
    made = state(reads, HELD)
    vision = made.model.vision
    assert isinstance(vision, Encoder)
    assert not vision.training
    assert not any(parameter.requires_grad for parameter in vision.parameters())
    assert not vision(pictured().images).requires_grad
    assert [group["scale"] for group in made.optimizer.param_groups] == [1.0]
    assert made.model.projector is not None
    ours = [*made.model.lm.parameters(), *made.model.projector.parameters()]
    assert set(made.optimizer.param_groups[0]["params"]) == set(ours)


def test_the_first_step_is_the_rate_times_the_scale(reads: Inputs) -> None:
    """AdamW's first step is the rate for every element whose gradient is far above eps."""
    made = state(reads, replace(tiny_study.ADAM, weight_decay=0.0, encoder_lr_scale=0.1))
    moved = stepped(made, 1e-4)
    for begins, wanted in (("vision.", 1e-5), ("lm.layers", 1e-4), ("projector.linears", 1e-4)):
        steps = torch.cat([step.abs().flatten() for name, step in moved.items() if name.startswith(begins)])
        assert (steps / wanted).median().item() == pytest.approx(1, rel=0.01), begins
        assert steps.max().item() <= 1.02 * wanted, begins


def test_it_has_a_decay_of_its_own(reads: Inputs) -> None:
    made = state(reads, replace(tiny_study.ADAM, weight_decay=0.0, encoder_lr_scale=0.5, encoder_weight_decay=2e8))
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    stepped(made, 1e-9)
    for name, value in made.model.state_dict().items():
        shrunk = 0.9 if name.startswith(TOWER_PREFIX) else 1.0
        torch.testing.assert_close(value, shrunk * before[name], rtol=1e-5, atol=1e-6, msg=name)


def test_parts_of_a_step_add_up(reads: Inputs) -> None:
    rows, whole, parted = pictured(), state(reads, MOVED, torch.float64), state(reads, MOVED, torch.float64)
    parts = []
    for at in (0, 2):
        mine = {
            name: getattr(rows, name)[at : at + 2] for name in ("tokens", "targets", "docs", "positions", "source_ids")
        }
        slots = torch.where(rows.slots >= 0, rows.slots - 2 * at, -1)[at : at + 2]
        parts.append(replace(rows, **mine, slots=slots, images=rows.images[at // 2 : at // 2 + 1]))
    for made, given in ((whole, (rows,)), (parted, tuple(parts))):
        for _ in train(made, repeat(given), lambda seen: 0.01, Tokens(3 * 64)):
            pass
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parted.model.state_dict()[name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_without_image_rows_the_decoder_learns_as_if_it_had_no_eyes(reads: Inputs, site: Site, tmp_path: Path) -> None:
    blind = tiny_study.ran(midtrain, stage(tiny_study.PATCHED, 4, "0", HELD), reads, tmp_path / "blind", site)
    for name, optim in (("held", HELD), ("moved", MOVED)):
        seeing = tiny_study.ran(midtrain, stage(tiny_study.TRAINED, 4, "0", optim), reads, tmp_path / name, site)
        one, other = read_tensors(blind), read_tensors(seeing)
        assert all(torch.equal(one[name], other[name]) for name in one if name.startswith("lm."))


def test_killed_and_run_again_it_leaves_the_same_bytes(
    reads: Inputs, trained: Path, site: Site, tmp_path: Path
) -> None:
    spec = stage(tiny_study.TRAINED, 8, "1/2", MOVED)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        midtrain(spec, inputs=reads, out=tmp_path, site=replace(site, save_every=0.0), on_progress=lambda _: None)
        midtrain(spec, inputs=reads, out=tmp_path, site=replace(site, save_every=0.0), on_progress=stop)
    tiny_study.ran(midtrain, spec, reads, tmp_path, site)
    assert tiny_study.contents(tmp_path) == tiny_study.contents(trained)


def test_a_checkpoint_keeps_its_own_towers_and_what_was_held_starts_fresh(reads: Inputs, trained: Path) -> None:
    towers, before = [reads["encoder0"]], published(reads)
    begun = branch_state(reads["trunk"], tiny_study.TRAINED, MOVED, seed=1, encoders=towers)
    for name, value in before.items():
        assert torch.equal(begun.model.state_dict()[name], value), name
    went_on = branch_state(trained, tiny_study.TRAINED, MOVED, seed=1, encoders=towers)
    load_moments(went_on, trained)
    kept, moments = read_tensors(trained), read_tensors(trained, "optimizer")
    assert all(torch.equal(value, kept[name]) for name, value in went_on.model.state_dict().items())
    assert all(torch.equal(value, moments[name]) for name, value in collect_moments(went_on).items())
    assert collect_moments(went_on).keys() == moments.keys()
    held = branch_state(trained, tiny_study.TRAINED, HELD, seed=1)
    load_moments(held, trained)
    assert collect_moments(held).keys() == {name for name in moments if not name.startswith(TOWER_PREFIX)}


def test_moments_of_what_was_held_are_not_needed(reads: Inputs, site: Site, tmp_path: Path) -> None:
    held = tiny_study.ran(midtrain, stage(tiny_study.TRAINED, 3, "1", HELD), reads, tmp_path / "held", site)
    then = {**{role: path for role, path in reads.items() if role != "trunk"}, "previous": held}
    done = tiny_study.ran(midtrain, stage(tiny_study.TRAINED, 2, "1", MOVED), then, tmp_path / "then", site)
    steps = {name: float(value) for name, value in read_tensors(done, "optimizer").items() if name.endswith(".step")}
    assert {count for name, count in steps.items() if name.startswith(TOWER_PREFIX)} == {2.0}
    assert {count for name, count in steps.items() if name.startswith("projector.")} == {5.0}


def test_half_an_encoder_and_no_encoder_are_refused(reads: Inputs, trained: Path, tmp_path: Path) -> None:
    weights = read_tensors(trained)
    lost = next(name for name in weights if name.startswith(TOWER_PREFIX))
    write_tensors(tmp_path, {name: value for name, value in weights.items() if name != lost})
    with pytest.raises(ModelError, match=rf"not in the checkpoint: {lost}"):
        branch_state(tmp_path, tiny_study.TRAINED, MOVED, seed=1, encoders=[reads["encoder0"]])
    with pytest.raises(ModelError, match="not in the spec: vision"):
        branch_state(trained, tiny_study.SEES, HELD, seed=1)
    with pytest.raises(ModelError, match=r"1 folders, one a tower\. Got 0"):
        untrained_state(tiny_study.TRAINED, MOVED, seed=1)


def test_it_is_asked_with_pixels(reads: Inputs, trained: Path, site: Site, tmp_path: Path) -> None:
    spec = replace(tiny_study.finetuning(tiny_study.TRAINED, 4), optim=MOVED)
    inputs = {**{role: path for role, path in reads.items() if role != "trunk"}, "previous": trained}
    done = tiny_study.ran(finetune, spec, inputs, tmp_path / "done", site)
    who, data = load_native_model(done, site=site), tiny_study.picture("red", "blue")
    assert who.checkpoint.encoder is None
    [seen] = who.encode_images([("x.png", data)])
    assert (seen.dtype, seen.shape) == (torch.uint8, (8, 8, 3))
    assert len(list(who.generate([GenerationRequest(text="w1", image=seen)], max_new_tokens=3))) == 1


@pytest.mark.parametrize("kind", ["LM", "SEES", "PATCHED", "TRAINED"])
def test_a_hollow_build_has_the_bits_of_a_plain_one(reads: Inputs, kind: str) -> None:
    spec: VLMSpec = getattr(tiny_study, kind)
    plain = VLM(spec)
    if isinstance(plain.vision, Encoder):
        plain.vision = load_encoder(tiny_study.SIGLIP, [reads["encoder0"]])
    plain.initialise(3)
    torch.use_deterministic_algorithms(True)  # then memory that was never written holds NaN
    try:
        made = untrained_state(spec, tiny_study.ADAM, seed=3, encoders=[reads["encoder0"]])
    finally:
        torch.use_deterministic_algorithms(False)
    assert made.model.state_dict().keys() == plain.state_dict().keys()
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_the_log_tells_the_schedules_rate(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    schedule = tiny_study.rate(8 * 64)
    assert [line["lr"] for line in lines] == [schedule.lr(Tokens(line["seen"])) for line in lines]
