"""Writes small sources and reads them as a whole."""

from __future__ import annotations

import json
import pickle
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from firstsight.data.readers import RecordReader, list_shards
from firstsight.data.records import Record, RejectedRecord
from firstsight.recipe.mixture import DataSource, External, ExternalForm, Recaptioned
from firstsight.site import Location
from firstsight.units import Share, Tokens

from ..conftest import add, picture

RED_IMAGE = picture((255, 0, 0))


def external(form: ExternalForm) -> External:
    return External(name="s", form=form, tokens=Tokens(0))


def recaptioned(share: Share, seed: int = 0) -> Recaptioned:
    return Recaptioned(external=external("captions"), synthetic_share=share, seed=seed)


def source_at(path: Path | str, **fields: object) -> Location:
    return Location(path=str(path), **fields)


def read_shards(
    location: Location, form: ExternalForm, source: DataSource | None = None
) -> Iterator[tuple[list[Record | RejectedRecord], str]]:
    """Records and digest of every shard, from a reader that was pickled and unpickled."""
    reader = pickle.loads(pickle.dumps(RecordReader(location, form, source=source or external(form))))
    for shard in list_shards(location, form):
        shard_records = reader.read(shard)
        yield list(shard_records), shard_records.digest


def read_all(location: Location, form: ExternalForm, source: DataSource | None = None) -> list[Record | RejectedRecord]:
    return [record for records, _ in read_shards(location, form, source) for record in records]


def valid(records: Sequence[Record | RejectedRecord]) -> list[Record]:
    return [record for record in records if not isinstance(record, RejectedRecord)]


def rejected(records: Sequence[Record | RejectedRecord]) -> list[tuple[str, str]]:
    """(where, reason) of each rejected record."""
    return [(record.where, record.reason) for record in records if isinstance(record, RejectedRecord)]


def rejection_reasons(folder: Path, form: ExternalForm) -> list[str]:
    return [reason for _, reason in rejected(read_all(source_at(folder), form))]


def shard_names(location: Location) -> list[str]:
    return [shard.name for shard in list_shards(location, "text")]


def to_jsonl(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_texts(folder: Path, *files: str) -> Path:
    """Files with one document each: its number."""
    for number, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(to_jsonl([{"text": f"{number}"}]))
    return folder


def write_tar(file: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """Writes a tar and returns its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members:
            add(tar, name, data)
    return file.parent


def captioned_members(count: int) -> list[tuple[str, bytes]]:
    """Members of captioned images, three each: image, "real <number>", and its uid."""
    return [
        member
        for number in range(count)
        for member in (
            (f"{number:06d}.png", RED_IMAGE),
            (f"{number:06d}.txt", f"real {number}".encode()),
            (f"{number:06d}.json", json.dumps({"uid": f"u{number}"}).encode()),
        )
    ]


def llava_row(number: int, answer: str = "w2", **fields: object) -> dict[str, object]:
    turns = [{"from": "human", "value": "w1 ?"}, {"from": "gpt", "value": answer}]
    return {"id": f"n{number}", "conversations": turns, **fields}
