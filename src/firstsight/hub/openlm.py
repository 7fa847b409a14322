"""OpenLM as it is published: `.pt` checkpoints of open_lm and DCLM with their optimizer, and Hugging Face folders.

Source: open_lm's main.py (save_checkpoint, params.txt), model.py (Params, create_params), norms.py and open_lm/hf.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

from firstsight.errors import ModelError, QuantityError
from firstsight.recipe.lm import LMSpec, Rope, openlm

SIZES = {"width": "hidden_dim", "layers": "n_layers", "heads": "n_heads", "vocabulary": "vocab_size"}
"""Our names of the sizes, and those of open_lm's model configs."""
ALSO = {"dim": "hidden_dim", "norm_type": "model_norm", "apply_qk_norm": "qk_norm"}
"""Other names that its Params have."""
NORM, POSITIONS = "model_norm", "positional_embedding_type"
PLAIN: dict[str, tuple[Any, ...]] = {
    NORM: ("gain_only_lp_layer_norm", "gain_only_layer_norm", "rms_norm"),
    POSITIONS: ("rotary",),
    "ffn_type": ("swiglu", "swiglu_torch"),
    "attn_name": ("auto", "xformers_attn", "torch_attn"),
    "post_embed_norm": (False,),
    "moe_freq": (0,),
}
"""What a setting must be where it is told; anything else would be another model."""
ANGLES = ".pos_embed.inv_freq"
"""A buffer that open_lm stores with every layer: its rotary angles."""
WRAPPED = ("module.", "model.")
"""What DistributedDataParallel and transformers put before a name."""
AVERAGES = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a `.pt` file of open_lm holds that we read."""

    tensors: Mapping[str, Tensor]
    """Under open_lm's own names, angles left out; they lie in the file until they are used."""
    samples: int | None
    """Rows trained on, where the run counted them."""


def settings(file: Path) -> dict[str, Any]:
    """A model config (.json), or the params.txt that open_lm writes beside a run; ModelError for another file."""
    try:
        text = file.read_text()
        if file.suffix == ".json":
            return dict(json.loads(text))
        lines = (line.partition(": ") for line in text.splitlines() if ": " in line)
        return {name.strip(): _value(told.strip()) for name, _, told in lines}
    except (OSError, ValueError, TypeError) as problem:
        raise ModelError(
            f"{file}: wanted a model config (.json) or params.txt of open_lm. Got: {problem}. Name the run's own."
        ) from problem


def _value(told: str) -> Any:
    """What Python printed, as the value that it was."""
    words: dict[str, Any] = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
    if told in words:
        return words[told]
    for kind in (int, float):
        try:
            return kind(told)
        except ValueError:
            continue
    return told.strip("'\"")


def spec_of(*places: Mapping[str, Any]) -> LMSpec:
    """The decoder that open_lm's settings describe; where two places tell one, the first counts, as in open_lm.

    What none tells has open_lm's own default. ModelError names all that is missing and all that we lack.
    """
    given = {name: told for place in reversed(places) for name, told in _called(place).items()}
    sizes = {ours: given.get(name) for ours, name in SIZES.items()}
    lacking = [SIZES[ours] for ours, told in sizes.items() if not isinstance(told, int)]
    lacking += [name for name in (NORM, POSITIONS) if name not in given]
    if lacking:
        raise ModelError(
            f"open_lm's settings: wanted {', '.join(lacking)}. Got none told. Give --config with the run's model "
            "config (.json), all of these in it, or put the run's params.txt beside the checkpoint."
        )
    if foreign := _foreign(given):
        raise ModelError(f"open_lm's settings: wanted its usual decoder. Got {', '.join(foreign)}. Choose another run.")
    try:
        return replace(
            openlm(**cast(dict[str, int], sizes)),
            norm="rms" if given[NORM] == "rms_norm" else "layer",
            eps=float(given.get("norm_eps", 1e-5)),
            qk_norm=bool(given.get("qk_norm", False)),
            tied=bool(given.get("weight_tying", False)),
        )
    except (QuantityError, ValueError, TypeError) as problem:
        raise ModelError(f"open_lm's settings: wanted the numbers of a decoder. Got: {problem}") from problem


def _called(place: Mapping[str, Any]) -> dict[str, Any]:
    """What a place tells, under the names of open_lm's model configs."""
    told = {name: value for name, value in place.items() if value is not None}
    return {ALSO[name]: value for name, value in told.items() if name in ALSO} | told


def _foreign(given: Mapping[str, Any]) -> list[str]:
    """Settings under which the model is not ours, with their values."""
    return [f"{name} {given[name]!r}" for name, good in PLAIN.items() if name in given and given[name] not in good]


def named(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, str]:
    """Our name (without `lm.`) of every tensor, in the model's order, with the name that it has there.

    Rotary angles and a tied model's second copy of the embeddings are left out where they are what they should be;
    ModelError for angles that are not open_lm's.
    """
    found = {plain(name): name for name in tensors}
    for ours in [name for name in found if name.endswith(ANGLES)]:
        _check_angles(tensors[found.pop(ours)], spec, ours)
    words, head = found.get("tok_embeddings.weight"), found.get("output.weight")
    if spec.tied and words and head and torch.equal(tensors[words], tensors[head]):
        del found["output.weight"]
    return found


def plain(name: str) -> str:
    """A tensor's name without what training and publishing put around it."""
    name = name.replace("_orig_mod.", "")
    for prefix in WRAPPED:
        name = name.removeprefix(prefix)
    return name


def _check_angles(told: Tensor, spec: LMSpec, name: str) -> None:
    assert isinstance(spec.rope, Rope)
    own = spec.rope.base ** (-torch.arange(0, spec.head, 2, dtype=torch.float64) / spec.head)
    if told.shape != own.shape or not torch.allclose(told.double(), own, rtol=1e-2):  # they may be kept in bf16
        raise ModelError(
            f"{name}: wanted the angles of base {spec.rope.base:g} for heads of {spec.head}. Got others, "
            f"{list(told.shape)}. Check n_heads in the configuration."
        )


def read(file: Path) -> Checkpoint:
    """The model of a `.pt` checkpoint, as open_lm saves it or as bare tensors; nothing in the file is executed.

    Raises ModelError for a file that would run something when it is loaded, and for one that holds no model.
    """
    body = _loaded(file)
    tensors = body.get("state_dict", body)
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(one, Tensor) for one in tensors.values()):
        held = ", ".join(sorted(map(str, body))[:8]) or "nothing"
        raise ModelError(f"{file}: wanted a model's state_dict. Got {held}. Name the file epoch_N.pt of a run.")
    samples = body.get("samples_seen")
    return Checkpoint(tensors=tensors, samples=int(samples) if isinstance(samples, int | np.integer) else None)


def _numbers() -> list[Any]:
    """What numpy's numbers are pickled with: open_lm keeps intervals of its validation losses as such; none runs."""
    kinds = {type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "bool")}
    scalar: Any = np.float64(0).__reduce__()[0]
    return [np.dtype, *kinds, *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))]


def _loaded(file: Path) -> dict[str, Any]:
    try:
        with safe_globals(_numbers()):
            body = torch.load(file, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError as problem:
        called = re.search(r"GLOBAL (\S+)", str(problem))
        what = f"a pickle that calls {called[1]}" if called else "a pickle that holds more"
        raise ModelError(
            f"{file}: wanted tensors and plain values alone. Got {what}; nothing of it was run. "
            "Do not trust this file; ask who made it for safetensors, or for torch.save of its state_dict alone."
        ) from problem
    except (RuntimeError, OSError, EOFError, ValueError) as problem:
        reason = str(problem).partition("\n")[0].rstrip(".")
        raise ModelError(
            f"{file}: wanted a whole .pt file as torch.save writes it since 1.6. Got: {reason}. Copy it again."
        ) from problem
    if not isinstance(body, dict):
        raise ModelError(f"{file}: wanted a checkpoint. Got a {type(body).__name__}. Name the epoch_N.pt of a run.")
    return cast(dict[str, Any], body)


def moments(file: Path, tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """AdamW's averages and steps of an `optimizer_N.pt`, as `<our name>.exp_avg`, for the model `tensors` beside it.

    FSDP names its parameters; a plain optimizer numbers them in the model's own order. Raises ModelError where they
    are not AdamW's, or not of this model.
    """
    body = _loaded(file).get("optimizer")
    if not isinstance(body, dict) or not isinstance(body.get("state"), dict):
        raise ModelError(f"{file}: wanted an optimizer's state. Got none. Name the run's own optimizer_N.pt.")
    shapes = {name: tensors[there].shape for name, there in named(tensors, spec).items()}
    state = cast(dict[Any, dict[str, Any]], body["state"])
    if all(isinstance(key, int) for key in state):
        _check_numbers(file, cast(dict[str, Any], body), shapes)
        own = list(shapes)
        found = {own[number]: one for number, one in state.items()}
    else:
        found = {plain(str(key)): one for key, one in state.items()}
    _check_moments(file, found, shapes)
    return {
        f"lm.{name}.{key}": one[key] if key != "step" else torch.tensor(float(one[key]))
        for name, one in found.items()
        for key in AVERAGES
    }


def _check_numbers(file: Path, body: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> None:
    """Numbers mean something only where they count the model's parameters one after the other."""
    numbers = [number for group in body.get("param_groups", []) for number in group["params"]]
    if numbers != list(range(len(shapes))):
        raise ModelError(
            f"{file}: wanted moments numbered like the model's {len(shapes)} tensors. Got {len(numbers)} parameters "
            "in another order. Import without this file beside the model, and start with fresh moments."
        )


def _check_moments(file: Path, found: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, torch.Size]) -> None:
    faults = [f"{name} (missing)" for name in sorted(shapes.keys() - found.keys())]
    faults += [f"{name} (not in the model)" for name in sorted(found.keys() - shapes.keys())]
    for name in sorted(found.keys() & shapes.keys()):
        if sorted(found[name]) != sorted(AVERAGES):
            faults.append(f"{name} ({', '.join(sorted(found[name]))})")
        elif any(found[name][key].shape != shapes[name] for key in AVERAGES[:2]):
            faults.append(f"{name} (another shape)")
    if faults:
        raise ModelError(
            f"{file}: wanted AdamW's {', '.join(AVERAGES)} of every tensor of the model. Got {'; '.join(faults)}. "
            "Put the optimizer file of the same epoch beside the model, or none."
        )
