"""How far a source is, told in records and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from firstsight.data.prepare.shard_writer import ShardProgress
from firstsight.data.readers import Shard
from firstsight.site import Progress, ProgressCallback

_REPORT_INTERVAL = 0.5
"""Seconds between two reports of progress."""


class PrepareProgress:
    """Sums how far the shards are, and tells it at most twice a second."""

    def __init__(self, shards: Sequence[Shard], on_progress: ProgressCallback) -> None:
        self._total_bytes = sum(shard.stop - shard.start for shard in shards)
        self._on_progress, self._shard_progress = on_progress, dict[Shard, ShardProgress]()
        self._start_time = self._last_report_time = monotonic()
        self._resumed_records = 0

    def add_finished(self, shard: Shard, records: int) -> None:
        """An earlier try has done this one; it counts for what is done, not for the speed."""
        self._shard_progress[shard] = ShardProgress(records=0, tokens=0, bytes=shard.stop - shard.start)
        self._resumed_records += records

    def __call__(self, shard: Shard, shard_progress: ShardProgress) -> None:
        self._shard_progress[shard] = shard_progress
        if monotonic() - self._last_report_time >= _REPORT_INTERVAL:
            self._report()

    def finish(self) -> None:
        """All shards are there; what is left is to put them together."""
        self._report()

    def _report(self) -> None:
        self._last_report_time = report_time = monotonic()
        records, tokens, done_bytes = (
            sum(getattr(shard_progress, name) for shard_progress in self._shard_progress.values())
            for name in ("records", "tokens", "bytes")
        )
        elapsed = max(report_time - self._start_time, 1e-9)
        numbers = {
            "records": float(self._resumed_records + records),
            "tokens/s": tokens / elapsed,
            "records/s": records / elapsed,
        }
        self._on_progress(
            Progress(done=done_bytes, total=max(self._total_bytes, done_bytes), unit="bytes", metrics=numbers)
        )
