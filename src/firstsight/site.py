"""The machine, the paths of the user's data, and progress reports: what a handler gets in addition to its spec.

Nothing here enters an address. `site_file` reads a Site from TOML.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from firstsight.limits import Limits
from firstsight.units import Share

MAX_REJECTED_SHARE = Share(1, 100)
TRACKERS = ("tensorboard", "wandb", "trackio")
"""Names of packages that `track` writes for."""
ByteSize = int
"""In a site file a size with its unit, "200 GB"."""
LOSS_IMPLEMENTATIONS = ("chunked", "liger")


def default_cache() -> Path:
    """~/.cache/firstsight; a folder for temporary files where this user has no home, as in some containers."""
    try:
        return Path.home() / ".cache" / "firstsight"
    except RuntimeError:
        return Path(gettempdir()) / f"firstsight-{os.getuid()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Where a source is, and its layout where the files themselves do not show it."""

    path: str
    """A folder, a file or a pattern; local, or a URL that fsspec supports (s3://, gs://, hf://, http://)."""
    pictures: str = ""
    """A folder or tars with the images, where they are not in the same folder as `path`."""
    captions: str = ""
    """Tars with synthetic captions (DataComp-DR: syn.json), with the same shard names as in `path`."""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """For tables: the column of the text, picture, caption, turns, question, answer."""
    split: str = ""
    """Which split to read, where the file names contain several (train, validation, test)."""
    most_bad: Share = MAX_REJECTED_SHARE
    """The largest allowed share of rejected records; a source with more is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Settings of the machine and paths of the data, for worker processes."""

    device: str = "cpu"
    """torch device: cpu or cuda."""
    threads: int = 1
    """CPU threads of one worker; two one-thread arms are faster than one two-thread arm."""
    compile: bool = True
    """Compile each transformer block; without a compiler, training warns and runs uncompiled."""
    recompute: bool = False
    """Activation checkpointing: keep one activation per block and recompute the rest (a third more FLOPs)."""
    loss: str = "chunked"
    """The cross-entropy implementation: `chunked`, or on a GPU `liger` (needs the package liger-kernel)."""
    save_every: float = 60.0
    """Seconds between resume points of a training step."""
    stop_seconds: float = 25.0
    """Seconds that training steps have to save a resume point when a signal stops the run. Clusters kill after 30."""
    cache: Path = field(default_factory=default_cache)
    """Rasterised drawings, compiled kernels, packed rows, the script of report pages, digests of files that were read.

    Safe to delete."""
    sources: Mapping[str, Location] = field(default_factory=dict[str, Location])
    """Paths of external data and weights, by name."""
    limits: Limits = field(default_factory=Limits)
    """The largest sizes that files of others may have."""
    rows_at_once: int = 0
    """Rows of a step that are computed together where memory is short, their gradients summed; 0: all."""
    processes: int = 1
    """Processes of one training step, each with a part of its rows and of the weights; on a GPU, its GPUs."""
    shard_group: int = 0
    """Processes that share one copy of the weights; groups have copies of their own. 0: all of a step share one."""
    gpus: int = 0
    """GPUs of this machine that steps share out, `processes` for each step; 0: all steps take the first ones."""
    feature_bytes: ByteSize = 100 * 10**9
    """Room for stored features of published encoders in a folder of results; training computes others afresh."""
    slurm: Mapping[str, str | int | float] = field(default_factory=dict[str, str | int | float])
    """Parameters of the jobs that `--executor slurm` submits, by submitit's and sbatch's names."""
    readers: int = 1
    """Threads that prefetch training batches; processes that prepare shards."""
    track: tuple[str, ...] = ()
    """Trackers that get the metrics of training besides the store's own log: of TRACKERS."""
    spike: float = 0.0
    """Stop training before an update whose loss is so many standard deviations above the mean of the updates before; 0:
    never. A step that is not stopped has the same bytes with and without."""
    collective_timeout: float = 1200.0
    """Seconds that a rank waits for another one in a collective operation before the step fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a step is: `done` of `total` in `unit`, with a few numbers to display (loss, tokens/s)."""

    done: int
    total: int
    unit: str
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    note: str = ""
    """A line to show once, for example why a step starts over."""
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The metrics of an interval of training that ends here (docs/reference/log.md); empty between."""


ProgressCallback = Callable[[Progress], None]
"""How a handler reports progress."""
