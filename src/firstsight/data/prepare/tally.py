"""What the parts of a source hold together, and whether that is good enough."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.data.prepare.part import Part
from firstsight.data.records import Bad
from firstsight.errors import DataError
from firstsight.site import Location

SPLIT = ("samples", "shown", "tokens", "loss tokens", "bad")
"""What is counted split by split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Counts over all parts."""

    counts: Mapping[str, int]
    """`images` is the sum over the parts, a picture that two of them show twice in it."""
    splits: Mapping[str, Mapping[str, int]]
    refused: Mapping[str, int]
    captions: Mapping[str, int]
    first: Mapping[str, Bad]
    """The first refused record for each reason."""

    def told(self) -> dict[str, Any]:
        """As plain JSON, the first refused records left out."""
        return {
            "counts": dict(self.counts),
            "splits": {name: dict(counts) for name, counts in self.splits.items()},
            "refused": dict(self.refused),
            "captions": dict(self.captions),
        }


def tally(parts: Sequence[Part]) -> Tally:
    """The sums over `parts`."""
    counts, refused = Counter[str](), Counter[str]()
    captions = Counter({"real": 0, "synthetic": 0})
    splits: dict[str, Counter[str]] = {}
    first: dict[str, Bad] = {}
    for part in parts:
        counts.update(part.counts)
        captions.update(part.captions)
        splits.setdefault(part.shard.split, Counter()).update({name: part.counts[name] for name in SPLIT})
        refused.update({reason: count for reason, (count, _) in part.refused.items()})
        first = {reason: bad for reason, (_, bad) in part.refused.items()} | first
    return Tally(counts=counts, splits=splits, refused=refused, captions=captions, first=first)


def refuse_rot(found: Tally, location: Location) -> None:
    """Raise DataError when more records were refused than the location allows, or none was left."""
    good, bad = found.counts.get("samples", 0), found.counts.get("bad", 0)
    if good and bad <= (good + bad) * location.most_bad:
        return
    reasons = "; ".join(
        f"{count} x {reason} (first: {one.shard}, {one.where}: {one.detail})"
        for reason, count in sorted(found.refused.items(), key=lambda item: (-item[1], item[0]))
        for one in [found.first[reason]]
    )
    raise DataError(
        f"{location.path}: wanted at most {location.most_bad} bad records. Got {bad} of {good + bad}: "
        f"{reasons or 'no record at all'}. Repair the source, take the bad shards out, or allow more with most_bad."
    )


def lines(found: Tally) -> str:
    """The tally of a refused source as a file."""
    return json.dumps(found.told(), sort_keys=True, indent=1) + "\n"
