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

MOST_BAD = Share(1, 100)
LOSSES = ("chunked", "liger")


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
    most_bad: Share = MOST_BAD
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
    numbers: dict[str, float] = field(default_factory=dict[str, float])


Tell = Callable[[Progress], None]
"""How a handler reports progress while it works."""


def read(path: Path, *, machine: Site | None = None) -> Site:
    """The site that a TOML file tells, over what `machine` has; relative places are relative to the file.

    Raises RequestError that names file, key, wanted, got and the nearest known key.
    """
    told = _toml(path)
    _known(told, ("machine", "sources"), path, "")
    given = _table(told.get("machine", {}), path, "[machine]")
    _known(given, tuple(_MACHINE), path, "[machine] ")
    settings = {key: _machine(key, value, path) for key, value in given.items()}
    named = _table(told.get("sources", {}), path, "[sources]")
    sources = {name: _location(name, body, path) for name, body in named.items()}
    return replace(machine or Site(), **settings, sources=sources)


_MACHINE: dict[str, tuple[type, ...]] = {
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
_SOURCE: dict[str, type] = {
    "path": str,
    "pictures": str,
    "captions": str,
    "columns": dict,
    "split": str,
    "most_bad": str,
}
_WORDS = {str: "words in quotes", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: wanted a site file. Got {error.strerror}. Write it, or name another.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: wanted a site file in TOML. Got {error}. Mend that line.") from error


def _known(given: Mapping[str, Any], known: tuple[str, ...], path: Path, where: str) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.4)
            advice = f"Nearest: {near[0]}." if near else "Take it out."
            raise RequestError(f"{path}: {where}{key}: wanted one of {', '.join(known)}. Got {key!r}. {advice}")


def _table(value: object, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{path}: {where}: wanted a table. Got {value!r}. Begin it with a line {where}.")
    return cast(dict[str, Any], value)


def _typed(value: object, wanted: tuple[type, ...], path: Path, where: str) -> Any:
    """`value`, if it is of a wanted type; true is no number."""
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise RequestError(f"{path}: {where}: wanted {_WORDS[wanted[-1]]}. Got {value!r}. Mend that line.")
    return value


def _machine(key: str, value: object, path: Path) -> Any:
    where = f"[machine] {key}"
    found = _typed(value, _MACHINE[key], path, where)
    if key == "cache":
        return Path(_place(found, path, where))
    if key == "save_every":
        found = float(found)
    if key == "loss" and found not in LOSSES:
        raise RequestError(f"{path}: {where}: wanted {' or '.join(LOSSES)}. Got {found!r}. Mend that line.")
    if not isinstance(found, str) and (found < 0 or (key in ("threads", "readers") and found < 1)):
        raise RequestError(
            f"{path}: {where}: wanted {'at least 1' if key != 'save_every' else 'seconds'}. Got {found}."
        )
    return found


def _location(name: str, body: object, path: Path) -> Location:
    header = f"[sources.{_quoted(name)}]"
    given = _table(body, path, header)
    _known(given, tuple(_SOURCE), path, f"{header} ")
    for key, value in given.items():
        _typed(value, (_SOURCE[key],), path, f"{header} {key}")
    if not given.get("path"):
        raise RequestError(
            f"{path}: {header} path: wanted the place of {name}. Got none. "
            f'Write path = "/where/{name}/lies" below {header}.'
        )
    for column, value in cast(dict[str, object], given.get("columns", {})).items():
        _typed(value, (str,), path, f"{header} columns.{column}")
    places = ("path", "pictures", "captions")
    settings: dict[str, Any] = dict(given)
    settings.update({key: _place(given[key], path, f"{header} {key}") for key in places if key in given})
    if "most_bad" in given:
        settings["most_bad"] = _part(given["most_bad"], path, header)
    return Location(**settings)


def _quoted(name: str) -> str:
    """As TOML writes a key: bare where it may be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _part(text: str, path: Path, header: str) -> Share:
    try:
        return parse_share(text)
    except QuantityError as error:
        raise RequestError(f"{path}: {header} most_bad: {error}") from error


def _place(text: str, path: Path, where: str) -> str:
    """With variables and ~ written out, and absolute unless it is a URL; an empty place stays empty."""
    full = os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111 - Path would eat the slashes of a URL
    unset = re.search(r"\$\{?\w+\}?", full)
    if unset:
        raise RequestError(f"{path}: {where}: {unset[0]} is not set. Got {text!r}. Set it, or write the place out.")
    return full if not full or "://" in full else str(path.absolute().parent / full)


def lines_for(names: Mapping[str, str]) -> str:
    """The lines of a site file that say where `names` lie; the value of each is what stands there, for a person."""
    return "\n".join(f'[sources.{_quoted(name)}]\npath = "..."  # {what}' for name, what in names.items())
