"""Weights, optimizer and tokens seen; and how a run branches into one with more parameters.

Models are built hollow and filled, so that memory holds their weights once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from firstsight.errors import ModelError
from firstsight.model.checkpoint_io import StoredTensors, meta_init
from firstsight.model.lm import allocate_parameters
from firstsight.model.vision import Encoder, load_encoder
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.stages import AdamWSpec
from firstsight.units import Tokens

MOMENT_KEYS = ("exp_avg", "exp_avg_sq", "step")
GROWABLE_PARAMETERS = ("lm.tok_embeddings.weight", "lm.output.weight")
"""Parameters with a row for each token: a branch may add rows at their end."""
TOWER_PREFIX = "vision.towers."
"""Begins the names of a trained encoder's parameters."""


@dataclass(kw_only=True, slots=True)
class TrainState:
    """All that a training step changes."""

    model: VLM
    optimizer: torch.optim.AdamW
    """Each of its groups has a `scale`: its rate in times the schedule's."""
    optim: AdamWSpec
    tokens_seen: Tokens
    """Tokens since the phase began, padding included."""


def untrained_state(
    spec: LMSpec | VLMSpec, optim: AdamWSpec, *, seed: int, device: str = "cpu", encoders: Sequence[Path] = ()
) -> TrainState:
    """An untrained model; its decoder's weights depend on the seed alone, not on whether it has eyes.

    A trained encoder begins with the published weights in the folders `encoders`, one for each tower.
    """
    model = _meta_model(spec)
    allocate_parameters(model.lm)
    _allocate_vision(model, encoders)
    model.initialise(seed)
    return _train_state(model, optim, device)


def branch_state(
    folder: Path,
    spec: LMSpec | VLMSpec,
    optim: AdamWSpec,
    *,
    seed: int,
    device: str = "cpu",
    encoders: Sequence[Path] = (),
) -> TrainState:
    """A new phase that starts from a checkpoint's weights, its clock at zero and without moments (see `carry`).

    Parameters that the checkpoint lacks (projector, patches, rows of new tokens) start fresh, a trained encoder that
    it lacks from the folders `encoders`. Raises ModelError where the checkpoint does not fit the spec.
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
    return _train_state(model, optim, device)


def load_moments(state: TrainState, folder: Path) -> None:
    """AdamW's averages and step of every old parameter that goes on being trained; new ones start without."""
    if not any(folder.glob("optimizer*.safetensors")):
        raise ModelError(f"{folder}: wanted the optimizer's moments. Got a checkpoint without. Say moments='fresh'.")
    assign_moments(state, StoredTensors(folder, "optimizer"))


def resume_state(
    folder: Path, spec: LMSpec, optim: AdamWSpec, *, tokens_seen: Tokens, device: str = "cpu"
) -> TrainState:
    """The same phase of a trunk going on: weights, moments and clock of a checkpoint."""
    state = branch_state(folder, spec, optim, seed=0, device=device)
    load_moments(state, folder)
    state.tokens_seen = tokens_seen
    return state


def collect_moments(state: TrainState) -> dict[str, Tensor]:
    """AdamW's averages and steps as `<parameter>.exp_avg`, `.exp_avg_sq`, `.step`; none before the first update."""
    optimizer_state = state.optimizer.state
    names = state.model.named_parameters()
    return {
        f"{name}.{key}": optimizer_state[p][key] for name, p in names if p in optimizer_state for key in MOMENT_KEYS
    }


def assign_moments(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """What `take_moments` took, to the parameters of the same names that are trained.

    Averages of new token rows are zero. A parameter that is held needs none, and what there was is forgotten.
    """
    for name, parameter in state.model.named_parameters():
        if f"{name}.step" not in tensors or not parameter.requires_grad:
            continue
        averages = {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENT_KEYS[:2]}
        for key, value in averages.items():
            stored_average = tensors[f"{name}.{key}"]
            value[: len(stored_average)].copy_(stored_average)
        step = tensors[f"{name}.step"].to(parameter.device, copy=True)
        state.optimizer.state[parameter] = {"step": step, **averages}


def _meta_model(spec: LMSpec | VLMSpec) -> VLM:
    with meta_init():
        return VLM(spec)


def _allocate_vision(model: VLM, folders: Sequence[Path]) -> None:
    """Memory for all that sees, and a trained encoder's published weights unless it has its own by now."""
    vision = model.vision
    if isinstance(vision, Encoder) and any(parameter.is_meta for parameter in vision.parameters()):
        if len(folders) != len(vision.spec.towers):
            raise ModelError(
                f"a trained encoder begins with published weights: wanted {len(vision.spec.towers)} folders, one a "
                f"tower. Got {len(folders)}. Give the roles encoder0 and so on."
            )
        model.vision = load_encoder(vision.spec, folders).requires_grad_(True).train()
    for module in (model.vision, model.projector):
        if module is not None:
            allocate_parameters(module)


@torch.no_grad()
def _copy_tensors(model: VLM, stored: StoredTensors, prefix: str) -> None:
    """Old values into the parameters whose names begin so: where those are hollow the tensors themselves."""
    assigned = dict[str, Tensor]()
    for name, parameter in model.named_parameters():
        if name not in stored or not name.startswith(prefix):
            continue
        if parameter.is_meta:
            assigned[name] = stored[name].to(parameter.dtype)
        else:
            parameter[: stored.shape(name)[0]].copy_(stored[name])
    model.load_state_dict(assigned, strict=False, assign=True)


def _train_state(model: VLM, optim: AdamWSpec, device: str) -> TrainState:
    model.to(device)
    model.lm.compute_dtype = torch.bfloat16
    optimizer = torch.optim.AdamW(
        _param_groups(model, optim),
        lr=0.0,  # every step sets it from its schedule
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )
    return TrainState(model=model, optimizer=optimizer, optim=optim, tokens_seen=Tokens(0))


def _param_groups(model: VLM, optim: AdamWSpec) -> list[dict[str, object]]:
    """What is trained, by its rate and decay; an encoder at rate 0 is held: no gradients, no moments, eval mode."""
    encoder_parameters = (
        list[nn.Parameter]() if not isinstance(model.vision, Encoder) else list(model.vision.parameters())
    )
    encoder_set = set(encoder_parameters)
    groups: list[dict[str, object]] = [
        {"params": [p for p in model.parameters() if p not in encoder_set], "scale": 1.0}
    ]
    if encoder_parameters and optim.encoder_lr_scale:
        groups.append(
            {"params": encoder_parameters, "scale": optim.encoder_lr_scale, "weight_decay": optim.encoder_weight_decay}
        )
    elif model.vision is not None and encoder_parameters:
        model.vision.requires_grad_(False).eval()
    return groups


def _has_towers(stored: StoredTensors) -> bool:
    return any(name.startswith(TOWER_PREFIX) for name in stored)


def _check_compatible(model: VLM, stored: StoredTensors, folder: Path) -> None:
    """Every old tensor has its place, and only sight may be new; an encoder is old as a whole or not at all."""
    parameters = dict(model.named_parameters())
    required_prefixes = ("lm.", TOWER_PREFIX) if _has_towers(stored) else ("lm.",)
    extra = [name for name in stored if name not in parameters]
    missing = [name for name in parameters if name not in stored and name.startswith(required_prefixes)]
    shapes = [
        name
        for name in stored
        if name in parameters and not _shapes_fit(name, stored.shape(name), parameters[name].shape)
    ]
    faults = (("not in the spec", extra), ("not in the checkpoint", missing), ("of another shape", shapes))
    message = "; ".join(f"{fault}: {', '.join(sorted(names))}" for fault, names in faults if names)
    if message:
        raise ModelError(f"{folder}: wanted a checkpoint that fits the spec. Got tensors {message}. Use its own spec.")


def _shapes_fit(name: str, old_shape: torch.Size, new_shape: torch.Size) -> bool:
    return old_shape[1:] == new_shape[1:] and (
        old_shape[0] == new_shape[0] or (name in GROWABLE_PARAMETERS and old_shape[0] < new_shape[0])
    )
