"""Checkpoint folders: safetensors, the spec, the tokenizer and the frozen encoder, together enough to load a model.

Tensors of one name are one file below `SHARD` bytes, else shards and an index as huggingface_hub lays them out.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from firstsight.errors import FirstsightError, ModelError
from firstsight.model.vision import Encoder, load_encoder
from firstsight.model.vlm import VLM
from firstsight.recipe import serialize
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import PatchProjectionSpec

FORMAT_VERSION = 2
MAX_SHARD_BYTES = 2_000_000_000
"""Bytes of tensors in one file, at most; a tensor that is larger has a file of its own."""
NARROW_DTYPES, WIDE_DTYPES = (torch.bfloat16, torch.float16), (torch.float32, torch.float64)
"""What a public checkpoint may be kept in, and what holds all of its numbers."""


ShapeAndDtype = tuple[torch.Size, torch.dtype]
"""Shape of a tensor, and the kind of its numbers."""


@runtime_checkable
class NamedTensors(Protocol):
    """Tensors by name: in memory, or read or made when they are asked for."""

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str, /) -> Tensor: ...


class StoredTensors(Mapping[str, Tensor]):
    """The safetensors of one name in a folder: headers are read and checked at once, a tensor when it is asked for.

    Raises ModelError that names a missing or damaged file, and the tensors in which index and shards differ.
    """

    def __init__(self, folder: Path, name: str = "model") -> None:
        self.folder = folder
        self._tensor_files: dict[str, Path] = {}
        self._shapes_and_dtypes: dict[str, ShapeAndDtype] = {}
        index = folder / f"{name}.safetensors.index.json"
        shard_index = _read_shard_index(index, single=folder / f"{name}.safetensors")
        for file in sorted(set(shard_index.values())) if shard_index else [folder / f"{name}.safetensors"]:
            self._read_header(file)
        if shard_index and shard_index != self._tensor_files:
            missing, extra = (
                sorted(shard_index.keys() - self._tensor_files.keys()),
                sorted(self._tensor_files.keys() - shard_index.keys()),
            )
            misplaced = sorted(
                n for n in shard_index.keys() & self._tensor_files.keys() if shard_index[n] != self._tensor_files[n]
            )
            faults = _format_faults(
                {"named but in no shard": missing, "in a shard but not named": extra, "elsewhere": misplaced}
            )
            raise ModelError(f"{index}: wanted the tensors of its shards. Got {faults}. Copy the whole folder again.")

    def _read_header(self, file: Path) -> None:
        with _open_safetensors(file) as data:
            for name in data.keys():  # noqa: SIM118 - it cannot be iterated
                tensor_slice = data.get_slice(name)
                self._shapes_and_dtypes[name] = (
                    torch.Size(tensor_slice.get_shape()),
                    data.get_tensor(name).dtype,
                )  # a view: reads nothing
                self._tensor_files[name] = file

    def __getitem__(self, name: str) -> Tensor:
        with _open_safetensors(self._tensor_files[name]) as data:
            return data.get_tensor(name).clone()  # its own aligned memory, so that the file is let go

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensor_files)

    def __len__(self) -> int:
        return len(self._tensor_files)

    @property
    def files(self) -> list[Path]:
        """Every file that a tensor lies in."""
        return sorted(set(self._tensor_files.values()))

    def shape(self, name: str) -> torch.Size:
        """Of a tensor, from the header alone."""
        return self._shapes_and_dtypes[name][0]

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor's numbers, from the header alone."""
        return self._shapes_and_dtypes[name][1]


def _open_safetensors(file: Path) -> Any:
    if not file.is_file():
        raise ModelError(f"{file}: wanted a safetensors file, or shards and their index. Got neither. Copy it there.")
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: wanted a whole safetensors file. Got: {error}. Make it again.") from error


def _read_shard_index(index: Path, *, single: Path) -> dict[str, Path]:
    """Which shard an index puts each tensor in; empty where there is no index."""
    if not index.is_file():
        return {}
    if single.is_file():
        raise ModelError(f"{index}: wanted one file or shards. Got {single.name} as well. Take one of them away.")
    try:
        shards = {
            str(name): index.parent / str(file) for name, file in json.loads(index.read_text())["weight_map"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: wanted an index with a weight_map. Got: {error}. Copy it again.") from error
    if foreign_files := sorted({str(file) for file in shards.values() if file.parent != index.parent}):
        raise ModelError(f"{index}: wanted shards beside it. Got {', '.join(foreign_files)}. Do not trust that index.")
    if missing := sorted({file.name for file in shards.values() if not file.is_file()}):
        raise ModelError(f"{index}: wanted every shard that it names. Got none of {', '.join(missing)}. Copy them too.")
    return shards


def read_tensors(folder: Path, name: str = "model") -> dict[str, Tensor]:
    """All tensors of one name in a folder, in memory; ModelError where a file is missing or damaged."""
    return dict(StoredTensors(folder, name).items())


def write_tensors(folder: Path, tensors: NamedTensors, *, name: str = "model") -> list[Path]:
    """Tensors in name order into one file, or shards with their index; the files. One shard is in memory at a time.

    What the folder held under that name is replaced. Equal tensors leave equal bytes.
    """
    parts, total_bytes = list[tuple[Path, list[str]]](), 0
    for shard in _split_into_shards(tensors):
        part_path = folder / f"{name}.safetensors.{len(parts)}.new"
        part_path.touch()
        mode = part_path.stat().st_mode
        save_file(shard, part_path, metadata={"format": "pt"})
        part_path.chmod(mode)  # safetensors writes for the owner's eyes alone
        total_bytes += sum(tensor.nbytes for tensor in shard.values())
        parts.append((part_path, list(shard)))
    index = folder / f"{name}.safetensors.index.json"
    for stale_file in (index, folder / f"{name}.safetensors", *folder.glob(f"{name}-?????-of-?????.safetensors")):
        stale_file.unlink(missing_ok=True)
    count = len(parts)
    suffixes = [f"-{number:05d}-of-{count:05d}" if count > 1 else "" for number in range(1, count + 1)]
    files = [
        part_path.rename(folder / f"{name}{suffix}.safetensors")
        for (part_path, _), suffix in zip(parts, suffixes, strict=True)
    ]
    if count == 1:
        return files
    weight_map = {
        tensor_name: file.name for file, (_, names) in zip(files, parts, strict=True) for tensor_name in names
    }
    body = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    index.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
    return [*files, index]


def _split_into_shards(tensors: NamedTensors) -> Iterator[dict[str, Tensor]]:
    """Tensors in name order, as many together as stay within `SHARD`; at least one shard, if an empty one."""
    shard, shard_bytes = dict[str, Tensor](), 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if shard and shard_bytes + tensor.nbytes > MAX_SHARD_BYTES:
            yield shard
            shard, shard_bytes = {}, 0
        shard[name] = tensor
        shard_bytes += tensor.nbytes
    yield shard


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint in memory."""

    model: VLM
    spec: LMSpec | VLMSpec
    tokenizer: Path
    """The checkpoint's own tokenizer.json."""
    encoder: Encoder | None
    """The frozen encoder, where the model has one beside it."""
    tokens_seen: int


def save(folder: Path, model: VLM, *, tokens_seen: int, tokenizer: Path, encoders: Sequence[Path]) -> None:
    """Write weights, spec, tokenizer and the folders of a frozen encoder; the bytes depend on nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, model.state_dict())
    write_spec(folder, model.spec, tokens_seen=tokens_seen)
    shutil.copyfile(tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer, folder / "tokenizer.json")
    for number, encoder in enumerate(encoders):
        shutil.rmtree(folder / f"encoder{number}", ignore_errors=True)
        shutil.copytree(encoder, folder / f"encoder{number}", copy_function=_link_or_copy)


def write_spec(folder: Path, spec: LMSpec | VLMSpec, *, tokens_seen: int) -> None:
    """spec.json: what the tensors beside it are, and the tokens that they have seen."""
    kind = "vlm" if isinstance(spec, VLMSpec) else "lm"
    body = {"format": FORMAT_VERSION, "kind": kind, "model": serialize.to_json(spec), "seen": tokens_seen}
    (folder / "spec.json").write_text(json.dumps(body, sort_keys=True, indent=1) + "\n")


def read_spec(folder: Path) -> dict[str, Any]:
    """spec.json with its model decoded."""
    path = folder / "spec.json"
    if not path.is_file():
        raise ModelError(f"{folder}: wanted a checkpoint folder. Got no spec.json. Name what a training step left.")
    try:
        body = json.loads(path.read_text())
        if body.get("format") != FORMAT_VERSION:
            version = body.get("format")
            raise ModelError(f"{path}: wanted format {FORMAT_VERSION}. Got {version!r}. Use the version that wrote it.")
        return {**body, "model": serialize.from_json(body["model"]), "seen": int(body["seen"])}
    except (ValueError, KeyError, TypeError, AttributeError, FirstsightError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: wanted the spec of a model. Got: {error}. Write it again.") from error


def load(folder: Path, *, device: str = "cpu", compute_dtype: torch.dtype = torch.float32) -> LoadedCheckpoint:
    """The model of a checkpoint folder, float32, in eval mode; memory holds its weights once.

    ModelError names whatever is missing, extra or misshapen.
    """
    body = read_spec(folder)
    with meta_init():
        model = VLM(body["model"])
    load_weights(model, StoredTensors(folder), location=folder)
    model.to(device).eval().requires_grad_(False)
    model.lm.compute_dtype = compute_dtype
    encoder = _load_frozen_encoder(body["model"], folder)
    if encoder is not None:
        encoder.to(device)
    tokenizer = folder / "tokenizer.json"
    return LoadedCheckpoint(
        model=model, spec=body["model"], tokenizer=tokenizer, encoder=encoder, tokens_seen=body["seen"]
    )


def _load_frozen_encoder(spec: LMSpec | VLMSpec, folder: Path) -> Encoder | None:
    if not isinstance(spec, VLMSpec) or spec.encoder == "trained" or isinstance(spec.vision, PatchProjectionSpec):
        return None
    return load_encoder(spec.vision, [folder / f"encoder{number}" for number in range(len(spec.vision.towers))])


class meta_init(TorchFunctionMode):  # noqa: N801 - `with hollow():` reads as torch.no_grad does
    """Within it modules are built without memory for their weights, on the meta device, for `fill` to bring them.

    Tables that a module works out for itself (torch.arange) stay real: no checkpoint holds them.
    """

    FACTORIES: frozenset[Callable[..., Any]] = frozenset(
        (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device_kwargs = dict(kwargs or {})
        if func in self.FACTORIES and device_kwargs.get("device") is None:
            device_kwargs["device"] = "meta"
        return func(*args, **device_kwargs)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, location: Path) -> None:
    """Tensors into a model of exactly these names and shapes, all of them or none; narrow numbers become float32.

    A `hollow` model takes the tensors themselves, another copies them. ModelError names every tensor that is missing,
    extra, misshapen or of another kind of number.
    """
    model_tensors = model.state_dict(keep_vars=True)
    if mismatches := tensor_mismatches(shapes_and_dtypes(model_tensors), shapes_and_dtypes(tensors)):
        raise ModelError(
            f"{location}: weights and spec contradict each other. {mismatches}. Load them with their own spec."
        )
    with torch.no_grad():
        for name in model_tensors:
            if not model_tensors[name].is_meta:
                model_tensors[name].copy_(tensors[name])
    assigned = {
        name: tensors[name].to(model_tensors[name].dtype) for name in model_tensors if model_tensors[name].is_meta
    }
    model.load_state_dict(assigned, strict=False, assign=True)


def shapes_and_dtypes(tensors: Mapping[str, Tensor]) -> dict[str, ShapeAndDtype]:
    """Shape and kind of every tensor; those of stored ones are read from the headers alone."""
    if isinstance(tensors, StoredTensors):
        return {name: (tensors.shape(name), tensors.dtype(name)) for name in tensors}
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def tensor_mismatches(expected: Mapping[str, ShapeAndDtype], actual: Mapping[str, ShapeAndDtype]) -> str:
    """Every tensor that is missing, extra, misshapen or of another kind of number; empty where all is well."""
    common_names = sorted(expected.keys() & actual.keys())
    shapes = [(n, list(expected[n][0]), list(actual[n][0])) for n in common_names if expected[n][0] != actual[n][0]]
    dtypes = [(n, expected[n][1], actual[n][1]) for n in common_names if not _is_lossless(expected[n][1], actual[n][1])]
    return _format_faults(
        {
            "missing": sorted(expected.keys() - actual.keys()),
            "extra": sorted(actual.keys() - expected.keys()),
            "misshapen": [
                f"{name} wanted {expected_value} got {actual_value}" for name, expected_value, actual_value in shapes
            ],
            "of another kind": [
                f"{name} wanted {expected_value} got {actual_value}" for name, expected_value, actual_value in dtypes
            ],
        }
    )


def _is_lossless(target: torch.dtype, source: torch.dtype) -> bool:
    """Whether numbers of a kind come into a model unchanged."""
    return target == source or (target in WIDE_DTYPES and source in (*NARROW_DTYPES, torch.float32))


def _format_faults(faults: Mapping[str, Sequence[str]]) -> str:
    """Every fault with all its names; empty where there is none."""
    return "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)


def _link_or_copy(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
