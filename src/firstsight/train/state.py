"""The training state (weights, optimizer, tokens seen): how it starts, branches into a larger model, and is published.

Models are built on the meta device, so that memory has weights only once. In a process group each rank builds the whole
model in the memory of its machine, with the values of one process, and keeps its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstsight.errors import ModelError
from firstsight.model import checkpoint_io
from firstsight.model.tensors import (
    StoredTensors,
    allocate_parameters,
    format_faults,
    meta_init,
    write_tensors,
)
from firstsight.model.vision import Encoder, load_encoder
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.recipe.stages import AdamWSpec, ModuleTraining, Pretrain, Trains
from firstsight.train import parallel
from firstsight.train.parallel import WholeTensors
from firstsight.units import Tokens

MOMENT_KEYS = ("exp_avg", "exp_avg_sq", "step")
GROWABLE_PARAMETERS = ("lm.tok_embeddings.weight", "lm.output.weight")
"""Parameters with one row per token: a branch may append rows."""
TOWER_PREFIX = "vision.towers."


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Everything that a training step changes."""

    model: VLM
    optimizer: torch.optim.AdamW
    """Each parameter group has a `scale` that multiplies the schedule's rate."""
    optim: AdamWSpec
    tokens_seen: Tokens
    """Tokens since the start of the phase, padding included."""


def untrained_state(
    spec: LMSpec | VLMSpec,
    optim: AdamWSpec,
    *,
    trains: Trains,
    seed: int,
    device: str = "cpu",
    encoders: Sequence[Path] = (),
) -> TrainState:
    """An untrained model; the decoder's weights depend on the seed only, not on the vision part.

    An included encoder starts from the published weights in the folders `encoders`, one for each tower.
    """
    model = _meta_model(spec)
    allocate_parameters(model.lm)
    _allocate_vision(model, encoders)
    model.initialise(seed)
    return _train_state(model, optim, trains, device)


def branch_state(
    folder: Path,
    spec: LMSpec | VLMSpec,
    optim: AdamWSpec,
    *,
    trains: Trains,
    seed: int,
    device: str = "cpu",
    encoders: Sequence[Path] = (),
) -> TrainState:
    """A new phase from a checkpoint's weights, with no tokens seen and without moments (see `load_moments`).

    Parameters that the checkpoint lacks (projector, patch projection, rows of new tokens) are initialised, an included
    encoder comes from the folders `encoders`. Raises ModelError if the checkpoint does not fit the spec.
    """
    model, stored = _meta_model(spec), StoredTensors(folder)
    _check_compatible(model, stored, folder)
    if any(name in stored and stored.shape(name) != model.get_parameter(name).shape for name in GROWABLE_PARAMETERS):
        allocate_parameters(model.lm)
        model.lm.initialise(torch.Generator().manual_seed(seed))
    if _has_towers(stored):
        _copy_tensors(model, stored, TOWER_PREFIX)
    _allocate_vision(model, encoders)
    model.initialise_vision(seed)
    _copy_tensors(model, stored, "")
    return _train_state(model, optim, trains, device)


def load_moments(state: TrainState, folder: Path) -> None:
    """Load AdamW's moments from a checkpoint for all parameters that it has and that are trained."""
    if not any(folder.glob("optimizer*.safetensors")):
        raise ModelError(f"{folder}: wanted the optimizer's moments. Got a checkpoint without. Set moments='fresh'.")
    _assign_moments(state, StoredTensors(folder, "optimizer"))


def resume_state(folder: Path, trunk: Pretrain, *, tokens_seen: Tokens, device: str = "cpu") -> TrainState:
    """Weights, moments and tokens seen of a trunk's checkpoint, to continue the same phase."""
    state = branch_state(folder, trunk.model, trunk.optim, trains=trunk.trains, seed=0, device=device)
    load_moments(state, folder)
    state.tokens_seen = tokens_seen
    return state


def collect_moments(state: TrainState) -> dict[str, Tensor]:
    """AdamW's moments as `<parameter>.exp_avg`, `.exp_avg_sq`, `.step`; empty before the first update."""
    moments = state.optimizer.state
    names = state.model.named_parameters()
    return {f"{name}.{key}": moments[p][key] for name, p in names if p in moments for key in MOMENT_KEYS}


@torch.no_grad()
def _assign_moments(state: TrainState, stored: StoredTensors) -> None:
    """Set the moments of all trained parameters to those in `stored`, named as by `collect_moments`.

    Moments of appended embedding rows are zero; those of untrained parameters are dropped. Only this rank's rows are
    read, whatever the number of processes that wrote them.
    """
    for name, parameter in state.model.named_parameters():
        if f"{name}.step" not in stored or not parameter.requires_grad:
            continue
        averages = {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENT_KEYS[:2]}
        for key, average in averages.items():
            rows = stored.rows(f"{name}.{key}", parallel.local_rows(parameter))
            parallel.local_tensor(average)[: len(rows)].copy_(rows)
        state.optimizer.state[parameter] = {"step": stored[f"{name}.step"].to(parameter.device), **averages}


def _meta_model(spec: LMSpec | VLMSpec) -> VLM:
    with meta_init():
        return VLM(spec)


def _allocate_vision(model: VLM, folders: Sequence[Path]) -> None:
    """Allocate vision module and projector; an encoder that is still on the meta device gets its published weights."""
    vision = model.vision
    if isinstance(vision, Encoder) and any(parameter.is_meta for parameter in vision.parameters()):
        if len(folders) != len(vision.spec.towers):
            raise ModelError(
                f"an included encoder starts from published weights: wanted {len(vision.spec.towers)} folders, one per "
                f"tower. Got {len(folders)}. Give the roles encoder0 and so on."
            )
        model.vision = load_encoder(vision.spec, folders)
    for module in (model.vision, model.projector):
        if module is not None:
            allocate_parameters(module)


@torch.no_grad()
def _copy_tensors(model: VLM, stored: StoredTensors, prefix: str) -> None:
    """Load stored tensors into parameters of that prefix: assigned to those on the meta device, else copied."""
    assigned = dict[str, Tensor]()
    for name, parameter in model.named_parameters():
        if name not in stored or not name.startswith(prefix):
            continue
        if parameter.is_meta:
            assigned[name] = stored[name].to(parameter.dtype)
        else:
            parameter[: stored.shape(name)[0]].copy_(stored[name])
    model.load_state_dict(assigned, strict=False, assign=True)


def _train_state(model: VLM, optim: AdamWSpec, trains: Trains, device: str) -> TrainState:
    model.lm.compute_dtype = torch.bfloat16
    trained = _set_trained_modules(model, trains)
    parallel.place_model(model, device, compute_dtype=model.lm.compute_dtype)
    optimizer = torch.optim.AdamW(
        [_param_group(module, training) for module, training in trained],
        lr=0.0,  # every step sets it from its schedule
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        fused=True,
    )
    return TrainState(model=model, optimizer=optimizer, optim=optim, tokens_seen=Tokens(0))


def _set_trained_modules(model: VLM, trains: Trains) -> list[tuple[nn.Module, ModuleTraining]]:
    """The modules that train, each with its rate and decay; frozen ones get no gradients, and eval mode."""
    vision_training = trains.encoder if isinstance(model.vision, Encoder) else trains.projector
    pairs = ((model.lm, trains.decoder), (model.projector, trains.projector), (model.vision, vision_training))
    modules = [(module, training) for module, training in pairs if module is not None]
    for module, training in modules:
        module.requires_grad_(training is not None).train(training is not None)
    return [(module, training) for module, training in modules if training is not None]


def _param_group(module: nn.Module, training: ModuleTraining) -> dict[str, object]:
    """AdamW's settings of a module's parameters."""
    return {
        "params": list(module.parameters()),
        "scale": training.lr_scale,
        "weight_decay": training.weight_decay,
    }


def _has_towers(stored: StoredTensors) -> bool:
    return any(name.startswith(TOWER_PREFIX) for name in stored)


def _check_compatible(model: VLM, stored: StoredTensors, folder: Path) -> None:
    """Check that the spec has all stored tensors, and the checkpoint the decoder and either all towers or none."""
    parameters = dict(model.named_parameters())
    required = ("lm.", TOWER_PREFIX) if _has_towers(stored) else ("lm.",)
    common = sorted(parameters.keys() & set(stored))
    faults = {
        "not in the spec": sorted(set(stored) - parameters.keys()),
        "not in the checkpoint": sorted(n for n in parameters if n not in stored and n.startswith(required)),
        "of another shape": [n for n in common if not _shapes_fit(n, stored.shape(n), parameters[n].shape)],
    }
    if message := format_faults(faults):
        raise ModelError(f"{folder}: wanted a checkpoint that fits the spec. Got tensors {message}. Use its own spec.")


def _shapes_fit(name: str, old_shape: torch.Size, new_shape: torch.Size) -> bool:
    is_growable = name in GROWABLE_PARAMETERS and old_shape[0] < new_shape[0]
    return old_shape[1:] == new_shape[1:] and (old_shape[0] == new_shape[0] or is_growable)


def write_checkpoint(folder: Path, state: TrainState, *, tokenizer: Path, encoders: Sequence[Path]) -> None:
    """Write a checkpoint folder: weights, optimizer moments, spec, tokenizer and an external encoder's folders.

    Rank 0 writes it; the others take part in gathering the tensors, one after the other.
    """
    weights, moments = WholeTensors(state.model.state_dict()), WholeTensors(collect_moments(state))
    if parallel.rank():
        weights.gather()
        moments.gather()
        return
    options: dict[str, Any] = {"tokenizer": tokenizer, "encoders": encoders, "weights": weights}
    checkpoint_io.save(folder, state.model, tokens_seen=state.tokens_seen, **options)
    write_tensors(folder, moments, name="optimizer")
