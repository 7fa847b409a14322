"""Named tensors in safetensors files, and models that are built without memory and take their weights from such files.

The tensors of one name are one file of up to `MAX_SHARD_BYTES`, or shards with an index in huggingface_hub's layout.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from firstsight.errors import ModelError
from firstsight.files import read_weight_map, write_json
from firstsight.limits import check_tensor_header

MAX_SHARD_BYTES = 2_000_000_000
"""Maximum bytes of tensors in one file; a larger tensor has a file of its own."""
NARROW_DTYPES, WIDE_DTYPES = (torch.bfloat16, torch.float16), (torch.float32, torch.float64)
"""Dtypes that checkpoints may be stored in, and those that represent all of their values exactly."""

_WRAPPER_PREFIX = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
ShapeAndDtype = tuple[torch.Size, torch.dtype]


@runtime_checkable
class NamedTensors(Protocol):
    """Tensors by name: in memory, or read or computed by `__getitem__`."""

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str, /) -> Tensor: ...


class StoredTensors(Mapping[str, Tensor]):
    """The safetensors of one name in a folder: the headers are read and checked at once, a tensor on access.

    `is_public`: tensors are called without the prefixes that wrappers of a model leave (`unwrapped_name`).
    Raises ModelError that names a missing or damaged file, and the tensors that differ between index and shards.
    """

    def __init__(self, folder: Path, name: str = "model", *, is_public: bool = False) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        self._shapes_and_dtypes: dict[str, ShapeAndDtype] = {}
        index_path, single = folder / f"{name}.safetensors.index.json", folder / f"{name}.safetensors"
        index = _read_shard_index(index_path, single=single)
        for file in sorted(set(index.values())) if index else [single]:
            self._read_header(file)
        if index and index != self._files:
            common = sorted(index.keys() & self._files.keys())
            faults = {
                "named but in no shard": sorted(index.keys() - self._files.keys()),
                "in a shard but not named": sorted(self._files.keys() - index.keys()),
                "in another shard": [tensor for tensor in common if index[tensor] != self._files[tensor]],
            }
            problem = format_faults(faults)
            raise ModelError(f"{index_path}: wanted the tensors of its shards. Got {problem}. Copy the folder again.")
        self._stored_names = {unwrapped_name(tensor) if is_public else tensor: tensor for tensor in self._files}
        if len(self._stored_names) < len(self._files):
            twice = sorted(set(self._files) - set(self._stored_names.values()))
            raise ModelError(
                f"{folder}: wanted each tensor once. Got {', '.join(twice)} and the same without the prefix of a "
                "wrapper. Write the weights again."
            )

    def _read_header(self, file: Path) -> None:
        with _open_safetensors(file) as data:
            for name in data.keys():  # noqa: SIM118 - it cannot be iterated
                shape = torch.Size(data.get_slice(name).get_shape())
                self._shapes_and_dtypes[name] = shape, data.get_tensor(name).dtype  # a view: reads no data
                self._files[name] = file

    def __getitem__(self, name: str) -> Tensor:
        """A tensor in memory of its own; ModelError if it has values that are not finite."""
        stored_name = self._stored_names[name]
        file = self._files[stored_name]
        with _open_safetensors(file) as data:
            tensor = data.get_tensor(stored_name).clone()  # so that the file can be closed
        check_finite(name, tensor, location=file)
        return tensor

    def rows(self, name: str, rows: slice) -> Tensor:
        """Those of `rows` that a tensor has, read alone, in memory of their own; ModelError as of `[name]`."""
        with _open_safetensors(self._files[name]) as data:
            tensor = data.get_slice(name)[rows.start : min(rows.stop, self.shape(name)[0])].clone()
        check_finite(name, tensor, location=self._files[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored_names)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def stored_names(self) -> Collection[str]:
        """The names of all tensors as the files have them."""
        return self._shapes_and_dtypes.keys()

    @property
    def files(self) -> list[Path]:
        """All files that contain tensors."""
        return sorted(set(self._files.values()))

    def shape(self, name: str) -> torch.Size:
        """A tensor's shape, from the header."""
        return self._shapes_and_dtypes[self._stored_names[name]][0]

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's dtype, from the header."""
        return self._shapes_and_dtypes[self._stored_names[name]][1]


def unwrapped_name(name: str) -> str:
    """A tensor's name without the prefixes of torch.compile, distributed training and activation checkpointing."""
    return _WRAPPER_PREFIX.sub("", name)


def wrapper_prefixes(names: Iterable[str]) -> Mapping[str, int]:
    """The prefixes that `unwrapped_name` removes from names, each with the number of names that have it."""
    return Counter(prefix for name in names for prefix in dict.fromkeys(_WRAPPER_PREFIX.findall(name)))


class MeanTensors(Mapping[str, Tensor]):
    """The mean of equally many tensors by name, in float32; computed on access, one tensor in memory at a time.

    Raises ModelError where the names or shapes differ.
    """

    def __init__(self, stored: Sequence[StoredTensors]) -> None:
        self._stored = stored
        for other in stored[1:]:
            if mismatches := tensor_mismatches(shapes_and_dtypes(stored[0]), shapes_and_dtypes(other)):
                raise ModelError(f"{other.folder}: wanted the tensors of {stored[0].folder}. Got {mismatches}.")

    def __getitem__(self, name: str) -> Tensor:
        return torch.stack([tensors[name].float() for tensors in self._stored]).mean(0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored[0])

    def __len__(self) -> int:
        return len(self._stored[0])


def _open_safetensors(file: Path) -> Any:
    if not file.is_file():
        raise ModelError(f"{file}: wanted a safetensors file, or shards and their index. Got neither. Copy it there.")
    check_tensor_header(file)
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: wanted a whole safetensors file. Got: {error}. Write or copy it again.") from error


def _read_shard_index(path: Path, *, single: Path) -> dict[str, Path]:
    if not path.is_file():
        return {}
    if single.is_file():
        raise ModelError(f"{path}: wanted one file or shards. Got {single.name} as well. Delete one of them.")
    shards = {name: path.parent / file for name, file in read_weight_map(path).items()}
    if outside := sorted({str(file) for file in shards.values() if file.parent != path.parent}):
        raise ModelError(f"{path}: wanted shards in its folder. Got {', '.join(outside)}. Do not trust that index.")
    if missing := sorted({file.name for file in shards.values() if not file.is_file()}):
        raise ModelError(f"{path}: wanted every shard that it names. Missing: {', '.join(missing)}. Copy them too.")
    return shards


def read_tensors(folder: Path, name: str = "model") -> dict[str, Tensor]:
    """All tensors of one name in a folder, in memory; ModelError if a file is missing or damaged."""
    return dict(StoredTensors(folder, name).items())


def check_finite(name: str, tensor: Tensor, *, location: Path) -> None:
    """ModelError if a tensor has values that are NaN or infinite; `location`: where it is or comes from."""
    if not tensor.is_floating_point() or tensor.sum().isfinite():
        return  # a sum is finite only if all values are; it takes a fifteenth of the time of `isfinite`
    if count := int((~tensor.isfinite()).sum()):
        raise ModelError(
            f"{location}: wanted finite numbers in {name}. Got NaN or infinity for {count:,} of {tensor.numel():,}. "
            "Its training diverged or the file is damaged: use an earlier checkpoint or copy it again."
        )


def write_tensors(
    folder: Path, tensors: NamedTensors, *, name: str = "model", location: Path | None = None
) -> list[Path]:
    """Write tensors in name order to one file, or to shards and their index; returns the files.

    Replaces the folder's files of that name. Holds one shard in memory at a time. Equal tensors give equal bytes.
    ModelError for values that are not finite, which says that they come from `location` (default: the folder).
    """
    staging = folder / f".{name}.shards"  # also of the temporary files that safetensors makes
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        return _move_shards(_write_shards(staging, tensors, location or folder), folder, name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_shards(folder: Path, tensors: NamedTensors, location: Path) -> list[tuple[Path, dict[str, int]]]:
    """The file of each shard, and the bytes of each of its tensors."""
    shards = list[tuple[Path, dict[str, int]]]()
    for shard in _split_into_shards(tensors, location):
        file = folder / str(len(shards))
        file.touch()
        mode = file.stat().st_mode
        save_file(shard, file, metadata={"format": "pt"})
        file.chmod(mode)  # safetensors creates files that only the owner can read
        shards.append((file, {tensor: values.nbytes for tensor, values in shard.items()}))
    return shards


def _move_shards(shards: Sequence[tuple[Path, Mapping[str, int]]], folder: Path, name: str) -> list[Path]:
    """Replace the folder's files of a name by these shards and their index, or by the only shard."""
    index = folder / f"{name}.safetensors.index.json"
    for stale in (index, folder / f"{name}.safetensors", *folder.glob(f"{name}-?????-of-?????.safetensors")):
        stale.unlink(missing_ok=True)
    if len(shards) == 1:
        return [shards[0][0].rename(folder / f"{name}.safetensors")]
    files, weight_map = list[Path](), dict[str, str]()
    for number, (file, sizes) in enumerate(shards, 1):
        files.append(file.rename(folder / f"{name}-{number:05d}-of-{len(shards):05d}.safetensors"))
        weight_map |= dict.fromkeys(sizes, files[-1].name)
    total_bytes = sum(sum(sizes.values()) for _, sizes in shards)
    body = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    write_json(index, body, indent=2)
    return [*files, index]


def _split_into_shards(tensors: NamedTensors, location: Path) -> Iterator[dict[str, Tensor]]:
    """Tensors in name order, each shard as many as fit `MAX_SHARD_BYTES`; one empty shard if there are none."""
    shard, shard_bytes = dict[str, Tensor](), 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        check_finite(name, tensor, location=location)
        if shard and shard_bytes + tensor.nbytes > MAX_SHARD_BYTES:
            yield shard
            shard, shard_bytes = {}, 0
        shard[name] = tensor
        shard_bytes += tensor.nbytes
    yield shard


class meta_init(TorchFunctionMode):  # noqa: N801 - `with meta_init():` reads like torch.no_grad
    """Context in which modules are built with parameters on the meta device, without memory.

    Tables that a module computes itself (torch.arange) stay real: no checkpoint contains them.
    """

    FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.FACTORIES and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@torch.no_grad()
def allocate_parameters(model: nn.Module, *, device: str = "cpu") -> None:
    """Give the parameters of a model on the meta device memory, with undefined values.

    The one supported buffer, `position_ids` of transformers' encoders, gets its values; ModelError for others.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                memory = torch.empty_like(parameter, device=device)
                setattr(module, name, nn.Parameter(memory, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta and name != "position_ids":
                kind = type(module).__name__
                raise ModelError(f"{kind}: wanted only parameters. Got buffer {name}. Build it outside meta_init.")
            if buffer.is_meta:
                setattr(module, name, torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, location: Path) -> None:
    """Load tensors of exactly the model's names and shapes, all or none; narrow dtypes become float32.

    Parameters on the meta device are replaced by the tensors, others are overwritten in place. ModelError names every
    tensor that is missing, extra, or of another shape or dtype.
    """
    model_tensors = model.state_dict(keep_vars=True)
    if mismatches := tensor_mismatches(shapes_and_dtypes(model_tensors), shapes_and_dtypes(tensors)):
        raise ModelError(f"{location}: weights and spec disagree. {mismatches}. Load them with their spec.")
    with torch.no_grad():
        for name, target in model_tensors.items():
            if not target.is_meta:
                target.copy_(tensors[name])
    assigned = {name: tensors[name].to(target.dtype) for name, target in model_tensors.items() if target.is_meta}
    model.load_state_dict(assigned, strict=False, assign=True)


def shapes_and_dtypes(tensors: Mapping[str, Tensor]) -> dict[str, ShapeAndDtype]:
    """Shape and dtype of every tensor; those of stored tensors come from the headers."""
    if isinstance(tensors, StoredTensors):
        return {name: (tensors.shape(name), tensors.dtype(name)) for name in tensors}
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def tensor_mismatches(expected: Mapping[str, ShapeAndDtype], actual: Mapping[str, ShapeAndDtype]) -> str:
    """All tensors that are missing, extra, or of another shape or dtype, as text; empty if there are none."""
    pairs = [(name, *expected[name], *actual[name]) for name in sorted(expected.keys() & actual.keys())]
    faults = {
        "missing": sorted(expected.keys() - actual.keys()),
        "extra": sorted(actual.keys() - expected.keys()),
        "of another shape": [f"{n} wanted {list(a)} got {list(b)}" for n, a, _, b, _ in pairs if a != b],
        "of another dtype": [f"{n} wanted {a} got {b}" for n, _, a, _, b in pairs if not _is_lossless(a, b)],
    }
    return format_faults(faults)


def _is_lossless(target: torch.dtype, source: torch.dtype) -> bool:
    return target == source or (target in WIDE_DTYPES and source in (*NARROW_DTYPES, torch.float32))


def format_faults(faults: Mapping[str, Sequence[str]]) -> str:
    """`fault: name, name; fault: name`, faults without names left out."""
    return "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
