"""All errors, as one tree. Every message says where, what was expected, the actual value and what to do.

FirstsightError
├── RequestError          the request is wrong; nothing was run (exit code 2)
│   ├── QuantityError     an impossible share, budget or number
│   │   └── FieldError    a field of a recipe is unknown, missing or has a wrong value
│   ├── UnknownName       no such study, scale, arm, task or source; lists the nearest names
│   ├── MissingPackage    an optional package is not installed
│   └── StoreError        the output folder cannot be written, or has the format of another version
├── DataError             a record, shard or file with invalid content
│   ├── LimitExceeded     a file is larger, deeper or describes more than a limit of the site
│   └── MixError          the sources have too few tokens for the recipe
├── ModelError            weights, shapes or specs that contradict each other
└── StepFailed            a step of a run failed (exit code 1)
"""

from __future__ import annotations

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


class ModelError(FirstsightError):
    """Weights, shapes or specs that contradict each other."""


class StepFailed(FirstsightError):
    """A step of a run failed; the message names the step, the reason and its log."""
