"""Whether a stored result is what was published: its record by its address, its files by their digests.

A file whose size, times and inode are those that an earlier check recorded in verified/<address>.json is not read
again; only a full check finds a change that keeps all of these. That folder also has a copy of each record, from which
a lost one is restored. Results of `firstsight evaluate` are no steps and have digests in their judged.json. Standard
library only, for planning.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from firstsight.errors import DamagedResult, DataError, FirstsightError
from firstsight.files import file_sha256, write_atomic
from firstsight.plan.step import step_address, step_digest
from firstsight.recipe.serialize import from_json
from firstsight.resume_folder import check_regular, seal_json, unseal_json

DIGEST_THREADS = 4
"""Files that are read at once: one thread hashes more slowly than a fast disk reads."""
RECORD_KEYS: Mapping[str, type] = {
    "address": str,
    "kind": str,
    "version": int,
    "spec": dict,
    "identities": dict,
    "needs": dict,
    "started": str,
    "ended": str,
    "host": str,
    "machine": str,
    "code": dict,
    "files": dict,
}
"""The keys of a provenance record and the types of their values."""
EVALUATIONS_FOLDER, EVALUATION_RECORD = "judged", "judged.json"
"""Below a store: the results of `firstsight evaluate`, a folder for each checkpoint; the record in each of them."""
_RECORD = "the record"
"""The name of the record among the states; not a file's, whose names have no blank here."""

_INVALID = (FirstsightError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""Errors of JSON and specs in a record that is damaged."""

FileState = list[int]
"""Size, modification and change time in nanoseconds, inode."""
_NO_FILE: FileState = [0, 0, 0, 0]


def check_record(record: Any, address: str) -> dict[str, Any]:
    """A parsed provenance record; DataError unless it has all keys and its spec and inputs have this address."""
    body = cast(dict[str, Any], record) if isinstance(record, dict) else {}
    for key, kind in RECORD_KEYS.items():
        if not isinstance(body.get(key), kind):
            raise DataError(f"wanted a record with {', '.join(RECORD_KEYS)}. Got {key}: {str(body.get(key))[:40]!r}.")
    for time in (body["started"], body["ended"]):
        datetime.fromisoformat(time)
    if not isinstance(body["code"].get("packages"), dict) or not {"commit", "python"} <= body["code"].keys():
        raise DataError("wanted code with commit, python and packages.")
    kind, version = body["kind"], body["version"]
    digest = step_digest(kind, body["spec"], body["needs"], version=version, content_ids=body["identities"])
    if body["address"] != address or not (address.startswith(f"{kind}-") and address.endswith(f"-{digest}")):
        spec = from_json(body["spec"])  # where it is not one, this says why
        computed = step_address(kind, spec, body["needs"], version=version, content_ids=body["identities"])
        raise DataError(f"wanted the record of {address}. Got that of {computed}.")
    return body


def read_record(path: Path, address: str) -> dict[str, Any]:
    """The provenance record at `path`; DataError names the file where it is missing or damaged."""
    try:
        return check_record(json.loads(path.read_bytes()), address)
    except (OSError, *_INVALID) as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise DataError(f"{path}: wanted the provenance of {address}. Got: {reason}") from error


class ResultCheck:
    """The check of one published result, and what is remembered of it."""

    def __init__(self, root: Path, address: str) -> None:
        self.root, self.address, self.folder = root, address, root / "steps" / address
        self.record_path = root / "provenance" / f"{address}.json"
        self.memory_path = root / "verified" / f"{address}.json"

    def check(self, files: Collection[str] | None = None) -> Path:
        """The folder of the result; DamagedResult if `problems(files)` has any."""
        if problems := self.problems(files):
            raise self._damaged(problems)
        return self.folder

    def record(self) -> dict[str, Any]:
        """The provenance record; DamagedResult where it is missing, damaged or edited."""
        try:
            return self._read_record()
        except DataError as error:
            raise self._damaged((str(error),)) from error

    def _read_record(self, memory: Mapping[str, Any] | None = None) -> dict[str, Any]:
        record, memory = read_record(self.record_path, self.address), self._memory() if memory is None else memory
        if memory.get("record") != record and self.remembered_record(memory) is not None:
            raise DataError(f"provenance/{self.record_path.name}: changed")
        return record

    def _damaged(self, problems: Sequence[str]) -> DamagedResult:
        rest = f", and {len(problems) - 1} more" * (len(problems) > 1)
        advice = f"Compute it again: firstsight doctor --store {self.root} --repair"
        return DamagedResult(f"{self.address} is not the result that was published: {problems[0]}{rest}. {advice}")

    def problems(self, files: Collection[str] | None = None, *, full: bool = False) -> tuple[str, ...]:
        """The damage, a line for each file: its path, a colon, what is wrong; empty where the result is as published.

        Digests are computed of files that do not have the state that is remembered. `files`: of others than these only
        if they were edited in place or have another size, so that a copied store is not read as a whole. `full`: of
        every file.
        """
        if self.folder.is_symlink() or not self.folder.is_dir():
            return (f"{self.folder}: {entry_kind(self.folder)} instead of a folder",)
        states, foreign = _scan(self.folder)
        states[_RECORD] = _file_state(self.record_path)
        memory = self._memory()
        remembered = _remembered_states(memory)
        if states == remembered and not foreign and not full:
            return ()
        try:
            record = self._read_record(memory)
        except DataError as error:
            return (str(error),)
        wanted: dict[str, str] = record["files"]
        remembered = {} if full or memory.get("record") != record else remembered
        unread = [name for name in wanted if name in states and states[name] != remembered.get(name)]
        others = () if files is None else set(unread).difference(files)
        skipped = {name for name in others if not _is_edited(states[name], remembered.get(name))}
        unread = [name for name in unread if name not in skipped]
        digests = dict(zip(unread, digest_files([self.folder / name for name in unread]), strict=True))
        changed = {name: states[name] for name, digest in sorted(digests.items()) if digest != wanted[name]}
        unexpected = [name for name in states if name not in wanted and name != _RECORD]
        lacking = [name for name in sorted(wanted) if name not in states]
        intact = {name: state for name, state in states.items() if name not in {*skipped, *changed, *unexpected}}
        self._remember(memory, record, intact, damaged={**dict.fromkeys(lacking, _NO_FILE), **changed})
        return (
            *(f"{name}: missing" for name in lacking if name not in foreign),
            *(f"{name}: {kind}" for name, kind in foreign.items()),
            *(f"{name}: unexpected" for name in unexpected),
            *(f"{name}: changed" for name in changed),
        )

    def forget(self) -> None:
        """Remove what is remembered: another result is being published."""
        self.memory_path.unlink(missing_ok=True)

    def remember(self, record: Mapping[str, Any]) -> None:
        """Remember the files as they are now, just published with this record."""
        states, _ = _scan(self.folder)
        self._remember({}, record, {**states, _RECORD: _file_state(self.record_path)}, damaged={})

    def remembered_record(self, memory: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The copy of the provenance record, in `memory` if given; None where it is missing or damaged too."""
        with suppress(*_INVALID):
            return check_record((self._memory() if memory is None else memory).get("record"), self.address)
        return None

    def _memory(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            memory = json.loads(self.memory_path.read_bytes())
            if isinstance(memory, dict):
                return cast(dict[str, Any], memory)
        return {}

    def _remember(
        self,
        memory: Mapping[str, Any],
        record: Mapping[str, Any],
        intact: Mapping[str, FileState],
        *,
        damaged: Mapping[str, FileState],
    ) -> None:
        """Write states merged into the memory; damaged files get a size that no file has, so that they are read again.

        Without a word where the store cannot be written, as the memory only saves time.
        """
        earlier = _remembered_states(memory) if memory.get("record") == record else {}
        spoiled = {name: [-1, *state[1:]] for name, state in damaged.items()}
        content = {"record": record, "states": {**earlier, **intact, **spoiled}}
        if content != memory:
            with suppress(OSError):
                write_atomic(self.memory_path, json.dumps(content, sort_keys=True) + "\n")


def _remembered_states(memory: Mapping[str, Any]) -> dict[str, FileState]:
    states = memory.get("states")
    entries = cast(dict[str, Any], states).items() if isinstance(states, dict) else ()
    return {name: state for name, state in entries if isinstance(state, list) and len(cast(FileState, state)) == 4}


def digest_files(paths: Sequence[Path]) -> list[str]:
    """sha256 of each file, several at once; of a file that cannot be read, the reason."""
    if len(paths) < 2:
        return [_digest(path) for path in paths]
    with ThreadPoolExecutor(DIGEST_THREADS) as pool:
        return list(pool.map(_digest, paths))


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        return str(error)


def _is_edited(state: FileState, remembered: FileState | None) -> bool:
    """Whether a file is the remembered one with other content, or has another size."""
    return remembered is not None and (state[-1] == remembered[-1] or state[0] != remembered[0])


def _scan(folder: Path, prefix: str = "") -> tuple[dict[str, FileState], dict[str, str]]:
    """State by path below `folder` of its regular files, and the kind of what a result never has: links, pipes."""
    states: dict[str, FileState] = {}
    foreign: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        kind, name = entry_kind(path), f"{prefix}{path.name}"
        if kind == "a folder":
            inner_states, inner_foreign = _scan(path, f"{name}/")
            states |= inner_states
            foreign |= inner_foreign
        elif kind == "a file":
            states[name] = _file_state(path)
        else:
            foreign[name] = kind
    return states, foreign


def entry_kind(path: Path) -> str:
    """What is at `path`, in words; a link is not followed."""
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return (error.strerror or repr(error)).lower()
    if stat.S_ISLNK(mode):
        return "a link"
    return "a file" if stat.S_ISREG(mode) else "a folder" if stat.S_ISDIR(mode) else "a special file"


def _file_state(path: Path) -> FileState:
    """The state of a file; zeros where there is none."""
    try:
        status = path.lstat()
    except OSError:
        return _NO_FILE
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def check_stored_folder(folder: Path) -> Path:
    """`folder`; where it is a published result of a store, a folder in one, or a result of `evaluate`, DamagedResult
    unless it is as written."""
    path = Path(os.path.normpath(folder.absolute()))
    for step in (path, path.parent):
        if step.parent.name == "steps" and (step.parents[1] / "store.json").is_file():
            ResultCheck(step.parents[1], step.name).check()
    if path.parent.name == EVALUATIONS_FOLDER:
        read_evaluation_record(path)
    return folder


def write_evaluation_record(folder: Path, content: Mapping[str, Any], *, files: Sequence[str]) -> None:
    """Write judged.json: `content`, the digests of `files`, and a digest of all this."""
    digests = dict(zip(files, digest_files([folder / name for name in files]), strict=True))
    write_atomic(folder / EVALUATION_RECORD, seal_json({**content, "files": digests}))


def read_evaluation_record(folder: Path) -> dict[str, Any]:
    """The content of judged.json, empty for a folder without results of `evaluate`.

    DamagedResult if it or a file that it names has changed, is missing, or is no file.
    """
    path, record = folder / EVALUATION_RECORD, dict[str, Any]()
    has_results = folder.absolute().parent.name == EVALUATIONS_FOLDER and any(folder.glob("[a-z]*.json*"))
    if not has_results and not os.path.lexists(path):
        return {}
    try:
        check_regular(path)
        record = unseal_json(path.read_text())
        files = {folder / name: digest for name, digest in record["files"].items()}
        damaged = [file for file, digest in files.items() if entry_kind(file) != "a file" or _digest(file) != digest]
        words = f"{record['checkpoint']} --tasks {','.join(record['tasks'])}"
    except (OSError, *_INVALID):
        damaged, words = [path], "CHECKPOINT"
    if damaged:
        command = f"firstsight evaluate {words} --out {folder.absolute().parents[1]}"
        advice = f"Evaluate again as before; stored raw answers need no model: {command}"
        raise DamagedResult(f"{damaged[0]}: not as `firstsight evaluate` wrote it, or missing. {advice}")
    return record
