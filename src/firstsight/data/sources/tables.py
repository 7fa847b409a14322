"""Rows of tables: parquet as on the Hugging Face hub, and the arrow files of `datasets.Dataset.save_to_disk`.

A picture is a struct of bytes and path, bare bytes, or the name of a file; its place is `<shard>#<column>` and the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from firstsight.data.pictures import checked
from firstsight.data.records import Bad, ImageText, Place, Record, Refused, caption, document
from firstsight.data.sources.captions import one_of
from firstsight.data.sources.dialogues import PAIRS, TURNS, alone, dialogue_of
from firstsight.data.sources.places import Pass
from firstsight.errors import DataError

TABLES = (".parquet", ".arrow")
_AT_ONCE = 64
"""Rows in memory together; each may hold a picture of some megabytes."""
_USUAL: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "text": ("text",),
    "picture": ("image", "images", "picture", "jpg", "png"),
    "caption": ("caption", "text", "txt"),
    "synthetic": ("syn_text",),
    "turns": TURNS,
    "question": tuple(question for question, _ in PAIRS),
    "answer": tuple(answer for _, answer in PAIRS),
}
"""Names that columns have where the location does not say."""
Row = Mapping[str, Any]


def rows(run: Pass, *layouts: Sequence[str], also: Sequence[str] = ()) -> Iterator[tuple[int, Row, Mapping[str, str]]]:
    """Rows with their numbers from 0 on, and the columns read: the first of `layouts` that is there, and of `also`.

    Raises DataError when the file is no table, breaks off, or fits no layout.
    """
    with run.folder.at_hand(run.shard.name, run.digest) as path:
        try:
            if run.shard.name.endswith(".parquet"):
                with pq.ParquetFile(path) as table:
                    names = _layout(run, table.schema_arrow.names, layouts, also)
                    yield from _numbered(table.iter_batches(batch_size=_AT_ONCE, columns=_listed(names)), names)
            else:
                with pa.memory_map(str(path)) as data, pa.ipc.open_stream(data) as table:
                    names = _layout(run, table.schema.names, layouts, also)
                    yield from _numbered((batch.select(_listed(names)) for batch in table), names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{run.where}: a table that breaks off or is none ({error}). Copy it again.") from None


def _listed(names: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(names.values()))


def _numbered(
    batches: Iterable[pa.RecordBatch], names: Mapping[str, str]
) -> Iterator[tuple[int, Row, Mapping[str, str]]]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _AT_ONCE):
            for row in batch.slice(start, _AT_ONCE).to_pylist():
                yield number, row, names
                number += 1


def _layout(run: Pass, held: Sequence[str], layouts: Sequence[Sequence[str]], also: Sequence[str]) -> dict[str, str]:
    """Which column tells what."""
    told = run.location.columns
    for what, column in told.items():
        if column not in held:
            raise DataError(f"{run.where}: wanted a column {column!r} ({what}). Got {', '.join(held)}. Name another.")

    def found(what: str) -> str | None:
        if what in told:
            return told[what]
        return next((name for name in _USUAL.get(what, (what,)) if name in held), None)

    for layout in layouts:
        names = {what: name for what in (*layout, *also) if (name := found(what)) is not None}
        if all(what in names for what in layout):
            return names
    wanted = " or ".join(" and ".join(layout) for layout in layouts)
    raise DataError(
        f"{run.where}: wanted columns for {wanted}. Got {', '.join(held)}. "
        f"Say in the site file which they are: columns = {{{layouts[0][0]} = ...}}."
    )


def _name(run: Pass, number: int, row: Row, names: Mapping[str, str]) -> str:
    """A row's own id, or its place."""
    found = row.get(names.get("id", ""))
    return f"{run.shard.name}:{number}" if found is None else str(found)


def documents(run: Pass) -> Iterator[Record | Bad]:
    """Documents of a table's text column."""
    for number, row, names in rows(run, ("text",), also=("id",)):
        try:
            yield document({"text": row[names["text"]]}, name=_name(run, number, row, names))
        except Refused as refused:
            yield run.bad(refused, f"row {number}")


def captions(run: Pass) -> Iterator[Record | Bad]:
    """Captioned pictures of a table; a column of lists may hold synthetic captions."""
    also = ("id",) if run.share is None else ("id", "synthetic")
    for number, row, names in rows(run, ("picture", "caption"), also=also):
        try:
            key = _name(run, number, row, names)
            synthetic, pick = run.share(key) if run.share is not None else (False, 0)
            told = one_of(row.get(names.get("synthetic", "")), pick) if synthetic else row[names["caption"]]
            if told is None:
                raise Refused("no caption", "an empty cell")
            text, image = caption(told), _place(run, number, row, names)
            if image is None:
                raise Refused("no picture", "an empty cell")
            yield ImageText(id=key, image=image, caption=text, synthetic=synthetic)
        except Refused as refused:
            yield run.bad(refused, f"row {number}")


def dialogues(run: Pass) -> Iterator[Record | Bad]:
    """Dialogues of a table: turns, or a question and its answer; with a picture where there is one."""
    for number, row, names in rows(run, ("turns",), ("question", "answer"), also=("id", "picture")):
        try:
            image = _place(run, number, row, names) if "picture" in names else None
            yield dialogue_of(row, names, name=_name(run, number, row, names), image=image)
        except Refused as refused:
            yield run.bad(refused, f"row {number}")


def _place(run: Pass, number: int, row: Row, names: Mapping[str, str]) -> Place | None:
    """The checked place of a row's picture; None for an empty cell."""
    shown = alone(row[names["picture"]])
    if isinstance(shown, Mapping):
        shown = shown.get("bytes") if shown.get("bytes") is not None else shown.get("path")
    if shown is None or shown == "":
        return None
    if isinstance(shown, str):
        return run.find(shown)
    if not isinstance(shown, bytes):
        raise Refused("not a picture", f"wanted bytes or a name, got {type(shown).__name__}")
    shard = f"{run.shard.name}#{names['picture']}"
    return Place(shard=shard, offset=number, size=len(shown), hash=checked(shown))
