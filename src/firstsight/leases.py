"""Locks of a folder that several machines share: leases that owners renew, without fcntl and without a common clock.

A lock is a folder with one file, and the name of that file is its owner. A process that finds the folder empty or
absent places a folder of its own there by a rename, which fails where there is an owner; one that takes over renames
the owner's file, which succeeds for one process only. The owner sets the modification time of its file to a count that
it increases. It is taken over once that count has stayed the same for LEASE_SECONDS of another process's own monotonic
clock, or at once where the owner was a process of the same machine that has ended.

A process that sleeps for longer than its lease has lost it without knowing. So it works in a folder whose name has its
owner (`Lease.take_over`); the next owner renames that folder first. From then on the paths of the sleeper do not exist,
and what it has open is a file that the next owner has copied: it can neither change nor publish anything.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic

from firstsight.errors import LeaseLost

BEAT_SECONDS = 10.0
"""Seconds between two renewals of a lease."""
LEASE_SECONDS = 120.0
"""Seconds without a renewal after which another machine takes over: longer than a file server's usual pauses."""

_OWNER = r"([0-9a-f]{8})-(\d+)-([0-9a-f]{8})"
_OWNED_NAME = re.compile(rf"(.+?)(?:\.({_OWNER})(\+?))?", re.DOTALL)
"""The name of a working folder: `name` at rest, `name.OWNER`, or `name.OWNER+` once a later owner has renamed it."""

LockState = tuple[str, int]
"""The owner of a lock, and its count."""
_observed: dict[Path, tuple[LockState, float]] = {}
"""By lock: its owner and count as this process last read them, and when it first read these."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that owns a lock."""

    machine: str
    """Of all processes that see each other's process ids, until the machine is started again."""
    pid: int
    nonce: str

    @classmethod
    def new(cls) -> Owner:
        return cls(machine_id(), os.getpid(), secrets.token_hex(4))

    @classmethod
    def parse(cls, name: str) -> Owner | None:
        """The owner that `str` wrote; None for another text."""
        match = re.fullmatch(_OWNER, name)
        return cls(match[1], int(match[2]), match[3]) if match else None

    def __str__(self) -> str:
        return f"{self.machine}-{self.pid}-{self.nonce}"

    def has_ended(self) -> bool:
        """Whether it is certain that the process does not run any more; False of processes of other machines."""
        if self.machine != machine_id():
            return False
        try:
            os.kill(self.pid, 0)
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except ProcessLookupError:
            return True
        except OSError:  # another user's process, or a system without /proc
            return False
        return state[:1] in (["Z"], ["X"])  # ended, and its parent has not asked for its exit code


@cache
def machine_id() -> str:
    """Eight hexadecimal digits for this start of this machine; containers with process ids of their own count."""
    try:
        facts = [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    except OSError:
        facts = [platform.node()]
    return hashlib.sha256("".join(facts).encode()).hexdigest()[:8]


class Lease:
    """The ownership of a lock, renewed by a thread during `acquire`; `is_lost` once another process has it."""

    def __init__(self, lock: Path, owner: Owner) -> None:
        self.owner, self.is_lost = owner, False
        self._file, self._count = lock / str(owner), 0
        self._folder: tuple[Path, int] | None = None
        """The working folder and its inode, once it was taken over."""

    @property
    def folder(self) -> Path:
        """The working folder that this owner took over."""
        assert self._folder is not None
        return self._folder[0]

    def renew(self) -> None:
        """Increase the count; where the lock has another owner, `is_lost` becomes true."""
        self._count += 1
        try:
            os.utime(self._file, (self._count, self._count))
        except FileNotFoundError:
            self.is_lost = True
        except OSError:  # of a file server that does not answer: the next one may
            pass

    def check(self) -> None:
        """Raise LeaseLost where another process has taken the lock, or the working folder, over."""
        if not self.is_lost and self._file.exists():
            if self._folder is None:
                return
            with suppress(FileNotFoundError):
                if self._folder[0].stat().st_ino == self._folder[1]:
                    return
        self.is_lost = True
        raise LeaseLost(
            f"{self._file.parent.name}: wanted to be its only owner. Got another process, which has taken it over "
            f"after this one had not answered for {LEASE_SECONDS:.0f} s. Nothing of this process is published."
        )

    def take_over(self, folder: Path) -> Path:
        """`folder` as its last owner left it, renamed to a name that has this owner; empty where there is none.

        Copied where the last owner may still run, on another machine. LeaseLost as of `check`.
        """
        mine = folder.with_name(f"{folder.name}.{self.owner}")
        for path in owned_folders(folder):
            self.check()
            if mine.exists() or path.is_symlink() or not path.is_dir():
                _remove(path)
            else:
                _claim(path, mine)
        mine.mkdir(exist_ok=True)
        self._folder = mine, mine.stat().st_ino
        self.check()
        return mine

    def publish(self, target: Path) -> None:
        """Rename the working folder to `target`; LeaseLost where it is not this owner's any more."""
        with suppress(FileNotFoundError):
            self.check()
            self.folder.rename(target)
            self._folder = None
            return
        self.is_lost = True
        self.check()

    def release(self) -> None:
        """Free the lock, and give the working folder its name at rest; remove it where the lease was lost."""
        if self._folder is not None:
            folder = self._folder[0]
            try:
                self.publish(folder.with_name(owned_name(folder)))
            except LeaseLost:
                _remove(folder)
            except OSError:
                pass
        with suppress(OSError):
            self._file.unlink()
            self._file.parent.rmdir()


@contextmanager
def acquire(lock: Path, *, expired: LockState | None = None) -> Generator[Lease | None, None, None]:
    """Own the lock at the path `lock` during the block; None at once where another process owns it.

    `expired`: the state that another process has seen for so long that the lease has expired. An error inside the block
    becomes LeaseLost where the lease was lost before it: that is its cause.
    """
    lease = _acquire(lock, expired)
    if lease is None:
        yield None
        return
    has_ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(lease, has_ended), daemon=True)
    thread.start()
    try:
        yield lease
    except Exception:
        lease.check()
        raise
    finally:
        has_ended.set()
        thread.join()
        lease.release()


def _renew(lease: Lease, has_ended: threading.Event) -> None:
    while not lease.is_lost and not has_ended.wait(BEAT_SECONDS):
        lease.renew()


def is_owned(lock: Path) -> bool:
    """Whether a lock has an owner that is not known to have ended. Ask again later to see a lease expire."""
    file = _owner_file(lock)
    return file is not None and not _has_expired(file)


def expired_state(lock: Path) -> LockState | None:
    """The state of a lock whose lease this process has seen expire, for a process that takes it over instead."""
    before = _observed.get(lock)
    return before[0] if before is not None and monotonic() - before[1] >= LEASE_SECONDS else None


def remove_if_ended(path: Path) -> bool:
    """Remove a lock, or one that was half made, whose owner has ended; whether it was removed."""
    file = _owner_file(path)
    owner = Owner.parse((file or path).name.rpartition(".")[2])
    if owner is not None and not owner.has_ended():
        return False
    with suppress(OSError):
        if file is not None:
            file.unlink()
        path.rmdir()
        return True
    return False


def owned_name(path: Path) -> str:
    """The name at rest of a working folder."""
    match = _OWNED_NAME.fullmatch(path.name)
    return match[1] if match else path.name


def owned_folders(folder: Path) -> list[Path]:
    """The working folders of the name `folder`, of any owner; those that are already copied come last."""
    paths = [path for path in folder.parent.iterdir() if owned_name(path) == folder.name]
    return sorted(paths, key=lambda path: (path.name.endswith("+"), path.name))


def _acquire(lock: Path, expired: LockState | None = None) -> Lease | None:
    owner, file = Owner.new(), _owner_file(lock)
    if file is None:
        return Lease(lock, owner) if _place(lock, owner) else None
    if not _has_expired(file, expired):
        return None
    try:
        file.rename(lock / str(owner))
    except FileNotFoundError:  # released, or taken over by another process
        return None
    return Lease(lock, owner)


def _place(lock: Path, owner: Owner) -> bool:
    """Make the lock with its owner in one rename, which fails where it has another owner."""
    staging = lock.with_name(f".{lock.name}.{owner}")
    staging.mkdir(parents=True)
    try:
        (staging / str(owner)).touch()
        staging.rename(lock)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _owner_file(lock: Path) -> Path | None:
    try:
        return next((path for path in lock.iterdir() if Owner.parse(path.name)), None)
    except FileNotFoundError:
        return None


def _has_expired(file: Path, expired: LockState | None = None) -> bool:
    """Whether its owner has ended, or its count has not changed for LEASE_SECONDS since this process first read it.

    Or since another process did, which saw the state `expired`.
    """
    owner = Owner.parse(file.name)
    if owner is not None and owner.has_ended():
        return True
    try:
        with file.open("rb") as stream:  # opening makes a client of NFS ask its server
            state = file.name, os.fstat(stream.fileno()).st_mtime_ns
    except FileNotFoundError:
        return False
    if state == expired:
        return True
    before, timestamp = _observed.get(file.parent), monotonic()
    if before is None or before[0] != state:
        _observed[file.parent] = state, timestamp
        return False
    return timestamp - before[1] >= LEASE_SECONDS


def _claim(path: Path, mine: Path) -> None:
    """Rename a working folder to `mine`; its files are copied where its last owner may have them open."""
    match = _OWNED_NAME.fullmatch(path.name)
    owner = Owner.parse(match[2]) if match and match[2] else None
    if owner is None or owner.has_ended():
        path.rename(mine)
        return
    if not path.name.endswith("+"):
        path = path.rename(path.with_name(f"{path.name}+"))
    copy = mine.with_name(f".{mine.name}.copy")
    shutil.copytree(path, copy, symlinks=True)
    copy.rename(mine)
    _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link; what a process that has lost it still writes there stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
