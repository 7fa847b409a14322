"""A source read as a whole, and what tests ask of it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from firstsight.data.records import Bad, Record
from firstsight.data.sources import Reader, shards
from firstsight.recipe.mix import Form, Named, Source
from firstsight.site import Location
from firstsight.units import Tokens


def named(form: Form) -> Named:
    return Named(name="s", form=form, tokens=Tokens(0))


def at(path: Path | str, **more: object) -> Location:
    return Location(path=str(path), **more)


def passes(location: Location, form: Form, source: Source | None = None) -> Iterator[tuple[list[Record | Bad], str]]:
    """Records and digest of every shard, through a reader that went to another process and back."""
    reader = pickle.loads(pickle.dumps(Reader(location, form, source=source or named(form))))
    for shard in shards(location, form):
        reading = reader.read(shard)
        yield list(reading), reading.digest


def everything(location: Location, form: Form, source: Source | None = None) -> list[Record | Bad]:
    return [record for records, _ in passes(location, form, source) for record in records]


def good(found: Sequence[Record | Bad]) -> list[Record]:
    return [one for one in found if not isinstance(one, Bad)]


def bad(found: Sequence[Record | Bad]) -> list[tuple[str, str]]:
    """(where, reason) of all that was refused."""
    return [(one.where, one.reason) for one in found if isinstance(one, Bad)]


def lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
