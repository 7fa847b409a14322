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
from firstsight.recipe.model import LMSpec, Rope, openlm_spec

OPENLM_SIZE_KEYS = {"width": "hidden_dim", "layers": "n_layers", "heads": "n_heads", "vocab_size": "vocab_size"}
"""Our names of the sizes, and those of open_lm's model configs."""
OPENLM_KEY_ALIASES = {"dim": "hidden_dim", "norm_type": "model_norm", "apply_qk_norm": "qk_norm"}
"""Other names that its Params have."""
NORM_KEY, POSITIONS_KEY = "model_norm", "positional_embedding_type"
OPENLM_SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    NORM_KEY: ("gain_only_lp_layer_norm", "gain_only_layer_norm", "rms_norm"),
    POSITIONS_KEY: ("rotary",),
    "ffn_type": ("swiglu", "swiglu_torch"),
    "attn_name": ("auto", "xformers_attn", "torch_attn"),
    "post_embed_norm": (False,),
    "moe_freq": (0,),
}
"""What a setting must be where it is told; anything else would be another model."""
INV_FREQ_SUFFIX = ".pos_embed.inv_freq"
"""A buffer that open_lm stores with every layer: its rotary angles."""
WRAPPER_PREFIXES = ("module.", "model.")
"""What DistributedDataParallel and transformers put before a name."""
ADAMW_STATE_KEYS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenLMCheckpoint:
    """What a `.pt` file of open_lm holds that we read."""

    tensors: Mapping[str, Tensor]
    """Under open_lm's own names, angles left out; they lie in the file until they are used."""
    samples_seen: int | None
    """Rows trained on, where the run counted them."""


def read_openlm_settings(path: Path) -> dict[str, Any]:
    """A model config (.json), or the params.txt that open_lm writes beside a run; ModelError for another file."""
    try:
        text = path.read_text()
        if path.suffix == ".json":
            return dict(json.loads(text))
        lines = (line.partition(": ") for line in text.splitlines() if ": " in line)
        return {name.strip(): _parse_value(value.strip()) for name, _, value in lines}
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path}: wanted a model config (.json) or params.txt of open_lm. Got: {error}. Name the run's own."
        ) from error


def _parse_value(text: str) -> Any:
    """What Python printed, as the value that it was."""
    constants: dict[str, Any] = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
    if text in constants:
        return constants[text]
    for number_type in (int, float):
        try:
            return number_type(text)
        except ValueError:
            continue
    return text.strip("'\"")


def openlm_spec_from_settings(*settings_dicts: Mapping[str, Any]) -> LMSpec:
    """The decoder that open_lm's settings describe; where two places tell one, the first counts, as in open_lm.

    What none tells has open_lm's own default. ModelError names all that is missing and all that we lack.
    """
    merged_settings = {
        name: value for settings in reversed(settings_dicts) for name, value in _canonical_keys(settings).items()
    }
    sizes = {size: merged_settings.get(name) for size, name in OPENLM_SIZE_KEYS.items()}
    missing_keys = [OPENLM_SIZE_KEYS[size] for size, value in sizes.items() if not isinstance(value, int)]
    missing_keys += [name for name in (NORM_KEY, POSITIONS_KEY) if name not in merged_settings]
    if missing_keys:
        raise ModelError(
            f"open_lm's settings: wanted {', '.join(missing_keys)}. Got none told. Give --config with the run's model "
            "config (.json), all of these in it, or put the run's params.txt beside the checkpoint."
        )
    if unsupported := _unsupported_settings(merged_settings):
        raise ModelError(
            f"open_lm's settings: wanted its usual decoder. Got {', '.join(unsupported)}. Choose another run."
        )
    try:
        return replace(
            openlm_spec(**cast(dict[str, int], sizes)),
            norm="rms" if merged_settings[NORM_KEY] == "rms_norm" else "layer",
            eps=float(merged_settings.get("norm_eps", 1e-5)),
            qk_norm=bool(merged_settings.get("qk_norm", False)),
            ties_embeddings=bool(merged_settings.get("weight_tying", False)),
        )
    except (QuantityError, ValueError, TypeError) as error:
        raise ModelError(f"open_lm's settings: wanted the numbers of a decoder. Got: {error}") from error


def _canonical_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a place tells, under the names of open_lm's model configs."""
    defined_settings = {name: value for name, value in settings.items() if value is not None}
    return {
        OPENLM_KEY_ALIASES[name]: value for name, value in defined_settings.items() if name in OPENLM_KEY_ALIASES
    } | defined_settings


def _unsupported_settings(settings: Mapping[str, Any]) -> list[str]:
    """Settings under which the model is not ours, with their values."""
    return [
        f"{name} {settings[name]!r}"
        for name, supported_values in OPENLM_SUPPORTED_VALUES.items()
        if name in settings and settings[name] not in supported_values
    ]


def openlm_tensor_names(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, str]:
    """Our name (without `lm.`) of every tensor, in the model's order, with the name that it has there.

    Rotary angles and a tied model's second copy of the embeddings are left out where they are what they should be;
    ModelError for angles that are not open_lm's.
    """
    stored_names = {strip_wrapper_prefixes(name): name for name in tensors}
    for inv_freq_name in [name for name in stored_names if name.endswith(INV_FREQ_SUFFIX)]:
        _check_inv_freq(tensors[stored_names.pop(inv_freq_name)], spec, inv_freq_name)
    embedding_name, head_name = stored_names.get("tok_embeddings.weight"), stored_names.get("output.weight")
    if (
        spec.ties_embeddings
        and embedding_name
        and head_name
        and torch.equal(tensors[embedding_name], tensors[head_name])
    ):
        del stored_names["output.weight"]
    return stored_names


def strip_wrapper_prefixes(name: str) -> str:
    """A tensor's name without what training and publishing put around it."""
    name = name.replace("_orig_mod.", "")
    for prefix in WRAPPER_PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _check_inv_freq(inv_freq: Tensor, spec: LMSpec, name: str) -> None:
    assert isinstance(spec.rope, Rope)
    expected_inv_freq = spec.rope.base ** (-torch.arange(0, spec.head_dim, 2, dtype=torch.float64) / spec.head_dim)
    if inv_freq.shape != expected_inv_freq.shape or not torch.allclose(
        inv_freq.double(), expected_inv_freq, rtol=1e-2
    ):  # they may be kept in bf16
        raise ModelError(
            f"{name}: wanted the angles of base {spec.rope.base:g} for heads of {spec.head_dim}. Got others, "
            f"{list(inv_freq.shape)}. Check n_heads in the configuration."
        )


def read_openlm_checkpoint(path: Path) -> OpenLMCheckpoint:
    """The model of a `.pt` checkpoint, as open_lm saves it or as bare tensors; nothing in the file is executed.

    Raises ModelError for a file that would run something when it is loaded, and for one that holds no model.
    """
    checkpoint = _load_tensors_only(path)
    tensors = checkpoint.get("state_dict", checkpoint)
    if (
        not isinstance(tensors, dict)
        or not tensors
        or not all(isinstance(tensor, Tensor) for tensor in tensors.values())
    ):
        key_list = ", ".join(sorted(map(str, checkpoint))[:8]) or "nothing"
        raise ModelError(f"{path}: wanted a model's state_dict. Got {key_list}. Name the file epoch_N.pt of a run.")
    samples_seen = checkpoint.get("samples_seen")
    return OpenLMCheckpoint(
        tensors=tensors, samples_seen=int(samples_seen) if isinstance(samples_seen, int | np.integer) else None
    )


def _numpy_globals() -> list[Any]:
    """What numpy's numbers are pickled with: open_lm keeps intervals of its validation losses as such; none runs."""
    dtype_classes = {type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "bool")}
    scalar: Any = np.float64(0).__reduce__()[0]
    return [
        np.dtype,
        *dtype_classes,
        *((scalar, f"numpy.{core_module}.multiarray.scalar") for core_module in ("core", "_core")),
    ]


def _load_tensors_only(path: Path) -> dict[str, Any]:
    try:
        with safe_globals(_numpy_globals()):
            checkpoint = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        description = f"a pickle that calls {match[1]}" if match else "a pickle that holds more"
        raise ModelError(
            f"{path}: wanted tensors and plain values alone. Got {description}; nothing of it was run. "
            "Do not trust this file; ask who made it for safetensors, or for torch.save of its state_dict alone."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ModelError(
            f"{path}: wanted a whole .pt file as torch.save writes it since 1.6. Got: {reason}. Copy it again."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ModelError(
            f"{path}: wanted a checkpoint. Got a {type(checkpoint).__name__}. Name the epoch_N.pt of a run."
        )
    return cast(dict[str, Any], checkpoint)


def read_openlm_moments(path: Path, tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """AdamW's averages and steps of an `optimizer_N.pt`, as `<our name>.exp_avg`, for the model `tensors` beside it.

    FSDP names its parameters; a plain optimizer numbers them in the model's own order. Raises ModelError where they
    are not AdamW's, or not of this model.
    """
    optimizer_state = _load_tensors_only(path).get("optimizer")
    if not isinstance(optimizer_state, dict) or not isinstance(optimizer_state.get("state"), dict):
        raise ModelError(f"{path}: wanted an optimizer's state. Got none. Name the run's own optimizer_N.pt.")
    shapes = {name: tensors[stored_name].shape for name, stored_name in openlm_tensor_names(tensors, spec).items()}
    parameter_states = cast(dict[Any, dict[str, Any]], optimizer_state["state"])
    if all(isinstance(key, int) for key in parameter_states):
        _check_parameter_order(path, cast(dict[str, Any], optimizer_state), shapes)
        parameter_names = list(shapes)
        states_by_name = {
            parameter_names[position]: parameter_state for position, parameter_state in parameter_states.items()
        }
    else:
        states_by_name = {
            strip_wrapper_prefixes(str(key)): parameter_state for key, parameter_state in parameter_states.items()
        }
    _check_moments(path, states_by_name, shapes)
    return {
        f"lm.{name}.{key}": parameter_state[key] if key != "step" else torch.tensor(float(parameter_state[key]))
        for name, parameter_state in states_by_name.items()
        for key in ADAMW_STATE_KEYS
    }


def _check_parameter_order(path: Path, optimizer_state: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> None:
    """Numbers mean something only where they count the model's parameters one after the other."""
    parameter_indices = [
        parameter_index for group in optimizer_state.get("param_groups", []) for parameter_index in group["params"]
    ]
    if parameter_indices != list(range(len(shapes))):
        raise ModelError(
            f"{path}: wanted moments numbered like the model's {len(shapes)} tensors. Got {len(parameter_indices)} parameters "
            "in another order. Import without this file beside the model, and start with fresh moments."
        )


def _check_moments(
    path: Path, states_by_name: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, torch.Size]
) -> None:
    faults = [f"{name} (missing)" for name in sorted(shapes.keys() - states_by_name.keys())]
    faults += [f"{name} (not in the model)" for name in sorted(states_by_name.keys() - shapes.keys())]
    for name in sorted(states_by_name.keys() & shapes.keys()):
        if sorted(states_by_name[name]) != sorted(ADAMW_STATE_KEYS):
            faults.append(f"{name} ({', '.join(sorted(states_by_name[name]))})")
        elif any(states_by_name[name][key].shape != shapes[name] for key in ADAMW_STATE_KEYS[:2]):
            faults.append(f"{name} (another shape)")
    if faults:
        raise ModelError(
            f"{path}: wanted AdamW's {', '.join(ADAMW_STATE_KEYS)} of every tensor of the model. Got {'; '.join(faults)}. "
            "Put the optimizer file of the same epoch beside the model, or none."
        )
