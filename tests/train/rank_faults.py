"""Handlers whose ranks fail, for tests of several processes."""

from __future__ import annotations

import time
from typing import Any

import torch

from firstsight.train import parallel
from firstsight.train.ranks import in_processes


@in_processes
def hang_on_the_last_rank(spec: Any, **context: Any) -> None:
    """All ranks but the last one add up a number; the last one does not take part."""
    if parallel.rank() == parallel.world_size() - 1:
        time.sleep(10_000)
    parallel.total(torch.ones(1))
