"""A disk that is full, as the kernel says it: no file may grow beyond a limit."""

from __future__ import annotations

import resource
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def file_size_limit(max_bytes: int) -> Generator[None, None, None]:
    """Writing more than `max_bytes` to a file fails with EFBIG, in this process and in libraries of other languages."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
