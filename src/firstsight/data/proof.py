"""Proves from ledgers alone, without the code that drew, that no row was trained on twice or passed over.

Several ledgers in a row are the segments of a trunk and a branch: each goes on with the text where the one before
stopped. Images begin anew with every stage.

Legend: n draws from one source, in order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from firstsight.errors import DataError, RequestError

Draws = Int64[np.ndarray, "n"]
_RECORD = np.dtype([("source", "u1"), ("row", "<u4")])


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the ledgers say about one source."""

    name: str
    rows: int
    """Draws from it."""
    distinct: int
    passes: float
    """Through all of its rows, from the first draw on."""
    repeats: int
    """Rows that came again within a pass."""
    skipped: int
    """Rows that did not come in a pass that was completed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wrong:
    """Something that a ledger contradicts."""

    where: Path
    position: int | None
    """The first position of the run that shows it; None where it shows at none."""
    what: str

    def __str__(self) -> str:
        at = "" if self.position is None else f", position {self.position:,}"
        return f"{self.where}{at}: {self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """All sources, and everything that is wrong; proved where nothing is."""

    found: tuple[Found, ...]
    wrong: tuple[Wrong, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ledger:
    folder: Path
    note: Mapping[str, Any]
    source: Int64[np.ndarray, "positions"]
    row: Int64[np.ndarray, "positions"]
    digest: str
    """Of the records' file as it is now."""

    def wrong(self, what: str, index: int | None = None) -> Wrong:
        return Wrong(where=self.folder, position=None if index is None else self.note["first"] + index, what=what)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """Draws of one source out of one ledger, or of a text source out of several, in rows of the shortest cut."""

    name: str
    have: int
    before: int
    rows: Draws
    at: tuple[tuple[_Ledger, np.ndarray, int], ...]
    """Ledgers with the index of each draw's position, and how many of `rows` each of these stands for."""

    def place(self, draw: int) -> tuple[_Ledger, int]:
        """Ledger and index of the position that the draw stands at."""
        for ledger, index, each in self.at:
            if draw < len(index) * each:
                return ledger, int(index[draw // each])
            draw -= len(index) * each
        raise IndexError(draw)


def prove(places: Sequence[Path]) -> Proof:
    """The proof of ledgers in the order in which they were trained: folders, or the files in them.

    Raises RequestError where there is no ledger.
    """
    ledgers, wrong = list[_Ledger](), list[Wrong]()
    for place in places:
        try:
            ledgers.append(_read(place))
        except DataError as error:
            return Proof(found=(), wrong=(Wrong(where=place, position=None, what=str(error)),))
    for ledger in ledgers:
        wrong += _alone(ledger)
    if any(one.position is not None for one in wrong):  # numbers that name no source or row: nothing to sort by
        return Proof(found=(), wrong=tuple(wrong))
    wrong += _joined(ledgers)
    found = list[Found]()
    for run in _runs(ledgers):
        one, problem = _passes(run)
        found.append(one)
        wrong += problem
    return Proof(found=tuple(found), wrong=tuple(wrong))


def _read(place: Path) -> _Ledger:
    folder = place if place.is_dir() else place.parent
    file, note = folder / "ledger.npy", folder / "ledger.json"
    if not (file.is_file() and note.is_file()):
        raise RequestError(f"{place}: wanted the folder of a trained checkpoint. Got no ledger in it. Train it again.")
    try:
        told = json.loads(note.read_text())
        with file.open("rb") as data:
            np.lib.format.read_magic(data)
            (stated,), _, kind = np.lib.format.read_array_header_1_0(data)
            held = data.read()
    except ValueError as error:
        raise DataError(f"wanted a ledger. Got {error}. Train the step again.") from error
    if kind != _RECORD or len(held) != stated * _RECORD.itemsize or stated != told["positions"]:
        raise DataError(
            f"wanted {told['positions']:,} records, says ledger.json. Got {len(held) / _RECORD.itemsize:,g}, and a "
            f"header of {stated:,}. Train the step again."
        )
    records = np.frombuffer(held, dtype=_RECORD)
    source, row = (records[name].astype(np.int64) for name in ("source", "row"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return _Ledger(folder=folder, note=told, source=source, row=row, digest=digest)


def _alone(ledger: _Ledger) -> Iterator[Wrong]:
    """What a ledger shows by itself: names, rows that exist, exact shares of rows, declared passes, its own counts."""
    sources = ledger.note["sources"]
    if (strange := np.flatnonzero(ledger.source >= len(sources))).size:
        yield ledger.wrong(f"source {ledger.source[strange[0]]} of {len(sources)}.", int(strange[0]))
        return
    have = np.array([one["rows"] for one in sources])[ledger.source]
    if (strange := np.flatnonzero(ledger.row >= have)).size:
        first = int(strange[0])
        name = sources[ledger.source[first]]["name"]
        yield ledger.wrong(f"row {ledger.row[first]:,} of {name}, which holds {have[first]:,}.", first)
        return
    yield from _shares(ledger)
    counts = np.bincount(ledger.source, minlength=len(sources)).tolist()
    for count, one in zip(counts, sources, strict=True):
        if one["before"] + count > one["rows"] * one["epochs"]:
            yield ledger.wrong(f"{one['name']} was gone through more than {one['epochs']} times.")
    yield from _counts(ledger, counts)
    if ledger.digest != ledger.note["sha256"]:
        yield ledger.wrong("the records are not those that were written: their digest differs.")


def _shares(ledger: _Ledger) -> Iterator[Wrong]:
    """In a mix counted in rows, every prefix of n rows of a span holds floor(n * share) image rows."""
    if ledger.note["counted_in"] != "rows":
        return
    first, start, held = ledger.note["first"], 0, len(ledger.source)
    pictured = np.array([one["role"] == "image" for one in ledger.note["sources"]])[ledger.source]
    for rows, share in ((rows, Fraction(share)) for rows, share in ledger.note["spans"]):
        low, high = (min(max(place, first), first + held) for place in (start, start + rows))
        n = np.arange(low - start, high - start)
        wanted = (n + 1) * share.numerator // share.denominator > n * share.numerator // share.denominator
        if (off := np.flatnonzero(pictured[low - first : high - first] != wanted)).size:
            index = low - first + int(off[0])
            kinds = ("a text row", "an image row")
            said = f"wanted {kinds[int(wanted[off[0]])]}, at a share of {share}. Got {kinds[int(pictured[index])]}."
            yield ledger.wrong(said, index)
            return
        start += rows


def _counts(ledger: _Ledger, counts: Sequence[int]) -> Iterator[Wrong]:
    """What achieved.json says of the stage: its rows by source, and where the next stage's text begins."""
    file = ledger.folder / "achieved.json"
    if not file.is_file():
        return
    told = json.loads(file.read_text())
    for count, one in zip(counts, ledger.note["sources"], strict=True):
        held = one["before"] - one["begun"] + count
        if told["rows"].get(one["name"]) != held:
            yield ledger.wrong(f"{held:,} rows of {one['name']}. {file.name} says {told['rows'].get(one['name'])}.")


def _joined(ledgers: Sequence[_Ledger]) -> Iterator[Wrong]:
    """Where each ledger's text begins: at the end of the text before, source by source, in rows of the shorter cut."""
    ends: dict[str, tuple[int, int, str]] = {}
    for ledger in ledgers:
        counts = np.bincount(ledger.source, minlength=len(ledger.note["sources"])).tolist()
        for count, one in zip(counts, ledger.note["sources"], strict=True):
            if one["role"] != "text" or not count:
                continue
            end, cut, digest = ends.get(one["name"], (one["before"], one["cut"], one["digest"]))
            if digest != one["digest"]:
                yield ledger.wrong(f"{one['name']} is not the source that the ledger before it read.")
            elif one["before"] * cut != end * one["cut"]:
                began, wanted = one["before"], end * one["cut"] / cut
                kind = "an overlap" if began < wanted else "a gap"
                yield ledger.wrong(f"{kind}: text of {one['name']} begins at its row {began:,}, not {wanted:,g}.", 0)
            ends[one["name"]] = (one["before"] + count, one["cut"], one["digest"])


def _runs(ledgers: Sequence[_Ledger]) -> Iterator[_Run]:
    """Every source's draws: text over all ledgers, images ledger by ledger."""
    texts: dict[str, list[tuple[_Ledger, int]]] = {}
    for ledger in ledgers:
        for number, one in enumerate(ledger.note["sources"]):
            if one["role"] == "text":
                texts.setdefault(one["name"], []).append((ledger, number))
    for parts in texts.values():
        yield _run(parts)
    for ledger in ledgers:
        for number, one in enumerate(ledger.note["sources"]):
            if one["role"] == "image":
                yield _run([(ledger, number)])


def _run(parts: Sequence[tuple[_Ledger, int]]) -> _Run:
    told = [ledger.note["sources"][number] for ledger, number in parts]
    finest = lcm(*(one["cut"] for one in told))
    rows, at = list[Draws](), list[tuple[_Ledger, np.ndarray, int]]()
    for (ledger, number), one in zip(parts, told, strict=True):
        index, each = np.flatnonzero(ledger.source == number), finest // one["cut"]
        rows.append((ledger.row[index][:, None] * each + np.arange(each)).ravel())
        at.append((ledger, index, each))
    first, each = told[0], finest // told[0]["cut"]
    return _Run(
        name=first["name"],
        have=first["rows"] * each,
        before=first["before"] * each,
        rows=np.concatenate(rows),
        at=tuple(at),
    )


def _passes(run: _Run) -> tuple[Found, list[Wrong]]:
    """In every pass each row at most once, and exactly once where the ledgers hold the whole pass."""
    turn = (run.before + np.arange(len(run.rows))) // max(1, run.have)
    key = turn * run.have + run.rows
    once, first = np.unique(key, return_index=True)
    again = np.ones(len(key), dtype=bool)
    again[first] = False
    turns, held = np.unique(turn, return_counts=True)
    whole = turns[held == run.have]
    came = int(np.isin(once // max(1, run.have), whole).sum())
    found = Found(
        name=run.name,
        rows=len(run.rows),
        distinct=len(np.unique(run.rows)),
        passes=len(run.rows) / max(1, run.have),
        repeats=int(again.sum()),
        skipped=len(whole) * run.have - came,
    )
    if not again.any():
        return found, []
    draw = int(np.flatnonzero(again)[0])
    ledger, index = run.place(draw)
    said = f"row {run.rows[draw]:,} of {run.name} came before in pass {turn[draw] + 1}: {found.repeats:,} such rows"
    return found, [ledger.wrong(f"{said}, {found.skipped:,} skipped.", index)]
