"""Whether a source still contains the bytes that were prepared."""

from __future__ import annotations

from firstsight.data import readers
from firstsight.data.index import Index
from firstsight.errors import DataError
from firstsight.site import Location


def check_source_unchanged(index: Index, location: Location) -> None:
    """Raise DataError if a shard of the source is missing or has other bytes than when it was prepared.

    A shard with an equal stamp counts as unchanged. If the stamp differs (a copy, a touch) or there is none, the shard
    is read and its digest compared.
    """
    shards = {(shard.name, shard.start, shard.stop): shard for shard in readers.list_shards(location, index.form)}
    names = {name for name, _, _ in shards}
    advice = f"Put the old one back, or prepare the source again (then {index.path} is another index)."
    for prepared in index.source_shards:
        label = f"{location.path}: shard {prepared.name}"
        shard = shards.get((prepared.name, prepared.start, prepared.stop))
        if prepared.name not in names:
            raise DataError(f"{label}: wanted the file that was prepared. Got none of that name. {advice}")
        if shard is None or shard.size != prepared.size:
            raise DataError(
                f"{label}: wanted the {prepared.size:,} bytes that were prepared. Got other items. {advice}"
            )
        if shard.stamp and shard.stamp == prepared.stamp:
            continue
        records = readers.RecordReader(location, index.form, source=index.source).read(shard)
        for _ in records:
            pass
        if records.digest != prepared.sha256:
            raise DataError(
                f"{label}: wanted bytes of digest {prepared.sha256[:12]}. Got {records.digest[:12]}. {advice}"
            )
