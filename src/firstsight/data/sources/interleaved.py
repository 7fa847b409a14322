"""Documents of texts and pictures in reading order, in the two published layouts.

    OBELICS   {"images": [name, null, ...], "texts": [null, text, ...]}      one of the two at every place
    MMC4      {"text_list": [...], "image_info": [{"image_name", "raw_url", "matched_text_index"}, ...]}

In MMC4 a picture stands before the text that it is matched to. A picture that is missing or broken is left out and set
aside as a bad record of its own; a document that has no picture left is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.data.records import Bad, Place, Record, Refused, interleaved
from firstsight.data.sources import tables, text
from firstsight.data.sources.places import Pass


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """A picture by the names that it may be found under."""

    names: tuple[str, ...]


def lines(run: Pass) -> Iterator[Record | Bad]:
    """Documents of a JSON-lines shard."""
    for number, row in text.rows(run):
        yield from _document(run, row, f"line {number}", f"{run.shard.name}:{number}")


def rows(run: Pass) -> Iterator[Record | Bad]:
    """Documents of a table."""
    for number, row, names in tables.rows(run, ("images", "texts"), ("text_list", "image_info"), also=("id",)):
        told = {what: row[column] for what, column in names.items()}
        yield from _document(run, told, f"row {number}", f"{run.shard.name}:{number}")


def _document(run: Pass, row: Mapping[str, Any] | Refused, where: str, name: str) -> Iterator[Record | Bad]:
    try:
        if isinstance(row, Refused):
            raise row
        parts, glue = (_mmc4(row), " ") if "text_list" in row else (_obelics(row), "\n\n")
        found: list[str | Place] = []
        for nth, part in enumerate(parts, start=1):
            try:
                found.append(_seen(run, part) if isinstance(part, _Shown) else part)
            except Refused as refused:
                yield run.bad(refused, f"{where}, part {nth}")
        named = row.get("id")
        yield interleaved(found, name=name if named is None else str(named), glue=glue)
    except Refused as refused:
        yield run.bad(refused, where)


def _seen(run: Pass, shown: _Shown) -> Place:
    """The picture under the first of its names that is known."""
    missing: Refused | None = None
    for name in shown.names:
        try:
            return run.find(name)
        except Refused as refused:
            if refused.reason != "no picture":
                raise
            missing = missing or refused
    raise missing or Refused("no picture", "a picture without a name")


def _obelics(row: Mapping[str, Any]) -> list[str | _Shown]:
    images, texts = _list(row, "images"), _list(row, "texts")
    if len(images) != len(texts):
        raise Refused("bad layout", f"{len(images)} images beside {len(texts)} texts")
    parts: list[str | _Shown] = []
    for nth, (image, told) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (told is None):
            got = "neither" if told is None else "both"
            raise Refused("bad layout", f"at place {nth} wanted a picture or a text, got {got}")
        for value in (image, told):
            if value is not None and not isinstance(value, str):
                raise Refused("bad layout", f"at place {nth} wanted a name or a text, got {type(value).__name__}")
        parts.append(told if image is None else _Shown(names=(image,)))
    return parts


def _mmc4(row: Mapping[str, Any]) -> list[str | _Shown]:
    texts, shown = _list(row, "text_list"), _list(row, "image_info")
    if not all(isinstance(one, str) for one in texts):
        raise Refused("bad layout", "text_list holds more than texts")
    before: dict[int, list[_Shown]] = {}
    for info in shown:
        at = info.get("matched_text_index") if isinstance(info, Mapping) else None
        if type(at) is not int or not 0 <= at < len(texts):
            raise Refused("bad layout", f"wanted a matched_text_index below {len(texts)}, got {at!r}")
        names = tuple(str(info[key]) for key in ("image_name", "raw_url") if info.get(key))
        before.setdefault(at, []).append(_Shown(names=names))
    return [part for at, told in enumerate(texts) for part in (*before.get(at, ()), told)]


def _list(row: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = row.get(name)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Refused("field missing", f"wanted lists images and texts, or text_list and image_info. Got no {name}")
    return value
