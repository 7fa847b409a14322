"""Where a user finds what an audit speaks of: the record's number, its shard, its place in the shard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from firstsight.data.index import Index


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A record of an index, and where the picture in question lies."""

    record: int
    shard: str
    """Name of the file; empty for texts, of which an index keeps no place."""
    place: int
    """Offset in bytes, in a table the row; -1 for texts."""

    def __str__(self) -> str:
        return f"record {self.record:,}" + (f" ({self.shard} at {self.place:,})" if self.shard else "")


def records_at(index: Index, positions: np.ndarray) -> np.ndarray:
    """In which record each token position lies."""
    return np.searchsorted(index.samples["tokens_from"], positions, side="right") - 1


def text_at(record: int) -> Seen:
    """A record that is spoken of for its words."""
    return Seen(record=record, shard="", place=-1)


def part(count: int, whole: int) -> str:
    """A count of a whole, and its share."""
    return f"{count:,} of {whole:,} ({count / max(whole, 1):.2%})"


class Shown:
    """Finds the first record that shows a picture."""

    def __init__(self, index: Index) -> None:
        self._index = index
        pictures = index.shown["picture"]
        self._first = np.full(len(index.images), -1)
        self._first[pictures[::-1]] = np.arange(len(pictures))[::-1]

    def record(self, picture: int) -> int:
        """Number of the first record that shows `picture`."""
        return int(np.searchsorted(self._index.samples["shown_from"], self._first[picture], side="right")) - 1

    def seen(self, picture: int) -> Seen:
        """The first record that shows `picture`, and where its bytes lie."""
        held = self._index.images[picture]
        name = self._index.shards[int(held["shard"])]
        return Seen(record=self.record(picture), shard=name, place=int(held["offset"]))
