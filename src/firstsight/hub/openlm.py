"""OpenLM as published: `.pt` checkpoints of open_lm and DCLM with their optimizer, and Hugging Face folders.

Source: open_lm's main.py (save_checkpoint, params.txt), model.py (Params, create_params), norms.py and open_lm/hf.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

from firstsight.errors import ModelError, QuantityError
from firstsight.hub.public_weights import (
    PublicWeights,
    SupportedValues,
    check_tensors,
    hf_folder_files,
    model_shapes,
    nested_settings,
    prefix_errors,
    unsupported_settings,
)
from firstsight.limits import check_limit, check_model_sizes, read_file, read_settings
from firstsight.model.tensors import StoredTensors, shapes_and_dtypes, unwrapped_name
from firstsight.recipe.model import LMSpec, Rope, openlm_spec

OPENLM_SIZE_KEYS = {"width": "hidden_dim", "layers": "n_layers", "heads": "n_heads", "vocab_size": "vocab_size"}
"""Parameters of `openlm_spec`, and their keys in open_lm's model configs."""
OPENLM_KEY_ALIASES = {"dim": "hidden_dim", "norm_type": "model_norm", "apply_qk_norm": "qk_norm"}
"""Other names of these keys in open_lm's Params."""
NORM_KEY, POSITIONS_KEY = "model_norm", "positional_embedding_type"
OPENLM_SUPPORTED_VALUES: SupportedValues = {
    NORM_KEY: ("gain_only_lp_layer_norm", "gain_only_layer_norm", "rms_norm"),
    POSITIONS_KEY: ("rotary",),
    "ffn_type": ("swiglu", "swiglu_torch"),
    "attn_name": ("auto", "xformers_attn", "torch_attn"),
    "post_embed_norm": (False,),
    "moe_freq": (0,),
}
INV_FREQ_SUFFIX = ".pos_embed.inv_freq"
"""The buffer of rotary frequencies that open_lm stores with every layer."""
ADAMW_STATE_KEYS = ("exp_avg", "exp_avg_sq", "step")


def read_openlm_file(path: Path, config_path: Path | None) -> PublicWeights:
    """The weights of a `.pt` checkpoint, with AdamW's moments if the optimizer's file is in the same folder."""
    params = [file for folder in path.parents[:2] if (file := folder / "params.txt").is_file()][:1]
    settings_files = [*([config_path] if config_path else []), *params]
    settings = [read_openlm_settings(file) for file in settings_files]
    with prefix_errors(path):
        spec = openlm_spec_from_settings(*settings)
    tensors, rows_seen = read_openlm_checkpoint(path)
    lengths = [values["seq_len"] for values in settings if isinstance(values.get("seq_len"), int)]
    tokens_seen = lengths[0] * rows_seen if lengths and rows_seen is not None else None
    weights = replace(_checked_weights(path, spec, tensors, files=(path, *settings_files)), tokens_seen=tokens_seen)
    optimizer = path.with_name(path.name.replace("epoch_", "optimizer_"))
    if optimizer == path or not optimizer.is_file():
        return weights
    moments = read_openlm_moments(optimizer, tensors, spec)
    return replace(weights, moments=moments, files=(*weights.files, optimizer))


def read_openlm_folder(path: Path, config: Mapping[str, Any], config_path: Path | None) -> PublicWeights:
    """The weights of a folder in transformers' layout; settings are in config.json and its params_args_dict."""
    with prefix_errors(path):
        settings = [read_openlm_settings(config_path)] if config_path else []
        spec = openlm_spec_from_settings(*settings, config, nested_settings(config, "params_args_dict"))
        stored = StoredTensors(path, is_public=True)
        files = (*hf_folder_files(path, stored), *([config_path] if config_path else []))
        return replace(_checked_weights(path, spec, stored, files=files), stored_names=stored.stored_names)


def _checked_weights(path: Path, spec: LMSpec, data: Mapping[str, Tensor], *, files: tuple[Path, ...]) -> PublicWeights:
    names, shapes, actual = openlm_tensor_names(data, spec), model_shapes(spec), shapes_and_dtypes(data)
    sources = {name: names.get(name.removeprefix("lm."), name.removeprefix("lm.")) for name in shapes}
    expected = {sources[name]: shape for name, shape in shapes.items()}
    check_tensors(path, expected, {name: actual[name] for name in names.values()})
    source_names = {name: (source,) for name, source in sources.items()}
    return PublicWeights(
        spec=spec, tensors=data, source_names=source_names, stored_names=tuple(data), files=files, tokens_seen=None
    )


def read_openlm_settings(path: Path) -> dict[str, Any]:
    """The settings of a model config (.json) or of a run's params.txt; ModelError for another file."""
    try:
        if path.suffix == ".json":
            return read_settings(path)
        text = read_file(path, "settings").decode()
        lines = (line.partition(": ") for line in text.splitlines() if ": " in line)
        settings = {name.strip(): _parse_value(value.strip()) for name, _, value in lines}
        check_model_sizes(settings, path)
        return settings
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: wanted a model config (.json) or params.txt of open_lm. Got: {error}. Name the run's own file."
        ) from error


def _parse_value(text: str) -> Any:
    constants: dict[str, Any] = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
    if text in constants:
        return constants[text]
    for number_type in (int, float):
        try:
            return number_type(text)
        except ValueError:
            continue
    return text.strip("'\"")


def openlm_spec_from_settings(*sources: Mapping[str, Any]) -> LMSpec:
    """The decoder that open_lm's settings describe; the first source of a setting applies, as in open_lm.

    A missing setting has open_lm's default. ModelError names all required settings that are missing, and all values
    that are not supported.
    """
    settings = {name: value for source in reversed(sources) for name, value in _canonical_keys(source).items()}
    sizes = {size: settings.get(name) for size, name in OPENLM_SIZE_KEYS.items()}
    missing = [OPENLM_SIZE_KEYS[size] for size, value in sizes.items() if not isinstance(value, int)]
    missing += [name for name in (NORM_KEY, POSITIONS_KEY) if name not in settings]
    if missing:
        raise ModelError(
            f"open_lm's settings: wanted {', '.join(missing)}. Got none. Give --config with the run's model config "
            "(.json) that has all of these, or put the run's params.txt next to the checkpoint."
        )
    if unsupported := unsupported_settings(settings, OPENLM_SUPPORTED_VALUES):
        raise ModelError(f"open_lm's settings: wanted its usual decoder. Got {', '.join(unsupported)}. Choose another.")
    try:
        return replace(
            openlm_spec(**cast(dict[str, int], sizes)),
            norm="rms" if settings[NORM_KEY] == "rms_norm" else "layer",
            eps=float(settings.get("norm_eps", 1e-5)),
            qk_norm=bool(settings.get("qk_norm", False)),
            ties_embeddings=bool(settings.get("weight_tying", False)),
        )
    except (QuantityError, ValueError, TypeError) as error:
        raise ModelError(f"open_lm's settings: wanted valid sizes of a decoder. Got: {error}") from error


def _canonical_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not null under the keys of open_lm's model configs; a canonical key precedes an alias."""
    present = {name: value for name, value in settings.items() if value is not None}
    return {OPENLM_KEY_ALIASES[name]: value for name, value in present.items() if name in OPENLM_KEY_ALIASES} | present


def openlm_tensor_names(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, str]:
    """Stored name of every tensor by firstsight's name (without `lm.`), in the stored order.

    Without rotary frequencies and a tied model's second copy of the embeddings. ModelError if the frequencies are not
    those of the spec.
    """
    names = {strip_wrapper_prefixes(name): name for name in tensors}
    for name in [name for name in names if name.endswith(INV_FREQ_SUFFIX)]:
        _check_inv_freq(tensors[names.pop(name)], spec, name)
    embeddings, head = names.get("tok_embeddings.weight"), names.get("output.weight")
    if spec.ties_embeddings and embeddings and head and torch.equal(tensors[embeddings], tensors[head]):
        del names["output.weight"]
    return names


def strip_wrapper_prefixes(name: str) -> str:
    """A tensor's name without the prefixes of torch.compile, distributed training and transformers."""
    return unwrapped_name(name).removeprefix("model.")


def _check_inv_freq(inv_freq: Tensor, spec: LMSpec, name: str) -> None:
    assert isinstance(spec.rope, Rope)
    expected = spec.rope.base ** (-torch.arange(0, spec.head_dim, 2, dtype=torch.float64) / spec.head_dim)
    # stored frequencies may be bfloat16
    if inv_freq.shape != expected.shape or not torch.allclose(inv_freq.double(), expected, rtol=1e-2):
        raise ModelError(
            f"{name}: wanted the rotary frequencies of base {spec.rope.base:g} for heads of {spec.head_dim}. Got "
            f"others, shape {list(inv_freq.shape)}. Check n_heads in the configuration."
        )


def read_openlm_checkpoint(path: Path) -> tuple[dict[str, Tensor], int | None]:
    """The model of a `.pt` file, as open_lm saves it or as bare tensors, and the rows trained on, None if unknown.

    The tensors are memory-mapped; no code in the file is executed.
    Raises ModelError for a pickle with other objects than tensors and plain values, and for a file without a model.
    """
    body = _load_tensors_only(path)
    tensors = body.get("state_dict", body)
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(x, Tensor) for x in tensors.values()):
        keys = ", ".join(sorted(map(str, body))[:8]) or "nothing"
        raise ModelError(f"{path}: wanted a model's state_dict. Got {keys}. Name the file epoch_N.pt of a run.")
    if expanded := [name for name, x in tensors.items() if x.nbytes > x.untyped_storage().nbytes()]:
        raise ModelError(f"{path}: wanted all numbers of a tensor. Got fewer of {expanded[0]}. Do not trust this file.")
    samples = body.get("samples_seen")
    return tensors, int(samples) if isinstance(samples, int | np.integer) else None


def _numpy_globals() -> list[Any]:
    """The classes in pickles of numpy's scalars: open_lm stores confidence intervals of validation losses as these."""
    dtypes = {type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "bool")}
    scalar: Any = np.float64(0).__reduce__()[0]
    return [np.dtype, *dtypes, *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))]


def _check_archive(path: Path) -> None:
    """Check that nothing in a .pt file is compressed, as torch.save writes it, and that its pickle is small."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"a compressed {entry.filename}")
            if entry.filename.endswith(".pkl"):
                check_limit(f"{path}, {entry.filename}", "settings", entry.file_size)


def _load_tensors_only(path: Path) -> dict[str, Any]:
    try:
        _check_archive(path)
        with safe_globals(_numpy_globals()):
            body = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        kind = f"a pickle that calls {match[1]}" if match else "a pickle with other objects"
        raise ModelError(
            f"{path}: wanted only tensors and plain values. Got {kind}; nothing was executed. Do not trust this file; "
            "ask its publisher for safetensors, or for torch.save of its state_dict alone."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ModelError(
            f"{path}: wanted a whole .pt file as torch.save writes it since 1.6. Got: {reason}. Copy it again."
        ) from error
    if not isinstance(body, dict):
        raise ModelError(f"{path}: wanted a checkpoint. Got a {type(body).__name__}. Name the epoch_N.pt of a run.")
    return cast(dict[str, Any], body)


def read_openlm_moments(path: Path, tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """AdamW's moments and steps of an `optimizer_N.pt` as `lm.NAME.exp_avg` and so on, for the model `tensors`.

    FSDP stores parameters by name, a plain optimizer by index in the model's order. Raises ModelError if they are not
    AdamW's, or not of this model.
    """
    optimizer = _load_tensors_only(path).get("optimizer")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("state"), dict):
        raise ModelError(f"{path}: wanted an optimizer's state. Got none. Name the run's own optimizer_N.pt.")
    shapes = {name: tensors[stored].shape for name, stored in openlm_tensor_names(tensors, spec).items()}
    states = cast(dict[Any, dict[str, Any]], optimizer["state"])
    if all(isinstance(key, int) for key in states):
        indices = [index for group in optimizer.get("param_groups", []) for index in group["params"]]
        if indices != list(range(len(shapes))):
            raise ModelError(
                f"{path}: wanted moments numbered like the model's {len(shapes)} tensors. Got {len(indices)} "
                "parameters in another order. Move this file away from the model, and start with fresh moments."
            )
        names = list(shapes)
        states = {names[index]: state for index, state in states.items()}
    else:
        states = {strip_wrapper_prefixes(str(key)): state for key, state in states.items()}
    _check_moments(path, states, shapes)
    return {
        f"lm.{name}.{key}": state[key] if key != "step" else torch.tensor(float(state[key]))
        for name, state in states.items()
        for key in ADAMW_STATE_KEYS
    }


def _check_moments(path: Path, states: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, torch.Size]) -> None:
    faults = [f"{name} (missing)" for name in sorted(shapes.keys() - states.keys())]
    faults += [f"{name} (not in the model)" for name in sorted(states.keys() - shapes.keys())]
    for name in sorted(states.keys() & shapes.keys()):
        if sorted(states[name]) != sorted(ADAMW_STATE_KEYS):
            faults.append(f"{name} ({', '.join(sorted(states[name]))})")
        elif any(states[name][key].shape != shapes[name] for key in ADAMW_STATE_KEYS[:2]):
            faults.append(f"{name} (another shape)")
    if faults:
        raise ModelError(
            f"{path}: wanted AdamW's {', '.join(ADAMW_STATE_KEYS)} of every tensor of the model. Got "
            f"{'; '.join(faults)}. Put the optimizer file of the same epoch next to the model, or none."
        )
