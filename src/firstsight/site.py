"""Circumstance: where and with what a step runs. Nothing here may reach an address.

A site file says it in TOML; `read` takes it, and refuses what it does not know:

    [machine]                   device, threads, compile, recompute, loss, save_every, cache, rows_at_once, readers
    [sources.NAME]              path, pictures, captions, columns, split, most_bad
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from firstsight.errors import QuantityError, RequestError
from firstsight.units import Share, parse_share

MAX_BAD_SHARE = Share(1, 100)
LOSS_IMPLEMENTATIONS = ("chunked", "liger")


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Where a source lies, and how its files are laid out where they do not say so themselves."""

    path: str
    """A folder, a file or a pattern; local, or a URL that fsspec knows (s3://, gs://, hf://, http://)."""
    pictures: str = ""
    """A folder or tars with the pictures, where they do not lie beside `path`."""
    captions: str = ""
    """Tars with synthetic captions (DataComp-DR: syn.json), shard by shard under the names of those in `path`."""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """For tables: which column holds the text, picture, caption, turns, question, answer."""
    split: str = ""
    """Which split to read, where the files' names tell several (train, validation, test)."""
    most_bad: Share = MAX_BAD_SHARE
    """A source with more refused records than this is itself refused: something else is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """The machine as a worker sees it."""

    device: str = "cpu"
    """torch device: cpu or cuda."""
    threads: int = 1
    """CPU threads of one worker; two one-thread arms beat one two-thread arm."""
    compile: bool = True
    """Compile each transformer block; falls back, aloud, where no compiler exists."""
    recompute: bool = False
    """Keep one stream a transformer block and work the rest out again in the backward pass: a third more arithmetic."""
    loss: str = "chunked"
    """How cross-entropy is worked out: `chunked`, or on a GPU `liger` (needs the package liger-kernel)."""
    save_every: float = 60.0
    """Seconds between resume points of a training step."""
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "firstsight")
    """Rasterised drawings, compiled kernels and packed tables; safe to delete."""
    sources: Mapping[str, Location] = field(default_factory=dict[str, Location])
    """Where named data and weights lie."""
    rows_at_once: int = 0
    """Rows of a step that are computed together where memory is short, their gradients added up; 0: all."""
    readers: int = 1
    """Threads that make batches ready ahead of training; processes that prepare shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a step is: `done` of `total` in `unit`, with a few numbers worth showing (loss, tokens/s)."""

    done: int
    total: int
    unit: str
    metrics: dict[str, float] = field(default_factory=dict[str, float])


ProgressCallback = Callable[[Progress], None]
"""How a handler reports progress while it works."""


def read_site(path: Path, *, defaults: Site | None = None) -> Site:
    """The site that a TOML file tells, over what `machine` has; relative places are relative to the file.

    Raises RequestError that names file, key, wanted, got and the nearest known key.
    """
    document = _load_toml(path)
    _check_keys(document, ("machine", "sources"), path, "")
    machine_table = _as_table(document.get("machine", {}), path, "[machine]")
    _check_keys(machine_table, tuple(_MACHINE_TYPES), path, "[machine] ")
    settings = {key: _machine_setting(key, value, path) for key, value in machine_table.items()}
    source_tables = _as_table(document.get("sources", {}), path, "[sources]")
    sources = {name: _parse_location(name, source_table, path) for name, source_table in source_tables.items()}
    return replace(defaults or Site(), **settings, sources=sources)


_MACHINE_TYPES: dict[str, tuple[type, ...]] = {
    "device": (str,),
    "threads": (int,),
    "compile": (bool,),
    "recompute": (bool,),
    "loss": (str,),
    "save_every": (int, float),
    "cache": (str,),
    "readers": (int,),
    "rows_at_once": (int,),
}
_SOURCE_TYPES: dict[str, type] = {
    "path": str,
    "pictures": str,
    "captions": str,
    "columns": dict,
    "split": str,
    "most_bad": str,
}
_TYPE_DESCRIPTIONS = {
    str: "words in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
}


def _load_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: wanted a site file. Got {error.strerror}. Write it, or name another.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: wanted a site file in TOML. Got {error}. Mend that line.") from error


def _check_keys(mapping: Mapping[str, Any], known_keys: tuple[str, ...], path: Path, key_prefix: str) -> None:
    for key in mapping:
        if key not in known_keys:
            nearest = get_close_matches(key, known_keys, n=1, cutoff=0.4)
            advice = f"Nearest: {nearest[0]}." if nearest else "Take it out."
            raise RequestError(
                f"{path}: {key_prefix}{key}: wanted one of {', '.join(known_keys)}. Got {key!r}. {advice}"
            )


def _as_table(value: object, path: Path, header: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{path}: {header}: wanted a table. Got {value!r}. Begin it with a line {header}.")
    return cast(dict[str, Any], value)


def _check_type(value: object, types: tuple[type, ...], path: Path, location: str) -> Any:
    """`value`, if it is of a wanted type; true is no number."""
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise RequestError(
            f"{path}: {location}: wanted {_TYPE_DESCRIPTIONS[types[-1]]}. Got {value!r}. Mend that line."
        )
    return value


def _machine_setting(key: str, value: object, path: Path) -> Any:
    location = f"[machine] {key}"
    setting = _check_type(value, _MACHINE_TYPES[key], path, location)
    if key == "cache":
        return Path(_resolve_location(setting, path, location))
    if key == "save_every":
        setting = float(setting)
    if key == "loss" and setting not in LOSS_IMPLEMENTATIONS:
        raise RequestError(
            f"{path}: {location}: wanted {' or '.join(LOSS_IMPLEMENTATIONS)}. Got {setting!r}. Mend that line."
        )
    if not isinstance(setting, str) and (setting < 0 or (key in ("threads", "readers") and setting < 1)):
        raise RequestError(
            f"{path}: {location}: wanted {'at least 1' if key != 'save_every' else 'seconds'}. Got {setting}."
        )
    return setting


def _parse_location(name: str, table: object, path: Path) -> Location:
    header = f"[sources.{_toml_key(name)}]"
    entries = _as_table(table, path, header)
    _check_keys(entries, tuple(_SOURCE_TYPES), path, f"{header} ")
    for key, value in entries.items():
        _check_type(value, (_SOURCE_TYPES[key],), path, f"{header} {key}")
    if not entries.get("path"):
        raise RequestError(
            f"{path}: {header} path: wanted the place of {name}. Got none. "
            f'Write path = "/where/{name}/lies" below {header}.'
        )
    for column, value in cast(dict[str, object], entries.get("columns", {})).items():
        _check_type(value, (str,), path, f"{header} columns.{column}")
    path_keys = ("path", "pictures", "captions")
    settings: dict[str, Any] = dict(entries)
    settings.update(
        {key: _resolve_location(entries[key], path, f"{header} {key}") for key in path_keys if key in entries}
    )
    if "most_bad" in entries:
        settings["most_bad"] = _parse_bad_share(entries["most_bad"], path, header)
    return Location(**settings)


def _toml_key(name: str) -> str:
    """As TOML writes a key: bare where it may be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _parse_bad_share(text: str, path: Path, header: str) -> Share:
    try:
        return parse_share(text)
    except QuantityError as error:
        raise RequestError(f"{path}: {header} most_bad: {error}") from error


def _resolve_location(raw: str, path: Path, location: str) -> str:
    """With variables and ~ written out, and absolute unless it is a URL; an empty place stays empty."""
    expanded = os.path.expanduser(os.path.expandvars(raw))  # noqa: PTH111 - Path would eat the slashes of a URL
    unset_variable = re.search(r"\$\{?\w+\}?", expanded)
    if unset_variable:
        raise RequestError(
            f"{path}: {location}: {unset_variable[0]} is not set. Got {raw!r}. Set it, or write the place out."
        )
    return expanded if not expanded or "://" in expanded else str(path.absolute().parent / expanded)


def source_entries_template(names: Mapping[str, str]) -> str:
    """The lines of a site file that say where `names` lie; the value of each is what stands there, for a person."""
    return "\n".join(
        f'[sources.{_toml_key(name)}]\npath = "..."  # {description}' for name, description in names.items()
    )
