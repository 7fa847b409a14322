"""Processes that torchrun has started, on one machine or several, for the training steps of one command.

Rank 0 is the command. It announces its training steps in the store at which all processes meet; the others do their
parts of these steps (`train.ranks.serve_launched`) until the command ends. All see the same folders.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

POLL_SECONDS = 0.2
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Launch:
    """This process among those that torchrun has started."""

    rank: int
    local_rank: int
    world_size: int
    address: str
    port: int

    def connect(self, *, is_host: bool = False) -> Any:
        """The store of this attempt of torchrun; `is_host`: in this process, until it is deleted."""
        from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

        store = TCPStore(self.address, self.port, is_master=is_host, wait_for_workers=False)
        return PrefixStore(f"firstsight/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def launched() -> Launch | None:
    """What torchrun's variables say; None in a single process."""
    if any(name not in os.environ for name in _VARIABLES):
        return None
    rank, local_rank, world_size, address, port = (os.environ[name] for name in _VARIABLES)
    return Launch(int(rank), int(local_rank), int(world_size), address, int(port)) if int(world_size) > 1 else None


@contextmanager
def leading(launch: Launch | None) -> Iterator[None]:
    """The command of rank 0: the others end with it. Nothing without a launch."""
    if launch is None:
        yield
        return
    is_host = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = launch.connect(is_host=is_host)
    try:
        yield
    finally:
        store.set("end", "1")
        deadline = time.monotonic() + 10
        while is_host and store.add("ended", 0) < launch.world_size - 1 and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def announce(store: Any, job: Any) -> int:
    """Make `job` the next one of all other ranks; returns its number."""
    number = store.add("jobs", 1)
    store.set(f"job/{number}", pickle.dumps(job))
    return number


def announced(store: Any) -> Iterator[tuple[int, Any]]:
    """The jobs that rank 0 announces, with their numbers, until its command ends."""
    number = 1
    while True:
        if store.check([f"job/{number}"]):
            store.wait([f"job/{number}"], timedelta(seconds=60))
            yield number, pickle.loads(store.get(f"job/{number}"))
            number += 1
        elif store.check(["end"]):
            store.add("ended", 1)
            return
        else:
            time.sleep(POLL_SECONDS)
