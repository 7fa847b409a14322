"""A handler that runs the real one of its step, unless the step is to fail: then it fails in the way asked for."""

from __future__ import annotations

import json
import os
import pkgutil
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from firstsight.errors import DataError
from firstsight.leases import owned_name
from firstsight.site import ProgressCallback, Site

FAILURE_FILE = "failure.json"
"""In the site's cache: the real handlers by kind, the address that fails, and how."""
TRAINING_FAILURES = ("nan loss", "nan weights")
FAILURES = ("exception", "wrong data", "kill", "full disk", "unwritable log", *TRAINING_FAILURES)


def run_or_fail(spec: Any, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """The handler of every kind of step."""
    plan, address = json.loads((site.cache / FAILURE_FILE).read_text()), owned_name(out)
    failure = plan["failure"] if address == plan["address"] else ""
    handler = pkgutil.resolve_name(plan["handlers"][address])
    with _failing(failure):
        handler(spec, inputs=inputs, out=out, site=site, on_progress=on_progress)


@contextmanager
def _failing(failure: str) -> Iterator[None]:
    match failure:
        case "exception":
            raise RuntimeError("a bug of this handler")
        case "wrong data":
            raise DataError("data: wanted whole files. Got half of one. Copy it again.")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "full disk":
            with _small_files():
                yield
        case "nan loss":
            with patch("firstsight.train.loop.lm_loss", _with_nan_loss(pkgutil.resolve_name(_LOSS))):
                yield
        case "nan weights":
            with patch.object(torch.optim.AdamW, "step", _set_nan):
                yield
        case _:
            yield


_LOSS = "firstsight.train.loop:lm_loss"


@contextmanager
def _small_files() -> Iterator[None]:
    """No file of this process can be larger than 100 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _with_nan_loss(loss: Callable[..., Any]) -> Callable[..., Any]:
    def nan_loss(*arguments: Any, **options: Any) -> Any:
        sums = loss(*arguments, **options)
        sums.total.data.fill_(float("nan"))
        sums.by_group.fill_(float("nan"))
        return sums

    return nan_loss


def _set_nan(optimizer: torch.optim.AdamW, *_: object) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.data.fill_(float("nan"))
