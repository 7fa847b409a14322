"""A source read as a whole, and what tests ask of it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from firstsight.data.readers import RecordReader, list_shards
from firstsight.data.records import Record, RejectedRecord
from firstsight.recipe.mixture import DataSource, External, ExternalForm
from firstsight.site import Location
from firstsight.units import Tokens


def named(form: ExternalForm) -> External:
    return External(name="s", form=form, tokens=Tokens(0))


def at(path: Path | str, **more: object) -> Location:
    return Location(path=str(path), **more)


def passes(
    location: Location, form: ExternalForm, source: DataSource | None = None
) -> Iterator[tuple[list[Record | RejectedRecord], str]]:
    """Records and digest of every shard, through a reader that went to another process and back."""
    reader = pickle.loads(pickle.dumps(RecordReader(location, form, source=source or named(form))))
    for shard in list_shards(location, form):
        reading = reader.read(shard)
        yield list(reading), reading.digest


def everything(
    location: Location, form: ExternalForm, source: DataSource | None = None
) -> list[Record | RejectedRecord]:
    return [record for records, _ in passes(location, form, source) for record in records]


def good(found: Sequence[Record | RejectedRecord]) -> list[Record]:
    return [one for one in found if not isinstance(one, RejectedRecord)]


def bad(found: Sequence[Record | RejectedRecord]) -> list[tuple[str, str]]:
    """(where, reason) of all that was refused."""
    return [(one.where, one.reason) for one in found if isinstance(one, RejectedRecord)]


def lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
