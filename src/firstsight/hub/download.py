"""Where weights and tokenizers lie: a local folder, or a name on the Hugging Face hub and its copy in the cache."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from firstsight.errors import ModelError, StoreError

HUB_PREFIX = "hf://"
HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")
"""owner/name, and behind @ a branch, a tag or a commit."""
CONFIG_PATTERNS = ("*.json", "*.txt", "*.jinja", "tokenizer*.model")
"""What is read of a hub folder beside its weights; never code, never a pickle."""
WEIGHT_PATTERNS = ("*.safetensors",)
IGNORE_PATTERNS = ("consolidated*", "original/*", "*.py", "*.bin")
"""The same weights once more in their makers' own layout, and what may run."""
LFS_POINTER_START = b"version https://git-lfs"
SHARD_PATTERN, INDEX_FILENAME = "model-?????-of-?????.safetensors", "model.safetensors.index.json"


def resolve_hub_path(location: str, *, revision: str | None = None, needs_weights: bool = True) -> Path:
    """Where `place` lies: a local folder or file as it is, else `owner/name[@revision]` of the hub, fetched once.

    A hub name may begin with hf://; without network its copy in the cache is taken. `weights` says whether weights are
    wanted, or only configuration and tokenizer. Raises ModelError that says how to get a folder that cannot be had,
    and names the files that a half-downloaded one lacks.
    """
    local_path = Path(location).expanduser()
    if location and not location.startswith(HUB_PREFIX) and local_path.exists():
        if revision is not None:
            raise ModelError(f"{location}: a revision belongs to a hub name. Got {revision!r} for a folder. Omit it.")
        if needs_weights and local_path.is_dir():
            check_download_complete(local_path)
        return local_path
    match = HUB_NAME.fullmatch(location.removeprefix(HUB_PREFIX))
    if match is None:
        raise ModelError(
            f"{location}: wanted a folder, a file or a hub name (owner/name). Got nothing there. Name one."
        )
    inline_revision = match["revision"]
    if revision is not None and inline_revision is not None and revision != inline_revision:
        raise ModelError(f"{location}: wanted one revision. Got {inline_revision!r} and {revision!r}. Leave one out.")
    folder = _download_snapshot(match["name"], revision or inline_revision, needs_weights=needs_weights)
    if needs_weights:
        check_download_complete(folder)
        if not any(folder.glob("*.safetensors")):
            raise ModelError(
                f"{location}: wanted safetensors. Got a folder without any ({folder}); pickles of strangers are not "
                "fetched. Name a revision that has them, or turn them into safetensors yourself and name that folder."
            )
    return folder


def _download_snapshot(name: str, revision: str | None, *, needs_weights: bool) -> Path:
    """A hub folder in the cache, brought up to date where there is network."""
    from huggingface_hub import errors, snapshot_download  # not needed for what lies here

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[*CONFIG_PATTERNS, *(WEIGHT_PATTERNS if needs_weights else ())],
                ignore_patterns=list(IGNORE_PATTERNS),
            )
        )
    except (OSError, errors.HTTPError, errors.HFValidationError) as error:  # pyright: ignore[reportPrivateImportUsage]
        revision_option = f" --revision {revision}" if revision else ""
        raise ModelError(
            f"{name}{f'@{revision}' if revision else ''}: wanted a hub folder. {_describe_download_error(error)} "
            f"Where there is network, run: hf download {name}{revision_option} --local-dir FOLDER; then name that folder here "
            "(in the site file or on the command line)."
        ) from error


def _describe_download_error(error: Exception) -> str:
    """What stood in the way, in one sentence."""
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return "Got: its owner asks for consent first. Agree on its page and log in (hf auth login)."
        case errors.RepositoryNotFoundError():
            return "Got: the hub knows no such name, or it is private (hf auth login)."
        case errors.RevisionNotFoundError():
            return "Got: it has no such revision."
        case errors.IncompleteSnapshotError():
            return f"Got half of it in the cache, and no network for the rest ({_first_line(error)})."
        case errors.LocalEntryNotFoundError():
            return "Got no network (or HF_HUB_OFFLINE), nothing of that name in the cache and no such local folder."
        case _:
            return f"Got: {_first_line(error)}."


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


@contextmanager
def wrap_disk_errors(out: Path) -> Iterator[None]:
    """While `out` is written: StoreError in place of what the disk says."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
        raise StoreError(
            f"{out}: wanted a folder that can be written to the end. Got: {reason}. Nothing of it was left. "
            "Make room, or choose another --out."
        ) from error


def check_download_complete(folder: Path) -> None:
    """ModelError that names what a half-downloaded folder lacks: shards of an index, unfinished files, LFS contents."""
    missing_files = [
        f"{shard} (named by {index.name})"
        for index in sorted(folder.glob("*.safetensors.index.json"))
        for shard in _shard_names(index)
        if not (folder / shard).is_file()
    ]
    unfinished_files = [path.name for path in folder.glob(".cache/huggingface/download/**/*.incomplete")]
    paths = sorted(path for pattern in ("*.safetensors", "*.json") for path in folder.glob(pattern))
    missing_files += [f"{path.name} (a link to nothing)" for path in paths if not path.exists()]
    has_index_or_single_file = any((folder / name).exists() for name in ("model.safetensors", INDEX_FILENAME))
    missing_files += (
        [f"{INDEX_FILENAME} (its shards are there)"]
        if not has_index_or_single_file and any(folder.glob(SHARD_PATTERN))
        else []
    )
    lfs_pointers = [path.name for path in paths if path.is_file() and _is_lfs_pointer(path)]
    names_by_fault = {
        "no": missing_files,
        "the unfinished download of": unfinished_files,
        "a Git LFS pointer in place of": lfs_pointers,
    }
    if fault_list := "; ".join(f"{fault} {', '.join(names)}" for fault, names in names_by_fault.items() if names):
        raise ModelError(f"{folder}: wanted all of its weights. Got {fault_list}. Download it again to the end.")


def _shard_names(index: Path) -> list[str]:
    try:
        index_data: Any = json.loads(index.read_text())
        return sorted({str(name) for name in index_data["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: wanted an index with a weight_map. Got: {error!r}. Copy it again.") from error


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER_START)) == LFS_POINTER_START
