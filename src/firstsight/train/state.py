"""The training state (weights, optimizer, tokens seen): how it starts, branches into a larger model, and is saved.

Resume points are files of a `resume_folder.ResumeFolder`: weights and moments, beside the log and the sample ledger.
Models are built on the meta device, so that memory has weights only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import ModelError
from firstsight.model import checkpoint_io
from firstsight.model.tensors import (
    StoredTensors,
    allocate_parameters,
    format_faults,
    load_weights,
    meta_init,
    write_tensors,
)
from firstsight.model.vision import Encoder, load_encoder
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.recipe.stages import AdamWSpec, Pretrain, Trains
from firstsight.resume_folder import ResumeFolder
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
    assign_moments(state, StoredTensors(folder, "optimizer"))


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


def assign_moments(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """Set the moments of all trained parameters to those in `tensors`, named as by `collect_moments`.

    Moments of appended embedding rows are zero; those of untrained parameters are dropped.
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
    model.to(device)
    model.lm.compute_dtype = torch.bfloat16
    optimizer = torch.optim.AdamW(
        _param_groups(model, trains),
        lr=0.0,  # every step sets it from its schedule
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        fused=True,
    )
    return TrainState(model=model, optimizer=optimizer, optim=optim, tokens_seen=Tokens(0))


def _param_groups(model: VLM, trains: Trains) -> list[dict[str, object]]:
    """The parameters of each trained module with its rate and decay; frozen ones get no gradients, and eval mode."""
    vision_training = trains.encoder if isinstance(model.vision, Encoder) else trains.projector
    modules = ((model.lm, trains.decoder), (model.projector, trains.projector), (model.vision, vision_training))
    groups: list[dict[str, object]] = []
    for module, training in modules:
        if module is None:
            continue
        module.requires_grad_(training is not None).train(training is not None)
        if training is not None:
            decay = training.weight_decay
            groups.append({"params": list(module.parameters()), "scale": training.lr_scale, "weight_decay": decay})
    return groups


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


def save_resume_point(
    resume: ResumeFolder, state: TrainState, extra_state: Mapping[str, Any], *, earlier: Iterable[Path] = ()
) -> None:
    """Make `state` and `extra_state` (plain JSON) the resume point; older ones are deleted.

    `earlier`: files of earlier weights in the folder that are kept (`LastWeights.files`).
    """
    if resume.state is not None and resume.state["seen"] == state.tokens_seen:
        return  # a point is not written over itself
    weights, moments = _tensor_file_names(state.tokens_seen)
    files = write_tensors(resume.path, state.model.state_dict(), name=weights)
    files += write_tensors(resume.path, collect_moments(state), name=moments)
    resume.save({"seen": state.tokens_seen, "extra": extra_state}, [*files, *earlier])


def load_resume_point(resume: ResumeFolder, state: TrainState) -> dict[str, Any] | None:
    """Set `state` to the resume point and return its `extra_state`; None if there is none that fits.

    A point that is damaged, or that a firstsight with other parameters wrote, is set aside.
    """
    if (point := resume.restore()) is None:
        return None
    weights, moments = (StoredTensors(resume.path, name) for name in _tensor_file_names(point["seen"]))
    try:
        load_weights(state.model, weights, location=resume.path)
    except ModelError as error:
        resume.set_aside(str(error))
        return None
    assign_moments(state, moments)
    state.tokens_seen = Tokens(point["seen"])
    return point["extra"]


class LastWeights:
    """The weights that a step publishes besides those at its end; until then they are in its resume folder."""

    def __init__(self, resume: ResumeFolder, checkpoint_tokens: Sequence[int]) -> None:
        """`checkpoint_tokens`: tokens seen at each published checkpoint, the one at the end first."""
        self._resume = resume
        self._tokens = {number: tokens for number, tokens in enumerate(checkpoint_tokens) if number}

    def write_due(self, state: TrainState) -> bool:
        """Write the weights if they are to be published; whether they are. A resume point must follow."""
        due = [number for number, tokens in self._tokens.items() if tokens == state.tokens_seen]
        for number in due:
            write_tensors(self._resume.path, state.model.state_dict(), name=_last_name(number))
        return bool(due)

    def files(self, tokens_seen: int) -> list[Path]:
        """The files of the weights up to `tokens_seen`."""
        written = [number for number, tokens in self._tokens.items() if tokens <= tokens_seen]
        return [file for number in written for file in sorted(self._resume.path.glob(f"{_last_name(number)}[-.]*"))]

    def publish(self, folder: Path) -> None:
        """Write a checkpoint of each into the finished checkpoint `folder`."""
        for number, tokens in self._tokens.items():
            weights = StoredTensors(self._resume.path, _last_name(number))
            target = checkpoint_io.last_checkpoint(folder, number)
            checkpoint_io.save_with_weights(target, weights, checkpoint=folder, tokens_seen=tokens)


def _last_name(number: int) -> str:
    return f"last-{number}-model"


def write_checkpoint(folder: Path, state: TrainState, *, tokenizer: Path, encoders: Sequence[Path]) -> None:
    """Write a checkpoint folder: weights, optimizer moments, spec, tokenizer and an external encoder's folders."""
    checkpoint_io.save(folder, state.model, tokens_seen=state.tokens_seen, tokenizer=tokenizer, encoders=encoders)
    write_tensors(folder, collect_moments(state), name="optimizer")


def _tensor_file_names(tokens_seen: int) -> tuple[str, str]:
    return f"{tokens_seen:015d}-model", f"{tokens_seen:015d}-optimizer"
