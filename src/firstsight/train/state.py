"""Weights, optimizer and tokens seen; and how a run branches into one with more parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from firstsight.errors import ModelError
from firstsight.model.vlm import VLM
from firstsight.model.weights import read_tensors
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.stages import Adam
from firstsight.units import Tokens

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
GROWS = ("lm.tok_embeddings.weight", "lm.output.weight")
"""Parameters with a row for each token: a branch may add rows at their end."""


@dataclass(kw_only=True, slots=True)
class TrainState:
    """All that a training step changes."""

    model: VLM
    optimizer: torch.optim.AdamW
    optim: Adam
    seen: Tokens
    """Tokens since the phase began, padding included."""


def fresh(spec: LMSpec | VLMSpec, optim: Adam, *, seed: int, device: str = "cpu") -> TrainState:
    """An untrained model; its decoder's weights depend on the seed alone, not on whether it has eyes."""
    model = VLM(spec)
    model.initialise(seed)
    return _state(model, optim, device)


def branch(
    folder: Path,
    spec: LMSpec | VLMSpec,
    optim: Adam,
    *,
    moments: Literal["carried", "fresh"],
    seed: int,
    device: str = "cpu",
) -> TrainState:
    """A new phase that starts from a checkpoint's weights, its clock at zero.

    Carried moments keep AdamW's averages and step of every old parameter; parameters that the checkpoint lacks
    (projector, patches, rows of new tokens) start fresh. Raises ModelError where the checkpoint does not fit the spec.
    """
    model = VLM(spec)
    model.initialise(seed)
    old = read_tensors(folder / "model.safetensors")
    _check(model, old, folder)
    state = _state(model, optim, device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in old:
                parameter[: len(old[name])].copy_(old[name])
    if moments == "carried":
        give_moments(state, read_tensors(folder / "optimizer.safetensors"))
    return state


def resume(folder: Path, spec: LMSpec | VLMSpec, optim: Adam, *, seen: Tokens, device: str = "cpu") -> TrainState:
    """The same phase going on: weights, moments and clock of a checkpoint."""
    state = branch(folder, spec, optim, moments="carried", seed=0, device=device)
    state.seen = seen
    return state


def take_moments(state: TrainState) -> dict[str, Tensor]:
    """AdamW's averages and steps as `<parameter>.exp_avg`, `.exp_avg_sq`, `.step`; none before the first update."""
    found = state.optimizer.state
    names = state.model.named_parameters()
    return {f"{name}.{key}": found[p][key] for name, p in names if p in found for key in MOMENTS}


def give_moments(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """What `take_moments` took, to the parameters of the same names; averages of new token rows are zero."""
    for name, parameter in state.model.named_parameters():
        if f"{name}.step" not in tensors:
            continue
        averages = {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS[:2]}
        for key, value in averages.items():
            old = tensors[f"{name}.{key}"]
            value[: len(old)].copy_(old)
        state.optimizer.state[parameter] = {"step": tensors[f"{name}.step"].clone(), **averages}


def _state(model: VLM, optim: Adam, device: str) -> TrainState:
    model.to(device)
    model.lm.compute = torch.bfloat16
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=0.0,  # every step sets it from its schedule
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.decay,
        fused=True,
    )
    return TrainState(model=model, optimizer=optimizer, optim=optim, seen=Tokens(0))


def _check(model: VLM, old: Mapping[str, Tensor], folder: Path) -> None:
    """Every old tensor has its place, and only sight may be new."""
    own = dict(model.named_parameters())
    extra = [name for name in old if name not in own]
    missing = [name for name in own if name not in old and name.startswith("lm.")]
    shapes = [name for name in old if name in own and not _fits(name, old[name].shape, own[name].shape)]
    faults = (("not in the spec", extra), ("not in the checkpoint", missing), ("of another shape", shapes))
    told = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in faults if names)
    if told:
        raise ModelError(f"{folder}: wanted a checkpoint that fits the spec. Got tensors {told}. Use its own spec.")


def _fits(name: str, old: torch.Size, new: torch.Size) -> bool:
    return old[1:] == new[1:] and (old[0] == new[0] or (name in GROWS and old[0] < new[0]))
