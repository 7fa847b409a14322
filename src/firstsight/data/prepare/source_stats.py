"""Counts over all parts of a source, and the limit on its bad records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.data.prepare.shard_writer import ShardPart
from firstsight.data.records import RejectedRecord
from firstsight.errors import DataError
from firstsight.site import Location

SPLIT_COUNTS = ("samples", "shown", "tokens", "loss tokens", "bad")
"""Counted for each split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStats:
    """Counts over all parts."""

    counts: Mapping[str, int]
    """`images` is the sum over the parts: an image in two of them is counted twice."""
    splits: Mapping[str, Mapping[str, int]]
    refusal_counts: Mapping[str, int]
    caption_counts: Mapping[str, int]
    first_bad: Mapping[str, RejectedRecord]
    """The first rejected record for each reason."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the first rejected records."""
        return {
            "counts": dict(self.counts),
            "splits": {name: dict(counts) for name, counts in self.splits.items()},
            "refused": dict(self.refusal_counts),
            "captions": dict(self.caption_counts),
        }


def collect_stats(parts: Sequence[ShardPart]) -> SourceStats:
    """The sums over `parts`."""
    counts, refusal_counts = Counter[str](), Counter[str]()
    caption_counts = Counter({"real": 0, "synthetic": 0})
    splits: dict[str, Counter[str]] = {}
    first_bad: dict[str, RejectedRecord] = {}
    for part in parts:
        counts.update(part.counts)
        caption_counts.update(part.caption_counts)
        splits.setdefault(part.shard.split, Counter()).update({name: part.counts[name] for name in SPLIT_COUNTS})
        refusal_counts.update({reason: count for reason, (count, _) in part.refusals.items()})
        first_bad = {reason: record for reason, (_, record) in part.refusals.items()} | first_bad
    return SourceStats(
        counts=counts, splits=splits, refusal_counts=refusal_counts, caption_counts=caption_counts, first_bad=first_bad
    )


def check_bad_share(stats: SourceStats, location: Location) -> None:
    """Raise DataError when more records were rejected than the location allows, or all."""
    good, bad = stats.counts.get("samples", 0), stats.counts.get("bad", 0)
    if good and bad <= (good + bad) * location.most_bad:
        return
    reasons = "; ".join(
        f"{count} x {reason} (first: {record.shard}, {record.where}: {record.detail})"
        for reason, count in sorted(stats.refusal_counts.items(), key=lambda item: (-item[1], item[0]))
        for record in [stats.first_bad[reason]]
    )
    raise DataError(
        f"{location.path}: wanted at most {location.most_bad} bad records. Got {bad} of {good + bad}: "
        f"{reasons or 'no record at all'}. Repair the source, remove the bad shards, or allow more with most_bad."
    )
