"""What can go wrong, as one tree. Every message says where, what was wanted, what was found and what to do.

FirstsightError
├── RequestError          the request is wrong; nothing was run (exit code 2)
│   ├── QuantityError     a share, budget or number that cannot be
│   ├── UnknownName       no such study, scale, arm, task or source; carries the nearest names
│   ├── MissingPackage    an optional package is not installed
│   └── StoreError        the output folder cannot be written, or belongs to another version
├── DataError             a record, shard or file that is not what it claims to be
│   └── MixError          the sources cannot give the rows that the recipe asks for
├── ModelError            weights, shapes or specs that contradict each other
└── StepFailed            a step of a run failed (exit code 1)
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FirstsightError(Exception):
    """The root: whatever the user can act on."""


class RequestError(FirstsightError):
    """The request is wrong; nothing was run."""


class QuantityError(RequestError):
    """A share, budget or number that cannot be."""


class UnknownName(RequestError):
    """No such name; the message lists the nearest ones."""

    def __init__(self, noun: str, name: str, known_names: Iterable[str]) -> None:
        names = sorted(known_names)
        nearest = get_close_matches(name, names, n=3, cutoff=0.4)
        suggestion = "Nearest: " + ", ".join(nearest) if nearest else "Known: " + ", ".join(names)
        super().__init__(f"no {noun} is called {name!r}. {suggestion}.")


class MissingPackage(RequestError):
    """An optional package is not installed."""


class StoreError(RequestError):
    """The output folder cannot be written, or belongs to another version."""


class DataError(FirstsightError):
    """A record, shard or file that is not what it claims to be."""


class MixError(DataError):
    """The sources cannot give the rows that the recipe asks for."""


class ModelError(FirstsightError):
    """Weights, shapes or specs that contradict each other."""


class StepFailed(FirstsightError):
    """A step of a run failed; the message says which, why and where its log is."""
