"""Where a user finds what an audit speaks of: the record's number, its shard, its place in the shard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from firstsight.data.index import Index


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordLocation:
    """A record of an index, and where the picture in question lies."""

    record: int
    shard: str
    """Name of the file; empty for texts, of which an index keeps no place."""
    offset: int
    """Offset in bytes, in a table the row; -1 for texts."""

    def __str__(self) -> str:
        return f"record {self.record:,}" + (f" ({self.shard} at {self.offset:,})" if self.shard else "")


def records_at(index: Index, positions: np.ndarray) -> np.ndarray:
    """In which record each token position lies."""
    return np.searchsorted(index.samples["tokens_from"], positions, side="right") - 1


def text_location(record: int) -> RecordLocation:
    """A record that is spoken of for its words."""
    return RecordLocation(record=record, shard="", offset=-1)


def format_share(count: int, total: int) -> str:
    """A count of a whole, and its share."""
    return f"{count:,} of {total:,} ({count / max(total, 1):.2%})"


class ImageRecordFinder:
    """Finds the first record that shows a picture."""

    def __init__(self, index: Index) -> None:
        self._index = index
        image_ids = index.image_refs["picture"]
        self._first_refs = np.full(len(index.images), -1)
        self._first_refs[image_ids[::-1]] = np.arange(len(image_ids))[::-1]

    def first_record(self, image_id: int) -> int:
        """Number of the first record that shows `picture`."""
        return int(np.searchsorted(self._index.samples["shown_from"], self._first_refs[image_id], side="right")) - 1

    def locate(self, image_id: int) -> RecordLocation:
        """The first record that shows `picture`, and where its bytes lie."""
        entry = self._index.images[image_id]
        name = self._index.image_shards[int(entry["shard"])]
        return RecordLocation(record=self.first_record(image_id), shard=name, offset=int(entry["offset"]))
