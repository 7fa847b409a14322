"""The training state (weights, optimizer, tokens seen), and how a run branches into a model with more parameters.

Models are built on the meta device and then filled, so that memory holds their weights once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from firstsight.errors import ModelError
from firstsight.model.tensors import StoredTensors, allocate_parameters, format_faults, meta_init
from firstsight.model.vision import Encoder, load_encoder
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.recipe.stages import AdamWSpec
from firstsight.units import Tokens

MOMENT_KEYS = ("exp_avg", "exp_avg_sq", "step")
GROWABLE_PARAMETERS = ("lm.tok_embeddings.weight", "lm.output.weight")
"""Parameters with one row a token: a branch may append rows."""
TOWER_PREFIX = "vision.towers."
"""Prefix of the names of a trained encoder's parameters."""


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
    spec: LMSpec | VLMSpec, optim: AdamWSpec, *, seed: int, device: str = "cpu", encoders: Sequence[Path] = ()
) -> TrainState:
    """An untrained model; the decoder's weights depend on the seed only, not on the vision part.

    A trained encoder starts from the published weights in the folders `encoders`, one for each tower.
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
    """A new phase from a checkpoint's weights, with no tokens seen and without moments (see `load_moments`).

    Parameters that the checkpoint lacks (projector, patch projection, rows of new tokens) are initialised, a trained
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
    return _train_state(model, optim, device)


def load_moments(state: TrainState, folder: Path) -> None:
    """Load AdamW's moments from a checkpoint for all parameters that it has and that are trained."""
    if not any(folder.glob("optimizer*.safetensors")):
        raise ModelError(f"{folder}: wanted the optimizer's moments. Got a checkpoint without. Say moments='fresh'.")
    assign_moments(state, StoredTensors(folder, "optimizer"))


def resume_state(
    folder: Path, spec: LMSpec, optim: AdamWSpec, *, tokens_seen: Tokens, device: str = "cpu"
) -> TrainState:
    """Weights, moments and tokens seen of a trunk's checkpoint, to continue the same phase."""
    state = branch_state(folder, spec, optim, seed=0, device=device)
    load_moments(state, folder)
    state.tokens_seen = tokens_seen
    return state


def collect_moments(state: TrainState) -> dict[str, Tensor]:
    """AdamW's moments as `<parameter>.exp_avg`, `.exp_avg_sq`, `.step`; empty before the first update."""
    moments = state.optimizer.state
    names = state.model.named_parameters()
    return {f"{name}.{key}": moments[p][key] for name, p in names if p in moments for key in MOMENT_KEYS}


def assign_moments(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """Set the moments of all trained parameters to those in `tensors`, named as by `collect_moments`.

    Moments of appended token rows are zero; those of untrained parameters are dropped.
    """
    for name, parameter in state.model.named_parameters():
        if f"{name}.step" not in tensors or not parameter.requires_grad:
            continue
        averages = {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENT_KEYS[:2]}
        for key, average in averages.items():
            stored = tensors[f"{name}.{key}"]
            average[: len(stored)].copy_(stored)
        step = tensors[f"{name}.step"].to(parameter.device, copy=True)
        state.optimizer.state[parameter] = {"step": step, **averages}


def _meta_model(spec: LMSpec | VLMSpec) -> VLM:
    with meta_init():
        return VLM(spec)


def _allocate_vision(model: VLM, folders: Sequence[Path]) -> None:
    """Allocate vision module and projector; an encoder that is still on the meta device gets its published weights."""
    vision = model.vision
    if isinstance(vision, Encoder) and any(parameter.is_meta for parameter in vision.parameters()):
        if len(folders) != len(vision.spec.towers):
            raise ModelError(
                f"a trained encoder starts from published weights: wanted {len(vision.spec.towers)} folders, one a "
                f"tower. Got {len(folders)}. Give the roles encoder0 and so on."
            )
        model.vision = load_encoder(vision.spec, folders).requires_grad_(True).train()
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
    """Trained parameters by rate and decay; an encoder at rate 0 gets no gradients, no moments, and eval mode."""
    encoder = list[nn.Parameter]() if not isinstance(model.vision, Encoder) else list(model.vision.parameters())
    encoder_set = set(encoder)
    others = [parameter for parameter in model.parameters() if parameter not in encoder_set]
    groups: list[dict[str, object]] = [{"params": others, "scale": 1.0}]
    if encoder and optim.encoder_lr_scale:
        decay = optim.encoder_weight_decay
        groups.append({"params": encoder, "scale": optim.encoder_lr_scale, "weight_decay": decay})
    elif model.vision is not None and encoder:
        model.vision.requires_grad_(False).eval()
    return groups


def _has_towers(stored: StoredTensors) -> bool:
    return any(name.startswith(TOWER_PREFIX) for name in stored)


def _check_compatible(model: VLM, stored: StoredTensors, folder: Path) -> None:
    """Check that the spec has all stored tensors, and that the checkpoint has the decoder and all towers or none."""
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
