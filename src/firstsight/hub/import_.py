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

from firstsight.data.tokenizer import load_tokenizer as load_tokenizer
from firstsight.errors import ModelError, QuantityError, RequestError
from firstsight.hub import check_tokenizer, encoder_files, llama, llava, openlm
from firstsight.hub.download import HUB_PREFIX, resolve_hub_path, wrap_disk_errors
from firstsight.model.checkpoint_io import write_spec
from firstsight.model.tensors import (
    ShapeAndDtype,
    StoredTensors,
    meta_init,
    shapes_and_dtypes,
    tensor_mismatches,
    write_tensors,
)
from firstsight.model.vision import Encoder
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.site import Progress, ProgressCallback
from firstsight.units import Tokens

VISION_MODEL_TYPES = ("siglip", "siglip_vision_model", "dinov2", "dinov2_with_registers")
NO_IMPORT_NEEDED = (
    "vision weights in this layout need no import: name the folder (or hub name) under [sources.NAME] path in the "
    "site file, and NAME in the recipe"
)
DIGEST_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportRequest:
    """What to import, and what its files do not say."""

    location: str
    """A file, a folder or a hub name."""
    revision: str | None
    tokenizer: str
    """A file, a folder or a hub name; empty: the one in the source's folder."""
    config_path: Path | None
    """For OpenLM: a model config or params.txt, where none lies beside the weights."""
    tokens_seen: Tokens | None
    """Tokens trained on, where the source does not say so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportResult:
    """What was written."""

    folder: Path
    spec: LMSpec | VLMSpec
    tokens_seen: int | None
    """Tokens trained on; None where nobody said (0 is written)."""
    has_moments: bool
    """Whether AdamW's averages came along."""
    end_token: str
    """What ends a document in its tokenizer."""
    min_vocabulary: int
    """Rows that the tokenizer needs with the chat marks: the least LMSpec.vocabulary of the next stage."""

    def lines(self) -> list[str]:
        """What was written, in words, and what the next stage must know."""
        lm = decoder_spec(self.spec)
        tokens_seen = "not told; 0 is written (--seen says it)" if self.tokens_seen is None else f"{self.tokens_seen:,}"
        moments = (
            "carried: AdamW's averages and steps lie beside the weights" if self.has_moments else "none: start fresh"
        )
        lines = [
            f"model: {lm.layers} layers, width {lm.width}, {lm.heads} heads, vocabulary {lm.vocab_size:,}, "
            f"{lm.parameters():,} parameters",
            f"tokens seen: {tokens_seen}",
            f"moments: {moments}",
            f"end of a document: {self.end_token}",
        ]
        if self.min_vocabulary > lm.vocab_size:
            lines.append(
                f"chat marks: they need {self.min_vocabulary:,} token rows, the model has {lm.vocab_size:,}; "
                f"say vocabulary={self.min_vocabulary} or more in the next stage's LMSpec"
            )
        return [*lines, f"folder: {self.folder}"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicWeights:
    """Public weights, checked against their configuration; tensors are read when they are written."""

    spec: LMSpec | VLMSpec
    tensors: Mapping[str, Tensor]
    source_names: Mapping[str, tuple[str, ...]]
    """Our tensors, each with those of the source that it is made of, one below the other."""
    files: tuple[Path, ...]
    """All that was read."""
    tokens_seen: int | None
    moments: Mapping[str, Tensor] | None


def import_checkpoint(request: ImportRequest, out: Path, *, on_progress: ProgressCallback) -> ImportResult:
    """Write the checkpoint folder `out` from public weights; a killed import leaves nothing there.

    Raises RequestError where `out` holds something or the request does not fit the source, ModelError where weights,
    configuration and tokenizer contradict each other, and for what firstsight cannot do the same.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out}: wanted a new folder for the import. Got one that is not empty. Choose another.")
    path = resolve_hub_path(request.location, revision=request.revision)
    weights = _read_weights(path, request)
    tokenizer_file = check_tokenizer.matching_tokenizer_file(
        path, request.tokenizer, decoder_spec(weights.spec).vocab_size
    )
    weights = replace(
        weights,
        files=(*weights.files, tokenizer_file),
        tokens_seen=weights.tokens_seen if request.tokens_seen is None else request.tokens_seen,
    )
    staging_folder = out.absolute().with_name(f".{out.name}.importing")
    shutil.rmtree(staging_folder, ignore_errors=True)
    try:
        with wrap_disk_errors(out):
            staging_folder.mkdir(parents=True)
            progress = _ByteProgress(on_progress, weights)
            _write_checkpoint(staging_folder, weights, tokenizer_file, progress)
            _write_import_record(staging_folder, request, path, weights, progress=progress)
            if out.exists():
                out.rmdir()
            staging_folder.rename(out)
    finally:
        shutil.rmtree(staging_folder, ignore_errors=True)
    tokenizer = load_tokenizer(out)
    return ImportResult(
        folder=out,
        spec=weights.spec,
        tokens_seen=weights.tokens_seen,
        has_moments=weights.moments is not None,
        end_token=tokenizer.end_token,
        min_vocabulary=tokenizer.vocab_size,
    )


def _read_weights(path: Path, request: ImportRequest) -> PublicWeights:
    """What a file or folder holds; ModelError or RequestError for what cannot be imported."""
    if path.is_file():
        if path.suffix not in (".pt", ".pth"):
            raise ModelError(f"{path}: wanted a folder, or a .pt file of open_lm. Got another file. Name its folder.")
        return _openlm_file_weights(path, request.config_path)
    if (path / "spec.json").is_file():
        raise RequestError(f"{path}: this is a checkpoint folder of firstsight already. Name it as it is.")
    if not (path / "config.json").is_file():
        epoch_files = sorted(weights_file.name for weights_file in path.rglob("epoch_*.pt"))
        advice = f"Name one of its files: {', '.join(epoch_files)}." if epoch_files else "Name the folder that has one."
        raise ModelError(f"{path}: wanted config.json in a folder of weights. Got none. {advice}")
    config = _read_config(path / "config.json")
    model_type = config.get("model_type")
    pickles = sorted(weights_file.name for weights_file in path.glob("*.bin"))
    if pickles and not any(path.glob("*.safetensors")):
        raise ModelError(
            f"{path}: wanted safetensors. Got {', '.join(pickles)}, pickles that may run anything. Name a revision "
            "that has safetensors, or write them with transformers' save_pretrained; for OpenLM with "
            "torch.load(FILE, weights_only=True) and safetensors.torch.save_file."
        )
    if model_type == "openlm":
        with _prefix_errors(path):
            return _openlm_folder_weights(path, config, request.config_path)
    if request.config_path is not None:
        raise RequestError(
            f"--config: is for OpenLM, whose settings may lie elsewhere. Got it for {model_type}. Omit it."
        )
    if model_type in VISION_MODEL_TYPES:
        raise RequestError(f"{path}: wanted a language model. Got {model_type}: {NO_IMPORT_NEEDED}.")
    if model_type in ("llava", llava.SPEC_KEY):
        return _vision_language_weights(path, config)
    with _prefix_errors(path):
        spec = llama.llama_spec(config)
        _check_architecture(config)
    return _llama_weights(path, spec, config)


@contextmanager
def _prefix_errors(path: Path) -> Iterator[None]:
    """ModelError that says where, for what settings and names alone cannot say."""
    try:
        yield
    except (ModelError, QuantityError) as error:
        message = str(error)
        raise ModelError(message if message.startswith(str(path)) else f"{path}: {message}") from error


def _check_architecture(config: Mapping[str, Any]) -> None:
    architectures = config.get("architectures")
    if (
        isinstance(architectures, list)
        and architectures
        and not str(cast(list[Any], architectures)[0]).endswith("ForCausalLM")
    ):
        raise ModelError(
            f"config.json: architectures: wanted a language model (...ForCausalLM). Got {architectures[0]}, whose head is "
            "another or none. Take the folder that it was made of."
        )


def _llama_weights(path: Path, spec: LMSpec, config: Mapping[str, Any]) -> PublicWeights:
    tensors = StoredTensors(path)
    source_names = {
        f"lm.{name}": tuple(name for name, _ in llama_tensors)
        for name, llama_tensors in llama.llama_tensor_names(spec).items()
    }
    row_counts = {
        name: row_count
        for llama_tensors in llama.llama_tensor_names(spec).values()
        for name, row_count in llama_tensors
    }
    weights = _public_weights(
        path, spec, tensors=tensors, source_names=source_names, files=(path / "config.json", *tensors.files)
    )
    _check_tensors(path, weights, llama.llama_weight_names(tensors, spec), row_counts)
    return replace(weights, tokens_seen=_tokens_seen(config))


def _tokens_seen(config: Mapping[str, Any]) -> int | None:
    """Tokens trained on, as an export of ours says them."""
    tokens_seen = config.get("firstsight_seen")
    return tokens_seen if isinstance(tokens_seen, int) else None


def _read_config(config_file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(config_file.read_text()))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{config_file}: wanted a configuration in JSON. Got: {error}. Copy it again.") from error


def _public_weights(
    path: Path, spec: LMSpec | VLMSpec, *, tensors: Mapping[str, Tensor], source_names: Any, files: tuple[Path, ...]
) -> PublicWeights:
    index_file = path / "model.safetensors.index.json"
    all_files = (*files, index_file) if index_file.is_file() else files
    return PublicWeights(
        spec=spec, tensors=tensors, source_names=source_names, files=all_files, tokens_seen=None, moments=None
    )


def _openlm_file_weights(weights_file: Path, config_path: Path | None) -> PublicWeights:
    """A `.pt` checkpoint with its optimizer beside it, where that is there."""
    params_files = [
        params_file
        for params_file in (weights_file.parent / "params.txt", weights_file.parent.parent / "params.txt")
        if params_file.is_file()
    ]
    settings_files = [*([config_path] if config_path else []), *params_files[:1]]
    settings_dicts = [openlm.read_openlm_settings(settings_item) for settings_item in settings_files]
    with _prefix_errors(weights_file):
        spec = openlm.openlm_spec_from_settings(*settings_dicts)
    checkpoint = openlm.read_openlm_checkpoint(weights_file)
    weights = _openlm_weights(weights_file, spec, checkpoint.tensors, files=(weights_file, *settings_files))
    row_length = next(
        (settings_item["seq_len"] for settings_item in settings_dicts if isinstance(settings_item.get("seq_len"), int)),
        None,
    )
    tokens_seen = (
        None if row_length is None or checkpoint.samples_seen is None else row_length * checkpoint.samples_seen
    )
    optimizer_file = weights_file.with_name(weights_file.name.replace("epoch_", "optimizer_"))
    if optimizer_file == weights_file or not optimizer_file.is_file():
        return replace(weights, tokens_seen=tokens_seen)
    moments = openlm.read_openlm_moments(optimizer_file, checkpoint.tensors, spec)
    return replace(weights, tokens_seen=tokens_seen, moments=moments, files=(*weights.files, optimizer_file))


def _openlm_folder_weights(path: Path, config: Mapping[str, Any], config_path: Path | None) -> PublicWeights:
    """OpenLM as transformers keeps it: settings at the top of config.json and in its params_args_dict."""
    params_args = llama.nested_settings(config, "params_args_dict")
    spec = openlm.openlm_spec_from_settings(
        *([openlm.read_openlm_settings(config_path)] if config_path else []), config, params_args
    )
    tensors = StoredTensors(path)
    files = (path / "config.json", *tensors.files, *([config_path] if config_path else []))
    return _openlm_weights(path, spec, tensors, files=files)


def _openlm_weights(
    path: Path, spec: LMSpec, tensors: Mapping[str, Tensor], *, files: tuple[Path, ...]
) -> PublicWeights:
    openlm_names = openlm.openlm_tensor_names(tensors, spec)
    with meta_init():
        state_dict = VLM(spec).state_dict()
    source_names = {
        name: (openlm_names.get(name.removeprefix("lm."), name.removeprefix("lm.")),) for name in state_dict
    }
    weights = _public_weights(path, spec, tensors=tensors, source_names=source_names, files=files)
    _check_tensors(
        path,
        weights,
        list(openlm_names.values()),
        {source_names[name][0]: state_dict[name].shape[0] for name in state_dict},
    )
    return weights


def _check_tensors(
    path: Path, weights: PublicWeights, model_tensor_names: list[str], row_counts: Mapping[str, int]
) -> None:
    """The source's tensors are those that its configuration tells of: ModelError names every one that is not."""
    with meta_init():
        state_dict = VLM(weights.spec).state_dict()
    expected_forms: dict[str, ShapeAndDtype] = {
        name: (
            torch.Size((row_counts[name], *state_dict[firstsight_name].shape[1:])),
            state_dict[firstsight_name].dtype,
        )
        for firstsight_name, llama_names in weights.source_names.items()
        for name in llama_names
    }
    actual_forms = shapes_and_dtypes(weights.tensors)
    if mismatches := tensor_mismatches(expected_forms, {name: actual_forms[name] for name in model_tensor_names}):
        raise ModelError(
            f"{path}: weights and configuration contradict each other. {mismatches}. Copy both from the same run."
        )


def _vision_language_weights(path: Path, config: Mapping[str, Any]) -> PublicWeights:
    """A Llava or an export of ours: the whole model at once, its frozen encoder's tensors among it."""
    stored = StoredTensors(path)
    with _prefix_errors(path):
        if config.get("model_type") == llava.SPEC_KEY:
            spec: LMSpec | VLMSpec = llava.embedded_spec(config)
            tensors = {
                name.removeprefix("model."): tensor for name, tensor in stored.items()
            }  # so transformers saves again
        else:
            spec = llava.llava_spec(config)
            tensors = llava.from_llava(stored, spec)
    if mismatches := tensor_mismatches(shapes_and_dtypes(_meta_tensors(spec)), shapes_and_dtypes(tensors)):
        raise ModelError(
            f"{path}: weights and configuration contradict each other. {mismatches}. Copy both from the same run."
        )
    source_names = {name: (name,) for name in tensors}
    weights = _public_weights(
        path, spec, tensors=tensors, source_names=source_names, files=(path / "config.json", *stored.files)
    )
    return replace(weights, tokens_seen=_tokens_seen(config))


def _meta_tensors(spec: LMSpec | VLMSpec) -> dict[str, Tensor]:
    """All tensors of a model without their numbers, a frozen encoder's among them."""
    with meta_init():
        tensors = dict(VLM(spec).state_dict())
        if isinstance(spec, VLMSpec) and spec.encoder == "frozen" and not isinstance(spec.vision, PatchProjectionSpec):
            tensors |= {f"encoder.{name}": tensor for name, tensor in Encoder(spec.vision).state_dict().items()}
    return tensors


class _LazyTensors(Mapping[str, Tensor]):
    """Our tensors, each made when it is asked for."""

    def __init__(self, weights: PublicWeights, on_bytes: Callable[[int], None]) -> None:
        self.weights, self.on_bytes = weights, on_bytes
        self.names = [name for name in weights.source_names if not encoder_files.ENCODER_TENSOR_NAME.fullmatch(name)]

    def __getitem__(self, name: str) -> Tensor:
        tensor = llama.concat_rows(
            [self.weights.tensors[source_name] for source_name in self.weights.source_names[name]]
        )
        self.on_bytes(tensor.nbytes)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class _ByteProgress:
    """Bytes done so far: all are read twice, for the weights and for their digests."""

    def __init__(self, on_progress: ProgressCallback, weights: PublicWeights) -> None:
        self.on_progress, self.done = on_progress, 0
        self.total = 2 * sum(file.stat().st_size for file in weights.files)

    def __call__(self, byte_count: int) -> None:
        self.done += byte_count
        self.on_progress(Progress(done=min(self.done, self.total), total=self.total, unit="bytes"))


def _write_checkpoint(folder: Path, weights: PublicWeights, tokenizer_file: Path, progress: _ByteProgress) -> None:
    """Weights, moments, towers, tokenizer, and the spec last."""
    write_tensors(folder, _LazyTensors(weights, progress))
    if weights.moments is not None:
        write_tensors(folder, weights.moments, name="optimizer")
    if isinstance(weights.spec, VLMSpec) and weights.spec.encoder == "frozen":
        encoder_files.write_encoder_towers(folder, weights.spec, weights.tensors)
    shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
    write_spec(folder, weights.spec, tokens_seen=weights.tokens_seen or 0)


def _write_import_record(
    folder: Path, request: ImportRequest, path: Path, weights: PublicWeights, *, progress: _ByteProgress
) -> None:
    """imported.json: where the weights come from and the digest of every file that was read; no date, no machine."""
    is_hub = request.location.startswith(HUB_PREFIX) or not Path(request.location).expanduser().exists()
    commit = path.name if is_hub and path.parent.name == "snapshots" else request.revision
    file_digests: dict[str, str] = {}
    for file in weights.files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(DIGEST_CHUNK_BYTES):
                digest.update(chunk)
                progress(len(chunk))
        file_digests[file.name] = digest.hexdigest()
    import_record = {
        "source": request.location.removeprefix(HUB_PREFIX) if is_hub else path.name,
        "revision": commit,
        "files": file_digests,
        "moments": weights.moments is not None,
    }
    (folder / "imported.json").write_text(json.dumps(import_record, sort_keys=True, indent=1) + "\n")
