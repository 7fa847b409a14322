"""What the parts of a source hold together, and whether that is good enough."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.data.prepare.shard_writer import ShardPart
from firstsight.data.records import RejectedRecord
from firstsight.errors import DataError
from firstsight.site import Location

SPLIT_COUNTS = ("samples", "shown", "tokens", "loss tokens", "bad")
"""What is counted split by split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStats:
    """Counts over all parts."""

    counts: Mapping[str, int]
    """`images` is the sum over the parts, a picture that two of them show twice in it."""
    splits: Mapping[str, Mapping[str, int]]
    refusal_counts: Mapping[str, int]
    caption_counts: Mapping[str, int]
    first_bad: Mapping[str, RejectedRecord]
    """The first refused record for each reason."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, the first refused records left out."""
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
        first_bad = {reason: bad for reason, (_, bad) in part.refusals.items()} | first_bad
    return SourceStats(
        counts=counts, splits=splits, refusal_counts=refusal_counts, caption_counts=caption_counts, first_bad=first_bad
    )


def check_bad_share(stats: SourceStats, location: Location) -> None:
    """Raise DataError when more records were refused than the location allows, or none was left."""
    valid_count, bad_count = stats.counts.get("samples", 0), stats.counts.get("bad", 0)
    if valid_count and bad_count <= (valid_count + bad_count) * location.most_bad:
        return
    reasons = "; ".join(
        f"{count} x {reason} (first: {first_bad.shard}, {first_bad.where}: {first_bad.detail})"
        for reason, count in sorted(stats.refusal_counts.items(), key=lambda item: (-item[1], item[0]))
        for first_bad in [stats.first_bad[reason]]
    )
    raise DataError(
        f"{location.path}: wanted at most {location.most_bad} bad records. Got {bad_count} of {valid_count + bad_count}: "
        f"{reasons or 'no record at all'}. Repair the source, take the bad shards out, or allow more with most_bad."
    )


def format_stats(stats: SourceStats) -> str:
    """The tally of a refused source as a file."""
    return json.dumps(stats.to_dict(), sort_keys=True, indent=1) + "\n"
