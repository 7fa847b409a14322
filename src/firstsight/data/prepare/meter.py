"""How far a source is, told in records and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from firstsight.data.prepare.part import Reach
from firstsight.data.sources import Shard
from firstsight.site import Progress, Tell

_EVERY = 0.5
"""Seconds between two reports of progress."""


class Meter:
    """Sums how far the shards are, and tells it at most twice a second."""

    def __init__(self, shards: Sequence[Shard], tell: Tell) -> None:
        self._total = sum(shard.stop - shard.start for shard in shards)
        self._tell, self._reach = tell, dict[Shard, Reach]()
        self._began = self._told = monotonic()
        self._before = 0

    def had(self, shard: Shard, records: int) -> None:
        """An earlier try has done this one; it counts for what is done, not for the speed."""
        self._reach[shard] = Reach(records=0, tokens=0, bytes=shard.stop - shard.start)
        self._before += records

    def __call__(self, shard: Shard, reach: Reach) -> None:
        self._reach[shard] = reach
        if monotonic() - self._told >= _EVERY:
            self._say()

    def done(self) -> None:
        """All shards are there; what is left is to put them together."""
        self._say()

    def _say(self) -> None:
        self._told = now = monotonic()
        records, tokens, size = (
            sum(getattr(reach, name) for reach in self._reach.values()) for name in ("records", "tokens", "bytes")
        )
        passed = max(now - self._began, 1e-9)
        numbers = {"records": float(self._before + records), "tokens/s": tokens / passed, "records/s": records / passed}
        self._tell(Progress(done=size, total=max(self._total, size), unit="bytes", numbers=numbers))
