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
from firstsight.model.lm import allocate
from firstsight.model.vision import Encoder, load_encoder
from firstsight.model.vlm import VLM
from firstsight.model.weights import Stored, hollow
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.stages import Adam
from firstsight.units import Tokens

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
GROWS = ("lm.tok_embeddings.weight", "lm.output.weight")
"""Parameters with a row for each token: a branch may add rows at their end."""
TOWERS = "vision.towers."
"""Begins the names of a trained encoder's parameters."""


@dataclass(kw_only=True, slots=True)
class TrainState:
    """All that a training step changes."""

    model: VLM
    optimizer: torch.optim.AdamW
    """Each of its groups has a `scale`: its rate in times the schedule's."""
    optim: Adam
    seen: Tokens
    """Tokens since the phase began, padding included."""


def fresh(
    spec: LMSpec | VLMSpec, optim: Adam, *, seed: int, device: str = "cpu", encoders: Sequence[Path] = ()
) -> TrainState:
    """An untrained model; its decoder's weights depend on the seed alone, not on whether it has eyes.

    A trained encoder begins with the published weights in the folders `encoders`, one for each tower.
    """
    model = _blank(spec)
    allocate(model.lm)
    _open_eyes(model, encoders)
    model.initialise(seed)
    return _state(model, optim, device)


def branch(
    folder: Path,
    spec: LMSpec | VLMSpec,
    optim: Adam,
    *,
    seed: int,
    device: str = "cpu",
    encoders: Sequence[Path] = (),
) -> TrainState:
    """A new phase that starts from a checkpoint's weights, its clock at zero and without moments (see `carry`).

    Parameters that the checkpoint lacks (projector, patches, rows of new tokens) start fresh, a trained encoder that
    it lacks from the folders `encoders`. Raises ModelError where the checkpoint does not fit the spec.
    """
    model, old = _blank(spec), Stored(folder)
    _check(model, old, folder)
    if any(name in old and old.shape(name) != model.get_parameter(name).shape for name in GROWS):
        allocate(model.lm)
        model.lm.initialise(torch.Generator().manual_seed(seed))
    if _has_towers(old):
        _put(model, old, TOWERS)
    _open_eyes(model, encoders)
    model.initialise_sight(seed)
    _put(model, old, "")
    return _state(model, optim, device)


def carry(state: TrainState, folder: Path) -> None:
    """AdamW's averages and step of every old parameter that goes on being trained; new ones start without."""
    if not any(folder.glob("optimizer*.safetensors")):
        raise ModelError(f"{folder}: wanted the optimizer's moments. Got a checkpoint without. Say moments='fresh'.")
    give_moments(state, Stored(folder, "optimizer"))


def resume(folder: Path, spec: LMSpec, optim: Adam, *, seen: Tokens, device: str = "cpu") -> TrainState:
    """The same phase of a trunk going on: weights, moments and clock of a checkpoint."""
    state = branch(folder, spec, optim, seed=0, device=device)
    carry(state, folder)
    state.seen = seen
    return state


def take_moments(state: TrainState) -> dict[str, Tensor]:
    """AdamW's averages and steps as `<parameter>.exp_avg`, `.exp_avg_sq`, `.step`; none before the first update."""
    found = state.optimizer.state
    names = state.model.named_parameters()
    return {f"{name}.{key}": found[p][key] for name, p in names if p in found for key in MOMENTS}


def give_moments(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """What `take_moments` took, to the parameters of the same names that are trained.

    Averages of new token rows are zero. A parameter that is held needs none, and what there was is forgotten.
    """
    for name, parameter in state.model.named_parameters():
        if f"{name}.step" not in tensors or not parameter.requires_grad:
            continue
        averages = {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS[:2]}
        for key, value in averages.items():
            old = tensors[f"{name}.{key}"]
            value[: len(old)].copy_(old)
        step = tensors[f"{name}.step"].to(parameter.device, copy=True)
        state.optimizer.state[parameter] = {"step": step, **averages}


def _blank(spec: LMSpec | VLMSpec) -> VLM:
    with hollow():
        return VLM(spec)


def _open_eyes(model: VLM, folders: Sequence[Path]) -> None:
    """Memory for all that sees, and a trained encoder's published weights unless it has its own by now."""
    vision = model.vision
    if isinstance(vision, Encoder) and any(parameter.is_meta for parameter in vision.parameters()):
        if len(folders) != len(vision.spec.towers):
            raise ModelError(
                f"a trained encoder begins with published weights: wanted {len(vision.spec.towers)} folders, one a "
                f"tower. Got {len(folders)}. Give the roles encoder0 and so on."
            )
        model.vision = load_encoder(vision.spec, folders).requires_grad_(True).train()
    for part in (model.vision, model.projector):
        if part is not None:
            allocate(part)


@torch.no_grad()
def _put(model: VLM, old: Stored, begins: str) -> None:
    """Old values into the parameters whose names begin so: where those are hollow the tensors themselves."""
    taken = dict[str, Tensor]()
    for name, parameter in model.named_parameters():
        if name not in old or not name.startswith(begins):
            continue
        if parameter.is_meta:
            taken[name] = old[name].to(parameter.dtype)
        else:
            parameter[: old.shape(name)[0]].copy_(old[name])
    model.load_state_dict(taken, strict=False, assign=True)


def _state(model: VLM, optim: Adam, device: str) -> TrainState:
    model.to(device)
    model.lm.compute = torch.bfloat16
    optimizer = torch.optim.AdamW(
        _groups(model, optim),
        lr=0.0,  # every step sets it from its schedule
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.decay,
        fused=True,
    )
    return TrainState(model=model, optimizer=optimizer, optim=optim, seen=Tokens(0))


def _groups(model: VLM, optim: Adam) -> list[dict[str, object]]:
    """What is trained, by its rate and decay; an encoder at rate 0 is held: no gradients, no moments, eval mode."""
    own = list[nn.Parameter]() if not isinstance(model.vision, Encoder) else list(model.vision.parameters())
    apart = set(own)
    groups: list[dict[str, object]] = [{"params": [p for p in model.parameters() if p not in apart], "scale": 1.0}]
    if own and optim.encoder_rate:
        groups.append({"params": own, "scale": optim.encoder_rate, "weight_decay": optim.encoder_decay})
    elif model.vision is not None and own:
        model.vision.requires_grad_(False).eval()
    return groups


def _has_towers(old: Stored) -> bool:
    return any(name.startswith(TOWERS) for name in old)


def _check(model: VLM, old: Stored, folder: Path) -> None:
    """Every old tensor has its place, and only sight may be new; an encoder is old as a whole or not at all."""
    own = dict(model.named_parameters())
    needed = ("lm.", TOWERS) if _has_towers(old) else ("lm.",)
    extra = [name for name in old if name not in own]
    missing = [name for name in own if name not in old and name.startswith(needed)]
    shapes = [name for name in old if name in own and not _fits(name, old.shape(name), own[name].shape)]
    faults = (("not in the spec", extra), ("not in the checkpoint", missing), ("of another shape", shapes))
    told = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in faults if names)
    if told:
        raise ModelError(f"{folder}: wanted a checkpoint that fits the spec. Got tensors {told}. Use its own spec.")


def _fits(name: str, old: torch.Size, new: torch.Size) -> bool:
    return old[1:] == new[1:] and (old[0] == new[0] or (name in GROWS and old[0] < new[0]))
