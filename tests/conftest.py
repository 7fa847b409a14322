"""What every test shares: one thread a process, a place for drawings, and which tests a machine can run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

DEVICE = os.environ.get("FIRSTSIGHT_TEST_DEVICE", "cpu")
"""Where the models of the tests live: with `cuda` the same laws are held against a GPU."""

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


def pytest_sessionstart() -> None:
    """Every `Site()` of a test is on the tests' device, whose float32 is whole."""
    import torch

    from firstsight.site import Site  # not earlier: what checks shapes hooks into imports first

    torch.backends.cudnn.allow_tf32 = False

    begin = Site.__init__

    def there(self: Site, **settings: Any) -> None:
        begin(self, **{"device": DEVICE, **settings})

    Site.__init__ = there


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs files or devices that are not here, and say which."""
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no real files at {SHARED}"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of small real files; use it with the marker `shared`."""
    return SHARED
