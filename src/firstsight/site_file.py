"""The site file, TOML:

    [machine]                   device, threads, compile, recompute, loss, save_every, stop_seconds, cache,
                                rows_at_once, readers, processes, shard_group, gpus, track, spike,
                                collective_timeout, feature_bytes
    [slurm]                     partition, account, timeout_min, mem_gb ...: parameters of submitit and of sbatch
    [limits]                    record, unpacked, file, settings, depth, picture, pixels, row_group, tokenizer ...
    [sources.NAME]              path, pictures, captions, columns, split, most_bad

Its keys are the fields of Site, Limits and Location. Every error names file, key, expected and actual value.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from firstsight.errors import QuantityError, RequestError
from firstsight.limits import BYTE_LIMITS, Limits, read_file
from firstsight.site import LOSS_IMPLEMENTATIONS, TRACKERS, Location, Site
from firstsight.units import parse_bytes, parse_share

DEVICE_PATTERN = r"cpu|cuda(:\d{1,3})?"
MAX_NUMBER = 1_000_000
"""Of threads, readers, rows and seconds: larger ones are mistakes, and infinity is one."""

_TOML_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, "text in quotes"),
    "Path": (str, "text in quotes"),
    "Share": (str, "text in quotes"),
    "ByteSize": (str, 'a size in quotes, such as "200 GB"'),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
    "tuple[str, ...]": (list, "a list of texts in quotes"),
    "Mapping[str, str]": (dict, "a table"),
}
"""Python type and its name in messages of each annotation of a field of Site or Location."""


def read_site(path: Path, *, defaults: Site | None = None) -> Site:
    """The site that a file describes, over `defaults`; relative paths are relative to the file.

    Raises RequestError with file, key, wanted, got and the nearest known key.
    """
    document = _load_toml(path)
    _check_keys(document, ("machine", "slurm", "limits", "sources"), f"{path}:")
    machine = _read_table(document.get("machine", {}), Site, path=path, header="[machine]")
    source_tables = _check_table(document.get("sources", {}), path, "[sources]")
    sources = {name: _read_location(name, table, path) for name, table in source_tables.items()}
    limits = _read_limits(document.get("limits", {}), path)
    slurm = _read_slurm(document.get("slurm", {}), path)
    return replace(defaults or Site(), **machine, slurm=slurm, limits=limits, sources=sources)


def source_entries_template(names: Mapping[str, str]) -> str:
    """Lines of a site file with an empty path for each name; the value of a name is its description."""
    return "\n".join(f'{_source_header(name)}\npath = "..."  # {description}' for name, description in names.items())


def _load_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_file(path, "settings").decode())
    except OSError as error:
        advice = "Write it, or name another: in $FIRSTSIGHT_SITE, or as ./site.toml."
        raise RequestError(f"{path}: wanted a site file. Got {error.strerror}. {advice}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"{path}: wanted a site file in TOML. Got {error}. Correct that line.") from error


def _read_limits(value: object, path: Path) -> Limits:
    header, limits = "[limits]", dict[str, int]()
    table = _check_table(value, path, header)
    _check_keys(table, [field.name for field in fields(Limits)], f"{path}: {header}")
    for key, entry in table.items():
        if not (key in BYTE_LIMITS and isinstance(entry, str)):
            _check_type(entry, "int", f"{path}: {header} {key}")
        try:
            limits[key] = parse_bytes(entry) if isinstance(entry, str) else entry
            Limits(**limits)
        except QuantityError as error:
            raise RequestError(f"{path}: {header} {key}: {error} Correct that line.") from error
    return Limits(**limits)


def _read_slurm(value: object, path: Path) -> dict[str, str | int | float]:
    table = _check_table(value, path, "[slurm]")
    for key, entry in table.items():
        if not isinstance(entry, (str, int, float)):
            advice = "Correct that line."
            raise RequestError(f"{path}: [slurm] {key}: wanted text, a number, true or false. Got {entry!r}. {advice}")
    return table


def _read_location(name: str, table: object, path: Path) -> Location:
    header = _source_header(name)
    entries = _read_table(table, Location, path=path, header=header)
    if not entries.get("path"):
        advice = f'Write path = "/path/to/{name}" below {header}'
        raise RequestError(f"{path}: {header} path: wanted the path of {name}. Got none. {advice}.")
    return Location(**entries)


def _read_table(value: object, spec_class: type, *, path: Path, header: str) -> dict[str, Any]:
    table = _check_table(value, path, header)
    annotations = {field.name: str(field.type) for field in fields(spec_class) if str(field.type) in _TOML_TYPES}
    _check_keys(table, annotations, f"{path}: {header}")
    return {key: _read_value(key, entry, annotations[key], path=path, header=header) for key, entry in table.items()}


def _read_value(key: str, value: Any, annotation: str, *, path: Path, header: str) -> Any:
    location = f"{path}: {header} {key}"
    _check_type(value, annotation, location)
    if annotation == "Mapping[str, str]":
        for name, item in value.items():
            _check_type(item, "str", f"{location}.{name}")
    if key == "track":
        return _read_trackers(value, location)
    minimum = 1 if key in ("threads", "readers", "processes", "collective_timeout") else 0
    if annotation in ("int", "float") and not minimum <= value <= MAX_NUMBER:  # also false of nan
        limits = f"at least {minimum} and at most {MAX_NUMBER:,}"
        raise RequestError(f"{location}: wanted {limits}. Got {value}. Correct that line.")
    if key == "loss" and value not in LOSS_IMPLEMENTATIONS:
        raise RequestError(f"{location}: wanted {' or '.join(LOSS_IMPLEMENTATIONS)}. Got {value!r}. Correct that line.")
    if key == "device" and not re.fullmatch(DEVICE_PATTERN, value):
        raise RequestError(f"{location}: wanted cpu, cuda or cuda:N, the N-th GPU. Got {value!r}. Correct that line.")
    if key in ("path", "pictures", "captions") or annotation == "Path":
        value = _absolute_path(value, path, location)
    if annotation in ("Share", "ByteSize"):
        try:
            return parse_share(value) if annotation == "Share" else parse_bytes(value)
        except QuantityError as error:
            raise RequestError(f"{location}: {error}") from error
    if annotation == "Path":
        return Path(value)
    return float(value) if annotation == "float" else value


def _read_trackers(names: list[Any], location: str) -> tuple[str, ...]:
    for name in names:
        if name not in TRACKERS:
            raise RequestError(f"{location}: wanted any of {', '.join(TRACKERS)}. Got {name!r}. Correct that line.")
    return tuple(dict.fromkeys(names))


def _check_keys(table: Mapping[str, Any], known: Collection[str], location: str) -> None:
    for key in table:
        if key not in known:
            nearest = get_close_matches(key, known, n=1, cutoff=0.4)
            advice = f"Nearest: {nearest[0]}." if nearest else "Remove it."
            raise RequestError(f"{location} {key}: wanted one of {', '.join(known)}. Got {key!r}. {advice}")


def _check_table(value: object, path: Path, header: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{path}: {header}: wanted a table. Got {value!r}. Begin it with a line {header}.")
    return cast(dict[str, Any], value)


def _check_type(value: object, annotation: str, location: str) -> None:
    """A boolean does not count as a number."""
    toml_type, description = _TOML_TYPES[annotation]
    if not isinstance(value, toml_type) or (isinstance(value, bool) and toml_type is not bool):
        raise RequestError(f"{location}: wanted {description}. Got {value!r}. Correct that line.")


def _absolute_path(raw: str, path: Path, location: str) -> str:
    if "\0" in raw:
        raise RequestError(f"{location}: wanted a path. Got one with a NUL character, which no file has: {raw!r}.")
    expanded = os.path.expanduser(os.path.expandvars(raw))  # noqa: PTH111 - Path would drop a slash of a URL
    if unset_variable := re.search(r"\$\{?\w+\}?", expanded):
        raise RequestError(f"{location}: {unset_variable[0]} is not set. Got {raw!r}. Set it, or write the whole path.")
    return expanded if not expanded or "://" in expanded else str(path.absolute().parent / expanded)


def _source_header(name: str) -> str:
    """`[sources.NAME]`, with the name in quotes where TOML needs them."""
    return f"[sources.{name}]" if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'[sources."{name}"]'
