"""Import of public weights as a checkpoint folder, checked against their configuration before anything is written.

A source is an open_lm `.pt` file, or a folder in transformers' layout: OpenLM/DCLM, GPT-NeoX (Pythia), the Llama family
and its relatives, or an export.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tokenizers import Tokenizer as HFTokenizer
from torch import Tensor

from firstsight.data.tokenizer import load_tokenizer
from firstsight.errors import ModelError, RequestError
from firstsight.files import file_sha256, staged_folder, write_json
from firstsight.hub import gpt_neox, llama, llava, openlm
from firstsight.hub.download import HUB_PREFIX, resolve_hub_path
from firstsight.hub.public_weights import LazyTensors, PublicWeights, concat_rows, read_config
from firstsight.hub.sidecars import ENCODER_TENSOR_NAME, write_encoder_towers
from firstsight.limits import check_file_size
from firstsight.model.checkpoint_io import write_spec
from firstsight.model.tensors import wrapper_prefixes, write_tensors
from firstsight.model.vision import ENCODER_FAMILIES
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec
from firstsight.site import Progress, ProgressCallback
from firstsight.units import Tokens

CACHE_BLOB = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportRequest:
    """What to import, and facts that its files do not contain."""

    location: str
    """A file, a folder or a hub name."""
    revision: str | None
    tokenizer: str
    """A file, a folder or a hub name; empty for the tokenizer in the source's folder."""
    config_path: Path | None
    """For OpenLM: a model config or params.txt, if there is none next to the weights."""
    tokens_seen: Tokens | None
    """Tokens trained on; overrides the source's own record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportResult:
    """What was written."""

    folder: Path
    spec: LMSpec | VLMSpec
    tokens_seen: int | None
    """Tokens trained on; None if unknown (0 is written)."""
    has_moments: bool
    """Whether AdamW's moments were imported."""
    end_token: str
    """The tokenizer's end-of-document token."""
    removed_prefixes: Mapping[str, int]
    """What was removed from the names of tensors, such as `_orig_mod.` of torch.compile, and from how many."""
    min_vocabulary: int
    """Token rows that the tokenizer and the chat tokens need: the smallest LMSpec.vocab_size of the next stage."""

    def lines(self) -> list[str]:
        """A description for the terminal, with what the recipe of the next stage has to set."""
        lm = decoder_spec(self.spec)
        tokens = "unknown; 0 is written (set it with --seen)" if self.tokens_seen is None else f"{self.tokens_seen:,}"
        moments = "imported: AdamW's moments and steps" if self.has_moments else "none: the optimizer starts fresh"
        lines = [
            f"model: {lm.layers} layers, width {lm.width}, {lm.heads} heads, vocabulary {lm.vocab_size:,}, "
            f"{lm.parameters():,} parameters",
            f"tokens seen: {tokens}",
            f"moments: {moments}",
            f"end of a document: {self.end_token}",
        ]
        if self.removed_prefixes:
            removed = ", ".join(f"{prefix} from {count:,}" for prefix, count in self.removed_prefixes.items())
            lines.append(f"names of tensors: prefixes of wrappers are removed: {removed}")
        if self.min_vocabulary > lm.vocab_size:
            lines.append(
                f"chat tokens: they need {self.min_vocabulary:,} embedding rows, the model has {lm.vocab_size:,}; "
                f"set vocab_size={self.min_vocabulary} or more in the next stage's LMSpec"
            )
        return [*lines, f"folder: {self.folder}"]


def import_checkpoint(request: ImportRequest, out: Path, *, on_progress: ProgressCallback) -> ImportResult:
    """Write the checkpoint folder `out` from public weights; an interrupted import leaves nothing there.

    Raises RequestError if `out` is not empty or the request does not fit the source, ModelError if weights,
    configuration and tokenizer contradict each other or the model has features that firstsight does not implement.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out}: wanted a new folder for the import. Got one that is not empty. Choose another.")
    path = resolve_hub_path(request.location, revision=request.revision)
    weights = _read_weights(path, request)
    tokenizer_file = _find_tokenizer(path, request.tokenizer, decoder_spec(weights.spec).vocab_size)
    tokens_seen = weights.tokens_seen if request.tokens_seen is None else request.tokens_seen
    weights = replace(weights, files=(*weights.files, tokenizer_file), tokens_seen=tokens_seen)
    with staged_folder(out, errors=(SafetensorError,)) as folder:
        progress = _ByteProgress(on_progress, weights)
        _write_checkpoint(folder, weights, tokenizer_file, progress, location=path)
        _write_import_record(folder, request, path, weights=weights, progress=progress)
    tokenizer = load_tokenizer(out)
    return ImportResult(
        folder=out,
        spec=weights.spec,
        tokens_seen=tokens_seen,
        has_moments=weights.moments is not None,
        end_token=tokenizer.end_token,
        removed_prefixes=wrapper_prefixes(weights.stored_names),
        min_vocabulary=tokenizer.vocab_size,
    )


def _read_weights(path: Path, request: ImportRequest) -> PublicWeights:
    """The weights in a file or folder; ModelError or RequestError if they cannot be imported."""
    if path.is_file():
        if path.suffix not in (".pt", ".pth"):
            raise ModelError(f"{path}: wanted a folder, or a .pt file of open_lm. Got another file. Name its folder.")
        return openlm.read_openlm_file(path, request.config_path)
    config = _read_folder_config(path)
    model_type = config.get("model_type")
    if model_type == "openlm":
        return openlm.read_openlm_folder(path, config, request.config_path)
    if request.config_path is not None:
        raise RequestError(f"--config: is for OpenLM only. Got it for {model_type}. Omit it.")
    if model_type in ENCODER_FAMILIES:
        raise RequestError(
            f"{path}: wanted a language model. Got {model_type}: vision weights in this layout need no import. Name "
            "the folder (or hub name) under [sources.NAME] path in the site file, and NAME in the recipe."
        )
    if model_type in ("llava", llava.SPEC_KEY):
        return llava.read_vision_language_weights(path, config)
    if model_type == gpt_neox.MODEL_TYPE:
        return gpt_neox.read_gpt_neox_weights(path, config)
    return llama.read_llama_weights(path, config)


def _read_folder_config(path: Path) -> dict[str, Any]:
    """config.json of a folder with safetensors; errors that name the file or option to use for all other folders."""
    if (path / "spec.json").is_file():
        raise RequestError(f"{path}: this is a checkpoint folder of firstsight already. Use it without an import.")
    if not (path / "config.json").is_file():
        epochs = ", ".join(sorted(file.name for file in path.rglob("epoch_*.pt")))
        advice = f"Name one of its files: {epochs}." if epochs else "Name the folder that has one."
        raise ModelError(f"{path}: wanted config.json in a folder of weights. Got none. {advice}")
    config = read_config(path / "config.json")
    pickles = sorted(file.name for file in path.glob("*.bin"))
    if pickles and not any(path.glob("*.safetensors")):
        raise ModelError(
            f"{path}: wanted safetensors. Got {', '.join(pickles)}, pickles that may execute code. Name a revision "
            "that has safetensors, or write them with transformers' save_pretrained; for OpenLM with "
            "torch.load(FILE, weights_only=True) and safetensors.torch.save_file."
        )
    return config


def _find_tokenizer(path: Path, location: str, vocab_size: int) -> Path:
    bundled = path / "tokenizer.json"
    if not location and not bundled.is_file():
        conversion = " (AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) makes one from tokenizer.model)"
        raise RequestError(
            f"{path}: wanted a tokenizer.json next to the weights. Got none. Give --tokenizer with a file, folder or "
            f"hub name{conversion if (path / 'tokenizer.model').is_file() else ''}; OpenLM and DCLM use "
            "EleutherAI/gpt-neox-20b."
        )
    tokenizer = load_tokenizer(resolve_hub_path(location, needs_weights=False) if location else bundled)
    size, hint = tokenizer.base_vocab_size, "Give the tokenizer that the model was trained with."
    is_too_small = not bundled.is_file() and 2 * size < vocab_size  # a tokenizer next to the weights may be small
    if size > vocab_size or is_too_small:
        raise ModelError(
            f"{tokenizer.path}: wanted the tokenizer of a model with {vocab_size} embedding rows. Got one with {size} "
            f"tokens. {hint}"
        )
    if bundled.is_file():
        first, second = (_vocabulary(file) for file in (bundled, tokenizer.path))
        if count := len(first ^ second):
            raise ModelError(f"{tokenizer.path}: wanted the vocabulary of {bundled}. Got {count} other tokens. {hint}")
    return tokenizer.path


def _vocabulary(file: Path) -> set[tuple[str, int]]:
    check_file_size(file, "tokenizer")
    return set(HFTokenizer.from_file(str(file)).get_vocab(with_added_tokens=True).items())


class _ByteProgress:
    """Reports the bytes that are done: every file is read twice, for the weights and for its digest."""

    def __init__(self, on_progress: ProgressCallback, weights: PublicWeights) -> None:
        self.on_progress, self.done = on_progress, 0
        self.total = 2 * sum(file.stat().st_size for file in weights.files)

    def __call__(self, byte_count: int) -> None:
        self.done += byte_count
        self.on_progress(Progress(done=min(self.done, self.total), total=self.total, unit="bytes"))


def _write_checkpoint(
    folder: Path, weights: PublicWeights, tokenizer_file: Path, progress: _ByteProgress, *, location: Path
) -> None:
    def read_tensor(name: str) -> Tensor:
        tensor = concat_rows([weights.tensors[source] for source in weights.source_names[name]])
        progress(tensor.nbytes)
        return tensor

    names = [name for name in weights.source_names if not ENCODER_TENSOR_NAME.fullmatch(name)]
    write_tensors(folder, LazyTensors(names, read_tensor), location=location)
    if weights.moments is not None:
        write_tensors(folder, weights.moments, name="optimizer", location=location)
    if isinstance(weights.spec, VLMSpec) and weights.spec.encoder == "external":
        write_encoder_towers(folder, weights.spec, weights.tensors)
    shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
    write_spec(folder, weights.spec, tokens_seen=weights.tokens_seen or 0)


def _write_import_record(
    folder: Path, request: ImportRequest, path: Path, *, weights: PublicWeights, progress: _ByteProgress
) -> None:
    """imported.json: the source and the digest of every file that was read, without date or machine."""
    is_hub = request.location.startswith(HUB_PREFIX) or not Path(request.location).expanduser().exists()
    digests = dict[str, str]()
    for file in weights.files:
        digests[file.name] = digest = file_sha256(file)
        blob = file.resolve().name  # in the hub's cache a large file's name is its digest
        if CACHE_BLOB.fullmatch(blob) and blob != digest:
            raise ModelError(
                f"{file}: wanted the bytes with the hub's SHA-256 {blob}. Got {digest}. Delete {file.resolve()} and "
                "import again: the hub's client downloads it once more."
            )
        progress(file.stat().st_size)
    record = {
        "source": request.location.removeprefix(HUB_PREFIX) if is_hub else path.name,
        "revision": path.name if is_hub and path.parent.name == "snapshots" else request.revision,
        "files": digests,
        "moments": weights.moments is not None,
    }
    write_json(folder / "imported.json", record)
