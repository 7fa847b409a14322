"""Public weights as a checkpoint folder of ours: read, checked against their configuration, written at once or not.

A source is an open_lm `.pt` file, or a folder as transformers lays it out: OpenLM/DCLM, the Llama family, our exports.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from firstsight.data.tokenizer import load as load_tokenizer
from firstsight.errors import ModelError, QuantityError, RequestError
from firstsight.hub import llama, llava, openlm
from firstsight.hub.beside import belonging, towers
from firstsight.hub.finding import HUB, folder_of, writing
from firstsight.model.vision import Encoder
from firstsight.model.vlm import VLM
from firstsight.model.weights import Form, Stored, contradictions, forms, hollow, write_spec, write_tensors
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec, decoder
from firstsight.recipe.vision import Patches
from firstsight.site import Progress, Tell
from firstsight.units import Tokens

VISION = ("siglip", "siglip_vision_model", "dinov2", "dinov2_with_registers")
NEEDLESS = (
    "vision weights in this layout need no import: name the folder (or hub name) under [sources.NAME] path in the "
    "site file, and NAME in the recipe"
)
CHUNK = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to import, and what its files do not say."""

    place: str
    """A file, a folder or a hub name."""
    revision: str | None
    tokenizer: str
    """A file, a folder or a hub name; empty: the one in the source's folder."""
    config: Path | None
    """For OpenLM: a model config or params.txt, where none lies beside the weights."""
    seen: Tokens | None
    """Tokens trained on, where the source does not say so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What was written."""

    folder: Path
    spec: LMSpec | VLMSpec
    seen: int | None
    """Tokens trained on; None where nobody said (0 is written)."""
    moments: bool
    """Whether AdamW's averages came along."""
    end: str
    """What ends a document in its tokenizer."""
    rows: int
    """Rows that the tokenizer needs with the chat marks: the least LMSpec.vocabulary of the next stage."""

    def lines(self) -> list[str]:
        """What was written, in words, and what the next stage must know."""
        lm = decoder(self.spec)
        seen = "not told; 0 is written (--seen says it)" if self.seen is None else f"{self.seen:,}"
        moments = "carried: AdamW's averages and steps lie beside the weights" if self.moments else "none: start fresh"
        found = [
            f"model: {lm.layers} layers, width {lm.width}, {lm.heads} heads, vocabulary {lm.vocabulary:,}, "
            f"{lm.parameters():,} parameters",
            f"tokens seen: {seen}",
            f"moments: {moments}",
            f"end of a document: {self.end}",
        ]
        if self.rows > lm.vocabulary:
            found.append(
                f"chat marks: they need {self.rows:,} token rows, the model has {lm.vocabulary:,}; "
                f"say vocabulary={self.rows} or more in the next stage's LMSpec"
            )
        return [*found, f"folder: {self.folder}"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Public weights, checked against their configuration; tensors are read when they are written."""

    spec: LMSpec | VLMSpec
    tensors: Mapping[str, Tensor]
    made: Mapping[str, tuple[str, ...]]
    """Our tensors, each with those of the source that it is made of, one below the other."""
    files: tuple[Path, ...]
    """All that was read."""
    seen: int | None
    moments: Mapping[str, Tensor] | None


def bring(request: Request, out: Path, *, tell: Tell) -> Imported:
    """Write the checkpoint folder `out` from public weights; a killed import leaves nothing there.

    Raises RequestError where `out` holds something or the request does not fit the source, ModelError where weights,
    configuration and tokenizer contradict each other, and for what firstsight cannot do the same.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out}: wanted a new folder for the import. Got one that is not empty. Choose another.")
    place = folder_of(request.place, revision=request.revision)
    source = _read(place, request)
    words = belonging.tokenizer(place, request.tokenizer, decoder(source.spec).vocabulary)
    source = replace(source, files=(*source.files, words), seen=source.seen if request.seen is None else request.seen)
    fresh = out.absolute().with_name(f".{out.name}.importing")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with writing(out):
            fresh.mkdir(parents=True)
            told = _Told(tell, source)
            _write(fresh, source, words, told)
            _record(fresh, request, place, source, told=told)
            if out.exists():
                out.rmdir()
            fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    known = load_tokenizer(out)
    return Imported(
        folder=out,
        spec=source.spec,
        seen=source.seen,
        moments=source.moments is not None,
        end=known.end,
        rows=known.size,
    )


def _read(place: Path, request: Request) -> Source:
    """What a file or folder holds; ModelError or RequestError for what cannot be imported."""
    if place.is_file():
        if place.suffix not in (".pt", ".pth"):
            raise ModelError(f"{place}: wanted a folder, or a .pt file of open_lm. Got another file. Name its folder.")
        return _openlm_file(place, request.config)
    if (place / "spec.json").is_file():
        raise RequestError(f"{place}: this is a checkpoint folder of firstsight already. Name it as it is.")
    if not (place / "config.json").is_file():
        epochs = sorted(file.name for file in place.rglob("epoch_*.pt"))
        advice = f"Name one of its files: {', '.join(epochs)}." if epochs else "Name the folder that has one."
        raise ModelError(f"{place}: wanted config.json in a folder of weights. Got none. {advice}")
    config = _config(place / "config.json")
    kind = config.get("model_type")
    pickles = sorted(file.name for file in place.glob("*.bin"))
    if pickles and not any(place.glob("*.safetensors")):
        raise ModelError(
            f"{place}: wanted safetensors. Got {', '.join(pickles)}, pickles that may run anything. Name a revision "
            "that has safetensors, or write them with transformers' save_pretrained; for OpenLM with "
            "torch.load(FILE, weights_only=True) and safetensors.torch.save_file."
        )
    if kind == "openlm":
        with _at(place):
            return _openlm_folder(place, config, request.config)
    if request.config is not None:
        raise RequestError(f"--config: is for OpenLM, whose settings may lie elsewhere. Got it for {kind}. Omit it.")
    if kind in VISION:
        raise RequestError(f"{place}: wanted a language model. Got {kind}: {NEEDLESS}.")
    if kind in ("llava", llava.OWN):
        return _whole(place, config)
    with _at(place):
        spec = llama.spec_of(config)
        _check_head(config)
    return _llama(place, spec, config)


@contextmanager
def _at(place: Path) -> Iterator[None]:
    """ModelError that says where, for what settings and names alone cannot say."""
    try:
        yield
    except (ModelError, QuantityError) as problem:
        told = str(problem)
        raise ModelError(told if told.startswith(str(place)) else f"{place}: {told}") from problem


def _check_head(config: Mapping[str, Any]) -> None:
    classes = config.get("architectures")
    if isinstance(classes, list) and classes and not str(cast(list[Any], classes)[0]).endswith("ForCausalLM"):
        raise ModelError(
            f"config.json: architectures: wanted a language model (...ForCausalLM). Got {classes[0]}, whose head is "
            "another or none. Take the folder that it was made of."
        )


def _llama(place: Path, spec: LMSpec, config: Mapping[str, Any]) -> Source:
    tensors = Stored(place)
    parts = {f"lm.{name}": tuple(name for name, _ in pieces) for name, pieces in llama.pieces(spec).items()}
    heights = {name: rows for pieces in llama.pieces(spec).values() for name, rows in pieces}
    source = _source(place, spec, tensors=tensors, made=parts, files=(place / "config.json", *tensors.files))
    _check(place, source, llama.counted(tensors, spec), heights)
    return replace(source, seen=_seen(config))


def _seen(config: Mapping[str, Any]) -> int | None:
    """Tokens trained on, as an export of ours says them."""
    seen = config.get("firstsight_seen")
    return seen if isinstance(seen, int) else None


def _config(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as problem:
        raise ModelError(f"{file}: wanted a configuration in JSON. Got: {problem}. Copy it again.") from problem


def _source(
    place: Path, spec: LMSpec | VLMSpec, *, tensors: Mapping[str, Tensor], made: Any, files: tuple[Path, ...]
) -> Source:
    index = place / "model.safetensors.index.json"
    read = (*files, index) if index.is_file() else files
    return Source(spec=spec, tensors=tensors, made=made, files=read, seen=None, moments=None)


def _openlm_file(file: Path, config: Path | None) -> Source:
    """A `.pt` checkpoint with its optimizer beside it, where that is there."""
    beside = [place for place in (file.parent / "params.txt", file.parent.parent / "params.txt") if place.is_file()]
    read = [*([config] if config else []), *beside[:1]]
    places = [openlm.settings(one) for one in read]
    with _at(file):
        spec = openlm.spec_of(*places)
    found = openlm.read(file)
    source = _openlm(file, spec, found.tensors, files=(file, *read))
    row = next((one["seq_len"] for one in places if isinstance(one.get("seq_len"), int)), None)
    seen = None if row is None or found.samples is None else row * found.samples
    optimizer = file.with_name(file.name.replace("epoch_", "optimizer_"))
    if optimizer == file or not optimizer.is_file():
        return replace(source, seen=seen)
    moments = openlm.moments(optimizer, found.tensors, spec)
    return replace(source, seen=seen, moments=moments, files=(*source.files, optimizer))


def _openlm_folder(place: Path, config: Mapping[str, Any], extra: Path | None) -> Source:
    """OpenLM as transformers keeps it: settings at the top of config.json and in its params_args_dict."""
    inner = llama.table(config, "params_args_dict")
    spec = openlm.spec_of(*([openlm.settings(extra)] if extra else []), config, inner)
    tensors = Stored(place)
    read = (place / "config.json", *tensors.files, *([extra] if extra else []))
    return _openlm(place, spec, tensors, files=read)


def _openlm(place: Path, spec: LMSpec, tensors: Mapping[str, Tensor], *, files: tuple[Path, ...]) -> Source:
    there = openlm.named(tensors, spec)
    with hollow():
        own = VLM(spec).state_dict()
    made = {name: (there.get(name.removeprefix("lm."), name.removeprefix("lm.")),) for name in own}
    source = _source(place, spec, tensors=tensors, made=made, files=files)
    _check(place, source, list(there.values()), {made[name][0]: own[name].shape[0] for name in own})
    return source


def _check(place: Path, source: Source, counted: list[str], heights: Mapping[str, int]) -> None:
    """The source's tensors are those that its configuration tells of: ModelError names every one that is not."""
    with hollow():
        own = VLM(source.spec).state_dict()
    wanted: dict[str, Form] = {
        name: (torch.Size((heights[name], *own[ours].shape[1:])), own[ours].dtype)
        for ours, parts in source.made.items()
        for name in parts
    }
    found = forms(source.tensors)
    if told := contradictions(wanted, {name: found[name] for name in counted}):
        raise ModelError(
            f"{place}: weights and configuration contradict each other. {told}. Copy both from the same run."
        )


def _whole(place: Path, config: Mapping[str, Any]) -> Source:
    """A Llava or an export of ours: the whole model at once, its frozen encoder's tensors among it."""
    stored = Stored(place)
    with _at(place):
        if config.get("model_type") == llava.OWN:
            spec: LMSpec | VLMSpec = llava.written(config)
            tensors = {name.removeprefix("model."): one for name, one in stored.items()}  # so transformers saves again
        else:
            spec = llava.spec_of(config)
            tensors = llava.from_llava(stored, spec)
    if told := contradictions(forms(_hollow(spec)), forms(tensors)):
        raise ModelError(
            f"{place}: weights and configuration contradict each other. {told}. Copy both from the same run."
        )
    made = {name: (name,) for name in tensors}
    source = _source(place, spec, tensors=tensors, made=made, files=(place / "config.json", *stored.files))
    return replace(source, seen=_seen(config))


def _hollow(spec: LMSpec | VLMSpec) -> dict[str, Tensor]:
    """All tensors of a model without their numbers, a frozen encoder's among them."""
    with hollow():
        own = dict(VLM(spec).state_dict())
        if isinstance(spec, VLMSpec) and spec.encoder == "frozen" and not isinstance(spec.vision, Patches):
            own |= {f"encoder.{name}": one for name, one in Encoder(spec.vision).state_dict().items()}
    return own


class _Made(Mapping[str, Tensor]):
    """Our tensors, each made when it is asked for."""

    def __init__(self, source: Source, told: Callable[[int], None]) -> None:
        self.source, self.told = source, told
        self.names = [name for name in source.made if not towers.NAME.fullmatch(name)]

    def __getitem__(self, name: str) -> Tensor:
        tensor = llama.joined([self.source.tensors[part] for part in self.source.made[name]])
        self.told(tensor.nbytes)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class _Told:
    """Bytes done so far: all are read twice, for the weights and for their digests."""

    def __init__(self, tell: Tell, source: Source) -> None:
        self.tell, self.done = tell, 0
        self.total = 2 * sum(file.stat().st_size for file in source.files)

    def __call__(self, more: int) -> None:
        self.done += more
        self.tell(Progress(done=min(self.done, self.total), total=self.total, unit="bytes"))


def _write(folder: Path, source: Source, words: Path, told: _Told) -> None:
    """Weights, moments, towers, tokenizer, and the spec last."""
    write_tensors(folder, _Made(source, told))
    if source.moments is not None:
        write_tensors(folder, source.moments, name="optimizer")
    if isinstance(source.spec, VLMSpec) and source.spec.encoder == "frozen":
        towers.write(folder, source.spec, source.tensors)
    shutil.copyfile(words, folder / "tokenizer.json")
    write_spec(folder, source.spec, seen=source.seen or 0)


def _record(folder: Path, request: Request, place: Path, source: Source, *, told: _Told) -> None:
    """imported.json: where the weights come from and the digest of every file that was read; no date, no machine."""
    hub = request.place.startswith(HUB) or not Path(request.place).expanduser().exists()
    commit = place.name if hub and place.parent.name == "snapshots" else request.revision
    digests: dict[str, str] = {}
    for file in source.files:
        digest = hashlib.sha256()
        with file.open("rb") as data:
            while chunk := data.read(CHUNK):
                digest.update(chunk)
                told(len(chunk))
        digests[file.name] = digest.hexdigest()
    body = {
        "source": request.place.removeprefix(HUB) if hub else place.name,
        "revision": commit,
        "files": digests,
        "moments": source.moments is not None,
    }
    (folder / "imported.json").write_text(json.dumps(body, sort_keys=True, indent=1) + "\n")
