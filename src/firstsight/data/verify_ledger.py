"""Checks from sample ledgers alone, without the code that drew the rows, that no row was trained on twice or skipped.

Several ledgers are the segments of a trunk and a branch, in order: the text of each continues where that of the one
before ended. Images start again with every stage.

Shapes: n draws from one source, in order; p positions of a ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from firstsight.errors import DataError, RequestError
from firstsight.files import file_sha256, read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceCoverage:
    """What the ledgers record of one source."""

    name: str
    rows: int
    distinct_rows: int
    passes: float
    """Number of passes through all of its rows, counted from the first draw."""
    repeated_rows: int
    """Rows that were drawn again within a pass."""
    skipped_rows: int
    """Rows that were not drawn in a complete pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerProblem:
    """A rule that a ledger breaks."""

    ledger_path: Path
    position: int | None
    """The first position of the run that breaks it; None for a rule about the whole ledger."""
    message: str

    def __str__(self) -> str:
        position = "" if self.position is None else f", position {self.position:,}"
        return f"{self.ledger_path}{position}: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerCheck:
    """All sources, and all problems; the ledgers are verified if there are no problems."""

    coverage: tuple[SourceCoverage, ...]
    problems: tuple[LedgerProblem, ...]


@dataclass(frozen=True, slots=True)
class _Ledger:
    folder: Path
    metadata: Mapping[str, Any]
    source_numbers: Int64[np.ndarray, "p"]
    row_numbers: Int64[np.ndarray, "p"]

    @property
    def sources(self) -> list[dict[str, Any]]:
        return self.metadata["sources"]

    def source_counts(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number of positions of each source, and the source."""
        return zip(np.bincount(self.source_numbers, minlength=len(self.sources)).tolist(), self.sources, strict=True)

    def problem(self, message: str, index: int | None = None) -> LedgerProblem:
        position = None if index is None else self.metadata["first"] + index
        return LedgerProblem(ledger_path=self.folder, position=position, message=message)


def verify_ledgers(ledger_paths: Sequence[Path]) -> LedgerCheck:
    """Checks ledgers in the order of training, given as folders or as files in them; RequestError for none."""
    ledgers, problems, coverage = list[_Ledger](), list[LedgerProblem](), list[SourceCoverage]()
    for path in ledger_paths:
        try:
            ledgers.append(_read_ledger(path))
        except DataError as error:
            problem = LedgerProblem(ledger_path=path, position=None, message=str(error))
            return LedgerCheck(coverage=(), problems=(problem,))
    problems += chain.from_iterable(map(_check_ledger, ledgers))
    if any(problem.position is not None for problem in problems):  # invalid numbers cannot be counted by source
        return LedgerCheck(coverage=(), problems=tuple(problems))
    problems += _check_continuity(ledgers)
    for parts in _group_by_source(ledgers):
        source_coverage, source_problems = _check_passes(parts)
        coverage.append(source_coverage)
        problems += source_problems
    return LedgerCheck(coverage=tuple(coverage), problems=tuple(problems))


def _read_ledger(path: Path) -> _Ledger:
    folder = path if path.is_dir() else path.parent
    file, metadata_path = folder / "ledger.npy", folder / "ledger.json"
    if not (file.is_file() and metadata_path.is_file()):
        raise RequestError(f"{path}: wanted the folder of a trained checkpoint. Got no ledger in it. Train it again.")
    try:
        records = np.load(file)
    except (ValueError, EOFError) as error:
        raise DataError("wanted a ledger. Got another or a damaged file. Train the step again.") from error
    keys = ("positions", "first", "sources", "spans", "counted_in", "sha256")
    metadata = read_json(metadata_path, "a ledger's description", keys=keys, advice="Train the step again.")
    expected = metadata["positions"]
    if records.dtype != np.dtype([("source", "u1"), ("row", "<u4")]) or len(records) != expected:
        got = f"{len(records):,} of {records.dtype}"
        raise DataError(f"wanted {expected:,} records, as in ledger.json. Got {got}. Train the step again.")
    return _Ledger(folder, metadata, records["source"].astype(np.int64), records["row"].astype(np.int64))


def _check_ledger(ledger: _Ledger) -> Iterator[LedgerProblem]:
    """A ledger by itself: its numbers, exact shares of rows, the declared passes, and the counts that it states."""
    sources = ledger.sources
    if (invalid := np.flatnonzero(ledger.source_numbers >= len(sources))).size:
        first = int(invalid[0])
        yield ledger.problem(f"wanted one of {len(sources)} sources. Got number {ledger.source_numbers[first]}.", first)
        return
    source_rows = np.array([source["rows"] for source in sources])[ledger.source_numbers]
    if (invalid := np.flatnonzero(ledger.row_numbers >= source_rows)).size:
        first = int(invalid[0])
        name = sources[ledger.source_numbers[first]]["name"]
        message = f"wanted one of {source_rows[first]:,} rows of {name}. Got {ledger.row_numbers[first]:,}."
        yield ledger.problem(message, first)
        return
    yield from _check_image_share(ledger)
    for count, source in ledger.source_counts():
        if source["before"] + count > source["rows"] * source["epochs"]:
            yield ledger.problem(f"more than {source['epochs']} passes through {source['name']}.")
    yield from _check_achieved_rows(ledger)
    if file_sha256(ledger.folder / "ledger.npy") != ledger.metadata["sha256"]:
        yield ledger.problem("the records are not those that were written: their digest differs.")


def _check_image_share(ledger: _Ledger) -> Iterator[LedgerProblem]:
    """In a mix counted in rows, every prefix of n rows of a span has floor(n * share) image rows."""
    if ledger.metadata["counted_in"] != "rows":
        return
    first, start = ledger.metadata["first"], 0
    has_image = np.array([source["role"] == "image" for source in ledger.sources])[ledger.source_numbers]
    for rows, share in ((rows, Fraction(share)) for rows, share in ledger.metadata["spans"]):
        low, high = (min(max(edge, first), first + len(has_image)) for edge in (start, start + rows))
        prefix = np.arange(low - start, high - start + 1) * share.numerator // share.denominator
        wants_image = prefix[1:] > prefix[:-1]
        if (mismatches := np.flatnonzero(has_image[low - first : high - first] != wants_image)).size:
            mismatch = int(mismatches[0])
            labels, expected = ("a text row", "an image row"), int(wants_image[mismatch])
            message = f"wanted {labels[expected]}, at a share of {share}. Got {labels[1 - expected]}."
            yield ledger.problem(message, low - first + mismatch)
            return
        start += rows


def _check_achieved_rows(ledger: _Ledger) -> Iterator[LedgerProblem]:
    file = ledger.folder / "achieved.json"
    if not file.is_file():
        return
    achieved = read_json(file, keys=["rows"], advice="Train the step again.")["rows"]
    for count, source in ledger.source_counts():
        rows, name = source["before"] - source["begun"] + count, source["name"]
        if achieved.get(name) != rows:
            yield ledger.problem(f"the ledger has {rows:,} rows of {name}. {file.name} has {achieved.get(name)}.")


def _check_continuity(ledgers: Sequence[_Ledger]) -> Iterator[LedgerProblem]:
    ends: dict[str, tuple[int, int, str]] = {}
    for ledger in ledgers:
        for count, source in ledger.source_counts():
            if source["role"] != "text" or not count:
                continue
            name, start = source["name"], source["before"]
            end, cut, digest = ends.get(name, (start, source["cut"], source["digest"]))
            if digest != source["digest"]:
                yield ledger.problem(f"{name} is not the source that the ledger before it read.")
            elif start * cut != end * source["cut"]:
                expected = end * source["cut"] / cut
                kind = "an overlap" if start < expected else "a gap"
                yield ledger.problem(f"{kind}: text of {name} begins at its row {start:,}, not {expected:,g}.", 0)
            ends[name] = (start + count, source["cut"], source["digest"])


def _group_by_source(ledgers: Sequence[_Ledger]) -> Iterator[list[tuple[_Ledger, int]]]:
    """The ledgers of each source, with its number in each: text over all ledgers, images ledger by ledger."""
    texts: dict[str, list[tuple[_Ledger, int]]] = {}
    images: list[tuple[_Ledger, int]] = []
    for ledger in ledgers:
        for number, source in enumerate(ledger.sources):
            (texts.setdefault(source["name"], []) if source["role"] == "text" else images).append((ledger, number))
    yield from (*texts.values(), *([part] for part in images))


def _check_passes(parts: Sequence[tuple[_Ledger, int]]) -> tuple[SourceCoverage, list[LedgerProblem]]:
    """In each pass, each row at most once, and exactly once if the ledgers contain the whole pass.

    A ledger's rows are packed rows cut into `cut` pieces; here all are cut to the least common multiple of the ledgers.
    """
    sources = [ledger.sources[number] for ledger, number in parts]
    cut, first = lcm(*(source["cut"] for source in sources)), sources[0]
    segments = [(ledger, *_cut_rows(ledger, number, cut)) for ledger, number in parts]
    row_numbers = np.concatenate([rows.ravel() for _, _, rows in segments])
    source_rows, rows_before = (first[key] * (cut // first["cut"]) for key in ("rows", "before"))
    count, pass_length = len(row_numbers), max(1, source_rows)
    passes = (rows_before + np.arange(count)) // pass_length
    keys, first_draws = np.unique(passes * source_rows + row_numbers, return_index=True)
    is_repeat = np.ones(count, dtype=bool)
    is_repeat[first_draws] = False
    pass_numbers, sizes = np.unique(passes, return_counts=True)
    complete = pass_numbers[sizes == source_rows]
    coverage = SourceCoverage(
        name=first["name"],
        rows=count,
        distinct_rows=len(np.unique(row_numbers)),
        passes=count / pass_length,
        repeated_rows=int(is_repeat.sum()),
        skipped_rows=len(complete) * source_rows - int(np.isin(keys // pass_length, complete).sum()),
    )
    if not is_repeat.any():
        return coverage, []
    draw = int(is_repeat.argmax())
    message = (
        f"row {row_numbers[draw]:,} of {coverage.name} came before in pass {passes[draw] + 1}: "
        f"{coverage.repeated_rows:,} such rows, {coverage.skipped_rows:,} skipped."
    )
    for ledger, index, rows in segments:
        if draw < rows.size:
            return coverage, [ledger.problem(message, int(index[draw // rows.shape[1]]))]
        draw -= rows.size
    raise IndexError(draw)


def _cut_rows(ledger: _Ledger, number: int, cut: int) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n repeats"]]:
    """The indices of a source's positions, and the rows of each after its packed rows are cut into `cut` pieces."""
    index, repeats = np.flatnonzero(ledger.source_numbers == number), cut // ledger.sources[number]["cut"]
    return index, ledger.row_numbers[index][:, None] * repeats + np.arange(repeats)
