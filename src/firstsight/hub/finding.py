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

HUB = "hf://"
NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")
"""owner/name, and behind @ a branch, a tag or a commit."""
WORDS = ("*.json", "*.txt", "*.jinja", "tokenizer*.model")
"""What is read of a hub folder beside its weights; never code, never a pickle."""
WEIGHTS = ("*.safetensors",)
DOUBLE = ("consolidated*", "original/*", "*.py", "*.bin")
"""The same weights once more in their makers' own layout, and what may run."""
POINTER = b"version https://git-lfs"
PARTS, INDEX = "model-?????-of-?????.safetensors", "model.safetensors.index.json"


def folder_of(place: str, *, revision: str | None = None, weights: bool = True) -> Path:
    """Where `place` lies: a local folder or file as it is, else `owner/name[@revision]` of the hub, fetched once.

    A hub name may begin with hf://; without network its copy in the cache is taken. `weights` says whether weights are
    wanted, or only configuration and tokenizer. Raises ModelError that says how to get a folder that cannot be had,
    and names the files that a half-downloaded one lacks.
    """
    local = Path(place).expanduser()
    if place and not place.startswith(HUB) and local.exists():
        if revision is not None:
            raise ModelError(f"{place}: a revision belongs to a hub name. Got {revision!r} for a folder. Omit it.")
        if weights and local.is_dir():
            check_whole(local)
        return local
    found = NAME.fullmatch(place.removeprefix(HUB))
    if found is None:
        raise ModelError(f"{place}: wanted a folder, a file or a hub name (owner/name). Got nothing there. Name one.")
    told = found["revision"]
    if revision is not None and told is not None and revision != told:
        raise ModelError(f"{place}: wanted one revision. Got {told!r} and {revision!r}. Leave one out.")
    folder = _fetched(found["name"], revision or told, weights=weights)
    if weights:
        check_whole(folder)
        if not any(folder.glob("*.safetensors")):
            raise ModelError(
                f"{place}: wanted safetensors. Got a folder without any ({folder}); pickles of strangers are not "
                "fetched. Name a revision that has them, or turn them into safetensors yourself and name that folder."
            )
    return folder


def _fetched(name: str, revision: str | None, *, weights: bool) -> Path:
    """A hub folder in the cache, brought up to date where there is network."""
    from huggingface_hub import errors, snapshot_download  # not needed for what lies here

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[*WORDS, *(WEIGHTS if weights else ())],
                ignore_patterns=list(DOUBLE),
            )
        )
    except (OSError, errors.HTTPError, errors.HFValidationError) as problem:  # pyright: ignore[reportPrivateImportUsage]
        at = f" --revision {revision}" if revision else ""
        raise ModelError(
            f"{name}{f'@{revision}' if revision else ''}: wanted a hub folder. {_reason(problem)} "
            f"Where there is network, run: hf download {name}{at} --local-dir FOLDER; then name that folder here "
            "(in the site file or on the command line)."
        ) from problem


def _reason(problem: Exception) -> str:
    """What stood in the way, in one sentence."""
    from huggingface_hub import errors

    match problem:
        case errors.GatedRepoError():
            return "Got: its owner asks for consent first. Agree on its page and log in (hf auth login)."
        case errors.RepositoryNotFoundError():
            return "Got: the hub knows no such name, or it is private (hf auth login)."
        case errors.RevisionNotFoundError():
            return "Got: it has no such revision."
        case errors.IncompleteSnapshotError():
            return f"Got half of it in the cache, and no network for the rest ({_first(problem)})."
        case errors.LocalEntryNotFoundError():
            return "Got no network (or HF_HUB_OFFLINE), nothing of that name in the cache and no such local folder."
        case _:
            return f"Got: {_first(problem)}."


def _first(problem: Exception) -> str:
    return str(problem).strip().partition("\n")[0].rstrip(".")


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """While `out` is written: StoreError in place of what the disk says."""
    try:
        yield
    except (OSError, SafetensorError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else _first(problem)
        raise StoreError(
            f"{out}: wanted a folder that can be written to the end. Got: {reason}. Nothing of it was left. "
            "Make room, or choose another --out."
        ) from problem


def check_whole(folder: Path) -> None:
    """ModelError that names what a half-downloaded folder lacks: shards of an index, unfinished files, LFS contents."""
    lacking = [
        f"{shard} (named by {index.name})"
        for index in sorted(folder.glob("*.safetensors.index.json"))
        for shard in _shards(index)
        if not (folder / shard).is_file()
    ]
    unfinished = [path.name for path in folder.glob(".cache/huggingface/download/**/*.incomplete")]
    held = sorted(path for form in ("*.safetensors", "*.json") for path in folder.glob(form))
    lacking += [f"{path.name} (a link to nothing)" for path in held if not path.exists()]
    whole = any((folder / name).exists() for name in ("model.safetensors", INDEX))
    lacking += [f"{INDEX} (its shards are there)"] if not whole and any(folder.glob(PARTS)) else []
    pointers = [path.name for path in held if path.is_file() and _is_pointer(path)]
    faults = {"no": lacking, "the unfinished download of": unfinished, "a Git LFS pointer in place of": pointers}
    if told := "; ".join(f"{what} {', '.join(names)}" for what, names in faults.items() if names):
        raise ModelError(f"{folder}: wanted all of its weights. Got {told}. Download it again to the end.")


def _shards(index: Path) -> list[str]:
    try:
        body: Any = json.loads(index.read_text())
        return sorted({str(name) for name in body["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ModelError(f"{index}: wanted an index with a weight_map. Got: {problem!r}. Copy it again.") from problem


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as data:
        return data.read(len(POINTER)) == POINTER
