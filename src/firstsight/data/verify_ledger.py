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

RowNumbers = Int64[np.ndarray, "n"]
_LEDGER_RECORD = np.dtype([("source", "u1"), ("row", "<u4")])


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceCoverage:
    """What the ledgers say about one source."""

    name: str
    rows: int
    """Draws from it."""
    distinct_rows: int
    passes: float
    """Through all of its rows, from the first draw on."""
    repeated_rows: int
    """Rows that came again within a pass."""
    skipped_rows: int
    """Rows that did not come in a pass that was completed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerProblem:
    """Something that a ledger contradicts."""

    ledger_path: Path
    position: int | None
    """The first position of the run that shows it; None where it shows at none."""
    message: str

    def __str__(self) -> str:
        position_text = "" if self.position is None else f", position {self.position:,}"
        return f"{self.ledger_path}{position_text}: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerCheck:
    """All sources, and everything that is wrong; proved where nothing is."""

    coverage: tuple[SourceCoverage, ...]
    problems: tuple[LedgerProblem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ledger:
    folder: Path
    metadata: Mapping[str, Any]
    source_numbers: Int64[np.ndarray, "positions"]
    row_numbers: Int64[np.ndarray, "positions"]
    digest: str
    """Of the records' file as it is now."""

    def problem(self, message: str, index: int | None = None) -> LedgerProblem:
        return LedgerProblem(
            ledger_path=self.folder, position=None if index is None else self.metadata["first"] + index, message=message
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _SourceDraws:
    """Draws of one source out of one ledger, or of a text source out of several, in rows of the shortest cut."""

    name: str
    source_rows: int
    rows_before: int
    row_numbers: RowNumbers
    segments: tuple[tuple[_Ledger, np.ndarray, int], ...]
    """Ledgers with the index of each draw's position, and how many of `rows` each of these stands for."""

    def locate(self, draw: int) -> tuple[_Ledger, int]:
        """Ledger and index of the position that the draw stands at."""
        for ledger, index, rows_per_position in self.segments:
            if draw < len(index) * rows_per_position:
                return ledger, int(index[draw // rows_per_position])
            draw -= len(index) * rows_per_position
        raise IndexError(draw)


def verify_ledgers(ledger_paths: Sequence[Path]) -> LedgerCheck:
    """The proof of ledgers in the order in which they were trained: folders, or the files in them.

    Raises RequestError where there is no ledger.
    """
    ledgers, problems = list[_Ledger](), list[LedgerProblem]()
    for ledger_path in ledger_paths:
        try:
            ledgers.append(_read_ledger(ledger_path))
        except DataError as error:
            return LedgerCheck(
                coverage=(), problems=(LedgerProblem(ledger_path=ledger_path, position=None, message=str(error)),)
            )
    for ledger in ledgers:
        problems += _check_ledger(ledger)
    if any(entry.position is not None for entry in problems):  # numbers that name no source or row: nothing to sort by
        return LedgerCheck(coverage=(), problems=tuple(problems))
    problems += _check_continuity(ledgers)
    coverage = list[SourceCoverage]()
    for draws in _all_source_draws(ledgers):
        entry, draw_problems = _check_passes(draws)
        coverage.append(entry)
        problems += draw_problems
    return LedgerCheck(coverage=tuple(coverage), problems=tuple(problems))


def _read_ledger(path: Path) -> _Ledger:
    folder = path if path.is_dir() else path.parent
    file, metadata_path = folder / "ledger.npy", folder / "ledger.json"
    if not (file.is_file() and metadata_path.is_file()):
        raise RequestError(f"{path}: wanted the folder of a trained checkpoint. Got no ledger in it. Train it again.")
    try:
        metadata = json.loads(metadata_path.read_text())
        with file.open("rb") as stream:
            np.lib.format.read_magic(stream)
            (record_count,), _, dtype = np.lib.format.read_array_header_1_0(stream)
            content = stream.read()
    except ValueError as error:
        raise DataError(f"wanted a ledger. Got {error}. Train the step again.") from error
    if (
        dtype != _LEDGER_RECORD
        or len(content) != record_count * _LEDGER_RECORD.itemsize
        or record_count != metadata["positions"]
    ):
        raise DataError(
            f"wanted {metadata['positions']:,} records, says ledger.json. Got {len(content) / _LEDGER_RECORD.itemsize:,g}, and a "
            f"header of {record_count:,}. Train the step again."
        )
    records = np.frombuffer(content, dtype=_LEDGER_RECORD)
    source_numbers, row_numbers = (records[name].astype(np.int64) for name in ("source", "row"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return _Ledger(
        folder=folder, metadata=metadata, source_numbers=source_numbers, row_numbers=row_numbers, digest=digest
    )


def _check_ledger(ledger: _Ledger) -> Iterator[LedgerProblem]:
    """What a ledger shows by itself: names, rows that exist, exact shares of rows, declared passes, its own counts."""
    sources = ledger.metadata["sources"]
    if (invalid := np.flatnonzero(ledger.source_numbers >= len(sources))).size:
        yield ledger.problem(f"source {ledger.source_numbers[invalid[0]]} of {len(sources)}.", int(invalid[0]))
        return
    source_rows = np.array([source["rows"] for source in sources])[ledger.source_numbers]
    if (invalid := np.flatnonzero(ledger.row_numbers >= source_rows)).size:
        first = int(invalid[0])
        name = sources[ledger.source_numbers[first]]["name"]
        yield ledger.problem(f"row {ledger.row_numbers[first]:,} of {name}, which holds {source_rows[first]:,}.", first)
        return
    yield from _check_image_share(ledger)
    counts = np.bincount(ledger.source_numbers, minlength=len(sources)).tolist()
    for count, source in zip(counts, sources, strict=True):
        if source["before"] + count > source["rows"] * source["epochs"]:
            yield ledger.problem(f"{source['name']} was gone through more than {source['epochs']} times.")
    yield from _check_achieved_rows(ledger, counts)
    if ledger.digest != ledger.metadata["sha256"]:
        yield ledger.problem("the records are not those that were written: their digest differs.")


def _check_image_share(ledger: _Ledger) -> Iterator[LedgerProblem]:
    """In a mix counted in rows, every prefix of n rows of a span holds floor(n * share) image rows."""
    if ledger.metadata["counted_in"] != "rows":
        return
    first, start, position_count = ledger.metadata["first"], 0, len(ledger.source_numbers)
    has_image = np.array([source["role"] == "image" for source in ledger.metadata["sources"]])[ledger.source_numbers]
    for rows, share in ((rows, Fraction(share)) for rows, share in ledger.metadata["spans"]):
        low, high = (min(max(edge, first), first + position_count) for edge in (start, start + rows))
        prefix_rows = np.arange(low - start, high - start)
        expects_image = (
            prefix_rows + 1
        ) * share.numerator // share.denominator > prefix_rows * share.numerator // share.denominator
        if (mismatches := np.flatnonzero(has_image[low - first : high - first] != expects_image)).size:
            index = low - first + int(mismatches[0])
            labels = ("a text row", "an image row")
            message = f"wanted {labels[int(expects_image[mismatches[0]])]}, at a share of {share}. Got {labels[int(has_image[index])]}."
            yield ledger.problem(message, index)
            return
        start += rows


def _check_achieved_rows(ledger: _Ledger, counts: Sequence[int]) -> Iterator[LedgerProblem]:
    """What achieved.json says of the stage: its rows by source, and where the next stage's text begins."""
    file = ledger.folder / "achieved.json"
    if not file.is_file():
        return
    achieved = json.loads(file.read_text())
    for count, source in zip(counts, ledger.metadata["sources"], strict=True):
        stage_rows = source["before"] - source["begun"] + count
        if achieved["rows"].get(source["name"]) != stage_rows:
            yield ledger.problem(
                f"{stage_rows:,} rows of {source['name']}. {file.name} says {achieved['rows'].get(source['name'])}."
            )


def _check_continuity(ledgers: Sequence[_Ledger]) -> Iterator[LedgerProblem]:
    """Where each ledger's text begins: at the end of the text before, source by source, in rows of the shorter cut."""
    ends: dict[str, tuple[int, int, str]] = {}
    for ledger in ledgers:
        counts = np.bincount(ledger.source_numbers, minlength=len(ledger.metadata["sources"])).tolist()
        for count, source in zip(counts, ledger.metadata["sources"], strict=True):
            if source["role"] != "text" or not count:
                continue
            end, cut, digest = ends.get(source["name"], (source["before"], source["cut"], source["digest"]))
            if digest != source["digest"]:
                yield ledger.problem(f"{source['name']} is not the source that the ledger before it read.")
            elif source["before"] * cut != end * source["cut"]:
                text_start, expected_start = source["before"], end * source["cut"] / cut
                kind = "an overlap" if text_start < expected_start else "a gap"
                yield ledger.problem(
                    f"{kind}: text of {source['name']} begins at its row {text_start:,}, not {expected_start:,g}.", 0
                )
            ends[source["name"]] = (source["before"] + count, source["cut"], source["digest"])


def _all_source_draws(ledgers: Sequence[_Ledger]) -> Iterator[_SourceDraws]:
    """Every source's draws: text over all ledgers, images ledger by ledger."""
    text_parts: dict[str, list[tuple[_Ledger, int]]] = {}
    for ledger in ledgers:
        for source_number, source in enumerate(ledger.metadata["sources"]):
            if source["role"] == "text":
                text_parts.setdefault(source["name"], []).append((ledger, source_number))
    for parts in text_parts.values():
        yield _make_source_draws(parts)
    for ledger in ledgers:
        for source_number, source in enumerate(ledger.metadata["sources"]):
            if source["role"] == "image":
                yield _make_source_draws([(ledger, source_number)])


def _make_source_draws(parts: Sequence[tuple[_Ledger, int]]) -> _SourceDraws:
    sources = [ledger.metadata["sources"][source_number] for ledger, source_number in parts]
    common_cut = lcm(*(source["cut"] for source in sources))
    row_numbers, segments = list[RowNumbers](), list[tuple[_Ledger, np.ndarray, int]]()
    for (ledger, source_number), source in zip(parts, sources, strict=True):
        positions, rows_per_position = (
            np.flatnonzero(ledger.source_numbers == source_number),
            common_cut // source["cut"],
        )
        row_numbers.append(
            (ledger.row_numbers[positions][:, None] * rows_per_position + np.arange(rows_per_position)).ravel()
        )
        segments.append((ledger, positions, rows_per_position))
    first_source, rows_per_position = sources[0], common_cut // sources[0]["cut"]
    return _SourceDraws(
        name=first_source["name"],
        source_rows=first_source["rows"] * rows_per_position,
        rows_before=first_source["before"] * rows_per_position,
        row_numbers=np.concatenate(row_numbers),
        segments=tuple(segments),
    )


def _check_passes(draws: _SourceDraws) -> tuple[SourceCoverage, list[LedgerProblem]]:
    """In every pass each row at most once, and exactly once where the ledgers hold the whole pass."""
    pass_numbers = (draws.rows_before + np.arange(len(draws.row_numbers))) // max(1, draws.source_rows)
    pass_row_keys = pass_numbers * draws.source_rows + draws.row_numbers
    unique_keys, first_indices = np.unique(pass_row_keys, return_index=True)
    is_repeat = np.ones(len(pass_row_keys), dtype=bool)
    is_repeat[first_indices] = False
    unique_passes, pass_sizes = np.unique(pass_numbers, return_counts=True)
    complete_passes = unique_passes[pass_sizes == draws.source_rows]
    complete_pass_rows = int(np.isin(unique_keys // max(1, draws.source_rows), complete_passes).sum())
    coverage = SourceCoverage(
        name=draws.name,
        rows=len(draws.row_numbers),
        distinct_rows=len(np.unique(draws.row_numbers)),
        passes=len(draws.row_numbers) / max(1, draws.source_rows),
        repeated_rows=int(is_repeat.sum()),
        skipped_rows=len(complete_passes) * draws.source_rows - complete_pass_rows,
    )
    if not is_repeat.any():
        return coverage, []
    draw = int(np.flatnonzero(is_repeat)[0])
    ledger, index = draws.locate(draw)
    message = f"row {draws.row_numbers[draw]:,} of {draws.name} came before in pass {pass_numbers[draw] + 1}: {coverage.repeated_rows:,} such rows"
    return coverage, [ledger.problem(f"{message}, {coverage.skipped_rows:,} skipped.", index)]
