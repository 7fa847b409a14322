"""Circumstance: where and with what a step runs. Nothing here may reach an address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """The machine as a worker sees it."""

    device: str = "cpu"
    """torch device: cpu or cuda."""
    threads: int = 1
    """CPU threads of one worker; two one-thread arms beat one two-thread arm."""
    compile: bool = True
    """Compile each transformer block; falls back, aloud, where no compiler exists."""
    save_every: float = 60.0
    """Seconds between resume points of a training step."""
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "firstsight")
    """Rasterised drawings and compiled kernels; safe to delete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a step is: `done` of `total` in `unit`, with a few numbers worth showing (loss, tokens/s)."""

    done: int
    total: int
    unit: str
    numbers: dict[str, float] = field(default_factory=dict)


Tell = Callable[[Progress], None]
"""How a handler reports progress while it works."""
