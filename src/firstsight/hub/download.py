"""Folders of weights and tokenizers: a local path, or a name on the Hugging Face hub and its copy in the cache."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from firstsight.errors import ModelError
from firstsight.files import read_weight_map
from firstsight.limits import check_file_size, check_tensor_header, read_settings

HUB_PREFIX = "hf://"
HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")
"""owner/name, with an optional @ and a branch, tag or commit."""
CONFIG_PATTERNS = ("*.json", "*.txt", "*.jinja", "tokenizer*.model")
"""Files of a hub folder that are downloaded in addition to its weights; no code and no pickles."""
WEIGHT_PATTERNS = ("*.safetensors",)
IGNORE_PATTERNS = ("consolidated*", "original/*", "*.py", "*.bin")
"""Second copies of the weights in a publisher's own layout, code, and pickles."""
LFS_POINTER_START = b"version https://git-lfs"
SHARD_PATTERN, INDEX_FILENAME = "model-?????-of-?????.safetensors", "model.safetensors.index.json"


def resolve_hub_path(location: str, *, revision: str | None = None, needs_weights: bool = True) -> Path:
    """The local path of `location`: a folder or file as it is, or the download of `owner/name[@revision]`.

    A hub name may begin with hf://; without network its copy in the cache is used. Without `needs_weights` only
    configuration and tokenizer are downloaded. Raises ModelError that explains how to get a missing folder, and
    names the missing files of an incomplete one.
    """
    path = Path(location).expanduser()
    if location and not location.startswith(HUB_PREFIX) and path.exists():
        if revision is not None:
            raise ModelError(f"{location}: a revision belongs to a hub name. Got {revision!r} for a folder. Omit it.")
        if needs_weights and path.is_dir():
            check_download_complete(path)
        return path
    match = HUB_NAME.fullmatch(location.removeprefix(HUB_PREFIX))
    if match is None:
        raise ModelError(f"{location}: wanted a folder, a file or a hub name (owner/name). Got none. Name one.")
    suffix = match["revision"]
    if revision is not None and suffix is not None and revision != suffix:
        raise ModelError(f"{location}: wanted one revision. Got {suffix!r} and {revision!r}. Leave one out.")
    folder = _download_snapshot(match["name"], revision or suffix, needs_weights=needs_weights)
    if needs_weights:
        check_download_complete(folder)
        if not any(folder.glob("*.safetensors")):
            raise ModelError(
                f"{location}: wanted safetensors. Got a folder without any ({folder}); pickles are not downloaded. "
                "Name a revision that has them, or convert them to safetensors yourself and name that folder."
            )
    return folder


def _download_snapshot(name: str, revision: str | None, *, needs_weights: bool) -> Path:
    """A hub folder in the cache, updated if there is network."""
    from huggingface_hub import errors, snapshot_download  # not needed for local folders

    patterns, ignored = [*CONFIG_PATTERNS, *(WEIGHT_PATTERNS if needs_weights else ())], list[str](IGNORE_PATTERNS)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except (OSError, errors.HTTPError, errors.HFValidationError) as error:  # pyright: ignore[reportPrivateImportUsage]
        suffix, option = (f"@{revision}", f" --revision {revision}") if revision else ("", "")
        raise ModelError(
            f"{name}{suffix}: wanted a hub folder. {_describe_download_error(error)} On a machine with network, run: "
            f"hf download {name}{option} --local-dir FOLDER; then name that folder here (in the site file or on the "
            "command line)."
        ) from error


def _describe_download_error(error: Exception) -> str:
    from huggingface_hub import errors

    reason = str(error).strip().partition("\n")[0].rstrip(".")
    match error:
        case errors.GatedRepoError():
            return "Got: its owner requires consent. Agree on its page and log in (hf auth login)."
        case errors.RepositoryNotFoundError():
            return "Got: the hub has no such name, or it is private (hf auth login)."
        case errors.RevisionNotFoundError():
            return "Got: it has no such revision."
        case errors.IncompleteSnapshotError():
            return f"Got a part of it in the cache, and no network for the rest ({reason})."
        case errors.LocalEntryNotFoundError():
            return "Got no network (or HF_HUB_OFFLINE), no such name in the cache and no such local folder."
        case _:
            return f"Got: {reason}."


def check_download_complete(folder: Path) -> None:
    """ModelError that names missing shards of an index, unfinished downloads, broken links and Git LFS pointers.

    LimitExceeded for a file that is larger than its limit.
    """
    missing = [
        f"{shard} (named by {index.name})"
        for index in sorted(folder.glob("*.safetensors.index.json"))
        for shard in sorted(set(read_weight_map(index).values()))
        if not (folder / shard).is_file()
    ]
    unfinished = [path.name for path in folder.glob(".cache/huggingface/download/**/*.incomplete")]
    paths = sorted(path for pattern in ("*.safetensors", "*.json") for path in folder.glob(pattern))
    missing += [
        f"{path.name} (a {'folder' if path.is_dir() else 'broken link'})" for path in paths if not path.is_file()
    ]
    has_weights = any((folder / name).exists() for name in ("model.safetensors", INDEX_FILENAME))
    if not has_weights and any(folder.glob(SHARD_PATTERN)):
        missing.append(f"{INDEX_FILENAME} (its shards are present)")
    pointers = [path.name for path in paths if path.is_file() and _is_lfs_pointer(path)]
    faults = {"no": missing, "the unfinished download of": unfinished, "a Git LFS pointer in place of": pointers}
    if text := "; ".join(f"{fault} {', '.join(names)}" for fault, names in faults.items() if names):
        raise ModelError(f"{folder}: wanted all of its weights. Got {text}. Download it again completely.")
    _check_sizes(folder)


def _check_sizes(folder: Path) -> None:
    """LimitExceeded for a file of a model's folder above its limit, before a library reads it."""
    for pattern in ("*.json", "*.jinja", "*.txt", "*.model"):
        for path in folder.glob(pattern):
            is_tokenizer = path.name.startswith(("tokenizer.", "vocab", "merges", "spiece", "sentencepiece"))
            check_file_size(path, "tokenizer" if is_tokenizer else "settings")
    for path in folder.glob("*.safetensors"):
        check_tensor_header(path)
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        with suppress(ValueError, FileNotFoundError):  # the reader of the file says what is wrong with it
            read_settings(folder / name)


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER_START)) == LFS_POINTER_START
