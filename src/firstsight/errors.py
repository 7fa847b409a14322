"""All errors, as one tree. Every message says where, what was expected, the actual value and what to do.

::

    FirstsightError
    ├── RequestError          the request is wrong; nothing was run (exit code 2)
    │   ├── QuantityError     an impossible share, budget or number
    │   │   └── FieldError    a field of a recipe is unknown, missing or has a wrong value
    │   ├── UnknownName       no such study, scale, arm, task or source; lists the nearest names
    │   ├── MissingPackage    an optional package is not installed
    │   └── StoreError        the output folder cannot be written, or has the format of another version
    ├── DataError             a record, shard or file with invalid content
    │   ├── LimitExceeded     a file is larger, deeper or describes more than a limit of the site
    │   ├── MixError          the sources have too few tokens for the recipe
    │   └── DamagedResult     a stored result is not what was published
    ├── ModelError            weights, shapes or specs that contradict each other
    └── StepFailed            a step of a run failed (exit code 1)
        ├── Diverged          training met a loss or a gradient that is not finite
        │   └── LossSpike     training met a loss above the limit of the site file
        ├── LeaseLost         another process has taken a step over
        └── Stopped           training got a signal and saved its state (exit code 130)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

FEW = 8
"""A message lists so many names and no more where some are near."""


class FirstsightError(Exception):
    """Base class of all errors that a user can correct."""


class RequestError(FirstsightError):
    """The request is wrong; nothing was run."""


class QuantityError(RequestError):
    """An impossible share, budget or number."""


class FieldError(QuantityError):
    """A field of a recipe is unknown, missing or has a value of another type; the message lists what is legal."""


class UnknownName(RequestError):
    """No such name; the message lists the nearest ones, and all where there are at most FEW."""

    def __init__(self, noun: str, name: str, known_names: Iterable[str]) -> None:
        names = sorted(known_names)
        nearest = get_close_matches(name, names, n=3, cutoff=0.4)
        suggestion = "Nearest: " + ", ".join(nearest) if nearest else "Known: " + ", ".join(names)
        if nearest and len(nearest) < len(names) <= FEW:
            suggestion += ". All: " + ", ".join(names)
        super().__init__(f"no {noun} is called {name!r}. {suggestion}.")


class MissingPackage(RequestError):
    """An optional package is not installed."""


class StoreError(RequestError):
    """The output folder cannot be written, or has the format of another version."""


class DataError(FirstsightError):
    """A record, shard or file with invalid content."""


class LimitExceeded(DataError):
    """A file is larger, nested deeper or describes a larger model than a limit of the site; see `limits`."""


class MixError(DataError):
    """The sources have too few tokens for the recipe."""


class DamagedResult(DataError):
    """A stored result is not what was published; the message names the step, its files and how to repair it."""


class ModelError(FirstsightError):
    """Weights, shapes or specs that contradict each other."""


class StepFailed(FirstsightError):
    """A step of a run failed; the message names the step, the reason and its log."""


class Diverged(StepFailed):
    """Training met a loss or a gradient that is not finite; the update was not made."""


class LossSpike(Diverged):
    """Training met a loss above the limit that the site file sets; the update was not made."""


class LeaseLost(StepFailed):
    """Another process has taken a step over, because this one did not renew its lease; nothing was published."""


class Stopped(StepFailed):
    """Training got a signal and saved its state; the same command continues from there."""


_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|\d+ requested and \d+ written")
"""Texts of the system, and numpy's of a short write."""
_NO_ACCESS = re.compile("Permission denied|Operation not permitted|Read-only file system")
_SPACE_ADVICE = (
    "Free disk space: exports, pages of answers, the folder work/ of a study that will not be continued, the cache "
    "(computed again when needed; [machine] cache in the site file names it). Or choose another disk with --out. "
    "Then the same command resumes."
)
_ACCESS_ADVICE = (
    "Give this user access, or choose another place: --out for results, for the cache a line cache = ... under "
    "[machine] in the site file. Then the same command resumes."
)
_MEMORY_ADVICE = "Give fewer --jobs, or a smaller rows_at_once under [machine] in the site file."


def describe_error(error: BaseException, *, place: object = "") -> str:
    """Any error as a message for the user: a fault of the disk or of memory with what to do, others by their type.

    `place` is the folder or file of the work that failed, for errors that name none.
    """
    if isinstance(error, FirstsightError):
        return str(error)
    path, text, name = place, str(error), type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        path, text = error.filename2 or error.filename or place, error.strerror
    elif isinstance(error, MemoryError) or "out of memory" in text.lower():
        first_line = text.strip().partition("\n")[0].rstrip(".") or "memory ran out"
        return f"{name}: {first_line}. {_MEMORY_ADVICE}"
    subject = f"{path.decode(errors='replace') if isinstance(path, bytes) else path}: " if path else ""
    for pattern, advice in ((_DISK_FULL, _SPACE_ADVICE), (_NO_ACCESS, _ACCESS_ADVICE)):
        if match := pattern.search(text):
            return f"{subject}{match[0]}. {advice}"
    if isinstance(error, OSError) and error.strerror:
        return f"{subject}{text}. Correct that, then give the same command again."
    return f"{name}: {text}" if text else name
