"""Settings of all tests: one thread per process, the device, and which tests this machine can run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # a loaded machine is no failure
hypothesis.settings.load_profile("untimed")

DEVICE = os.environ.get("FIRSTSIGHT_TEST_DEVICE", "cpu")
"""Device of the models in tests; with `cuda` the same tests run on a GPU."""

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


def pytest_sessionstart() -> None:
    """Give every `Site()` the tests' device, and turn off TF32, so that float32 has its full precision."""
    import torch

    from firstsight.site import Site  # imported here, because the shape checker must hook into imports first

    torch.backends.cudnn.allow_tf32 = False

    original_init = Site.__init__

    def init_on_device(self: Site, **settings: Any) -> None:
        original_init(self, **{"device": DEVICE, **settings})

    Site.__init__ = init_on_device


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need files that are not on this machine, with a reason."""
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no real files at {SHARED}"))


@pytest.fixture(autouse=True)
def default_limits() -> Iterator[None]:
    """Each test begins with the default limits, which apply to a whole process."""
    from firstsight.limits import DEFAULT_LIMITS, apply_limits  # imported here for the same reason

    apply_limits(DEFAULT_LIMITS)
    yield
    apply_limits(DEFAULT_LIMITS)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of small real files; use it with the marker `shared`."""
    return SHARED
