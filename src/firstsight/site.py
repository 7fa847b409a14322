"""Circumstance: where and with what a step runs. Nothing here may reach an address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from firstsight.units import Share

MOST_BAD = Share(1, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Where a source lies, and how its files are laid out where they do not say so themselves."""

    path: str
    """A folder, a file or a pattern; local, or a URL that fsspec knows (s3://, gs://, hf://, http://)."""
    pictures: str = ""
    """A folder or tars with the pictures, where they do not lie beside `path`."""
    captions: str = ""
    """Tars with synthetic captions (DataComp-DR: syn.json), shard by shard under the names of those in `path`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """For tables: which column holds the text, picture, caption, turns, question, answer."""
    split: str = ""
    """Which split to read, where the files' names tell several (train, validation, test)."""
    most_bad: Share = MOST_BAD
    """A source with more refused records than this is itself refused: something else is wrong with it."""


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
    """Rasterised drawings, compiled kernels and packed tables; safe to delete."""
    sources: Mapping[str, Location] = field(default_factory=dict)
    """Where named data and weights lie."""
    readers: int = 1
    """Threads that make batches ready ahead of training; processes that prepare shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a step is: `done` of `total` in `unit`, with a few numbers worth showing (loss, tokens/s)."""

    done: int
    total: int
    unit: str
    numbers: dict[str, float] = field(default_factory=dict)


Tell = Callable[[Progress], None]
"""How a handler reports progress while it works."""
