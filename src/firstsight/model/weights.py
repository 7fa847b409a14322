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
from firstsight.recipe import canon
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import Patches

FORMAT = 2
SHARD = 2_000_000_000
"""Bytes of tensors in one file, at most; a tensor that is larger has a file of its own."""
NARROW, WIDE = (torch.bfloat16, torch.float16), (torch.float32, torch.float64)
"""What a public checkpoint may be kept in, and what holds all of its numbers."""


Form = tuple[torch.Size, torch.dtype]
"""Shape of a tensor, and the kind of its numbers."""


@runtime_checkable
class Tensors(Protocol):
    """Tensors by name: in memory, or read or made when they are asked for."""

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str, /) -> Tensor: ...


class Stored(Mapping[str, Tensor]):
    """The safetensors of one name in a folder: headers are read and checked at once, a tensor when it is asked for.

    Raises ModelError that names a missing or damaged file, and the tensors in which index and shards differ.
    """

    def __init__(self, folder: Path, name: str = "model") -> None:
        self.folder = folder
        self._file: dict[str, Path] = {}
        self._form: dict[str, Form] = {}
        index = folder / f"{name}.safetensors.index.json"
        listed = _listed(index, single=folder / f"{name}.safetensors")
        for file in sorted(set(listed.values())) if listed else [folder / f"{name}.safetensors"]:
            self._open(file)
        if listed and listed != self._file:
            lacking, extra = sorted(listed.keys() - self._file.keys()), sorted(self._file.keys() - listed.keys())
            moved = sorted(n for n in listed.keys() & self._file.keys() if listed[n] != self._file[n])
            told = _told({"named but in no shard": lacking, "in a shard but not named": extra, "elsewhere": moved})
            raise ModelError(f"{index}: wanted the tensors of its shards. Got {told}. Copy the whole folder again.")

    def _open(self, file: Path) -> None:
        with _opened(file) as data:
            for name in data.keys():  # noqa: SIM118 - it cannot be iterated
                told = data.get_slice(name)
                self._form[name] = torch.Size(told.get_shape()), data.get_tensor(name).dtype  # a view: reads nothing
                self._file[name] = file

    def __getitem__(self, name: str) -> Tensor:
        with _opened(self._file[name]) as data:
            return data.get_tensor(name).clone()  # its own aligned memory, so that the file is let go

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)

    @property
    def files(self) -> list[Path]:
        """Every file that a tensor lies in."""
        return sorted(set(self._file.values()))

    def shape(self, name: str) -> torch.Size:
        """Of a tensor, from the header alone."""
        return self._form[name][0]

    def kind(self, name: str) -> torch.dtype:
        """Of a tensor's numbers, from the header alone."""
        return self._form[name][1]


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise ModelError(f"{file}: wanted a safetensors file, or shards and their index. Got neither. Copy it there.")
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{file}: wanted a whole safetensors file. Got: {problem}. Make it again.") from problem


def _listed(index: Path, *, single: Path) -> dict[str, Path]:
    """Which shard an index puts each tensor in; empty where there is no index."""
    if not index.is_file():
        return {}
    if single.is_file():
        raise ModelError(f"{index}: wanted one file or shards. Got {single.name} as well. Take one of them away.")
    try:
        found = {
            str(name): index.parent / str(file) for name, file in json.loads(index.read_text())["weight_map"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ModelError(f"{index}: wanted an index with a weight_map. Got: {problem}. Copy it again.") from problem
    if strange := sorted({str(file) for file in found.values() if file.parent != index.parent}):
        raise ModelError(f"{index}: wanted shards beside it. Got {', '.join(strange)}. Do not trust that index.")
    if lacking := sorted({file.name for file in found.values() if not file.is_file()}):
        raise ModelError(f"{index}: wanted every shard that it names. Got none of {', '.join(lacking)}. Copy them too.")
    return found


def read_tensors(folder: Path, name: str = "model") -> dict[str, Tensor]:
    """All tensors of one name in a folder, in memory; ModelError where a file is missing or damaged."""
    return dict(Stored(folder, name).items())


def write_tensors(folder: Path, tensors: Tensors, *, name: str = "model") -> list[Path]:
    """Tensors in name order into one file, or shards with their index; the files. One shard is in memory at a time.

    What the folder held under that name is replaced. Equal tensors leave equal bytes.
    """
    fresh, weights = list[tuple[Path, list[str]]](), 0
    for chosen in _shards(tensors):
        part = folder / f"{name}.safetensors.{len(fresh)}.new"
        part.touch()
        mode = part.stat().st_mode
        save_file(chosen, part, metadata={"format": "pt"})
        part.chmod(mode)  # safetensors writes for the owner's eyes alone
        weights += sum(tensor.nbytes for tensor in chosen.values())
        fresh.append((part, list(chosen)))
    index = folder / f"{name}.safetensors.index.json"
    for old in (index, folder / f"{name}.safetensors", *folder.glob(f"{name}-?????-of-?????.safetensors")):
        old.unlink(missing_ok=True)
    count = len(fresh)
    called = [f"-{number:05d}-of-{count:05d}" if count > 1 else "" for number in range(1, count + 1)]
    files = [part.rename(folder / f"{name}{word}.safetensors") for (part, _), word in zip(fresh, called, strict=True)]
    if count == 1:
        return files
    where = {one: file.name for file, (_, names) in zip(files, fresh, strict=True) for one in names}
    body = {"metadata": {"total_size": weights}, "weight_map": where}
    index.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
    return [*files, index]


def _shards(tensors: Tensors) -> Iterator[dict[str, Tensor]]:
    """Tensors in name order, as many together as stay within `SHARD`; at least one shard, if an empty one."""
    chosen, weight = dict[str, Tensor](), 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if chosen and weight + tensor.nbytes > SHARD:
            yield chosen
            chosen, weight = {}, 0
        chosen[name] = tensor
        weight += tensor.nbytes
    yield chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A checkpoint in memory."""

    model: VLM
    spec: LMSpec | VLMSpec
    tokenizer: Path
    """The checkpoint's own tokenizer.json."""
    encoder: Encoder | None
    """The frozen encoder, where the model has one beside it."""
    seen: int


def save(folder: Path, model: VLM, *, seen: int, tokenizer: Path, encoders: Sequence[Path]) -> None:
    """Write weights, spec, tokenizer and the folders of a frozen encoder; the bytes depend on nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, model.state_dict())
    write_spec(folder, model.spec, seen=seen)
    shutil.copyfile(tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer, folder / "tokenizer.json")
    for number, encoder in enumerate(encoders):
        shutil.rmtree(folder / f"encoder{number}", ignore_errors=True)
        shutil.copytree(encoder, folder / f"encoder{number}", copy_function=_link)


def write_spec(folder: Path, spec: LMSpec | VLMSpec, *, seen: int) -> None:
    """spec.json: what the tensors beside it are, and the tokens that they have seen."""
    kind = "vlm" if isinstance(spec, VLMSpec) else "lm"
    body = {"format": FORMAT, "kind": kind, "model": canon.encode(spec), "seen": seen}
    (folder / "spec.json").write_text(json.dumps(body, sort_keys=True, indent=1) + "\n")


def read_spec(folder: Path) -> dict[str, Any]:
    """spec.json with its model decoded."""
    path = folder / "spec.json"
    if not path.is_file():
        raise ModelError(f"{folder}: wanted a checkpoint folder. Got no spec.json. Name what a training step left.")
    try:
        body = json.loads(path.read_text())
        if body.get("format") != FORMAT:
            told = body.get("format")
            raise ModelError(f"{path}: wanted format {FORMAT}. Got {told!r}. Use the version that wrote it.")
        return {**body, "model": canon.decode(body["model"]), "seen": int(body["seen"])}
    except (ValueError, KeyError, TypeError, AttributeError, FirstsightError) as problem:
        if isinstance(problem, ModelError):
            raise
        raise ModelError(f"{path}: wanted the spec of a model. Got: {problem}. Write it again.") from problem


def load(folder: Path, *, device: str = "cpu", compute: torch.dtype = torch.float32) -> Loaded:
    """The model of a checkpoint folder, float32, in eval mode; memory holds its weights once.

    ModelError names whatever is missing, extra or misshapen.
    """
    body = read_spec(folder)
    with hollow():
        model = VLM(body["model"])
    fill(model, Stored(folder), where=folder)
    model.to(device).eval().requires_grad_(False)
    model.lm.compute = compute
    encoder = _encoder(body["model"], folder)
    if encoder is not None:
        encoder.to(device)
    words = folder / "tokenizer.json"
    return Loaded(model=model, spec=body["model"], tokenizer=words, encoder=encoder, seen=body["seen"])


def _encoder(spec: LMSpec | VLMSpec, folder: Path) -> Encoder | None:
    if not isinstance(spec, VLMSpec) or spec.encoder == "trained" or isinstance(spec.vision, Patches):
        return None
    return load_encoder(spec.vision, [folder / f"encoder{number}" for number in range(len(spec.vision.towers))])


class hollow(TorchFunctionMode):  # noqa: N801 - `with hollow():` reads as torch.no_grad does
    """Within it modules are built without memory for their weights, on the meta device, for `fill` to bring them.

    Tables that a module works out for itself (torch.arange) stay real: no checkpoint holds them.
    """

    SPACE: frozenset[Callable[..., Any]] = frozenset(
        (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in self.SPACE and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Tensors into a model of exactly these names and shapes, all of them or none; narrow numbers become float32.

    A `hollow` model takes the tensors themselves, another copies them. ModelError names every tensor that is missing,
    extra, misshapen or of another kind of number.
    """
    own = model.state_dict(keep_vars=True)
    if told := contradictions(forms(own), forms(tensors)):
        raise ModelError(f"{where}: weights and spec contradict each other. {told}. Load them with their own spec.")
    with torch.no_grad():
        for name in own:
            if not own[name].is_meta:
                own[name].copy_(tensors[name])
    brought = {name: tensors[name].to(own[name].dtype) for name in own if own[name].is_meta}
    model.load_state_dict(brought, strict=False, assign=True)


def forms(tensors: Mapping[str, Tensor]) -> dict[str, Form]:
    """Shape and kind of every tensor; those of stored ones are read from the headers alone."""
    if isinstance(tensors, Stored):
        return {name: (tensors.shape(name), tensors.kind(name)) for name in tensors}
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def contradictions(wanted: Mapping[str, Form], given: Mapping[str, Form]) -> str:
    """Every tensor that is missing, extra, misshapen or of another kind of number; empty where all is well."""
    both = sorted(wanted.keys() & given.keys())
    shapes = [(n, list(wanted[n][0]), list(given[n][0])) for n in both if wanted[n][0] != given[n][0]]
    kinds = [(n, wanted[n][1], given[n][1]) for n in both if not _holds(wanted[n][1], given[n][1])]
    return _told(
        {
            "missing": sorted(wanted.keys() - given.keys()),
            "extra": sorted(given.keys() - wanted.keys()),
            "misshapen": [f"{name} wanted {want} got {got}" for name, want, got in shapes],
            "of another kind": [f"{name} wanted {want} got {got}" for name, want, got in kinds],
        }
    )


def _holds(own: torch.dtype, given: torch.dtype) -> bool:
    """Whether numbers of a kind come into a model unchanged."""
    return own == given or (own in WIDE and given in (*NARROW, torch.float32))


def _told(faults: Mapping[str, Sequence[str]]) -> str:
    """Every fault with all its names; empty where there is none."""
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in faults.items() if names)


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
